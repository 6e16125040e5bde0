"""The journal's entries: requests and their responses, with masked credentials."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from fense_admin import DEVELOPMENT_KEY, Application, models
from fense_admin.exchange import ERROR, ApiError, request_key
from fense_admin.masking import MARGIN, beginning, cut, hide, hide_named, mask, mask_body
from fense_admin.reading import read_input

JOURNAL_LENGTH = 1_000  # entries
MAX_TEXT = 8 * 1024  # bytes of a request body or response body in an entry
SEEN = MAX_TEXT + MARGIN + 1  # bytes of a response needed to mask and truncate it
# Headers whose values are shown; any other may hold a key.
SHOWN_HEADERS = frozenset(
    "accept accept-charset accept-encoding accept-language cache-control connection "
    "content-encoding content-language content-length content-type date dnt expect host "
    "if-match if-modified-since if-none-match if-unmodified-since keep-alive origin pragma "
    "priority range sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode "
    "sec-fetch-site sec-fetch-user te traceparent transfer-encoding upgrade-insecure-requests "
    "user-agent via x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-real-ip "
    "x-request-id".split()
)
NO_PREFIX = ("CONTENT_TYPE", "CONTENT_LENGTH")  # headers without HTTP_ in the environment
ABSOLUTE = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")  # before the path, for proxies

NUMBERS = itertools.count(1)
ENTRY = "fense_admin.entry"  # key of the WSGI environment: the entry of the request


class Entry(dict[str, Any]):
    """A request and its response, as `GET /_standin/requests` shows them; the rest is for the page.

    `number` identifies it, because several requests may have the same id. `sent_target` is the
    target (perhaps with a scheme and a host, or an empty query) and `sent_body` the body, byte for
    byte but for masked keys. `is_cut` has the texts ("body", "response") of which only the first
    part is kept; `has_masked_body` says that keys in the body are masked. `fault` is the armed
    fault that met it, as it was armed. `reason` and `details` (field, message) are those of an
    error; `created` is the id of a new account. `instance` is the name or the id of the instance
    that was asked, `mount` what is before its paths.
    """

    def __init__(self, *arguments: Any, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self.number = next(NUMBERS)
        self.sent_target = ""
        self.is_http_1_0 = False
        self.sent_body = b""
        self.is_cut: set[str] = set()
        self.has_masked_body = False
        self.fault: dict[str, Any] = {}
        self.has_development_key = False
        self.reason = ""
        self.details: list[tuple[str, str]] = []
        self.created: int | None = None
        self.instance = self.mount = ""


def journal_entry(environ: dict[str, Any], app: Application) -> Entry:
    """Return the entry of a request that has just arrived, without its response."""
    target = environ.get("REQUEST_URI", "")
    from_server = bool(target)  # in-process, empty headers may not have been sent
    headers = {
        name.removeprefix("HTTP_").lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in NO_PREFIX and (value or from_server))
    }
    address = found[0] if (found := ABSOLUTE.match(target)) else ""
    method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
    path = sent_path(environ)
    # The handler will read the body again, but no more than this.
    raw = read_input(environ, app.limits.body)
    environ["wsgi.input"] = io.BytesIO(raw)
    whole = raw.decode(errors="surrogateescape")  # preserves each byte
    named = mask_body(whole)
    body = beginning(named, MAX_TEXT)
    key = request_key(environ)
    keys = app.masker.keys_in(
        [
            *(value for name, value in headers.items() if name in SHOWN_HEADERS),
            # A key that was sent as a header's name is in lower case here, without "_".
            *(f"{n} {n.replace('-', '_')}" for n in headers if n not in SHOWN_HEADERS),
            method,
            address,
            path,
            query,
            body,
        ],
        key,
    )
    as_names = None if keys is None else [key.lower().replace("_", "-") for key in keys]
    shown = hide(body, keys)
    kept = cut(shown, MAX_TEXT, is_part=body != named).encode(errors="surrogateescape")
    entry = Entry(
        id=app.id_without(keys, headers.get("x-request-id")),
        at=models.now(),
        method=hide(method, keys),
        path=hide_named(hide(path, keys)),
        query=hide_named(hide(query, keys)),
        headers={
            hide(name, as_names): hide_named(hide(value, keys))
            if name in SHOWN_HEADERS
            else mask(value)
            for name, value in headers.items()
        },
        body=(truncate(kept.decode(errors="replace")) or None) if raw else None,
        status=None,
        response=None,
        duration_ms=None,
        fault=None,
        handled=None,
    )
    entry.sent_target = hide_named(hide(address, keys)) + entry["path"]
    if entry["query"] or "?" in target:
        entry.sent_target += f"?{entry['query']}"
    entry.is_http_1_0 = from_server and environ.get("SERVER_PROTOCOL") == "HTTP/1.0"
    entry.has_development_key = key == DEVELOPMENT_KEY
    entry.has_masked_body = shown != beginning(whole.replace("\0", ""), MAX_TEXT)
    sent = kept if entry.has_masked_body else raw
    entry.sent_body = sent[:MAX_TEXT]
    if len(sent) > MAX_TEXT or body != named:
        entry.is_cut.add("body")
    return entry


def sent_path(environ: dict[str, Any]) -> str:
    """Return the path as it was sent; in-process, quote the decoded path again."""
    target = environ.get("REQUEST_URI", "")
    if target:
        return ABSOLUTE.sub("", target).partition("?")[0]
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return quote(path.encode("latin-1"), safe="/:@!$&'()*+,;=~")


def add_response(entry: Entry, body: bytes, app: Application, environ: dict[str, Any]) -> None:
    """Add the response to the entry: the beginning of its body, and the reason of an error.

    Keys are masked.
    """
    if not body:
        return
    part = body[: MAX_TEXT + MARGIN]
    text = part.decode(errors="ignore")
    texts, is_part = [text], len(part) < len(body)
    error: ApiError | None = environ.get(ERROR)
    details = list(error.details) if error else []
    whole = error.body if error else ""
    message = beginning(whole, MAX_TEXT)
    if is_part:  # otherwise, the text has all of these
        details = within(MAX_TEXT, details)
        texts += [message, *(field for field, _ in details)]
    keys = app.masker.keys_in(texts, request_key(environ))
    shown = hide(text, keys)
    entry["response"] = truncate(cut(shown, MAX_TEXT, is_part))
    if entry["response"] != shown:
        entry.is_cut.add("response")
    if is_part or shown != text:  # otherwise, there is no key in them
        message = cut(hide(message, keys), MAX_TEXT, is_part=message != whole)
        details = [(hide(name, keys), hide(text, keys)) for name, text in details]
    entry.reason, entry.details = message, details


def within(most: int, details: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the first of the details, with at most this many characters in total."""
    sizes = itertools.accumulate(len(field) + len(message) for field, message in details)
    return [detail for detail, size in zip(details, sizes, strict=True) if size <= most]


def truncate(text: str) -> str:
    """Return at most `MAX_TEXT` bytes of a text."""
    return text.encode()[:MAX_TEXT].decode(errors="ignore")


# --- For a failed test -------------------------------------------------------------------------

REPORTED = 20  # newest requests in a report
UNNAMED = ("id", "used")  # keys of a fault that a report omits


def report(entries: Sequence[Entry], faults: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Return a report for a failed test: its last requests, and armed faults never used.

    Each fault comes with the name of its instance, or "" for the stand-in itself. Lines of an
    instance are below its name.
    """
    lines: dict[str, list[str]] = {"": []}  # by instance
    if len(entries) > REPORTED:
        lines[""].append(f"({len(entries) - REPORTED} earlier requests)")
    for entry in entries[-REPORTED:]:
        lines.setdefault(entry.instance, []).append(summary(entry))
    for instance, fault in faults:
        if not fault["used"]:
            named = ", ".join(f"{key}={fault[key]!r}" for key in fault if key not in UNNAMED)
            words = f"never used: the armed fault {fault['id']} ({named})"
            lines.setdefault(instance, []).append(words)
    of_instances = [
        line for name in lines if name for line in (f"{name}:", *(f"  {it}" for it in lines[name]))
    ]
    return "\n".join(lines[""] + of_instances)


def summary(entry: Entry) -> str:
    """Return one line: method, path, status, and the message of a 4xx."""
    query = f"?{entry['query']}" if entry["query"] else ""
    path = entry["path"].removeprefix(entry.mount)
    line = f"{entry['method']} {path}{query} {entry['status'] or 'no response'}"
    if entry["fault"]:
        handled = f"; the service itself returned {entry['handled']}" if entry["handled"] else ""
        line += f" (fault {entry['fault']}{handled})"
    if 400 <= (entry["status"] or 0) < 500 and entry.reason:
        line += f": {entry.reason}"
    return line
