"""The journal's entries: a request and its answer, with the credentials in them masked."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote_plus

from fense_admin import (
    DEVELOPMENT_KEY,
    HIDDEN,
    KEY_NAME,
    MAX_BODY,
    Application,
    hide_keys,
    models,
    read_input,
    truncate_at_key_name,
)

MAX_TEXT = 8 * 1024  # bytes of a body and of a response in an entry
# The values of these are shown; any other header may bring a key.
SHOWN_HEADERS = frozenset(
    "accept accept-charset accept-encoding accept-language cache-control connection "
    "content-encoding content-language content-length content-type date dnt expect host "
    "if-match if-modified-since if-none-match if-unmodified-since keep-alive origin pragma "
    "priority range sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode "
    "sec-fetch-site sec-fetch-user te traceparent transfer-encoding upgrade-insecure-requests "
    "user-agent via x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-real-ip "
    "x-request-id".split()
)
ESCAPES = (
    re.compile(r"(?<!\\)\\+u00(?P<hex>[0-9a-f]{2})(?P<decimal>)", re.IGNORECASE),
    re.compile(r"&#(?:x0*(?P<hex>[0-9a-f]{2})|0*(?P<decimal>[0-9]{2,3}));", re.IGNORECASE),
)
PLAIN_NAME = re.compile(r"[\w. -]{1,64}")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
COLON = re.compile(r"\s*:\s*")


NUMBERS = itertools.count(1)


class Entry(dict[str, Any]):
    """A request and its answer, as `GET /_standin/requests` shows them; the rest is for the page.

    `number` tells it from all others: several requests may bring one id. `sent_body` is the body
    byte for byte, but for masked keys, and `is_cut` has the texts ("body", "response") of which
    only the first part is kept. `fault` is the armed fault that met it, as it was armed.
    """

    def __init__(self, *arguments: Any, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self.number = next(NUMBERS)
        self.sent_body = b""
        self.is_cut: set[str] = set()
        self.fault: dict[str, Any] = {}
        self.has_development_key = False


def mask(key: str) -> str:
    """A credential as an account shows it: its last four characters, if it has at least twelve."""
    return HIDDEN + (models.last4(key) or "") if key else ""


def unescaped(text: str) -> str:
    """The text without the escapes of JSON, URLs and XML, in which a key might hide."""

    def decoded(found: re.Match[str]) -> str:
        return chr(int(found["hex"], 16) if found["hex"] else int(found["decimal"]))

    for _ in range(2):
        text = unquote_plus(text.replace("\\/", "/"))
        for escape in ESCAPES:
            text = escape.sub(decoded, text)
    return text


def without_keys(text: str, keys: list[str] | None) -> str:
    """The text with these keys hidden; all of it is hidden if a key stands in it escaped."""
    text = hide_keys(text, keys)
    plain = unescaped(text)
    return text if plain == text or hide_keys(plain, keys) == plain else HIDDEN


def without_named_keys(text: str) -> str:
    """The text up to the first name of a key; all of it is hidden if a name stands escaped."""
    found = KEY_NAME.search(text)
    before = text[: found.start()] if found else text
    return HIDDEN if KEY_NAME.search(unescaped(before)) else truncate_at_key_name(text)


def is_key_name(name: str) -> bool:
    """Whether a JSON field of this name holds a key."""
    if name == "api_key_last4":
        return False
    letters = re.sub("[^a-z]", "", name.lower())
    return "apikey" in letters or letters.endswith(("key", "keys", "token", "secret", "password"))


def masked(text: str) -> str:
    """A body: JSON with the keys in it masked, any other text up to the first name of a key."""
    text = text.replace("\0", "")  # UTF-16
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return without_named_keys(text)
    return masked_json(text)


def masked_json(text: str) -> str:
    """JSON text with the value of each field that is named like a key masked.

    It ends at a string that has the name of a key among other text.
    """
    parts, done = [], 0
    for found in STRING.finditer(text):
        if found.start() < done:
            continue  # within a value that is masked
        string = json.loads(found[0])
        colon = COLON.match(text, found.end())
        is_name = colon and PLAIN_NAME.fullmatch(string)
        if is_name and is_key_name(string):
            value, end = json.JSONDecoder().raw_decode(text, colon.end())
            if isinstance(value, str):
                hidden = json.dumps(mask(value), ensure_ascii=False)
                hidden = hidden.encode(errors="replace").decode()  # half of a character
            else:
                hidden = text[colon.end() : end] if value in (None, True, False) else HIDDEN
            parts += [text[done : colon.end()], hidden]
            done = end
        elif not is_name and KEY_NAME.search(unescaped(string)):
            return "".join([*parts, text[done : found.start()], HIDDEN])
    return "".join(parts) + text[done:]


def journal_entry(environ: dict[str, Any], app: Application) -> Entry:
    """The entry of a request that has just arrived, without its answer."""
    headers = {
        name.removeprefix("HTTP_").lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
    }
    key = headers.get("x-api-key", "")
    keys = app.keys_to_hide(key)
    as_names = None if keys is None else [key.lower().replace("_", "-") for key in keys]
    request_id = app.choose_id(headers.get("x-request-id"), key)
    environ["HTTP_X_REQUEST_ID"] = request_id  # so that the contract uses the same
    # The handler reads the body again, and no more of it than this.
    body = read_input(environ, MAX_BODY)
    environ["wsgi.input"] = io.BytesIO(body)
    shown, sent = (HIDDEN, HIDDEN.encode()) if keys is None else masked_body(body, keys)
    entry = Entry(
        id=request_id,
        at=models.now(),
        method=hide_keys(environ["REQUEST_METHOD"], keys),
        path=without_named_keys(without_keys(sent_path(environ), keys)),
        query=without_named_keys(without_keys(environ.get("QUERY_STRING", ""), keys)),
        headers={
            hide_keys(name, as_names): without_named_keys(without_keys(value, keys))
            if name in SHOWN_HEADERS
            else mask(value)
            for name, value in headers.items()
        },
        body=truncate(shown.encode(errors="replace")) if body else None,
        status=None,
        response=None,
        duration_ms=None,
        fault=None,
    )
    entry.has_development_key = key == DEVELOPMENT_KEY
    entry.sent_body = sent[:MAX_TEXT] if body else b""
    if len(sent) > MAX_TEXT:
        entry.is_cut.add("body")
    return entry


def sent_path(environ: dict[str, Any]) -> str:
    """The path as it was sent; in-process, where only the decoded path is known, quoted again."""
    uri = environ.get("REQUEST_URI", "")
    if uri.startswith("/"):
        return uri.partition("?")[0]
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return quote(path.encode("latin-1"), safe="/:@!$&'()*+,;=~")


def masked_body(raw: bytes, keys: list[str]) -> tuple[str, bytes]:
    """A body with the keys in it masked, these keys, too: its text, and byte for byte."""
    text = raw.decode(errors="replace")
    shown = without_keys(masked(text), keys)
    if shown == text.replace("\0", ""):
        return shown, raw  # nothing is masked
    if "\ufffd" not in text:
        return shown, shown.encode(errors="replace")
    sent = without_keys(masked(raw.decode(errors="surrogateescape")), keys)
    sent = sent.encode(errors="surrogateescape")
    return shown, sent if sent.decode(errors="replace") == shown else shown.encode()


def truncate(raw: bytes) -> str | None:
    """The text of a body, at most `MAX_TEXT` bytes of it; None for an empty one."""
    return raw[:MAX_TEXT].decode(errors="ignore") if raw else None


# --- For a failed test -------------------------------------------------------------------------

REPORTED = 20  # requests, the newest ones
UNNAMED = ("id", "used")  # of a fault


def report(entries: Sequence[dict[str, Any]], faults: Sequence[dict[str, Any]]) -> str:
    """What a failed test may want to see: its last requests, and the armed faults never used."""
    lines = [summary(entry) for entry in entries[-REPORTED:]]
    if len(entries) > REPORTED:
        lines.insert(0, f"({len(entries) - REPORTED} requests before these)")
    for fault in faults:
        if not fault["used"]:
            named = ", ".join(f"{key}={fault[key]!r}" for key in fault if key not in UNNAMED)
            lines.append(f"never used: the armed fault {fault['id']} ({named})")
    return "\n".join(lines)


def summary(entry: dict[str, Any]) -> str:
    """One line: method, path, status, and for a 4xx the message."""
    query = f"?{entry['query']}" if entry["query"] else ""
    line = f"{entry['method']} {entry['path']}{query} {entry['status'] or 'no answer'}"
    if entry["fault"]:
        line += f" (fault {entry['fault']})"
    if 400 <= (entry["status"] or 0) < 500:
        with contextlib.suppress(ValueError, TypeError, KeyError):  # HEAD; longer than is kept
            line += f": {json.loads(entry['response'])['error']['message']}"
    return line
