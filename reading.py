"""Read a request: its body, its query, and the address that its client used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl, quote

from bottle import request

from fense_admin import files, rules
from fense_admin.exchange import INVALID, TOO_LARGE, ApiError
from fense_admin.rules import JsonObject, ValidationErrors

# --- Body and query ----------------------------------------------------------------------------

MAX_FIELDS = 1_000  # of a form


def application() -> Any:
    """Return the `fense_admin.Application` that handles this request."""
    return request.app


def read_input(environ: Mapping[str, Any], limit: int) -> bytes:
    """Read at most limit + 1 bytes, so that the caller can tell that a body is too large."""
    length = limit + 1
    # Chunked bodies have no Content-Length; such servers set wsgi.input_terminated.
    if not environ.get("wsgi.input_terminated"):
        declared = environ.get("CONTENT_LENGTH", "")
        length = min(length, int(declared) if declared.isdecimal() else 0)
    return bytes(environ["wsgi.input"].read(length))


def read_json(
    errors: ValidationErrors,
    kind: type = JsonObject,
    limit: int | None = None,
    may_be_empty: bool = False,
    parse: Callable[[bytes], Any] = rules.parse_json,
) -> Any:
    """Return the body, which must be a `JsonObject` or a `list`; None if it isn't.

    Problems are added to `errors`. With `may_be_empty`, a missing body counts as an empty one.
    Raises `ApiError` (413) for a body of more than `limit` bytes (default: the application's).
    """
    most: int = limit or application().limits.body
    raw = read_input(request.environ, most)
    if len(raw) > most:
        raise ApiError(TOO_LARGE, f"the body exceeds the maximum of {most} bytes")
    if may_be_empty and not raw:
        return kind()
    sent_as = request.environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if sent_as != "application/json":
        errors.add(None, "the body must be sent with Content-Type: application/json")
    coding = request.environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    try:
        if coding not in ("", "identity"):
            raise ValueError("must be sent uncompressed, without Content-Encoding")
        body = parse(raw)
        if isinstance(body, kind):
            return body
        raise ValueError(f"must be a JSON {'object' if kind is JsonObject else 'array'}")
    except ValueError as error:
        errors.add(None, f"the body {error}")
    return None


def read_form(limit: int, file: str) -> dict[str, str]:
    """Return the fields of a form. The bytes of the field `file` that are not UTF-8 are surrogates.

    Raises `ApiError` beyond `limit` bytes (413), and for what is not a form.
    """
    raw = read_input(request.environ, limit)
    if len(raw) > limit:
        raise ApiError(TOO_LARGE, f"the form exceeds {limit} bytes")
    content_type = request.environ.get("CONTENT_TYPE", "")
    boundary = re.fullmatch(r'multipart/form-data;\s*boundary="?([^";]{1,100})"?', content_type)
    if boundary:
        mark = b"\r\n--" + boundary[1].encode("latin-1")
        fields = {}
        for part in (b"\r\n" + raw).split(mark, MAX_FIELDS)[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            name = head.partition(b' name="')[2].partition(b'"')[0].decode(errors="replace")
            errors = "surrogateescape" if name == file else "replace"
            fields[name] = content.decode(errors=errors)
        return fields
    try:
        return dict(parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise ApiError(INVALID, "the body is not a form") from None


def read_query(
    errors: ValidationErrors, *documented: str, may_be_empty: bool = False
) -> dict[str, str | None]:
    """Return the query's parameters by name; None for an invalid one, which is added to `errors`.

    An empty parameter is invalid; with `may_be_empty` (a form's query) it is left out.
    """
    query = request.environ.get("QUERY_STRING", "")
    if not query.isascii():
        query = query.encode("latin-1").decode(errors="replace")
    sent: dict[str, str | None] = {}
    if not query:
        return sent
    found: dict[tuple[str, str], None] = {}  # each error once, in order
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in documented:
            found[name, rules.NOT_ACCEPTED] = None
        elif name in sent:
            found[name, "is given twice"] = None
        elif not value and may_be_empty:
            continue
        elif not value:
            found[name, "is empty"] = None
        else:
            sent[name] = value
            continue
        sent[name] = None
    for name, message in found:
        errors.add(name, message, documented if message == rules.NOT_ACCEPTED else ())
    return sent


def read_usage_query(
    errors: ValidationErrors, path_id: str | None
) -> tuple[int | None, str | None, str | None]:
    """Return the account id of path or query (None: all accounts), start date and end date."""
    query = read_query(errors, "start_date", "end_date", "fense_account_id")
    ids = [
        errors.check("fense_account_id", rules.check_id, text)
        for text in (path_id, query.get("fense_account_id"))
        if text is not None
    ]
    if len(ids) == 2 and None not in ids and ids[0] != ids[1]:
        errors.add("fense_account_id", "differs between path and query: give it once")
    start, end = (
        errors.check(name, rules.check_date, query[name]) if query.get(name) else None
        for name in ("start_date", "end_date")
    )
    if "start_date" in query and "end_date" not in query:
        errors.add("end_date", "is required with start_date")
    elif start and end and start > end:
        errors.add("start_date", "must not be after end_date")
    return (ids[0] if ids else None), start, end


def read_fields(
    errors: ValidationErrors, field_rules: Mapping[str, rules.Rule], **options: Any
) -> dict[str, Any]:
    """Return the checked fields of the body: see `rules.validate`."""
    body = read_json(errors)
    return {} if body is None else rules.validate(body, field_rules, errors, **options)


# --- Where clients find the service ------------------------------------------------------------

KNOWN_WORDS = ("accounts", "usage", "healthz", "openapi.json")  # the words in paths
MAX_GUESSED = 200  # characters of a path; guessing is slow and open to callers without a key
LOOPBACK_PEER = re.compile(r"(?:::ffff:)?127(?:\.[0-9]{1,3}){3}|::1")


def origin() -> str:
    """Return the scheme and host that clients use, such as "https://fense.example".

    It comes from the public URL if one is set, else from the X-Forwarded-Proto and
    X-Forwarded-Host of a proxy on this machine, else from the request's Host.
    """
    if public_origin := application().public_origin:
        return str(public_origin)
    environ = request.environ
    scheme = environ["wsgi.url_scheme"]
    host = environ.get("HTTP_HOST") or f"localhost:{environ['SERVER_PORT']}"  # HTTP/1.0
    if LOOPBACK_PEER.fullmatch(environ.get("REMOTE_ADDR", "")):
        # Each proxy appends to what it received, so the last value is the nearest proxy's.
        sent_scheme, sent_host = (
            environ.get(f"HTTP_X_FORWARDED_{name}", "").rpartition(",")[2].strip().lower()
            for name in ("PROTO", "HOST")
        )
        scheme = sent_scheme if sent_scheme in ("http", "https") else scheme
        host = sent_host if rules.HOST.fullmatch(sent_host) else host
    return f"{scheme}://{host}"


def mount_point() -> str:
    """Return the path in front of this application's own paths; "" if there is none.

    It comes from the public URL, and from another WSGI application that mounts this one.
    """
    mounted_at = request.environ.get("SCRIPT_NAME", "").rstrip("/").encode("latin-1")
    return f"{application().public_path}{quote(mounted_at)}"


def read_openapi(path: str, prefix: str) -> dict[str, Any]:
    """Return the OpenAPI document in this file, with the server's URL under the prefix."""
    document: dict[str, Any] = json.loads(files.read(path))
    return document | {"servers": [{"url": origin() + mount_point() + prefix}]}


def guess_path(path: str, prefix: str) -> str | None:
    """Return the known path that an unknown one probably means, or None."""
    if len(path) > MAX_GUESSED:
        return None
    words = [word for word in path.lower().split("/") if word]
    ids = [word for word in words if re.fullmatch("[0-9]{1,19}", word)]
    near = [get_close_matches(word, KNOWN_WORDS, 1, 0.8) for word in words if word not in ids]
    names = [match[0] if match else "" for match in near]
    while names and not names[0]:
        del names[0]  # our prefix, or another one
    if names in (["healthz"], ["openapi.json"]) and not ids:
        return f"/{names[0]}"
    if len(ids) > 1 or names not in (["accounts"], ["accounts", "usage"], ["usage"]):
        return None
    return "/".join([prefix, "accounts", *["usage"] * ("usage" in names), *ids])
