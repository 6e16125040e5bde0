"""Calls WSGI applications in-process, from within a request or another application."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from bottle import request, response

from fense_admin.exchange import Stream
from fense_admin.standin.journal import ENTRY, Entry

MOST_READ = 8 * 1024  # bytes of a response that are kept
# What a request has in common with the one that it is sent for: the client that waits, too.
SHARED = (
    "REMOTE_ADDR SCRIPT_NAME SERVER_NAME SERVER_PORT waitress.client_disconnected wsgi.errors "
    "wsgi.multiprocess wsgi.multithread wsgi.run_once wsgi.url_scheme wsgi.version".split()
)

CONTEXT = [(request, "environ")]
CONTEXT += [(response, f"_{name}") for name in ("status_line", "status_code", "cookies", "headers")]
CONTEXT += [(response, "body")]


@contextlib.contextmanager
def own_context() -> Iterator[None]:
    """Keep Bottle's request and response: another Bottle application may be calling this one."""
    try:
        outer = [getattr(local, name) for local, name in CONTEXT]
    except RuntimeError:  # there is none yet in this thread
        outer = []
    try:
        yield
    finally:
        for (local, name), value in zip(CONTEXT, outer, strict=False):
            setattr(local, name, value)


class Sent(NamedTuple):
    """A request. `target` is the path with its query, below the application."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""


class Answer(NamedTuple):
    """A response. `entry` is the journal's, None for a request that the journal leaves out."""

    status: str  # "200 OK"; "" for a dropped one
    headers: list[tuple[str, str]]
    body: bytes  # the first `MOST_READ` bytes
    is_cut: bool
    entry: Entry | None


def send(app: Callable[..., Iterable[bytes]], sent: Sent) -> Answer:
    """Send a request to this application, for the request that is being answered."""
    target = quote(sent.target, safe="".join(map(chr, range(33, 127))), errors="replace")
    path, _, query = target.partition("?")
    environ = {name: request.environ[name] for name in SHARED if name in request.environ}
    for name, value in sent.headers:
        key = "HTTP_" + name.upper().replace("-", "_")
        environ[key] = f"{environ[key]}, {value}" if key in environ else value
    environ |= {
        "REQUEST_METHOD": sent.method,
        "REQUEST_URI": quote(environ.get("SCRIPT_NAME", "").encode("latin-1")) + target,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.input": io.BytesIO(sent.body),
    }
    environ.pop("HTTP_CONTENT_LENGTH", None)
    if "HTTP_CONTENT_TYPE" in environ:
        environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE")
    if sent.body:
        environ["CONTENT_LENGTH"] = str(len(sent.body))
    started: list[Any] = ["", []]

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        started[:] = status, headers

    pieces = app(environ, start)
    body = bytearray()
    try:
        for piece in pieces:  # to its end, as a client that wants all of it
            body += piece[: MOST_READ + 1 - len(body)]
    except ConnectionError:  # a fault dropped it
        pass
    finally:
        if isinstance(pieces, Stream):
            pieces.close()
    is_cut = len(body) > MOST_READ
    return Answer(*started, bytes(body[:MOST_READ]), is_cut, environ.get(ENTRY))
