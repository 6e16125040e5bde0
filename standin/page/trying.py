"""Forms that try the operations of the OpenAPI documents, and the requests that they make."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from fense_admin import OPENAPI_FILE, files
from fense_admin.exchange import INVALID, KEY_HEADER, NOT_FOUND, ApiError
from fense_admin.rules import ValidationErrors
from fense_admin.serving.connections import ERRORS, HEADER_TOO_LARGE
from fense_admin.standin import calling
from fense_admin.standin import document as control_plane
from fense_admin.standin.instances import ROOT, Plane
from fense_admin.standin.page.acting import BY_A_FORM, Below, Field, as_json
from fense_admin.standin.page.documentation import Endpoint, endpoints
from fense_admin.standin.page.entries import lay_out

if TYPE_CHECKING:
    from fense_admin.standin.page.shown import Shown

CONTROL_PLANE = "control-plane"  # the name of its documentation
Sent = tuple[str, str, dict[str, str], bytes]  # method, target, headers and body


@functools.cache
def operations(of: str) -> dict[str, Endpoint]:
    """Return the operations of the control plane or of the contract, by their ids."""
    text = control_plane.read() if of == CONTROL_PLANE else files.read(OPENAPI_FILE)
    return {it.id: it for it in endpoints(json.loads(text), "", is_development=False)}


def find(of: str, id: str) -> Endpoint:
    """Return an operation. Raises `ApiError` (404)."""
    if endpoint := operations(of).get(id):
        return endpoint
    raise ApiError(NOT_FOUND, "there is no such operation")


def fields(shown: Shown, of: str, id: str) -> list[Field]:
    """Return the form's fields, filled with the examples: parameters, fields of the body, the key.

    A body that has lists is a field as a whole.
    """
    endpoint = find(of, id)
    asks_for_key = of != CONTROL_PLANE and "security" not in endpoint.operation
    return [*parts(endpoint), *[Field(KEY_HEADER, value=known_key(shown.plane))] * asks_for_key]


def known_key(plane: Plane) -> str:
    """Return the key to fill in: this stand-in's in development mode, else ""."""
    return plane.master_key if plane.guard.page_is_open else ""


def parts(endpoint: Endpoint) -> Iterator[Field]:
    read, operation = endpoint.read, endpoint.operation
    for part in map(read.resolved, operation.get("parameters", [])):
        it, example = read.parameter(part), str(part["example"])
        # The path may have a parameter of the same name as the query.
        value = example if it.is_required else ""
        yield Field(f"{it.place} {it.name}", value=value, hint=example, label=it.name)
    if not endpoint.body:
        return
    content = operation["requestBody"]["content"]["application/json"]
    schema, example = read.resolved(content["schema"]), content["example"]
    properties = {name: read.resolved(part) for name, part in schema.get("properties", {}).items()}
    types = {name: part.get("type") for name, part in properties.items()}
    if not properties or "array" in types.values():
        yield Field("body", "area", json.dumps(example, indent=2))
        return
    for name, part in properties.items():
        choices = ["true", "false"] if types[name] == "boolean" else part.get("enum", [])
        kind = "choice" if choices else "text" if types[name] == "string" else "json"
        value = example.get(name, "")
        label = f"{name}, required" if name in schema.get("required", ()) else name
        hint = "not sent" if choices else read.kind(part)
        text = value if isinstance(value, str) else json.dumps(value)
        yield Field(f"body {name}", kind, text, choices, hint, label)


def try_it(shown: Shown, values: dict[str, Any], of: str, id: str) -> str:
    """Send the request that the values make. One to the control plane has its key."""
    endpoint, is_control = find(of, id), of == CONTROL_PLANE
    sent: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "body": {}}
    with ValidationErrors() as errors:
        for it in parts(endpoint):
            place, _, name = it.name.partition(" ")
            if it.name in values:
                value = values[it.name]
                sent[place][name] = as_json(value) if it.kind == "choice" else value
            elif place == "path":
                errors.add(it.name, "is required")
    path = {name: quote(text, "", errors="replace") for name, text in sent["path"].items()}
    target = ROOT if is_control else shown.plane.app.prefix
    target += endpoint.path.format_map(path)
    if sent["query"]:
        target += "?" + urlencode(sent["query"], errors="replace")
    key = shown.plane.master_key if is_control else values.get(KEY_HEADER)
    headers, body = {KEY_HEADER: key} if key else {}, b""
    if endpoint.body:
        headers["Content-Type"] = "application/json"
        body = sent["body"].get("", json.dumps(sent["body"])).encode(errors="replace")
    return send(shown, endpoint.method, target, headers, body)


def send(shown: Shown, method: str, target: str, headers: dict[str, str], body: bytes) -> str:
    """Send a request. Returns its view, or the response to one that the journal does not note."""
    lines = [f"{method} {target} HTTP/1.1", *map(": ".join, headers.items()), "", ""]
    check_length(shown.plane, "\r\n".join(lines))
    found = calling.send(shown.plane, method, target, headers, body, **{BY_A_FORM: True})
    if found.entry:
        return f"page/requests/{found.entry.number}"
    lines = [line.text for line in lay_out(found.body.decode(errors="replace"), not found.is_whole)]
    text = "\n".join(lines)
    return Below(shown.part("answer", answer=found, asked=f"{method} {target}", text=text))


def check_length(plane: Plane, head: str) -> None:
    """Refuse a request line and headers that are too long for the server."""
    most = plane.limits.header
    if len(head) > most:
        raise ApiError(INVALID, ERRORS[HEADER_TOO_LARGE].format(header=most))
