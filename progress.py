"""Reports the progress of a long command on standard error, and stops it on a signal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from fense_admin import rules, systems
from fense_admin.databases import Report
from fense_admin.realtime import monotonic

SILENT = 1.0  # seconds before the first report; most commands end earlier
REDRAWN = 0.2  # seconds between reports on a terminal, where one line is redrawn
REPEATED = 2.0  # seconds between reports elsewhere, where each is a new line
WRITE_TIMEOUT = 5.0  # seconds that a message waits while a pipe is full


class Stopped(SystemExit):
    """A signal stops the process. Its exit code is 128 plus the signal's number."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signal = signal.Signals(signum).name


def stop_at_once(signum: int, _: object) -> None:
    """Signal handler: end the process by an exception, which cleans up."""
    raise Stopped(signum)


def on_stop_signals(handler: Callable[[int, Any], None]) -> None:
    """Handle the signals that stop a process, except a SIGHUP that nohup ignores."""
    for signum in systems.STOP_SIGNALS:
        if signum != systems.HANGUP or signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, handler)


def say(text: str) -> None:
    """Write a message as a line to standard error: see `write`."""
    write(f"fense-admin: {rules.printable(text)}\n")


def write(text: str) -> None:
    """Write to standard error, unless it is closed or stays full for `WRITE_TIMEOUT` seconds."""
    if not sys.stderr:
        return
    with contextlib.suppress(OSError):
        output = systems.output(sys.stderr.fileno())
        output.write(text.encode("utf-8", "backslashreplace"), WRITE_TIMEOUT)
        output.flush(WRITE_TIMEOUT)


def terminal_width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:  # on Windows, Python takes NUL for a terminal, but it has no size
        return 80


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


class Progress(Report):
    """Reports the progress of a command that takes more than a second. A reusable context.

    `unchanged` is the message when a signal stops the command, such as "nothing was moved". After
    `before_commit` it would be wrong, so signals then wait for the end of the context. `print_line`
    writes a line; on a terminal, one line is redrawn instead.
    """

    def __init__(
        self, unchanged: str, is_quiet: bool | None, print_line: Callable[[str], None] = say
    ) -> None:
        self.accounts = self.days = 0
        self._unchanged, self._is_quiet, self._print_line = unchanged, is_quiet, print_line
        self._doing = self._shown = ""
        self._began = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._late: list[int] = []  # signals since the commit

    def begin(self, doing: str) -> None:
        """Begin a step of the work."""
        self._doing = self._shown = doing
        self._began = self._began or monotonic()
        if not (self._thread or self._is_quiet) and sys.stderr:
            self._ended.clear()
            # In a thread, because a single statement, or reading a file, may take long.
            self._thread = threading.Thread(target=self._report, daemon=True)
            self._thread.start()

    def __call__(self, accounts: int, days: int) -> None:
        self.accounts, self.days = accounts, days
        self.show(f"{counted(accounts, 'account')}, {counted(days, 'day')}")

    def show(self, detail: str) -> None:
        """Set the detail to report after the name of the step."""
        self._shown = f"{self._doing}: {detail}"

    def before_commit(self) -> None:
        on_stop_signals(lambda signum, _: self._late.append(signum))

    def end(self, done: str, amount: float, unit: str) -> None:
        """Print what was done, how long it took, and the amount per second.

        Print nothing if it took less than a second.
        """
        self._stop_reporting()
        seconds = monotonic() - self._began
        if not self._is_quiet and seconds >= SILENT:
            self._print_line(f"{done} in {seconds:.1f} s ({amount / seconds:,.0f} {unit} a second)")

    def end_of_days(self, done: str) -> None:
        """Print what was done, with the last reported numbers of accounts and days."""
        what = f"{counted(self.accounts, 'account')} and {counted(self.days, 'day')} of lookups"
        self.end(f"{done} {what}", self.days, "days")

    def _report(self) -> None:
        is_terminal = sys.stderr.isatty()
        wait, width = SILENT, 0
        while not self._ended.wait(wait):
            line = f"{self._shown}, {monotonic() - self._began:.0f} s"
            if is_terminal:  # not every terminal knows escape codes
                wait = REDRAWN
                width = terminal_width() - 1
                write("\r" + f"fense-admin: {rules.printable(line)}"[:width].ljust(width))
            else:
                wait = REPEATED
                self._print_line(line)
        if width:
            write("\r" + " " * width + "\r")

    def _stop_reporting(self) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._stop_reporting()
        on_stop_signals(stop_at_once)
        if isinstance(error, Stopped):
            say(f"stopped by {error.signal}: {self._unchanged}")
        elif self._late and not error:
            late = Stopped(self._late[0])
            say(f"stopped by {late.signal}, which came after the work was done")
            raise late
