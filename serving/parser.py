"""Read a request: waitress's parser, as strict as RFC 9112."""

from __future__ import annotations

import contextlib
import copy
import re
from typing import Any

from fense_admin.exchange import REASONS, UNAVAILABLE
from fense_admin.serving.application import Application
from fense_admin.serving.internals import BadRequest, HTTPRequestParser, ParsingError

MAX_CHUNK_LINE = 256  # bytes of the line before a chunk, with its extensions
FIRST_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Z]+ [^ ]+(?: HTTP/[0-9]\.[0-9])?")
CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
HOST = re.compile(r"[^\s,/?#@]*")  # two come joined by a comma


class NoTemporaryFile(Exception):
    """A large request or answer can't be kept in a temporary file: it is answered with 503."""

    code, reason = UNAVAILABLE, REASONS[UNAVAILABLE]  # as waitress's own errors have them


class RequestParser(HTTPRequestParser):
    """waitress's parser, as strict as RFC 9112, with a bound on chunk lines and trailers."""

    adj: Any
    body_rcv: Any

    def __init__(self, application: Application, adj: Any) -> None:
        super().__init__(adj)
        self._application = application
        self.is_head = False
        self.received_at = 0.0  # by the monotonic clock, once it is whole

    def parse_header(self, header_plus: bytes) -> None:
        # First what would take waitress's own patterns seconds.
        line, *lines = header_plus.split(b"\r\n")
        if (
            not FIRST_LINE.fullmatch(line)
            or CONTROLS.search(header_plus)
            or any(line.startswith((b" ", b"\t")) for line in lines)  # a header of several lines
        ):
            raise ParsingError("malformed")
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # of `GET http://[`, say
            raise ParsingError("malformed") from error
        headers, host, version = self.headers, self.headers.get("HOST"), self.version
        codings = [
            line.partition(b":")[2].strip(b" \t").lower()
            for line in lines
            if line[:18].lower() == b"transfer-encoding:"
        ]
        has_length = "CONTENT_LENGTH" in headers
        if (
            version not in ("1.0", "1.1", "")
            or "#" in self.request_uri  # which is a fragment
            or (host is None and version == "1.1")
            or not HOST.fullmatch(host or "")
            or (codings and (codings != [b"chunked"] or version != "1.1" or has_length))
        ):
            raise ParsingError("malformed")
        if "CONNECTION" in headers:
            options = headers["CONNECTION"].lower().split(",")
            self.connection_close |= "close" in [option.strip() for option in options]
        if self.body_rcv is not None:
            limit = self._application.body_limit(asked_environ(self))
            if limit is not None:
                self.adj = copy.copy(self.adj)
                self.adj.max_request_body_size = limit + 1

    def received(self, data: bytes) -> int:
        if not self.headers_finished:  # before they are parsed, which may fail
            begin = self.header_plus[:9] + data[:9]
            self.is_head = begin.lstrip(b"\r\n").startswith(b"HEAD ")
        try:
            used: int = super().received(data)
        except OSError as error:
            self.error = NoTemporaryFile(str(error))  # without a traceback, which holds files
            self.completed = True
            return len(data)
        if self.chunked and not self.completed:
            # waitress copies these at each read: without a bound, that is quadratic.
            line, trailer = self.body_rcv.control_line, self.body_rcv.trailer
            if len(line) > MAX_CHUNK_LINE or len(trailer) > self._application.limits.header:
                self.error = BadRequest("a chunk's line or a trailer without end")
                self.completed = True
        return used

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closing a file writes what a full disk did not take
            super().close()


def asked_environ(request: RequestParser) -> dict[str, str]:
    """Return what is known of a request so far, as the application reads it from an environ."""
    headers = {f"HTTP_{name}": value for name, value in request.headers.items()}
    return headers | {"PATH_INFO": getattr(request, "path", "")}
