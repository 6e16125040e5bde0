"""The log: one line per record on standard error, without ever blocking."""

from __future__ import annotations

import functools
import logging
import sys
import time
import traceback
from typing import Any

from fense_admin import systems
from fense_admin.exchange import log


class LogFormatter(logging.Formatter):
    """Formats each record as one line, with the lines of a traceback indented below it."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return f"{_date_and_time(int(record.created))}.{int(record.msecs):03d}Z"

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        return line if line.isprintable() else ascii(line)[1:-1]

    def formatException(self, ei: Any) -> str:
        try:
            text = super().formatException(ei)
        except Exception:  # the source was in a zip file that an update has replaced
            codes = [(frame.f_code, line) for frame, line in traceback.walk_tb(ei[2])]
            places = [f"{code.co_filename}:{line} {code.co_name}" for code, line in codes]
            text = "\n".join([*places, f"{ei[0].__name__}: {ei[1]}"])
        return "\n".join("    " + line for line in text.splitlines())


@functools.lru_cache(maxsize=1)
def _date_and_time(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


class LogHandler(logging.Handler):
    """Writes to a descriptor without ever waiting. If it blocks, lines are dropped and counted."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._output = systems.output(descriptor)
        self._lost = 0
        self._is_cut = False  # whether the last line was written only in part

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            line = b"\n" * self._is_cut + line
            if self._lost:
                loss = f"{self._lost} log lines were dropped: standard error was blocked"
                loss = self.format(logging.makeLogRecord({"msg": loss})) + "\n"
                if not self._write(loss.encode()):
                    self._lost += 1
                    return
                self._lost = 0
            self._lost += not self._write(line)
        except Exception:
            self._lost += 1

    def _write(self, line: bytes) -> bool:
        """Write a line if possible. Return whether all of it was written."""
        written = self._output.write(line)
        self._is_cut = 0 < written < len(line)
        return written == len(line)

    def flush(self) -> None:
        """Wait for pending output. `logging` calls this when Python ends."""
        self._output.flush(seconds=1)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Log to standard error: our records from `level` on, and warnings of other libraries."""
    handler = LogHandler(sys.stderr.fileno()) if sys.stderr else logging.NullHandler()
    handler.setFormatter(LogFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log.setLevel(level)
    # Lines don't have these, and finding them takes time.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
