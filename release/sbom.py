"""The software bill of materials, in CycloneDX 1.6: what the pyz and the image contain.

Everything in it comes from the wheels, so that the same wheels make the same document.
"""

from __future__ import annotations

import base64
import email
import hashlib
import json
import re
import time
from email.message import Message
from pathlib import Path
from typing import Any

import archives

# The SPDX ids of licences that the wheels' metadata doesn't declare, or not by these ids.
LICENCES = {"bottle": "MIT", "peewee": "MIT", "waitress": "ZPL-2.1"}


def make_sbom(own: Path, libraries: list[Path], optional: list[Path], epoch: int) -> str:
    """Return the document for our wheel, its libraries, and those of `EXTRAS=[postgresql]`."""
    main = component(own) | {"type": "application"}
    components = [component(wheel) for wheel in libraries]
    for wheel in optional:
        # These wheels differ between systems, so a hash would be one system's.
        found = component(wheel) | {"scope": "optional"}
        del found["hashes"]
        components.append(found)
    refs = {it["name"]: it["bom-ref"] for it in (main, *components)}
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
            "component": main,
        },
        "components": components,
        "dependencies": [
            {
                "ref": refs[name_of(metadata)],
                "dependsOn": sorted({refs[it] for it in required(metadata) if it in refs}),
            }
            for metadata in map(metadata_of, (own, *libraries, *optional))
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def component(wheel: Path) -> dict[str, Any]:
    """Return what the document says about one wheel."""
    metadata = metadata_of(wheel)
    name, version = name_of(metadata), metadata["Version"]
    index = "generic" if name == "fense-admin" else "pypi"
    return {
        "type": "library",
        "bom-ref": f"{name}@{version}",
        "name": name,
        "version": version,
        "description": metadata["Summary"],
        "licenses": licences(wheel, metadata),
        "purl": f"pkg:{index}/{name}@{version}",
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}],
    }


def licences(wheel: Path, metadata: Message) -> list[dict[str, Any]]:
    """Return the licence that the package declares, once with each text in the wheel."""
    licence = metadata["License-Expression"] or LICENCES[name_of(metadata)]
    texts = [
        content
        for name, content in sorted(archives.read_zip(wheel).items())
        if re.search(r"\.dist-info/(licenses/.*|(LICEN[CS]E|COPYING)[^/]*)$", name)
    ]
    assert texts, f"{wheel.name} has no licence text"
    return [
        {
            "license": {
                "id": licence,
                "text": {
                    "contentType": "text/plain",
                    "encoding": "base64",
                    "content": base64.b64encode(text).decode(),
                },
            }
        }
        for text in texts
    ]


def metadata_of(wheel: Path) -> Message:
    files = archives.read_zip(wheel)
    (name,) = (name for name in files if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(files[name])


def name_of(metadata: Message) -> str:
    return normal(metadata["Name"])


def normal(name: str) -> str:
    """Return the name of a package as package indexes compare names."""
    return re.sub("[-_.]+", "-", name).lower()


def required(metadata: Message) -> set[str]:
    """Return the names of the packages that this one may require."""
    lines = metadata.get_all("Requires-Dist", [])
    return {normal(re.split(r"[^\w.-]", line)[0]) for line in lines} - {name_of(metadata)}


def check(text: str) -> None:
    """Raise ValueError if the document is not what CycloneDX 1.6 allows."""
    from cyclonedx.schema import SchemaVersion  # one of the tools of `make release`
    from cyclonedx.validation.json import JsonStrictValidator

    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"the SBOM is not valid: {error}")
