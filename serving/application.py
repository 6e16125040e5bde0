"""What the server needs from the application that it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from fense_admin.settings import Limits

Spare = Callable[[], AbstractContextManager[None]]


class Application(Protocol):
    """A WSGI application with further methods for the server."""

    limits: Limits

    @property
    def may_wait(self) -> bool:
        """Whether `choose_id` may have to wait for a database server."""
        ...

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any], /
    ) -> Iterable[bytes]:
        """Respond to a request, in a worker or inline."""
        ...

    def runs_inline(self, method: str, path: str, query: str) -> bool:
        """Return whether the request is fast enough for the loop's own thread."""
        ...

    def body_limit(self, environ: Mapping[str, Any], /) -> int | None:
        """Return the maximum size of a body in bytes, given PATH_INFO and HTTP_*.

        None means `limits.read_body`.
        """
        ...

    def choose_id(self, environ: Mapping[str, Any], /) -> str:
        """Return the id of a request, given HTTP_*."""
        ...

    def common_headers(self, request_id: str, /) -> list[tuple[str, str]]:
        """Return the headers of every response, except Content-Type."""
        ...

    def use_spare(self, spare: Spare, /) -> None:
        """Set the context for long waits of a worker. Called once, before it serves."""
        ...

    def release_waiting(self) -> None:
        """End all delays of requests: the server is about to stop."""
        ...

    def end_thread(self) -> None:
        """Close what this thread has open, before it ends."""
        ...
