"""Ask a service over HTTP: one request at a time, with deadlines, only GET and HEAD by default."""

from __future__ import annotations

import contextlib
import http.client
import re
import secrets
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import fense_admin
from fense_admin import rules
from fense_admin.comparing.differences import plain_header
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

MAX_BYTES = 32 * 1024 * 1024  # of a response
MAX_VALUES = 5_000_000  # in a response: each takes memory, however short its text is
DEEPEST = 30  # nested objects and lists in a body
COMPARED = ("content-type", "www-authenticate", "allow", "location")  # headers that are kept
# Statuses that don't depend on the request: rate limits, proxies, maintenance
FOR_NOW = (429, 502, 503, 504)


class CouldNotAsk(Exception):
    """The comparison can't be made. The message says why."""


class Response(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]  # the compared ones, by name in lower case: see `plain_header`
    body: Any  # parsed JSON; None if it isn't JSON
    is_json: bool


def read_response(status: int, headers: Mapping[str, str], raw: bytes) -> Response:
    """Return a response for the comparison. Raises `CouldNotAsk` if its body is too large."""
    if len(raw) > MAX_BYTES or sum(map(raw.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise CouldNotAsk("its response is too large to compare")
    kept = {name: plain_header(name, headers[name]) for name in COMPARED if name in headers}
    try:
        body = rules.parse_json(rules.without_mark(raw), dict)
    except ValueError:
        return Response(status, kept, None, False)
    return (
        Response(status, kept, body, True)
        if is_shallow(body)
        else Response(status, kept, None, False)
    )


def is_shallow(body: Any) -> bool:
    """Return whether a body is shallow enough for recursive functions."""
    inner = [[body]]
    for _ in range(DEEPEST):
        found = [it for each in inner for it in each if isinstance(it, (dict, list))]
        if not found:
            return True
        inner = [list(it.values()) if isinstance(it, dict) else it for it in found]
    return False


class Service:
    """A service at a URL such as https://fense.example/admin.

    `keys` are valid keys, `timeout` is in seconds for each request, `ca_file` has certificates to
    trust instead of the system's. Raises `CouldNotAsk` if the file has none.
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
                why = (
                    error.strerror
                    if not isinstance(error, ssl.SSLError)
                    else "it has no certificates in PEM"
                )
                raise CouldNotAsk(f"--ca-file can't be used: {why}") from None

    @property
    def is_private(self) -> bool:
        """Whether nobody on the way to the service can read the key."""
        return self._scheme == "https" or bool(fense_admin.LOOPBACK.fullmatch(self._host))

    def ask(self, question: Question) -> Response:
        """Send a request and read the response. Raises `CouldNotAsk`."""
        if question.method not in READS and not self.may_write:
            raise CouldNotAsk(f"{question.method} is not sent without --write")
        headers = {"Content-Type": question.content_type, "Accept": "application/json"}
        if question.encoding:
            headers["Content-Encoding"] = question.encoding
        body = question.with_keys(self._keys[MERCHANT], self._other_key)
        headers["User-Agent"] = f"fense-admin/{fense_admin.__version__} compare"
        if question.key != NONE:
            headers[KEY_HEADER] = self._keys[question.key]
        late = threading.Event()
        try:
            with contextlib.closing(self._connection()) as connection:
                connection.connect()
                sock = self._encrypted(connection)
                with ended_after(self._timeout, sock, late):
                    if isinstance(sock, ssl.SSLSocket):
                        sock.do_handshake()
                    path = self._prefix + question.path
                    connection.request(question.method, path, body and body.encode(), headers)
                    response = connection.getresponse()
                    raw = response.read(MAX_BYTES + 1)
            if late.is_set() or (response.length and len(raw) <= MAX_BYTES):
                raise http.client.IncompleteRead(raw)
        except (OSError, http.client.HTTPException, ValueError) as error:
            is_late = late.is_set() or isinstance(error, TimeoutError)
            what = f"timed out after {self._timeout:g} s" if is_late else reason(error)
            raise CouldNotAsk(f"{self._host}: {what}") from None
        if response.status in FOR_NOW:
            raise CouldNotAsk(
                f"{self._host} rejects requests for now ({response.status}): try again "
                f"{later(response)}, or with fewer --accounts"
            )
        if raw and response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise CouldNotAsk(f"{self._host} sent a compressed response, which was not asked for")
        sent = {name: response.headers.get_all(name, []) for name in COMPARED}
        joined = {name: ", ".join(texts) for name, texts in sent.items() if texts}
        return read_response(response.status, joined, raw)

    def _connection(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._host, timeout=self._timeout)
        if self._context is not None and connection.port == http.client.HTTP_PORT:
            # split_url only removes port 443
            is_given = self._host.endswith(f":{http.client.HTTP_PORT}")
            connection.port = connection.port if is_given else http.client.HTTPS_PORT
        return connection

    def _encrypted(self, connection: http.client.HTTPConnection) -> socket.socket:
        """Return the socket of a connection, with TLS (before the handshake) for https."""
        if self._context is not None:
            connection.sock = self._context.wrap_socket(
                connection.sock, server_hostname=connection.host, do_handshake_on_connect=False
            )
        return connection.sock


def later(response: http.client.HTTPResponse) -> str:
    """Return when a response asks to try again."""
    text = response.headers.get("Retry-After", "")
    return f"in {text} s" if re.fullmatch("[0-9]{1,5}", text) else "later"


@contextlib.contextmanager
def ended_after(seconds: float, sock: socket.socket, late: threading.Event) -> Iterator[None]:
    """End the connection after this time, even if bytes keep arriving, and set `late`."""

    def end() -> None:
        late.set()
        with contextlib.suppress(OSError):
            # shutdown() of TLS would interfere with another thread's read.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def reason(error: Exception) -> str:
    """Return why a request failed, in a few words without anything from the response."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}): see --ca-file"
    if isinstance(error, ssl.SSLError):
        return "it does not speak TLS: check the URL"
    if isinstance(error, http.client.IncompleteRead):
        return "its response is incomplete"
    if isinstance(error, (http.client.HTTPException, ValueError)):
        return "its response is not valid HTTP"
    text = getattr(error, "strerror", None) or type(error).__name__
    return "the request failed: " + re.sub(r"\[.*?\] ", "", text)
