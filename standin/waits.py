"""Requests of the journal: found by what they were, and waited for."""

from __future__ import annotations

import collections
import fnmatch
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from fense_admin import rules, settings
from fense_admin.exchange import UNAVAILABLE, ApiError
from fense_admin.standin.faults import FAULT_RULES, wait_for
from fense_admin.standin.journal import JOURNAL_LENGTH, Entry

MOST_WAITS = 100  # at once; those of instances count with their parent's


def check_method(text: str) -> str:
    return rules.matching("[A-Za-z-]{1,20}", "must be a method, such as POST")(text).upper()


# What the query of `GET /_standin/requests` takes.
FILTER_RULES: dict[str, rules.Rule] = {
    "method": check_method,
    "path": FAULT_RULES["path"],
    "status": rules.matching("[1-5][0-9]{2}|[1-5]xx", "must be a status, such as 400 or 4xx"),
    "count": settings.number(rules.whole_number(1, JOURNAL_LENGTH)),
    "wait_ms": settings.number(rules.whole_number(0, 60_000)),
}


class Filter:
    """Which requests are wanted, as checked by `FILTER_RULES`: method, path and status."""

    def __init__(self, sent: Mapping[str, Any], prefix: str) -> None:
        self._method, self._path = sent.get("method"), sent.get("path", "*")
        self._status = re.compile(sent.get("status", ".*").replace("x", "[0-9]"))
        self._prefix = prefix

    def matches(self, entry: Entry) -> bool:
        path = entry["path"].removeprefix(entry.mount).removeprefix(self._prefix)
        return (
            self._method in (None, entry["method"])
            and fnmatch.fnmatchcase(path, self._path)
            and self._status.fullmatch(str(entry["status"])) is not None
        )


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
        self._forgotten = 0  # the highest number of an entry that was cleared

    def clear(self) -> None:
        with self._lock:
            self._forgotten = max((entry.number for entry in self), default=self._forgotten)
            super().clear()
            for wait in self._waits:
                wait.left = wait.count

    def note_answered(self, entry: Entry, duration_ms: float) -> None:
        """Note that a request was answered, or dropped by a fault: its entry is complete."""
        with self._lock:
            entry["duration_ms"] = duration_ms
            for wait in self._waits:
                if entry.number > self._forgotten and wait.wanted.matches(entry):
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
        environ: Mapping[str, Any],
        while_waiting: Callable[[], AbstractContextManager[None]],
        count: int = 1,
    ) -> list[Entry]:
        """Return so many of them once they have been answered, or after the time what there is.

        It ends early with the stand-in, a reset, or when the client has gone. Raises `ApiError`
        (503) if too many wait already.
        """
        wait = Wait(wanted, count)
        if not self._room.acquire(blocking=False):
            raise ApiError(UNAVAILABLE, f"{MOST_WAITS} calls are already waiting for requests")
        try:
            with self._lock:
                wait.left -= len(self._answered(wanted))
                self._waits.append(wait)
            if wait.left > 0:
                with while_waiting():
                    wait_for(wait, seconds, environ)
            return self._answered(wanted)[-count:]
        finally:
            with self._lock:
                self._waits.remove(wait)
            self._room.release()

    def _answered(self, wanted: Filter) -> list[Entry]:
        return [entry for entry in self.find(wanted) if entry["duration_ms"] is not None]
