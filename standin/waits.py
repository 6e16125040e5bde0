"""Find requests in the journal, and wait for them."""

from __future__ import annotations

import collections
import contextlib
import fnmatch
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import unquote

from fense_admin import rules, settings
from fense_admin.exchange import UNAVAILABLE, ApiError
from fense_admin.standin.faults import FAULT_RULES, wait_for
from fense_admin.standin.journal import JOURNAL_LENGTH, Entry

MAX_WAITS = 100  # at once, including those of its instances
MAX_PAGES = 20  # waiting for a change at once, besides; including those of its instances

WhileWaiting = Callable[[], AbstractContextManager[None]]


def check_method(text: str) -> str:
    return rules.matching("[A-Za-z-]{1,20}", "must be a method, such as POST")(text).upper()


def check_timeout(value: object) -> float:
    is_flag = isinstance(value, bool)
    # (NaN is not in the range.)
    if isinstance(value, (int, float)) and not is_flag and 0 <= value <= threading.TIMEOUT_MAX:
        return value
    raise ValueError("must be a number of seconds, 0 or more")


# The query parameters of `GET /_standin/requests`.
FILTER_RULES: dict[str, rules.Rule] = {
    "method": check_method,
    "path": FAULT_RULES["path"],
    "status": rules.matching("[1-5][0-9]{2}|[1-5]xx", "must be a status, such as 400 or 4xx"),
    "count": settings.number(rules.whole_number(1, JOURNAL_LENGTH)),
    "wait_ms": settings.number(rules.whole_number(0, 60_000)),
}


class Filter:
    """A filter for requests by method, path and status, which `FILTER_RULES` have checked."""

    def __init__(self, sent: Mapping[str, Any], prefix: str) -> None:
        self._method, self._path = sent.get("method"), sent.get("path", "*")
        self._status = re.compile(sent.get("status", ".*").replace("x", "[0-9]"))
        self._prefix = prefix

    def matches(self, entry: Entry) -> bool:
        path = unquote(entry["path"]).removeprefix(entry.mount).removeprefix(self._prefix)
        return (
            self._method in (None, entry["method"])
            and fnmatch.fnmatchcase(path, self._path)
            and self._status.fullmatch(str(entry["status"])) is not None
        )


class Wait(threading.Event):
    """A wait for requests. It is set when they have been answered, or at the end."""

    def __init__(self, wanted: Filter, count: int) -> None:
        super().__init__()
        self.wanted = wanted
        # Kept here as well: the journal may be full before there are enough of them.
        self.found: collections.deque[Entry] = collections.deque(maxlen=count)

    def add(self, entries: Iterable[Entry]) -> None:
        self.found.extend(entries)
        if len(self.found) == self.found.maxlen:
            self.set()


class Journal(collections.deque[Entry]):
    """The newest requests, oldest first, and the calls that wait for some.

    At most `MAX_WAITS` wait, including those of instances. `changes` counts requests, responses,
    and how often the journal was cleared.
    """

    _slots: threading.BoundedSemaphore
    _page_slots: threading.BoundedSemaphore

    def __init__(self, parent: Journal | None = None) -> None:
        super().__init__(maxlen=JOURNAL_LENGTH)
        self._slots = parent._slots if parent else threading.BoundedSemaphore(MAX_WAITS)
        self._page_slots = parent._page_slots if parent else threading.BoundedSemaphore(MAX_PAGES)
        self._lock = threading.Lock()
        self._waits: list[Wait] = []
        self._forgotten = 0  # the highest number of a cleared entry
        self._is_over = False
        self.changes = 0
        self._pages: list[threading.Event] = []  # that wait for the next change

    def _note_change(self) -> None:
        self.changes += 1
        for page in self._pages:
            page.set()

    def note_arrived(self, entry: Entry) -> None:
        with self._lock:
            self.append(entry)
            self._note_change()

    def clear(self) -> None:
        with self._lock:
            self._note_change()
            self._forgotten = max((entry.number for entry in self), default=self._forgotten)
            super().clear()
            for wait in self._waits:
                wait.found.clear()

    def note_answered(self, entry: Entry, duration_ms: float) -> None:
        """Mark an entry as complete: its request was answered, or dropped by a fault."""
        with self._lock:
            entry["duration_ms"] = duration_ms
            self._note_change()
            for wait in self._waits:
                if entry.number > self._forgotten and wait.wanted.matches(entry):
                    wait.add([entry])

    def end_waits(self, for_good: bool = False) -> None:
        """End all waits early, with the requests so far; `for_good` ends later ones at once."""
        with self._lock:
            self._is_over |= for_good
            self._note_change()
            for wait in self._waits:
                wait.set()

    def find(self, wanted: Filter, count: int = JOURNAL_LENGTH) -> list[Entry]:
        """Return the newest matching requests, oldest first."""
        return [entry for entry in list(self) if wanted.matches(entry)][-count:]

    def wait(
        self,
        wanted: Filter,
        seconds: float,
        environ: Mapping[str, Any],
        while_waiting: WhileWaiting,
        count: int = 1,
    ) -> list[Entry]:
        """Return `count` matching requests when they have been answered; fewer after `seconds`.

        Ends early with the stand-in, with a reset, or when the client disconnects. Raises
        `ApiError` (503) if too many are already waiting.
        """
        wait = Wait(wanted, count)
        with slot(self._slots, f"{MAX_WAITS} calls are already waiting for requests"):
            with self._lock:
                wait.add(it for it in self.find(wanted) if it["duration_ms"] is not None)
                self._waits.append(wait)
            try:
                if not (wait.is_set() or self._is_over):
                    with while_waiting():
                        wait_for(wait, seconds, environ)
                with self._lock:
                    return sorted(wait.found, key=lambda entry: entry.number)
            finally:
                with self._lock:
                    self._waits.remove(wait)

    def wait_for_change(
        self, seen: int, seconds: float, environ: Mapping[str, Any], while_waiting: WhileWaiting
    ) -> None:
        """Return when `changes` differs from `seen`, after `seconds`, or earlier.

        Raises `ApiError` (503) if too many pages are already waiting.
        """
        with slot(self._page_slots, f"{MAX_PAGES} pages are already waiting for requests"):
            change = threading.Event()
            with self._lock:
                is_new = self.changes != seen
                self._pages.append(change)
            try:
                if not (is_new or self._is_over):
                    with while_waiting():
                        wait_for(change, seconds, environ)
            finally:
                with self._lock:
                    self._pages.remove(change)


@contextlib.contextmanager
def slot(slots: threading.BoundedSemaphore, when_full: str) -> Iterator[None]:
    """Hold one of the slots. Raises `ApiError` (503) if none is free."""
    if not slots.acquire(blocking=False):
        raise ApiError(UNAVAILABLE, when_full)
    try:
        yield
    finally:
        slots.release()
