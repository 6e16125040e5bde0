"""Entries of the journal, told to people: what came, what was answered, and why."""

from __future__ import annotations

import json
import re
from http.client import responses as REASONS
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from fense_admin.standin.journal import Entry

DROPS = {
    "reset": "connection reset",
    "empty": "closed without an answer",
    "truncate": "answer cut short",
}
STRING = r'"(?:[^"\\]|\\.)*"'
DETAIL = re.compile(rf'\{{"field": ({STRING}), "message": ({STRING})\}}')
MESSAGE = re.compile(r'"message": "((?:[^"\\]|\\u[0-9a-f]{4}|\\[^u])*)')  # perhaps a part of it
ACCOUNT_PATH = re.compile(r"/accounts/(?:usage/)?([0-9]{1,19})")
TOKEN = re.compile(rf'{STRING}|[{{}}\[\]:,]|[^\s{{}}\[\]:,"]+|"[^"]*$')
OPENING, CLOSING, INDENT = frozenset("{["), frozenset("}]"), "  "


class Line(NamedTuple):
    """A line of laid out JSON. `field` is the field of the outermost object that it begins."""

    text: str
    field: str | None = None


def target(entry: Entry) -> str:
    """The path with its query."""
    return entry["path"] + (f"?{entry['query']}" if entry["query"] else "")


def status_words(entry: Entry) -> str:
    """The status in words: "400 Bad Request", or why there is none."""
    status = entry["status"]
    if status is not None:
        return f"{status} {REASONS.get(status, 'Error')}"
    return DROPS.get(entry.fault.get("drop", ""), "in flight")


def status_class(entry: Entry) -> str:
    """For its colour: "ok", "refused" (4xx), "failed" (5xx, dropped) or "waiting"."""
    status = entry["status"]
    if status is None:
        return "failed" if entry.fault.get("drop") else "waiting"
    return "ok" if status < 400 else "refused" if status < 500 else "failed"


def has_failed(entry: Entry) -> bool:
    return status_class(entry) in ("refused", "failed")


def reason(entry: Entry) -> str:
    """The message of an error; "" for any other answer."""
    if (entry["status"] or 0) < 400:
        return ""
    if entry["method"] == "HEAD":
        return "a HEAD gets no message: send it as a GET to see it"
    found = MESSAGE.search(entry["response"] or "")
    return json.loads(f'"{found[1]}"') if found else ""


def details(entry: Entry) -> list[tuple[str, str]]:
    """What was wrong with a request: (field, message) each, as far as the journal has them."""
    if (entry["status"] or 0) < 400:
        return []
    found = DETAIL.finditer(entry["response"] or "")
    return [(json.loads(field[1]), json.loads(field[2])) for field in found]


def account_of(entry: Entry) -> int | None:
    """The id of the account that a request is about, or that it created."""
    if entry["status"] == 201:
        found = re.search(r'"fense_account_id": ([0-9]+)', entry["response"] or "")
        return int(found[1]) if found else None
    found = re.search(ACCOUNT_PATH.pattern + "$", unquote(entry["path"]))
    if found:
        return int(found[1])
    sent = dict(parse_qsl(entry["query"])).get("fense_account_id", "")
    return int(sent) if re.fullmatch("[0-9]{1,19}", sent) else None


def query_of(entry: Entry) -> list[tuple[str, str]]:
    """The query's parameters, as they were sent, with names and values decoded."""
    return parse_qsl(entry["query"], keep_blank_values=True)


def lay_out(text: str, is_cut: bool = False) -> list[Line]:
    """JSON with a line for each value, which may end anywhere if it `is_cut`; other text as it is.

    What is no string stays as it was written: 1.0 is not 1.
    """
    if not is_cut:
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return [Line(line) for line in text.split("\n")]
    lines: list[Line] = []
    line, field, depth = "", None, 0
    tokens = TOKEN.findall(text)
    for token, before, after in zip(tokens, ["", *tokens], [*tokens[1:], ""], strict=False):
        if token in CLOSING:
            depth = max(depth - 1, 0)
            if before not in OPENING:
                lines.append(Line(line, field))
                line, field = "", None
        if not line:
            line = INDENT * depth
        if depth == 1 and after == ":":
            field = json.loads(token)
        line += readable(token)
        if token in OPENING:
            depth += 1
        if token == "," or (token in OPENING and after not in CLOSING):
            lines.append(Line(line, field))
            line, field = "", None
        elif token == ":":
            line += " "
    return [*lines, Line(line, field)]


def readable(token: str) -> str:
    """A token of JSON, its letters as letters and not as \\u escapes."""
    if "\\u" not in token or not re.fullmatch(STRING, token):
        return token
    return json.dumps(json.loads(token), ensure_ascii=False)
