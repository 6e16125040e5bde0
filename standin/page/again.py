"""Requests of the journal, to be sent again: as they were, corrected, or changed in a form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from fense_admin import DEVELOPMENT_KEY
from fense_admin.exchange import KEY_HEADER, NOT_FOUND, ApiError
from fense_admin.reading import mount_point
from fense_admin.rules import HIDDEN, NOT_ACCEPTED, ValidationErrors, printable
from fense_admin.standin.journal import JOURNAL_LENGTH, Entry
from fense_admin.standin.page import entries
from fense_admin.standin.page.acting import Field
from fense_admin.standin.page.text import INVISIBLE, named, size
from fense_admin.standin.page.trying import Sent, send

if TYPE_CHECKING:
    from fense_admin.standin.page.shown import Shown

MOST = 50_000  # bytes of HTML that a field of the form takes
LABELS = {
    "method": "Method",
    "path": "Path and query",
    "key": KEY_HEADER,
    "headers": "Headers",
    "body": "Body",
}
MASKED = f"{HIDDEN} stands for a key, which the journal masks: put your own there"
AREAS = ("headers", "body")
NAMED = re.compile(r"⟨U\+([0-9A-F]{4,5}|10[0-9A-F]{4})⟩")  # as `named` writes a character
GUESSED_PATH = re.compile(r"there is no such path; did you mean (/[!-~]*)\?")
METHOD = re.compile("[!#$%&'*+.^_`|~0-9A-Z-]+")
PATH = re.compile('/[!"$-~]*')
# As the server accepts them: a character of the value stands for a byte.
HEADER = re.compile(r"([!#$%&'*+.^`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")


def find(shown: Shown, number: str) -> Entry:
    """The entry of the journal with this number. Raises `ApiError` (404)."""
    for entry in shown.newest_first():
        if entry.number == int(number):
            return entry
    message = f"this request is no longer in the journal, which keeps {JOURNAL_LENGTH}"
    raise ApiError(NOT_FOUND, message)


def filled(entry: Entry, is_development: bool) -> dict[str, str]:
    """The form's values for a request as it was. Its key is known in development mode alone."""
    headers, has_key = entry["headers"], entry["headers"].get(KEY_HEADER)
    shown = [name for name in headers if name not in (KEY_HEADER, "content-length")]
    return {
        "method": entry["method"],
        "path": entries.target(entry).removeprefix(entry.mount),
        "key": DEVELOPMENT_KEY if has_key and is_development else "",
        "headers": "\n".join(f"{name}: {headers[name]}" for name in shown),
        "body": entry.sent_body.decode(errors="surrogateescape"),
    }


def missing(entry: Entry) -> dict[str, str]:
    """What the journal or the form does not have of a request, by the form's fields."""
    sent, masked = filled(entry, False), MASKED
    found = {name: masked for name in ("path", "headers") if HIDDEN in sent[name]}
    key = entry["headers"].get(KEY_HEADER)
    if key and not entry.has_development_key:
        found["key"] = f"the journal masks the key that it brought: {key}"
    if entry.has_masked_body:
        found["body"] = masked
    if "body" in entry.is_cut:
        found["body"] = "the journal keeps the first 8 KiB of a body: add the rest"
    long = [name for name in sent if size(sent[name]) > MOST]
    return found | {name: f"the {name} is too long for a form" for name in long}


def fields(shown: Shown, how: str, number: str) -> list[Field]:
    """The form's fields for a request "again" or "corrected"; empty for what is too long."""
    entry = find(shown, number)
    notes, values = missing(entry), filled(entry, shown.is_development)
    if how == "corrected":
        values, _ = corrected(entry, values)
    return [
        Field(
            name,
            "area" if name in AREAS else "text",
            INVISIBLE.sub(named, values[name]) if size(values[name]) <= MOST else "",
            label=f"{label} ({notes[name]})" if name in notes else label,
        )
        for name, label in LABELS.items()
    ]


def send_again(shown: Shown, values: dict[str, Any], how: str, number: str) -> str:
    """Send a request with what was filled in; without any, as it was or corrected."""
    entry = find(shown, number)
    typed = {name: NAMED.sub(character, values.get(name, "")) for name in LABELS}
    if not values:
        typed = filled(entry, shown.is_development)
        typed = corrected(entry, typed)[0] if how == "corrected" else typed
    return send(shown, *checked(entry, typed))


def character(name: re.Match[str]) -> str:
    return chr(int(name[1], 16))


def checked(entry: Entry, values: Mapping[str, str]) -> Sent:
    """Return the request that the form's values make. Raises `ValidationErrors`."""
    headers: dict[str, str] = {}
    body = b""
    with ValidationErrors() as errors:
        if not METHOD.fullmatch(values["method"]):
            errors.add("method", "must be a method, such as POST")
        if not PATH.fullmatch(values["path"]) and HIDDEN not in values["path"]:
            errors.add("path", "must begin with / and be ASCII, without spaces and #")
        lines = [("headers", line) for line in values["headers"].split("\n") if line.strip()]
        if values["key"]:
            lines.append(("key", f"{KEY_HEADER}: {values['key']}"))
        for field, line in lines:
            if found := HEADER.fullmatch(line):
                before = headers.get(found[1].lower())
                text = found[2].strip(" \t")
                headers[found[1].lower()] = text if before is None else f"{before}, {text}"
            elif HIDDEN not in line:
                errors.add(field, f"has what no header can have: {printable(line[:40])}")
        for name in missing(entry):
            if not values[name]:
                errors.add(name, "is required")
            elif HIDDEN in values[name] and (name != "body" or entry.has_masked_body):
                errors.add(name, f"has {HIDDEN} in place of a key")
            elif values[name] == filled(entry, False)[name]:
                errors.add(name, "is only the first 8 KiB: add the rest")
        try:
            body = values["body"].encode(errors="surrogateescape")
        except UnicodeEncodeError:
            errors.add("body", "has half of a character")
    return values["method"], values["path"], headers, body


def corrected(entry: Entry, values: dict[str, str]) -> tuple[dict[str, str], str]:
    """Return the values with what the error guessed was meant, and that name; "" for no guess."""
    found, names = dict(values), []
    if guess := GUESSED_PATH.match(entry.reason):
        query = entry["query"] and f"?{entry['query']}"
        return found | {"path": guess[1].removeprefix(mount_point()) + query}, guess[1]
    for name, message in entry.details:
        told = f"{printable(name)} {NOT_ACCEPTED}; did you mean "
        meant = entry.reason.partition(told)[2].partition("?")[0]
        if message == NOT_ACCEPTED and meant.isidentifier() and f'"{meant}"' not in found["body"]:
            path, mark, query = found["path"].partition("?")
            pairs = "&".join(renamed(pair, name, meant) for pair in query.split("&"))
            key = f'"{re.escape(name)}"(?=\\s*:)'
            found |= {"path": path + mark + pairs, "body": re.sub(key, f'"{meant}"', found["body"])}
            names.append(meant)
    return found, ", ".join(names) if found != values else ""


def renamed(pair: str, name: str, meant: str) -> str:
    """A parameter of a query, by its right name if it has the wrong one."""
    sent, equals, value = pair.partition("=")
    return meant + equals + value if unquote_plus(sent) == name else pair
