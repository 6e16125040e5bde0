"""The clock of a stand-in, which tests can stop and move."""

from __future__ import annotations

import datetime
import threading

from fense_admin import models, rules

CLOCK_RULES = {
    "now": rules.check_clock_time,
    "advance_seconds": rules.whole_number(-(10**12), 10**12),
}


class Clock(models.Clock):
    """The time of a stand-in: the system's, unless it is stopped."""

    def __init__(self, stopped_at: datetime.datetime | None = None) -> None:
        self.stopped_at = stopped_at
        self.was_set = stopped_at is not None
        self._moving = threading.Lock()

    def now(self) -> datetime.datetime:
        """Return the time in UTC, without a time zone."""
        return self.stopped_at or super().now()

    def stop(self, time: str) -> None:
        """Stop it at a time in the format of `rules.check_time`."""
        self.was_set = True
        self.stopped_at = datetime.datetime.strptime(time, rules.IN_UTC)

    def advance(self, seconds: int) -> None:
        """Move it forward, or back. Raises `ValueError` if it isn't stopped, or would overflow."""
        with self._moving:
            stopped_at = self.stopped_at
            if stopped_at is None:
                raise ValueError("needs a stopped clock, and this one is running: send now first")
            try:
                self.stopped_at = stopped_at + datetime.timedelta(seconds=seconds)
            except OverflowError:
                raise ValueError("would leave the years 1 to 9999") from None

    def release(self) -> None:
        """Release it: it follows the system's clock again."""
        self.stopped_at = None

    def reset(self) -> None:
        """Release it, and forget that it was ever stopped."""
        self.stopped_at, self.was_set = None, False
