"""Requests of the journal, to be sent again: as they were, corrected, or changed in a form."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from fense_admin import DEVELOPMENT_KEY
from fense_admin.exchange import KEY_HEADER, NOT_FOUND, ApiError
from fense_admin.reading import mount_point
from fense_admin.rules import HIDDEN, NOT_ACCEPTED, ValidationErrors, printable
from fense_admin.standin.journal import JOURNAL_LENGTH, Entry
from fense_admin.standin.page import entries
from fense_admin.standin.page.acting import Field
from fense_admin.standin.page.text import INVISIBLE, named, size
from fense_admin.standin.page.trying import Sent, check_length, known_key, send

if TYPE_CHECKING:
    from fense_admin.standin.page.shown import Shown

Values = dict[str, str]  # of the form's fields

MOST = 50_000  # bytes of HTML that a field of the form takes
MASKED = f"{HIDDEN} replaces a key, which the journal masks: insert your own"
NAMED = re.compile(r"⟨U\+([0-9A-F]{4,5}|10[0-9A-F]{4})⟩")  # as `named` writes a character
GUESSED_PATH = re.compile(r"there is no such path; did you mean (/[!-~]*)\?")
METHOD = re.compile("[!#$%&'*+.^_`|~0-9A-Z-]+")
PATH = re.compile('/[!"$-~]*')
# As the server accepts them: each character of the value is a byte.
HEADER = re.compile(r"([!#$%&'*+.^`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")


def find(shown: Shown, number: str) -> Entry:
    """Return the entry of the journal with this number. Raises `ApiError` (404)."""
    for entry in shown.newest_first():
        if entry.number == int(number):
            return entry
    message = f"this request is no longer in the journal, which keeps {JOURNAL_LENGTH}"
    raise ApiError(NOT_FOUND, message)


def filled(entry: Entry, how: str = "again", key: str = "") -> Values:
    """Return the form's values for a request as it was, or "corrected", with this key."""
    headers = dict(entry["headers"])
    has_key = headers.pop(KEY_HEADER, "")
    headers.pop("content-length", None)
    if entry.has_development_key:  # elsewhere than in development mode it is not a secret, either
        key = key or DEVELOPMENT_KEY
    values = {
        "method": entry["method"],
        "path": entries.target(entry).removeprefix(entry.mount),
        KEY_HEADER: key if has_key else "",
        "headers": "\n".join(f"{name}: {value}" for name, value in headers.items()),
        "body": entry.sent_body.decode(errors="surrogateescape"),
    }
    return values if how == "again" else corrected(entry, values)[0]


def missing(entry: Entry) -> Values:
    """Return the form's fields for which the journal or the form lacks a value, and why."""
    sent, key = filled(entry), entry["headers"].get(KEY_HEADER)
    found = {name: MASKED for name in ("path", "headers") if HIDDEN in sent[name]}
    if key and not entry.has_development_key:
        found[KEY_HEADER] = f"the journal masks the key of the request: {key}"
    if entry.has_masked_body:
        found["body"] = MASKED
    if "body" in entry.is_cut:
        found["body"] = "the journal keeps the first 8 KiB of a body: add the rest"
    long = [name for name in sent if size(sent[name]) > MOST]
    return found | dict.fromkeys(long, "too long to change in a form")


def fields(shown: Shown, how: str, number: str) -> list[Field]:
    entry = find(shown, number)
    notes, values = missing(entry), filled(entry, how, known_key(shown.plane))
    return [
        Field(
            name,
            "area" if name in ("headers", "body") else "text",
            INVISIBLE.sub(named, value) if size(value) <= MOST else "",
            label=f"{name} ({notes[name]})" if name in notes else name,
        )
        for name, value in values.items()
    ]


def send_again(shown: Shown, values: Values, how: str, number: str) -> str:
    """Send a request with what was filled in; without any, as it was or corrected."""
    entry = find(shown, number)
    sent = filled(entry, how, known_key(shown.plane))
    if values:
        sent = {name: NAMED.sub(character, values.get(name, "")) for name in sent}
    check_length(shown.plane, "".join(sent[name] for name in sent if name != "body"))
    return send(shown, *checked(entry, sent))


def character(name: re.Match[str]) -> str:
    return chr(int(name[1], 16))


def checked(entry: Entry, values: Values) -> Sent:
    """Return the request that the form's values make. Raises `ValidationErrors`."""
    headers: dict[str, str] = {}
    body = b""
    lines = [("headers", line) for line in values["headers"].split("\n") if line.strip()]
    if values[KEY_HEADER]:
        lines.append((KEY_HEADER, f"{KEY_HEADER}: {values[KEY_HEADER]}"))
    with ValidationErrors() as errors:
        for name in missing(entry):
            if not values[name]:
                errors.add(name, "is required")
            elif HIDDEN in values[name] and (name != "body" or entry.has_masked_body):
                errors.add(name, f"has {HIDDEN} in place of a key")
            elif values[name] == filled(entry)[name]:
                errors.add(name, "is only the first 8 KiB: add the rest")
        if not METHOD.fullmatch(values["method"]):
            errors.add("method", "must be a method, such as POST")
        if not PATH.fullmatch(values["path"]):
            errors.add("path", "must begin with / and be ASCII, without spaces and #")
        for field, line in lines:
            if found := HEADER.fullmatch(line):
                name, text = found[1].lower(), found[2].strip(" \t")
                headers[name] = f"{headers[name]}, {text}" if name in headers else text
            else:
                errors.add(field, f"has an invalid line: {printable(line[:40])}")
        try:
            body = values["body"].encode(errors="surrogateescape")
        except UnicodeEncodeError:
            errors.add("body", "has a character that UTF-8 can't encode")
    return values["method"], values["path"], headers, body


def corrected(entry: Entry, values: Values) -> tuple[Values, str]:
    """Return the values with what the error guessed was meant, and that name; "" for no guess."""
    if guess := GUESSED_PATH.match(entry.reason):
        query = entry["query"] and f"?{entry['query']}"
        return values | {"path": guess[1].removeprefix(mount_point()) + query}, guess[1]
    query = values["path"].partition("?")[2]
    # Each is meant once: a second would be rejected, and a request may have thousands of names.
    given = {unquote_plus(pair.partition("=")[0]) for pair in query.split("&")}
    names = []
    for name, _ in entry.details:
        intro = f"{printable(name)} {NOT_ACCEPTED}; did you mean "
        meant = entry.reason.partition(intro)[2].partition("?")[0]
        if meant and meant not in given and f'"{meant}"' not in values["body"]:
            given.add(meant)
            path, mark, query = values["path"].partition("?")
            query = "&".join(renamed(pair, name, meant) for pair in query.split("&"))
            key = f'"{re.escape(name)}"(?=\\s*:)'
            body = re.sub(key, f'"{meant}"', values["body"])
            changed = values | {"path": path + mark + query, "body": body}
            names += [meant] * (changed != values)
            values = changed
    return values, ", ".join(names)


def renamed(pair: str, name: str, meant: str) -> str:
    """Return a parameter of a query, renamed if it has the wrong name."""
    sent, equals, value = pair.partition("=")
    return meant + equals + value if unquote_plus(sent) == name else pair
