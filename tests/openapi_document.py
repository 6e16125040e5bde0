"""An OpenAPI document, to compare with the service: its schemas, operations and responses."""

import json
from pathlib import Path

from jsonschema import Draft202012Validator

import fense_admin
from fense_admin.standin import document

FORMATS = Draft202012Validator.FORMAT_CHECKER


def nodes(part, at="#"):
    """Every (place, object) in a part of a document."""
    if isinstance(part, dict):
        yield at, part
    for key, child in part.items() if isinstance(part, dict) else enumerate(part):
        if isinstance(child, dict | list):
            yield from nodes(child, f"{at}/{key}")


class Document:
    def __init__(self, text):
        self.whole = json.loads(text)
        self.components = self.whole["components"]
        self.operations = [
            (method, path, item[method])
            for path, item in self.whole["paths"].items()
            for method in item
        ]

    def errors(self, schema, value, formats=FORMATS):
        """Return the errors of a value; the schema may refer to the document's components."""
        whole = schema | {"components": self.components}
        found = Draft202012Validator(whole, format_checker=formats).iter_errors(value)
        return [error.message for error in found]

    def takes(self, component, value, formats=None):
        """A schema defines everything except the lengths of months: only those need a format check."""
        return not self.errors({"$ref": f"#/components/schemas/{component}"}, value, formats)

    def resolved(self, node):
        """The node, or the component that it refers to."""
        for name in node.get("$ref", "#").split("/")[1:]:
            node = self.whole[name] if name == "components" else node[name]
        return node

    def examples(self):
        """The example of each component that is a whole body."""
        return {
            node["schema"]["$ref"].rpartition("/")[2]: node["example"]
            for _, node in nodes(self.whole)
            if "example" in node and "$ref" in node["schema"]
        }

    def assert_documented(self, answer, operation):
        """Check that a response has a documented status, exactly its headers, and a valid body."""
        documented = self.resolved(operation["responses"][str(answer.status)])
        if "content" in documented:
            (content,) = documented["content"].values()
            assert self.errors(content["schema"], answer.body) == []
        else:
            assert answer.body is None
        own = {name.lower() for name in answer.headers} - {"content-type", "content-length", "date"}
        assert own == {name.lower() for name in documented["headers"]}
        for name, header in documented["headers"].items():
            header = self.resolved(header)
            integer = header["schema"].get("type") == "integer"
            value = int(answer.headers[name]) if integer else answer.headers[name]
            assert (header["required"], self.errors(header["schema"], value)) == (True, [])

    def write(self, path):
        """Write it to a file, for tools that read files, and return the path."""
        path.write_text(json.dumps(self.whole, indent=2))
        return path


CONTRACT = Document(Path(fense_admin.OPENAPI_FILE).read_text("utf-8"))
CONTROL_PLANE = Document(document.read())
DOCUMENTS = {"contract": CONTRACT, "control": CONTROL_PLANE}
