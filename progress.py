"""Reports the progress of a long command on standard error, and stops it on a signal."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from fense_admin import rules
from fense_admin.databases import Report
from fense_admin.realtime import monotonic

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SILENT = 1.0  # seconds before the first report: most commands have ended by then
REDRAWN = 0.2  # seconds from one report to the next on a terminal, where it is one line
REPEATED = 2.0  # seconds elsewhere, where each is another line
PATIENCE = 5.0  # seconds that a message waits for a full pipe to be read


class Stopped(SystemExit):
    """A signal stops the process. Its exit code is 128 and the number of the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signal = signal.Signals(signum).name


def stop_at_once(signum: int, _: FrameType | None) -> None:
    """End the process while there is nothing to finish yet, cleaning up on the way."""
    raise Stopped(signum)


def say(text: str) -> None:
    """Write a message to standard error, as a line, unless it is closed or full."""
    write(f"fense-admin: {text}\n", PATIENCE)


def write(text: str, patience: float = 0) -> None:
    """Write to standard error, unless it is closed or full. Wait `patience` seconds at most."""
    if not sys.stderr:
        return
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):  # not a file: a test reads it
        sys.stderr.write(text)
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    left = text.encode("utf-8", "backslashreplace")
    with contextlib.suppress(OSError):
        while left and poll.poll(patience * 1000):
            # A pipe that is writable takes so many bytes without waiting.
            left = left[os.write(descriptor, left[: select.PIPE_BUF]) :]


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


class Progress(Report):
    """Reports the progress of a command that takes more than a second. A context; reusable.

    `unchanged` is the message if a signal stops it, such as "nothing was moved". From
    `before_commit` on that would be wrong: a signal then waits for the end of the context.
    `tell` writes a line, except on a terminal, where one line is redrawn.
    """

    def __init__(
        self, unchanged: str, is_quiet: bool | None, tell: Callable[[str], None] = say
    ) -> None:
        self.accounts = self.days = 0
        self.was_shown = False
        self._unchanged, self._is_quiet, self._tell = unchanged, is_quiet, tell
        self._doing = self._detail = ""
        self._began = 0.0
        self._width = 0  # of the line on the terminal
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._held: list[int] = []  # signals that have another handler until the end
        self._late: list[int] = []  # signals that came since then
        self._is_done = False

    # What the command reports

    def begin(self, doing: str, accounts: int = 0, days: int = 0) -> None:
        """Begin a part of the work, whose counters start from these numbers."""
        self.accounts, self.days = accounts, days
        self._doing, self._detail = doing, ""
        self._began = self._began or monotonic()

    def __call__(self, accounts: int, days: int) -> None:
        self.accounts, self.days = accounts, days

    def detail(self, text: str) -> None:
        """Report this instead of the numbers of accounts and days."""
        self._detail = text

    def before_commit(self) -> None:
        self._is_done = True
        self._hold_signals()

    def _hold_signals(self) -> None:
        for signum in STOP_SIGNALS:
            if signal.getsignal(signum) is stop_at_once:
                signal.signal(signum, lambda signum, _: self._late.append(signum))
                self._held.append(signum)

    def end(self, done: str, amount: float = 0, unit: str = "") -> None:
        """Print what was done, how long it took, and how much of it was done per second."""
        if self._is_quiet:
            return
        self._stop_reporting()
        seconds = monotonic() - self._began
        speed = f" ({amount / seconds:,.0f} {unit} a second)" if amount and seconds >= 0.1 else ""
        self._tell(rules.printable(f"{done} in {seconds:.1f} s{speed}"))

    def end_of_days(self, done: str) -> None:
        """Print what was done to the accounts and days that were reported last."""
        what = f"{counted(self.accounts, 'account')} and {counted(self.days, 'day')} of lookups"
        self.end(f"{done} {what}", self.days, "days")

    # What is printed

    def __enter__(self) -> Progress:
        self._ended.clear()
        if not self._is_quiet and sys.stderr:
            self._thread = threading.Thread(target=self._report, daemon=True)
            self._thread.start()
        return self

    def _report(self) -> None:
        told = 0.0
        is_terminal = sys.stderr.isatty()
        while not self._ended.wait(REDRAWN):
            now = monotonic()
            if not self._began or now - self._began < SILENT:
                continue
            if is_terminal:
                self._draw(f"fense-admin: {rules.printable(self._line(now))}")
            elif now - told >= REPEATED:
                told = now
                self._tell(rules.printable(self._line(now)))
            self.was_shown = True

    def _line(self, now: float) -> str:
        detail = self._detail
        if self.accounts and not detail:
            detail = f"{counted(self.accounts, 'account')}, {counted(self.days, 'day')}"
        return f"{self._doing}{': ' if detail else ''}{detail}, {now - self._began:.0f} s"

    def _draw(self, line: str) -> None:
        """Write the line over the one before. Not every terminal knows escape codes."""
        columns = 80
        with contextlib.suppress(OSError, ValueError):
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or columns
        line = line[: columns - 1]
        write("\r" + line.ljust(self._width))
        self._width = len(line)

    def _stop_reporting(self) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._width:
            write("\r" + " " * self._width + "\r")
            self._width = 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hold_signals()
        self._stop_reporting()
        late = Stopped(self._late[0]) if self._late and error is None else None
        stopped = error if isinstance(error, Stopped) else late
        if stopped and self._is_done:
            say(f"stopped by {stopped.signal}, which came when all was done")
        elif stopped:
            say(f"stopped by {stopped.signal}: {self._unchanged}")
        while self._held:
            signal.signal(self._held.pop(), stop_at_once)
        if late:
            raise late
