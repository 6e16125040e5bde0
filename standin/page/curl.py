"""Command lines with curl, as sh, bash and zsh take them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from typing import Any

from fense_admin import DEVELOPMENT_KEY
from fense_admin.exchange import KEY_HEADER
from fense_admin.standin.journal import Entry
from fense_admin.standin.page.text import INVISIBLE

# A path and query that curl sends as they are: nothing in them to resolve, to encode or to expand.
# Some versions drop an empty query.
PLAIN_TARGET = re.compile(r"(?![^?]*\?\Z)/(?!/)(?:(?!/\.)[A-Za-z0-9/_.~%!$&'()*+,;=:@?-])*")
OF_CURL = ("accept", "user-agent")  # headers that curl adds unless it is told not to
NO_ANSWER_BODY = 5  # seconds that curl waits for a body which a HEAD does not get


def by_hand(method: str, url: str, is_development: bool, body: Any = None) -> str:
    """The line for a request with the master key; `body` is sent as JSON."""
    words = [start(method, url, has_body=body is not None), key_header(is_development)]
    if body is not None:
        text = json.dumps(body, ensure_ascii=False).encode().decode("latin-1")
        words += ["-H 'Content-Type: application/json'", f"--data-raw {quoted(text)}"]
    return lines(words)


def repeating(entry: Entry, origin: str, host: str) -> str:
    """Return the line that sends a request again, to this scheme and host: "http://127.0.0.1:8642".

    `host` is the Host header that reaches the service there. The request is the same byte for byte
    where the journal has every byte: keys are masked, the x-api-key stands as $FENSE_API_KEY unless
    it is the development key, and a long body is cut.
    """
    target, body, headers = entry.sent_target, entry.sent_body, dict(entry["headers"])
    if body:
        headers.pop("content-length", None)  # curl's own
    if PLAIN_TARGET.fullmatch(target):
        words = [start(entry["method"], origin + target, bool(body))]
    else:
        words = [start(entry["method"], origin, bool(body)), f"--request-target {quoted(target)}"]
    if entry.is_http_1_0:
        words.append("--http1.0")
    if host and headers.get("host") == host:
        del headers["host"]
    elif "host" not in headers:
        words.append("-H 'Host:'")
    for name, value in headers.items():
        if name == KEY_HEADER and value:
            words.append(key_header(entry.has_development_key))
        else:
            words.append(f"-H {quoted(f'{name}: {value}' if value else f'{name};')}")
    unsent = (*OF_CURL, "content-type") if body else OF_CURL
    words += [f"-H '{name}:'" for name in unsent if name not in headers]
    if not body:
        return lines(words)
    text = body.decode(errors="surrogateescape")
    data, piped = shlex.quote(text), f"printf '{printf_format(body)}'"
    if is_plain(text) and len(data) <= len(piped):
        return lines([*words, f"--data-raw {data}"])
    return f"{piped} | {lines([*words, '--data-binary @-'])}"


def start(method: str, url: str, has_body: bool) -> str:
    if method == "HEAD":
        how = f" -X HEAD --max-time {NO_ANSWER_BODY}" if has_body else " --head"
    else:
        how = "" if method == ("POST" if has_body else "GET") else f" -X {quoted(method)}"
    return f"curl{how} {quoted(url)}"


def key_header(is_development: bool) -> str:
    return (
        f"-H '{KEY_HEADER}: {DEVELOPMENT_KEY}'"
        if is_development
        else f'-H "{KEY_HEADER}: $FENSE_API_KEY"'
    )


def lines(words: Iterable[str]) -> str:
    return " \\\n  ".join(words)


# --- The shell's quotes ------------------------------------------------------------------------


def is_plain(text: str) -> bool:
    """Whether it survives being copied from a page: no control characters, nothing invisible."""
    return text.replace("\n", "").isprintable() and not INVISIBLE.search(text)


def quoted(text: str) -> str:
    """The text as one word of the shell. As in WSGI, a character may stand for a byte."""
    raw = b"".join(
        letter.encode("latin-1") if letter <= "\xff" else letter.encode(errors="replace")
        for letter in text
    )
    word, printed = shlex.quote(text), f"\"$(printf '{printf_format(raw)}')\""
    return word if text.isascii() and is_plain(text) and len(word) <= len(printed) else printed


# How each byte stands in a format of printf; an interactive shell would expand a "!".
IN_FORMAT = [chr(n) if 32 <= n < 127 and chr(n) not in "'!" else f"\\{n:03o}" for n in range(256)]
IN_FORMAT[ord("%")], IN_FORMAT[ord("\\")], IN_FORMAT[ord("\n")] = "%%", "\\\\", "\\n"


def printf_format(raw: bytes) -> str:
    """The bytes as a format of printf, to stand in single quotes."""
    text = "".join(map(IN_FORMAT.__getitem__, raw))
    return f"\\055{text[1:]}" if text.startswith("-") else text  # else it would be an option
