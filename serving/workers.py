"""The worker threads that handle requests."""

from __future__ import annotations

import collections
import contextlib
import mmap
import threading
from collections.abc import Callable, Iterator

from fense_admin.realtime import monotonic

WAKE_AFTER = 0.005  # seconds that a request waits for busy workers before another is woken
THREAD_MEMORY = 64 * 1024 * 1024  # bytes of address space that must be free to start a thread

Work = Callable[[], None]


class Workers:
    """The threads that handle requests. They share the GIL, so only as many as needed are woken.

    `at_end` is called in each thread when it ends.
    """

    def __init__(self, count: int, at_end: Work) -> None:
        self._at_end = at_end
        self.queue: collections.deque[Work] = collections.deque()
        self._first: Work | None = None  # the first in the queue when it was last checked
        self._first_since = 0.0
        self._changed = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._wanted = self._running = self._awake = 0
        self._is_over = False
        self._change(count)

    def add(self, work: Work) -> None:
        """Queue the handling of a request."""
        with self._changed:
            self.queue.append(work)
            if len(self.queue) == 1 and not self._awake:
                self._changed.notify()

    def wake_another(self) -> None:
        """Wake one more worker if the first request in the queue has waited for too long."""
        with self._changed:
            first = self.queue[0] if self.queue else None
            if first is not self._first:
                self._first, self._first_since = first, monotonic()
            elif first and monotonic() > self._first_since + WAKE_AFTER:
                self._first = None  # the next check starts a new wait
                self._changed.notify()

    def _work(self) -> None:
        try:
            while (work := self._next()) is not None:
                work()
        finally:
            self._at_end()
            self._threads.discard(threading.current_thread())

    def _next(self) -> Work | None:
        """Wait for the next work in the queue; None if this thread should end."""
        with self._changed:
            self._awake -= 1
            while not self.queue and self._running <= self._wanted:
                self._changed.wait()
            if self._running > self._wanted:
                self._running -= 1
                return None
            self._awake += 1
            return self.queue.popleft()

    def _change(self, by: int, awake: int = 0) -> None:
        with self._changed:
            if self._is_over:
                return
            self._wanted += by
            self._awake += awake
            while self._running < self._wanted:
                thread = threading.Thread(target=self._work, name="fense-admin", daemon=True)
                try:
                    # Python waits forever for a thread that runs out of memory as it starts.
                    mmap.mmap(-1, THREAD_MEMORY).close()
                    thread.start()
                except (OSError, RuntimeError):  # no more memory or threads for this process
                    if not self._running:
                        raise
                    break
                self._threads.add(thread)
                self._running += 1
                self._awake += 1
            self._changed.notify_all()

    @contextlib.contextmanager
    def spare(self) -> Iterator[None]:
        """Return a context for a worker's long wait, in which a substitute takes its place."""
        self._change(+1, awake=-1)  # otherwise `add` would rely on it
        try:
            yield
        finally:
            self._change(-1, awake=+1)

    def stop(self) -> None:
        """End the threads; one that is still busy after a second is left behind."""
        deadline = monotonic() + 1
        self._change(-self._wanted)
        self._is_over = True
        for thread in list(self._threads):
            thread.join(timeout=max(0.0, deadline - monotonic()))
