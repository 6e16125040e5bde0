"""Requests of the journal: found by what they were, and waited for."""

from __future__ import annotations

import collections
import fnmatch
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from fense_admin import rules, settings
from fense_admin.exchange import UNAVAILABLE, ApiError
from fense_admin.realtime import monotonic
from fense_admin.standin.journal import JOURNAL_LENGTH, Entry

MOST_WAITS = 100  # at once; those of instances count with their parent's
GONE_CHECK = 0.5  # seconds between two checks whether the client that waits is still there


def check_method(text: str) -> str:
    return rules.matching("[A-Za-z-]{1,20}", "must be a method, such as POST")(text).upper()


# What the query of `GET /_standin/requests` takes.
FILTER_RULES: dict[str, rules.Rule] = {
    "method": check_method,
    "path": rules.matching(r"[/*][\x21-\x7e]{0,254}", "must be a glob of a path, as a fault's"),
    "status": rules.matching("[1-5][0-9]{2}|[1-5]xx", "must be a status, such as 400 or 4xx"),
    "count": settings.number(rules.whole_number(1, JOURNAL_LENGTH)),
    "wait_ms": settings.number(rules.whole_number(0, 60_000)),
}


class Filter:
    """Which requests are wanted: those of this method, path (a glob) and status (400 or 4xx)."""

    def __init__(
        self, prefix: str, method: str | None, path: str | None, status: str | None
    ) -> None:
        self._prefix, self._method, self._path = prefix, method, path
        self._status = re.compile((status or "").replace("x", "[0-9]"))

    def matches(self, entry: Entry) -> bool:
        return (
            self._method in (None, entry["method"])
            and (self._path is None or self._matches_path(entry["path"]))
            and (not self._status.pattern or self._has_status(entry["status"]))
        )

    def _matches_path(self, path: str) -> bool:
        return fnmatch.fnmatchcase(path.removeprefix(self._prefix), self._path or "*")

    def _has_status(self, status: int | None) -> bool:
        return self._status.fullmatch(str(status)) is not None


class Wait(threading.Event):
    """Somebody who waits for requests. It is set once they have been answered, or at the end."""

    def __init__(self, wanted: Filter, count: int) -> None:
        super().__init__()
        self.wanted, self.count = wanted, count
        self.left = count


class Journal(collections.deque[Entry]):
    """The newest requests, oldest first, and those who wait for some.

    At most `MOST_WAITS` wait, those of an instance counted with its parent's.
    """

    _room: threading.BoundedSemaphore

    def __init__(self, parent: Journal | None = None) -> None:
        super().__init__(maxlen=JOURNAL_LENGTH)
        self._room = parent._room if parent else threading.BoundedSemaphore(MOST_WAITS)
        self._lock = threading.Lock()
        self._waits: list[Wait] = []

    def clear(self) -> None:
        with self._lock:
            super().clear()
            for wait in self._waits:
                wait.left = wait.count

    def note_answered(self, entry: Entry) -> None:
        """Note that a request was answered, or dropped by a fault: its entry is complete."""
        with self._lock:
            for wait in self._waits:
                if wait.wanted.matches(entry):
                    wait.left -= 1
                    if wait.left <= 0:
                        wait.set()

    def end_waits(self) -> None:
        """End them all, with what there is."""
        with self._lock:
            for wait in self._waits:
                wait.set()

    def find(self, wanted: Filter, count: int = JOURNAL_LENGTH) -> list[Entry]:
        """Return the newest of the requests that are wanted, oldest first."""
        return [entry for entry in list(self) if wanted.matches(entry)][-count:]

    def wait(
        self,
        wanted: Filter,
        seconds: float,
        while_waiting: Callable[[], AbstractContextManager[None]],
        is_gone: Callable[[], bool] = lambda: False,
        count: int = 1,
    ) -> list[Entry]:
        """Return so many of them once they have been answered, or after the time what there is.

        It ends early with the stand-in, a reset, or when the client has gone. Raises `ApiError`
        (503) if too many wait already.
        """
        wait = Wait(wanted, count)
        if not self._room.acquire(blocking=False):
            raise ApiError(UNAVAILABLE, f"{MOST_WAITS} requests wait for others already")
        try:
            with self._lock:
                wait.left -= len(self._answered(wanted))
                self._waits.append(wait)
            if wait.left > 0:
                with while_waiting():
                    until = monotonic() + seconds
                    while (left := until - monotonic()) > 0 and not is_gone():
                        if wait.wait(min(left, GONE_CHECK)):
                            break
            return self._answered(wanted)[-count:]
        finally:
            with self._lock:
                self._waits.remove(wait)
            self._room.release()

    def _answered(self, wanted: Filter) -> list[Entry]:
        return [entry for entry in self.find(wanted) if entry["duration_ms"] is not None]


def filter_of(sent: dict[str, Any], prefix: str) -> Filter:
    """The filter that a query names."""
    return Filter(prefix, sent.get("method"), sent.get("path"), sent.get("status"))
