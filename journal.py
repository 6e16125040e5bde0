"""The journal's entries: what a request sent and got, with no credential whole in it."""

from __future__ import annotations

import io
import json
import re
from typing import Any
from urllib.parse import quote, unquote_plus

from fense_admin import MAX_BODY, choose_request_id, models, read_input

MAX_TEXT = 8 * 1024  # bytes of a body and of a response in an entry
CREDENTIALS = ("x-api-key", "authorization", "proxy-authorization", "cookie")
KEY_NAME = r"api(?:[^A-Za-z0-9]{0,3}|%5f)keys?"
STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
COLON = re.compile(r"\s*:\s*")
# In a string, JSON again: {\"api_key\": \"...\"}
KEY_IN_STRING = re.compile(rf'({KEY_NAME}\\+"\s*:\s*\\+")([^"\\]+)', re.IGNORECASE)
# In what is no JSON: whatever follows the name, behind its quote, signs and comments.
KEY_ANYWHERE = re.compile(
    rf"""({KEY_NAME}\\*["']?(?:/\*.{{0,100}}?\*/|/(?!\*)|[^A-Za-z0-9"'\[{{(/]){{0,40}})"""
    r"""("(?:[^"\\]|\\.)*"?|'[^']*'?|[\[{(].*|[^\s"',;&<>\])}\u2018-\u201f]+)""",
    re.IGNORECASE | re.DOTALL,
)


def mask(key: str) -> str:
    """A credential as an account shows it: its last four characters, if it has twelve."""
    return "\N{HORIZONTAL ELLIPSIS}" + (models.last4(key) or "")


def is_key_name(name: str) -> bool:
    return re.sub("[^a-z]", "", name.lower()).endswith(("apikey", "apikeys"))


def masked(text: str) -> str:
    """The text, every api_key in it masked."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        # "api\u005fkey" is a way to write api_key, too.
        plain = re.sub(r"\\u00([3-7][0-9a-fA-F])", lambda found: chr(int(found[1], 16)), text)
        return KEY_ANYWHERE.sub(lambda found: found[1] + masked_value(found[2]), plain)
    return masked_json(text)


def masked_json(text: str) -> str:
    """The same for what is JSON: the value of each such name, whatever it is."""
    parts, done = [], 0
    for found in STRING.finditer(text):
        if found.start() < done:
            continue  # within a value that is masked
        colon = COLON.match(text, found.end())
        if colon and is_key_name(json.loads(found[0])):
            value, end = json.JSONDecoder().raw_decode(text, colon.end())
            if isinstance(value, str):
                hidden = json.dumps(mask(value), ensure_ascii=False)
            else:
                hidden = text[colon.end() : end] if value in (None, True, False) else mask("")
            parts += [text[done : colon.end()], hidden]
            done = end
        else:
            hidden = KEY_IN_STRING.sub(lambda inner: inner[1] + mask(inner[2]), found[0])
            parts += [text[done : found.start()], hidden]
            done = found.end()
    return "".join(parts) + text[done:]


def masked_value(value: str) -> str:
    """A value as it stands in what is no JSON: a word, in quotes or not, or something larger."""
    if value[0] in "[{(":
        return mask("")
    sign = value[0] if value[0] in "\"'" else ""
    return sign + mask(value.removeprefix(sign).removesuffix(sign)) + sign


def masked_query(query: str) -> str:
    parts = [part.partition("=") for part in query.split("&")]
    return "&".join(
        name + sign + (mask(unquote_plus(value)) if is_key_name(unquote_plus(name)) else value)
        for name, sign, value in parts
    )


def journal_entry(environ: dict[str, Any]) -> dict[str, Any]:
    """An entry for a request that has just arrived; its answer is still to come."""
    request_id = choose_request_id(environ.get("HTTP_X_REQUEST_ID"))
    headers = {
        name.removeprefix("HTTP_").lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
    }
    key = headers.get("x-api-key", "")
    environ["HTTP_X_REQUEST_ID"] = request_id  # for the contract to choose the same
    # What is read here is read again by the handler, which reads no more than this either.
    body = read_input(environ, MAX_BODY)
    environ["wsgi.input"] = io.BytesIO(body)
    return {
        "id": request_id,
        "at": models.now(),
        "method": environ["REQUEST_METHOD"],
        "path": sent_path(environ),
        "query": masked_query(environ.get("QUERY_STRING", "")),
        "headers": {k: mask(v) if k in CREDENTIALS else v for k, v in headers.items()},
        "body": masked_body(body, secret=key),
        "status": None,
        "response": None,
        "duration_ms": None,
        "fault": None,
    }


def sent_path(environ: dict[str, Any]) -> str:
    """The path as it was sent; in-process, where that is not known, quoted again."""
    uri = environ.get("REQUEST_URI", "")
    if uri.startswith("/"):
        return uri.partition("?")[0]
    return quote(environ.get("PATH_INFO", "").encode("latin-1"), safe="/:@!$&'()*+,;=~")


def masked_body(raw: bytes, secret: str) -> str | None:
    """A request's body as an entry keeps it, without this secret either."""
    text = raw.decode(errors="replace").replace("\0", "")
    if secret:
        text = text.replace(secret, mask(secret))
    return cut(masked(text).encode())


def cut(raw: bytes) -> str | None:
    """The text of a body, as much of it as an entry keeps; None where there was none."""
    return raw[:MAX_TEXT].decode(errors="ignore") if raw else None
