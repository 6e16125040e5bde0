"""The control plane's OpenAPI document, completed from the contract's.

`openapi.json` here omits what the contract's document defines: components that it refers to but
doesn't define are taken from there. "x-fields-of" among the properties of a schema stands for the
fields of another schema of either document; {} before it reserves the place of one of these.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Any

from fense_admin import OPENAPI_FILE as CONTRACT_FILE
from fense_admin import files
from fense_admin.reading import mount_point, origin
from fense_admin.standin.instances import ROOT

FILE = os.path.join(os.path.dirname(__file__), "openapi.json")
FIELDS_OF = "x-fields-of"


@functools.cache
def read() -> str:
    """Return the complete document as JSON text."""
    document, contract = json.loads(files.read(FILE)), json.loads(files.read(CONTRACT_FILE))
    components, theirs = document["components"], contract["components"]
    for schema in components["schemas"].values():
        _add_fields(schema, theirs["schemas"] | components["schemas"])
    parts: list[Any] = [document]
    for part in parts:  # the list grows
        if isinstance(part, list):
            parts += part
        elif isinstance(part, dict):
            parts += part.values()
            if "$ref" in part:
                _, _, kind, name = part["$ref"].split("/")
                if name not in components[kind]:
                    components[kind][name] = theirs[kind][name]
                    parts.append(theirs[kind][name])
    return json.dumps(document)


def served(has_instances: bool) -> dict[str, Any]:
    """Return the document for the stand-in that handles this request."""
    document: dict[str, Any] = json.loads(read())
    document["servers"] = [{"url": origin() + mount_point() + ROOT}]
    if not has_instances:
        for path in ("/instances", "/instances/{id}"):
            del document["paths"][path]
    return document


def _add_fields(schema: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Replace "x-fields-of" with the fields of that schema; a definition below it has priority.

    All fields are required, unless the schema lists the required ones.
    """
    own = schema.get("properties", {})
    if FIELDS_OF not in own:
        return
    fields: dict[str, Any] = {}
    for name, field in own.items():
        fields |= schemas[field]["properties"] if name == FIELDS_OF else {name: field}
    schema["properties"] = fields
    schema.setdefault("required", list(fields))
