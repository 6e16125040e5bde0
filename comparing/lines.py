"""The lines of FIDELITY.md: documented or assumed behaviours, and where they are decided."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

import fense_admin
from fense_admin import files

FIDELITY_FILE = os.path.join(os.path.dirname(fense_admin.OPENAPI_FILE), "FIDELITY.md")
LINE = re.compile(
    r"^- \*\*([a-z-]+)\*\*: (.+?)(?:\s+Decided\s+in\s+(`.+?`)\.)?\s*(?=\n- |\n\n|\Z)", re.S | re.M
)


class Line(NamedTuple):
    """A behaviour, by its name in FIDELITY.md."""

    name: str
    text: str
    is_documented: bool
    places: list[str]  # in the source, such as rules.check_email; [] if documented


def read_lines() -> list[Line]:
    """Return the lines of FIDELITY.md, the documented ones first."""
    documented, assumed = files.read(FIDELITY_FILE).decode().split("\n## Assumed\n")
    return [
        Line(name, " ".join(text.split()), part is documented, re.findall("`(.+?)`", places))
        for part in (documented, assumed)
        for name, text, places in LINE.findall(part)
    ]
