"""The page for people: armed faults, the newest requests, the newest accounts."""

from __future__ import annotations

import os
from typing import Any

import bottle

from fense_admin import __version__

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
COLUMNS = ("at", "method", "path", "query", "body", "status", "fault")  # of a journal entry
ROWS_SHOWN = 100  # of each table, the newest first
PAGE_FILE = os.path.join(os.path.dirname(__file__), "page.html")
TEMPLATE = bottle.SimpleTemplate(__spec__.loader.get_data(PAGE_FILE).decode())


def render(
    accounts: list[dict[str, Any]], faults: list[dict[str, Any]], journal: list[dict[str, Any]]
) -> str:
    """The page's HTML."""
    requests = [{name: entry[name] for name in COLUMNS} for entry in journal]
    tables = {"Armed faults": faults, "Requests": requests, "Accounts": accounts}
    return TEMPLATE.render(version=__version__, tables=tables, ROWS_SHOWN=ROWS_SHOWN)
