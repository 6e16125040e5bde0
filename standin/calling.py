"""Call WSGI applications in-process, from within a request or another application."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from bottle import request, response

from fense_admin.exchange import Stream
from fense_admin.standin.journal import ENTRY, Entry

CONTEXT = [(request, "environ")]
CONTEXT += [(response, f"_{name}") for name in ("status_line", "status_code", "cookies", "headers")]
CONTEXT += [(response, "body")]


@contextlib.contextmanager
def own_context() -> Iterator[None]:
    """Save and restore Bottle's request and response: a Bottle application may be the caller."""
    try:
        outer = [getattr(local, name) for local, name in CONTEXT]
    except RuntimeError:  # there is none yet in this thread
        outer = []
    try:
        yield
    finally:
        for (local, name), value in zip(CONTEXT, outer, strict=False):
            setattr(local, name, value)


# What a request that is sent from within another takes from it: where it was sent, and by whom.
KEPT = (
    "SCRIPT_NAME SERVER_NAME SERVER_PORT SERVER_PROTOCOL REMOTE_ADDR HTTP_HOST "
    "HTTP_X_FORWARDED_HOST HTTP_X_FORWARDED_PROTO wsgi.version wsgi.url_scheme wsgi.errors "
    "wsgi.multithread wsgi.multiprocess wsgi.run_once waitress.client_disconnected"
).split()
KEPT_OF_STREAM = 256 * 1024  # bytes


class Answer(NamedTuple):
    """A response. Of a body that is produced while it is sent, `body` is only the beginning.

    `entry` is the journal's, for a request that is noted there. `status` is 0 for a response of
    which a fault dropped all.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    is_whole: bool
    entry: Entry | None


def send(
    app: Callable[..., Any],
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes = b"",
    **environ: Any,
) -> Answer:
    """Send a request to an application, from within a request that came to the same address.

    `target` is the path and query as in a request line; `environ` has further keys.
    """
    path, _, query = target.partition("?")
    environ |= {name: request.environ[name] for name in KEPT if name in request.environ}
    for name, value in headers.items():
        name = name.upper().replace("-", "_")
        environ[name if name == "CONTENT_TYPE" else f"HTTP_{name}"] = value
    environ |= {
        "REQUEST_METHOD": method,
        "REQUEST_URI": quote(environ.get("SCRIPT_NAME", "").encode("latin-1")) + target,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    started: list[Any] = []
    kept, length = bytearray(), 0
    with own_context():
        answer = app(environ, lambda *line_and_headers: started.extend(line_and_headers))
        most = KEPT_OF_STREAM if isinstance(answer, Stream) else float("inf")
        try:
            for piece in answer:  # to its end: broken off, it would be logged as an error
                length += len(piece)
                if length <= most:
                    kept += piece
        except ConnectionError:  # a fault drops it
            most = -1
        finally:
            if isinstance(answer, Stream):
                answer.close()
    status = int(started[0][:3]) if started else 0
    answered = started[1] if started else []
    return Answer(status, answered, bytes(kept), length <= most, environ.get(ENTRY))
