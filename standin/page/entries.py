"""Entries of the journal in words: the request, the response, and why.

What an entry has may be anything: a body may be cut, and a fault's response only look like ours.
"""

from __future__ import annotations

import json
import re
from http.client import responses as REASONS
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from fense_admin.standin.faults import DROPS
from fense_admin.standin.journal import Entry

STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
ACCOUNT_PATH = re.compile(r"/accounts/(?:usage/)?0*([0-9]{1,19})\Z")
ACCOUNT_SENT = re.compile("0*([0-9]{1,19})")
MOST_SEARCHED = 300  # characters of a path or a query that may name an account
# A string may be cut at the end of the text. From each quote it takes what it finds: a pattern that
# fails there would start over at the next one, in quadratic time.
TOKEN = re.compile(rf'{STRING}?|[{{}}\[\]:,]|[^\s{{}}\[\]:,"]+', re.DOTALL)
OPENING, CLOSING, INDENT = frozenset("{["), frozenset("}]"), "  "
MOST_LINES = 2_000  # of JSON that is laid out: deep nesting takes far more space than what is in it
LAST_TOKEN = 12  # characters at the end of cut JSON in which an error is that of the cut


class Line(NamedTuple):
    """A line of laid out JSON. `field` is the field of the outermost object that it begins."""

    text: str
    field: str | None = None


def target(entry: Entry) -> str:
    """Return the path with its query."""
    return f"{entry['path']}?{entry['query']}" if entry["query"] else f"{entry['path']}"


def status_words(entry: Entry) -> str:
    """Return the status in words: "400 Bad Request", or why there is none."""
    status = entry["status"]
    if status is not None:
        return f"{status} {REASONS.get(status, 'Error')}"
    return DROPS[entry.fault["drop"]].outcome if "drop" in entry.fault else "in flight"


def status_class(entry: Entry) -> str:
    """Return its CSS class: "ok", "refused" (4xx), "failed" (5xx, dropped) or "waiting"."""
    status = entry["status"]
    if status is None:
        return "failed" if "drop" in entry.fault else "waiting"
    return "ok" if status < 400 else "refused" if status < 500 else "failed"


def has_failed(entry: Entry) -> bool:
    return status_class(entry) in ("refused", "failed")


def reason(entry: Entry) -> str:
    """Return the message of an error; "" for any other answer."""
    if entry["method"] == "HEAD" and (entry["status"] or 0) >= 400:
        return "a HEAD gets no message: send it as a GET to see it"
    return entry.reason


def unquoted(string: str) -> str:
    """Return the value of a JSON string; the text between its quotes if it isn't JSON."""
    try:
        return str(json.loads(string))
    except ValueError:
        return string[1:-1]


def account_of(entry: Entry) -> int | None:
    """Return the id of the account that a request is about, or that it created."""
    path, query = entry["path"], entry["query"]
    if entry.created is not None:
        return entry.created
    found = ACCOUNT_PATH.search(unquote(path)) if len(path) <= MOST_SEARCHED else None
    if not found and len(query) <= MOST_SEARCHED:
        found = ACCOUNT_SENT.fullmatch(dict(parse_qsl(query)).get("fense_account_id", ""))
    return int(found[1]) if found else None


def lay_out(text: str, is_cut: bool = False) -> list[Line]:
    """Return JSON with a line for each value, and any other text as one piece, as it is.

    If it `is_cut` it may end anywhere. JSON of too many lines is left as it is, too. What is not a
    string stays as it was written: 1.0 is not 1.
    """
    most = text.count(",") + 2 * (text.count("{") + text.count("["))
    if most > MOST_LINES or not is_json(text, is_cut):
        return [Line(text)]
    lines: list[Line] = []
    line, field, depth = "", None, 0
    tokens = TOKEN.findall(text)
    for token, before, after in zip(tokens, ["", *tokens], [*tokens[1:], ""], strict=False):
        if token in CLOSING:
            depth -= 1
            if before not in OPENING:
                lines.append(Line(line, field))
                line, field = "", None
        if not line:
            line = INDENT * depth
        if depth == 1 and after == ":":
            field = unquoted(token)
        line += readable(token)
        if token in OPENING:
            depth += 1
        if token == "," or (token in OPENING and after not in CLOSING):
            lines.append(Line(line, field))
            line, field = "", None
        elif token == ":":
            line += " "
    return [*lines, Line(line, field)]


def is_json(text: str, is_cut: bool) -> bool:
    """Whether a text is JSON, or if it `is_cut` the beginning of some."""
    try:
        json.loads(text, parse_int=str)  # an int of thousands of digits is an error
    except json.JSONDecodeError as error:
        at_end = error.msg.startswith("Unterminated") or error.pos > len(text) - LAST_TOKEN
        return is_cut and at_end
    except RecursionError:
        return False
    return True


def readable(token: str) -> str:
    """Return a token of JSON with its letters as letters and not as \\u escapes."""
    if "\\u" not in token:
        return token
    try:
        return json.dumps(json.loads(token), ensure_ascii=False)
    except ValueError:  # a string that is cut
        return token
