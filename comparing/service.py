"""Asks a service over HTTP: one request at a time, by GET and HEAD alone, with deadlines."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import secrets
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import fense_admin
from fense_admin.comparing.questions import (
    KNOWN,
    MERCHANT,
    NONE,
    OTHER,
    READS,
    UNKNOWN,
    Question,
)
from fense_admin.exchange import KEY_HEADER

MOST_BYTES = 32 * 1024 * 1024  # of a response
COMPARED = ("content-type", "www-authenticate", "allow", "location")  # headers that are kept


class CouldNotAsk(Exception):
    """The comparison can't be made. The message is one sentence that says why."""


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]  # some of them, by their names in lower case
    body: Any  # what its JSON says; None if it is something else
    is_json: bool


class Service:
    """A service at a URL such as https://fense.example/admin.

    `keys` are those that it knows, `timeout` is the seconds that a request may take, `ca_file` has
    certificates to trust in place of the system's. Raises `CouldNotAsk` for a file that has none.
    """

    def __init__(
        self,
        origin: str,
        prefix: str,
        keys: Sequence[str],
        timeout: float,
        ca_file: str | None = None,
        may_write: bool = False,
    ) -> None:
        self._scheme, _, self._host = origin.partition("://")
        self._prefix = prefix
        self._timeout = timeout
        self.may_write = may_write
        made_up = [f"fense-admin-compare-{secrets.token_hex(8)}" for _ in range(3)]
        self._keys = {KNOWN: keys[0], OTHER: keys[-1], UNKNOWN: made_up[0], MERCHANT: made_up[1]}
        self._other_key = made_up[2]
        self._context: ssl.SSLContext | None = None
        if self._scheme == "https":
            try:
                self._context = ssl.create_default_context(cafile=ca_file)
            except (OSError, ssl.SSLError) as error:
                raise CouldNotAsk(f"{ca_file} has no certificates: {reason(error)}") from None

    def ask(self, question: Question) -> Answer:
        """Send a request and read the response. Raises `CouldNotAsk`."""
        if question.method not in READS and not self.may_write:
            raise CouldNotAsk(f"{question.method} writes, which was not asked for")
        headers = {"Content-Type": question.content_type, "Accept": "application/json"}
        if question.encoding:
            headers["Content-Encoding"] = question.encoding
        body = question.body
        if body is not None:
            body = body.replace("{key}", self._keys[MERCHANT]).replace(
                "{other_key}", self._other_key
            )
        headers["User-Agent"] = f"fense-admin/{fense_admin.__version__} compare"
        if question.key != NONE:
            headers[KEY_HEADER] = self._keys[question.key]
        late = threading.Event()
        try:
            with contextlib.closing(self._connection()) as connection:
                connection.connect()
                with ended_after(self._timeout, connection.sock, late):
                    path = self._prefix + question.path
                    connection.request(question.method, path, body, headers)
                    response = connection.getresponse()
                    raw = response.read(MOST_BYTES + 1)
            if late.is_set() or (response.length and len(raw) <= MOST_BYTES):
                raise http.client.IncompleteRead(raw)
        except (OSError, http.client.HTTPException, ValueError) as error:
            what = f"took longer than {self._timeout:g} s" if late.is_set() else reason(error)
            raise CouldNotAsk(f"{self._host}: {question.method} {what}") from None
        if len(raw) > MOST_BYTES:
            raise CouldNotAsk(f"{self._host} responds with more than {MOST_BYTES} bytes")
        kept = {name: response.headers[name] for name in COMPARED if name in response.headers}
        if "location" in kept:  # it has an id
            kept["location"] = "a path" if kept["location"].startswith("/") else "a URL"
        try:
            return Answer(response.status, kept, json.loads(raw), True)
        except (ValueError, RecursionError):
            return Answer(response.status, kept, None, False)

    def _connection(self) -> http.client.HTTPConnection:
        if self._context is not None:
            return http.client.HTTPSConnection(
                self._host, timeout=self._timeout, context=self._context
            )
        return http.client.HTTPConnection(self._host, timeout=self._timeout)


@contextlib.contextmanager
def ended_after(seconds: float, sock: socket.socket, late: threading.Event) -> Iterator[None]:
    """End the connection in time, even if bytes go on coming, and set `late`."""

    def end() -> None:
        late.set()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def reason(error: Exception) -> str:
    """Why a request failed, in a few words that have nothing of the response."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a certificate that is not trusted ({error.verify_message}): see --ca-file"
    if isinstance(error, ssl.SSLError):
        return "does not speak TLS"
    if isinstance(error, TimeoutError):
        return "takes too long"
    if isinstance(error, http.client.IncompleteRead):
        return "gets a response that breaks off"
    if isinstance(error, (http.client.HTTPException, ValueError)):
        return "gets no response in HTTP"
    text = getattr(error, "strerror", None) or type(error).__name__
    return "fails: " + re.sub(r"\[.*?\] ", "", text)
