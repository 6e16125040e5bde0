"""What tests can do on this system: how to stop a process, and which needs it meets."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest  # otherwise late: the benchmarks do without it

SIMULATED = os.environ.get("SIMULATED_SYSTEM")  # see tests/systems
MOST_LEFT_OUT = 90  # tests that one system may leave out: beyond that, somebody skips too easily

# What a test may need (`@pytest.mark.needs("fork")`), and whether it is here. The name is the reason
# that is printed for leaving it out.
NEEDS = {
    "a POSIX shell": sys.platform != "win32",
    "PowerShell": sys.platform == "win32" and not SIMULATED,
    "a terminal": hasattr(os, "openpty"),
    "pip": not SIMULATED,
    "fork": hasattr(os, "fork"),
    "SIGHUP": hasattr(signal, "SIGHUP"),
    "SIGSTOP": hasattr(signal, "SIGSTOP"),
    "signals of POSIX": sys.platform != "win32",
    "pipes that don't block": hasattr(os, "set_blocking"),
    "any character in the name of a file": sys.platform != "win32",
    "removing open files": sys.platform != "win32",
    "mount": sys.platform == "linux",
    "a PostgreSQL server of its own": not SIMULATED and sys.platform != "win32",
    "modes of files": sys.platform != "win32",
    "/dev/full": os.path.exists("/dev/full"),
    "/proc": sys.platform == "linux",
    "the system's certificates": not (SIMULATED and sys.platform == "win32"),
    "a real Linux": sys.platform == "linux",
    "systemd": sys.platform == "linux",
}

# --- Processes ----------------------------------------------------------------------------------

if sys.platform == "win32":
    STOP: int = signal.CTRL_BREAK_EVENT  # asks a process to stop
    # To one process Ctrl-C can be sent in the simulation only.
    STOPS: tuple[int, ...] = (STOP, signal.CTRL_C_EVENT) if SIMULATED else (STOP,)
    STOPPED_BY: dict[int, int] = {STOP: signal.SIGBREAK, signal.CTRL_C_EVENT: signal.SIGINT}
    APART: dict[str, Any] = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    KILL, KILLED = 9, 1  # what `Popen.kill` does, and the exit code then
else:
    STOP, STOPS, STOPPED_BY = signal.SIGTERM, (signal.SIGTERM, signal.SIGINT), {}
    APART, KILL, KILLED = {}, 9, -9

# What ends a process, gracefully where it serves.
ENDS: tuple[int, ...] = (*STOPS, signal.SIGHUP) if NEEDS["SIGHUP"] else STOPS


def comes_as(signum: int) -> int:
    """The signal that arrives where this is sent."""
    return STOPPED_BY.get(signum, signum)


def exit_code(signum: int) -> int:
    """The exit code of a command that this ended while it was not serving."""
    return 128 + comes_as(signum)


def read_line(stream: Any, seconds: float) -> Any:
    """The next line of a pipe; empty if none comes in time. (Windows can't wait for a pipe.)"""
    lines: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=lambda: lines.put(stream.readline()), daemon=True).start()
    try:
        return lines.get(timeout=seconds)
    except queue.Empty:
        return ""


def ended_at_once_by(signum: int) -> int:
    """The exit code of a process that the second of these signals ended."""
    return 128 + comes_as(signum) if sys.platform == "win32" else -signum


def peak_memory() -> int:
    """Return the peak memory of this process in KiB. Not used on Windows."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


# --- Tests that need more than is here -----------------------------------------------------------


def lacking(item: pytest.Item) -> list[str]:
    """Return the needs of the test that this system doesn't meet."""
    import pytest

    needed: list[str] = []
    for marker in item.iter_markers("needs"):
        if not marker.args or marker.kwargs or not set(marker.args) <= NEEDS.keys():
            raise pytest.UsageError(f"{item.nodeid} needs {marker.args}: see {__file__}")
        needed += marker.args
    return sorted({name for name in needed if not NEEDS[name]})


def sort_out(items: list[pytest.Item]) -> tuple[list[pytest.Item], dict[str, str]]:
    """The tests to run, and why the others can't: by their names, without parameters."""
    import pytest

    kept, left_out = [], {}
    for item in items:
        if reason := ", ".join(lacking(item)):
            left_out[item.nodeid.partition("[")[0]] = reason
        else:
            kept.append(item)
    if len(left_out) > MOST_LEFT_OUT:
        raise pytest.UsageError(f"{len(left_out)} tests are left out here, {MOST_LEFT_OUT} may be")
    return kept, left_out
