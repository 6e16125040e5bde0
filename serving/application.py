"""What the server asks of the application that it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from fense_admin.settings import Limits

Spare = Callable[[], AbstractContextManager[None]]


class Application(Protocol):
    """A WSGI application that answers the server's questions, too."""

    limits: Limits

    @property
    def may_wait(self) -> bool:
        """Whether `choose_id` may take as long as a database server does to respond."""
        ...

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any], /
    ) -> Iterable[bytes]:
        """Answer a request, in a worker or inline."""
        ...

    def runs_inline(self, method: str, path: str, query: str) -> bool:
        """Return whether the loop's own thread may answer: it takes next to no time."""
        ...

    def body_limit(self, environ: Mapping[str, Any], /) -> int | None:
        """Return how many bytes are accepted of a body, from PATH_INFO and HTTP_*.

        None stands for `limits.read_body`.
        """
        ...

    def choose_id(self, environ: Mapping[str, Any], /) -> str:
        """Return the id of a request, from HTTP_*."""
        ...

    def common_headers(self, request_id: str, /) -> list[tuple[str, str]]:
        """Return the headers of every response, beside Content-Type."""
        ...

    def use_spare(self, spare: Spare, /) -> None:
        """Take the context for a worker that only waits. Called once, before it serves."""
        ...

    def release_waiting(self) -> None:
        """End the delays that requests wait for: the server is about to stop."""
        ...

    def end_thread(self) -> None:
        """Close what this thread has open: it ends."""
        ...
