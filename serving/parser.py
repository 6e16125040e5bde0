"""Parse requests: waitress's parser, made as strict as RFC 9112."""

from __future__ import annotations

import contextlib
import copy
import re
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from fense_admin.exchange import REASONS, UNAVAILABLE
from fense_admin.serving.application import Application
from fense_admin.serving.internals import (
    BadRequest,
    ChunkedReceiver,
    FixedStreamReceiver,
    HTTPRequestParser,
    OverflowableBuffer,
    ParsingError,
    TransferEncodingNotImplemented,
)

MAX_CHUNK_LINE = 256  # bytes of the line before a chunk, including extensions
REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Z]+) ([^ \t]+)(?: HTTP/([0-9]\.[0-9]))?")
NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# Control characters, line ends other than CR LF, headers that span several lines.
MALFORMED = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n|\n[ \t]")
LENGTH = re.compile("[0-9]{1,4300}")  # Python converts no more digits
# As in a URL, because responses refer clients to it. Two headers would be joined by a comma.
HOST = re.compile(r"(?:[\w.~!$&'()*+;=%-]*|\[[\w:.~%-]+\])(?::[0-9]{0,5})?", re.ASCII)


class NoTemporaryFile(Exception):
    """A large request or response needs a temporary file, which can't be written: 503."""

    code, reason = UNAVAILABLE, REASONS[UNAVAILABLE]  # attributes of waitress's errors


class RequestParser(HTTPRequestParser):
    """waitress's parser, as strict as RFC 9112, with limits on chunk lines and trailers.

    It parses the head itself: waitress accepts too much, and its regular expressions can take
    seconds.
    """

    adj: Any
    body_rcv: Any

    def __init__(self, application: Application, adj: Any) -> None:
        super().__init__(adj)
        self._application = application
        self.is_head = False
        self.received_at = 0.0  # monotonic time at which the request was complete

    def parse_header(self, header_plus: bytes) -> None:
        line, *lines = header_plus.split(b"\r\n")
        found = REQUEST_LINE.fullmatch(line)
        if found is None or MALFORMED.search(header_plus):
            raise ParsingError("malformed")
        method, target, version = found.groups(b"")
        headers = self.headers
        for line in filter(None, lines):
            name, colon, value = line.partition(b":")
            if not colon or not NAME.fullmatch(name):
                raise ParsingError("malformed")
            if b"_" not in name:  # otherwise x_api_key would count as x-api-key
                key = name.decode().upper().replace("-", "_")
                text = value.strip(b" \t").decode("latin-1")
                headers[key] = f"{headers[key]}, {text}" if key in headers else text
        self.command, self.version = method.decode(), version.decode()
        self.url_scheme = self.adj.url_scheme
        try:
            self.request_uri = target.decode("ascii")
            self.path, self.query = split_target(self.request_uri)
        except ValueError as error:  # for example, `GET http://[`
            raise ParsingError("malformed") from error
        connection = headers.get("CONNECTION", "").lower()
        self.connection_close = "close" in [option.strip() for option in connection.split(",")]
        is_current = self.version == "1.1"
        self.connection_close |= not is_current and connection != "keep-alive"
        self.expect_continue = is_current and headers.get("EXPECT", "").lower() == "100-continue"
        host, length = headers.get("HOST"), headers.get("CONTENT_LENGTH")
        # The application sees the body as if it had been sent with its length.
        coding = headers.pop("TRANSFER_ENCODING", None)
        codings = {one.strip(" \t").lower() for one in (coding or "").split(",") if one}
        if is_current and codings - {"chunked"}:
            raise TransferEncodingNotImplemented("only chunked is known")
        if (
            self.version not in ("1.0", "1.1", "")
            or "#" in self.request_uri  # a fragment
            or (host is None and is_current)
            or not HOST.fullmatch(host or "")
            or (length is not None and (coding is not None or not LENGTH.fullmatch(length)))
            or (coding is not None and (coding.lower() != "chunked" or not is_current))
        ):
            raise ParsingError("malformed")
        self.chunked, self.content_length = coding is not None, int(length or 0)
        if self.chunked:
            self.body_rcv = ChunkedReceiver(OverflowableBuffer(self.adj.inbuf_overflow))
        elif self.content_length:
            buffer = OverflowableBuffer(self.adj.inbuf_overflow)
            self.body_rcv = FixedStreamReceiver(self.content_length, buffer)
        if self.body_rcv is not None:
            limit = self._application.body_limit(asked_environ(self))
            if limit is not None:
                self.adj = copy.copy(self.adj)
                self.adj.max_request_body_size = limit + 1

    def received(self, data: bytes) -> int:
        if not self.headers_finished:  # now, because parsing them may fail
            begin = self.header_plus[:9] + data[:9]
            self.is_head = begin.lstrip(b"\r\n").startswith(b"HEAD ")
        try:
            used: int = super().received(data)
        except OSError as error:
            self.error = NoTemporaryFile(str(error))  # no traceback, which would keep files open
            self.completed = True
            return len(data)
        if self.chunked and not self.completed:
            # waitress copies these at each read, which is quadratic without a limit.
            line, trailer = self.body_rcv.control_line, self.body_rcv.trailer
            if len(line) > MAX_CHUNK_LINE or len(trailer) > self._application.limits.header:
                self.error = BadRequest("a chunk's line or a trailer without end")
                self.completed = True
        return used

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it writes the rest, but the disk may be full
            super().close()


def split_target(target: str) -> tuple[str, str]:
    """Return the path of a request's target, decoded as WSGI requires, and the query."""
    path, _, query = target.partition("?")
    if not target.startswith("/"):  # http://host/path, the form for proxies
        _, _, path, query, _ = urlsplit(target)
    return unquote_to_bytes(path).decode("latin-1"), query


def asked_environ(request: RequestParser) -> dict[str, str]:
    """Return what is known of a request so far, as a WSGI environ."""
    headers = {f"HTTP_{name}": value for name, value in request.headers.items()}
    return headers | {"PATH_INFO": getattr(request, "path", "")}
