"""Requests as curl command lines: what they say, in any shell."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from fense_admin import DEVELOPMENT_KEY
from fense_admin.exchange import KEY_HEADER
from fense_admin.standin.journal import Entry
from fense_admin.standin.page import powershell, sh
from fense_admin.standin.page.command import Command, Option

# A path and query that curl sends as they are: nothing in them to resolve, to encode or to expand.
# Some versions drop an empty query.
PLAIN_TARGET = re.compile(r"(?![^?]*\?\Z)/(?!/)(?:(?!/\.)[A-Za-z0-9/_.~%!$&'()*+,;=:@?-])*")
OF_CURL = ("accept", "user-agent")  # headers that curl adds unless it is told not to
NO_ANSWER_BODY = "5"  # seconds that curl waits for a body which a HEAD does not get


class Lines(NamedTuple):
    """A command in each shell."""

    sh: str
    powershell: str


def by_hand(method: str, url: str, is_development: bool, body: Any = None) -> Lines:
    """Return the lines for a request with the master key; `body` is sent as JSON."""
    sent = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
    options = [key_header(is_development)]
    if sent:
        options.append(Option("-H", "Content-Type: application/json"))
    return lines(Command(how(method, bool(sent)), url, options, sent))


def repeating(entry: Entry, origin: str, host: str) -> Lines:
    """Return the lines that send a request again, to this scheme and host: "http://127.0.0.1:8642".

    `host` is the Host header that reaches the service there. The request is the same byte for byte
    where the journal has every byte: keys are masked, x-api-key is written as FENSE_API_KEY unless
    it is the development key, and a long body is cut.
    """
    target, body, headers = entry.sent_target, entry.sent_body, dict(entry["headers"])
    if body:
        headers.pop("content-length", None)  # curl's own
    is_plain = PLAIN_TARGET.fullmatch(target)
    options = [] if is_plain else [Option("--request-target", target)]
    if entry.is_http_1_0:
        options.append(Option("--http1.0"))
    if host and headers.get("host") == host:
        del headers["host"]
    elif "host" not in headers:
        options.append(Option("-H", "Host:"))
    for name, value in headers.items():
        if name == KEY_HEADER and value:
            options.append(key_header(entry.has_development_key))
        else:
            options.append(Option("-H", f"{name}: {value}" if value else f"{name};"))
    unsent = (*OF_CURL, "content-type") if body else OF_CURL
    options += [Option("-H", f"{name}:") for name in unsent if name not in headers]
    url = origin + target if is_plain else origin
    return lines(Command(how(entry["method"], bool(body)), url, options, body))


def how(method: str, has_body: bool) -> list[Option]:
    if method == "HEAD":
        waiting = [Option("-X", method), Option("--max-time", NO_ANSWER_BODY)]
        return waiting if has_body else [Option("--head")]
    return [] if method == ("POST" if has_body else "GET") else [Option("-X", method)]


def key_header(is_development: bool) -> Option:
    if is_development:
        return Option("-H", f"{KEY_HEADER}: {DEVELOPMENT_KEY}")
    return Option("-H", f"{KEY_HEADER}: ", variable="FENSE_API_KEY")


def lines(command: Command) -> Lines:
    return Lines(sh.line(command), powershell.line(command))
