"""An OpenAPI document for people: each endpoint, its parameters, bodies and a curl line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

from fense_admin.standin.page import curl


class Field(NamedTuple):
    """A parameter, or a field of a body: "daily[].date" is one within a list."""

    name: str
    kind: str  # "string, 1 to 255 characters"
    description: str
    is_required: bool
    place: str = ""  # of a parameter: "path" or "query"


class Body(NamedTuple):
    description: str
    fields: list[Field]


class Answer(NamedTuple):
    status: str
    description: str
    bodies: list[Body]  # more than one where the parameters decide
    example: Any  # None for no body


def endpoints(document: dict[str, Any], url: str, is_development: bool) -> list[Endpoint]:
    """Return the endpoints of a document that is served at this url, in its order."""
    read = Reader(document)
    return [
        Endpoint(read, path, method.upper(), operation, url, is_development)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]


def errors(document: dict[str, Any]) -> list[Answer]:
    """Return the errors of all endpoints, by status; each is described once."""
    read = Reader(document)
    operations = [one for path in document["paths"].values() for one in path.values()]
    answers = [answer for one in operations for answer in one["responses"].items()]
    found = {status: part for status, part in answers if status >= "400"}
    return [read.answer(status, read.resolved(part)) for status, part in sorted(found.items())]


class Reader:
    """Reads one document, whose parts refer to each other."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def resolved(self, part: dict[str, Any]) -> dict[str, Any]:
        """Return the part that it refers to; properties beside the reference override it."""
        while "$ref" in part:
            target: Any = self.document
            for name in part["$ref"].removeprefix("#/").split("/"):
                target = target[name]
            part = target | {key: part[key] for key in part if key != "$ref"}
        return part

    def parameter(self, part: dict[str, Any]) -> Field:
        kind = self.kind(part["schema"])
        required = part.get("required", False)
        return Field(part["name"], kind, part.get("description", ""), required, part["in"])

    def answer(self, status: str, part: dict[str, Any]) -> Answer:
        content = part.get("content", {}).get("application/json", {})
        schema = self.resolved(content.get("schema", {}))
        bodies = [
            Body(one.get("description", ""), list(self.fields(one)))
            for one in map(self.resolved, schema.get("oneOf", [schema]))
        ]
        described = [body for body in bodies if body.fields]
        return Answer(status, part.get("description", ""), described, content.get("example"))

    def fields(self, schema: dict[str, Any], path: str = "") -> Iterator[Field]:
        """Return the fields of an object, of the objects of a list, and of those within them."""
        schema = self.resolved(schema)
        if "items" in schema:
            yield from self.fields(schema["items"], path.removesuffix(".") + "[].")
        for name, sent in schema.get("properties", {}).items():
            field = self.resolved(sent)
            required = name in schema.get("required", ())
            yield Field(path + name, self.kind(field), field.get("description", ""), required)
            for part in field.get("anyOf", [field]):
                yield from self.fields(part, f"{path}{name}.")

    def kind(self, schema: dict[str, Any]) -> str:
        """Return in words what a value may be."""
        schema = self.resolved(schema)
        if "anyOf" in schema:
            return " or ".join(self.kind(part) for part in schema["anyOf"])
        if "const" in schema:
            return f'"{schema["const"]}"'
        if "enum" in schema:
            return " or ".join(schema["enum"])
        types = schema.get("type", "any value")
        words = " or ".join([types] if isinstance(types, str) else types)
        words = words.replace("array", "list")
        if "maximum" in schema and "minimum" in schema:
            return f"{words}, {schema['minimum']:,} to {schema['maximum']:,}"
        if "minimum" in schema:
            return f"{words}, at least {schema['minimum']:,}"
        if "minLength" in schema and "maxLength" in schema:
            return f"{words}, {schema['minLength']} to {schema['maxLength']} characters"
        return words


class Endpoint:
    """An operation of a document: parameters, the body to send, responses and a curl line."""

    def __init__(
        self,
        read: Reader,
        path: str,
        method: str,
        operation: dict[str, Any],
        url: str,
        is_development: bool,
    ) -> None:
        self.read, self.operation = read, operation
        self.method, self.path = method, path
        self.id: str = operation["operationId"]
        self.summary: str = operation["summary"]
        self.description: str = operation.get("description", "")
        parameters = [read.resolved(part) for part in operation.get("parameters", [])]
        self.parameters = [read.parameter(part) for part in parameters]
        body = operation.get("requestBody")
        self.body = read.answer("", body) if body else None
        self.answer, *self.errors = (
            read.answer(status, read.resolved(part))
            for status, part in operation["responses"].items()
        )
        examples = {part["name"]: part.get("example", "") for part in parameters}
        queried = [part["name"] for part in parameters if part["in"] == "query"]
        query = urlencode([(name, examples[name]) for name in queried])
        asked = url + path.format_map(examples) + (f"?{query}" if query else "")
        self.curl = curl.by_hand(method, asked, is_development, self.body and self.body.example)
