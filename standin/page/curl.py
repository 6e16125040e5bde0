"""Command lines with curl, as sh, bash and zsh take them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from typing import Any

from fense_admin import DEVELOPMENT_KEY, LOOPBACK
from fense_admin.standin.journal import Entry

# A path and query that curl sends as they are: nothing in them to resolve, to encode or to expand.
PLAIN_TARGET = re.compile(r"/(?!/)(?:(?!/\.)[A-Za-z0-9/_.~%!$&'()*+,;=:@?-])*")
OF_CURL = ("accept", "user-agent")  # headers that curl adds unless it is told not to
NO_ANSWER_BODY = 5  # seconds that curl waits for a body which a HEAD does not get


def by_hand(method: str, url: str, is_development: bool, body: Any = None) -> str:
    """The line for a request with the master key; `body` is sent as JSON."""
    words = [start(method, url, has_body=body is not None), key_header(is_development)]
    if body is not None:
        text = json.dumps(body, ensure_ascii=False)
        words += ["-H 'Content-Type: application/json'", f"--data-raw {quoted(text)}"]
    return lines(words)


def repeating(entry: Entry, origin: str, arrives_as: str) -> str:
    """The line that sends a request again, to this scheme and host: "http://127.0.0.1:8642".

    `arrives_as` is the Host that arrives here of a request to that origin: a proxy may change it.
    It is the same byte for byte, as far as the journal has it: keys are masked, the x-api-key
    stands as $FENSE_API_KEY unless it is the development key, and a long body is cut.
    """
    body, headers = entry.sent_body, dict(entry["headers"])
    if body:
        headers.pop("content-length", None)  # curl's own
    scheme, _, host = origin.partition("://")
    asked = headers.pop("host", host)
    if asked == arrives_as:
        asked = host
    without_host = [] if "host" in entry["headers"] else ["--http1.0", "-H 'Host:'"]
    if LOOPBACK.fullmatch(asked) and LOOPBACK.fullmatch(host) and port(asked) == port(host):
        host = asked
    elif asked != host:
        headers = {"host": asked, **headers}
    origin, target = f"{scheme}://{host}", entry["path"]
    if entry["query"]:
        target += f"?{entry['query']}"
    if PLAIN_TARGET.fullmatch(target):
        words = [start(entry["method"], origin + target, bool(body))]
    else:
        words = [start(entry["method"], origin, bool(body)), f"--request-target {quoted(target)}"]
    words += without_host
    for name, value in headers.items():
        if name == "x-api-key" and value:
            words.append(key_header(entry.has_development_key))
        else:
            words.append(f"-H {quoted(f'{name}: {value}' if value else f'{name};')}")
    unsent = (*OF_CURL, "content-type") if body else OF_CURL
    words += [f"-H '{name}:'" for name in unsent if name not in headers]
    if not body:
        return lines(words)
    text = body.decode(errors="surrogateescape")
    if is_plain(text):
        return lines([*words, f"--data-raw {shlex.quote(text)}"])
    return f"printf '{printf_format(body)}' | {lines([*words, '--data-binary @-'])}"


def start(method: str, url: str, has_body: bool) -> str:
    if method == "HEAD":
        how = f" -X HEAD --max-time {NO_ANSWER_BODY}" if has_body else " --head"
    else:
        how = "" if method == ("POST" if has_body else "GET") else f" -X {quoted(method)}"
    return f"curl{how} {quoted(url)}"


def key_header(is_development: bool) -> str:
    return (
        f"-H 'x-api-key: {DEVELOPMENT_KEY}'" if is_development else '-H "x-api-key: $FENSE_API_KEY"'
    )


def lines(words: Iterable[str]) -> str:
    return " \\\n  ".join(words)


def port(host: str) -> str:
    return host.rpartition("]")[2].partition(":")[2]


# --- The shell's quotes ------------------------------------------------------------------------


def is_plain(text: str) -> bool:
    """Whether it survives being copied from a page: no control characters, nothing invisible."""
    return all(letter.isprintable() or letter == "\n" for letter in text)


def quoted(text: str) -> str:
    """The text as one word of the shell. As in WSGI, a character may stand for a byte."""
    if text.isascii() and is_plain(text):
        return shlex.quote(text)
    raw = b"".join(
        letter.encode("latin-1") if letter <= "\xff" else letter.encode(errors="replace")
        for letter in text
    )
    return f"\"$(printf '{printf_format(raw)}')\""


def printf_format(raw: bytes) -> str:
    """The bytes as a format of printf, to stand in single quotes."""
    special = {ord("%"): "%%", ord("\\"): "\\\\", ord("\n"): "\\n"}
    return "".join(
        special.get(byte) or (chr(byte) if 32 <= byte < 127 and byte != 39 else f"\\{byte:03o}")
        for byte in raw
    )
