"""Differences between operating systems, each with its reason.

No other module names a system or checks what one supports.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import importlib.util
import math
import os
import queue
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

# --- Time --------------------------------------------------------------------------------------

# See realtime.py. Windows has no clock_gettime, so it uses a separate copy of the module `time`,
# because freezegun may have replaced functions of the original.
if sys.platform == "win32":
    _found = importlib.util.find_spec("time")
    assert _found
    clock: Callable[[], float] = importlib.util.module_from_spec(_found).perf_counter
else:
    clock = functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)

# --- Processes ---------------------------------------------------------------------------------

# Windows has no SIGHUP, and SIGTERM only within a process. A parent process can send SIGBREAK (as
# CTRL_BREAK_EVENT).
HANGUP: int | None = getattr(signal, "SIGHUP", None)
STOP_SIGNALS: tuple[int, ...] = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
)
# Whether names of programs, including batch files, are completed with the endings in PATHEXT.
FINDS_BY_PATHEXT = sys.platform == "win32"
# On Windows a console's events reach all its processes, and `Popen.send_signal` kills a process.
PROCESSES_SHARE_SIGNALS = sys.platform == "win32"
# Seconds that the main thread may wait at a time: on Windows a signal doesn't end a wait.
LONGEST_WAIT = 0.2 if sys.platform == "win32" else 1


def end_process(signum: int) -> None:
    """End this process at once, as this signal does. (On Windows `os.kill` takes no signal.)"""
    if sys.platform != "win32":
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    os._exit(128 + signum)  # PID 1 of a container isn't ended by the signal


def take_console_events() -> None:
    """On Windows, raise SIGBREAK when the console closes or the session ends.

    The C library would note the signal and return, and then Windows ends the process at once. While
    this handler doesn't return, the process has about five seconds.
    """
    if sys.platform == "win32":
        import ctypes

        def handle(event: int) -> bool:
            if event in (signal.CTRL_C_EVENT, signal.CTRL_BREAK_EVENT):
                return False  # the C library turns these into signals
            _thread.interrupt_main(signal.SIGBREAK)
            time.sleep(60)
            return True

        handler = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint)(handle)
        _kept.append(handler)
        ctypes.WinDLL("kernel32").SetConsoleCtrlHandler(handler, 1)


_kept: list[object] = []  # functions that Windows calls, so Python must not free them


def after_fork_in_child(function: Callable[[], object]) -> None:
    """Call a function in each forked process. Windows has no fork."""
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=function)


def exit_code(code: int) -> int:
    """Return the exit code to pass on for a process's: 128 + n if signal n ended it.

    On Windows, convert a number such as 0xC000013A to the negative one that `sys.exit` accepts.
    """
    if sys.platform == "win32":
        return code - 2**32 if code >= 2**31 else code
    return code if code >= 0 else 128 - code


def end_with_this_process(process: subprocess.Popen[bytes]) -> None:
    """On Windows, end a process and its children when this process ends: see `let_go`.

    Needed because a stop from outside kills this process there; elsewhere it passes the signal on.
    """
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.WinDLL("kernel32")
        kernel.CreateJobObjectW.restype = kernel.OpenProcess.restype = ctypes.c_void_p
        _jobs[process.pid] = job = ctypes.c_void_p(kernel.CreateJobObjectW(None, None))
        _limit(job, 0x2000)  # JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
        access = 0x0100 | 0x0001  # PROCESS_SET_QUOTA, PROCESS_TERMINATE
        handle = ctypes.c_void_p(kernel.OpenProcess(access, 0, process.pid))
        kernel.AssignProcessToJobObject(job, handle)


def let_go(process: subprocess.Popen[bytes]) -> None:
    """Let the children of a process that has ended survive this process."""
    if sys.platform == "win32":
        _limit(_jobs.pop(process.pid), 0)


def _limit(job: object, flags: int) -> None:
    """Set the limits of a Windows job."""
    if sys.platform == "win32":
        import ctypes

        # JobObjectExtendedLimitInformation: the flags are the third number of nineteen.
        limits = struct.pack("qqLNNLNLL6Q4N", 0, 0, flags, *[0] * 16)
        ctypes.WinDLL("kernel32").SetInformationJobObject(job, 9, limits, len(limits))


_jobs: dict[int, object] = {}  # by process id; open as long as this process lives


def allow_open_files() -> None:
    """Raise macOS's limit of 256 open files, which is less than our connections need."""
    if sys.platform == "darwin":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(MAX_DESCRIPTORS, hard)
        if soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def give_back_memory() -> None:
    """Make the C library return large blocks to the system as soon as they are freed.

    After the first is freed, glibc starts to keep up to 64 MiB for each thread, which is several
    times a large state. Other C libraries don't.
    """
    if sys.platform == "linux":
        import ctypes  # imported late: most commands don't need it

        m_mmap_threshold, large_block = -3, 128 * 1024  # as in glibc's malloc.h; bytes
        with contextlib.suppress(AttributeError, OSError):  # musl has none
            ctypes.CDLL(None).mallopt(m_mmap_threshold, large_block)


# --- Files -------------------------------------------------------------------------------------

# Whether a file's mode decides who may read it. On Windows, the folder's access control does.
HAS_MODES = sys.platform != "win32"
# Whether `os.rename` fails if the name is taken, as on Windows. Elsewhere it replaces the file.
RENAME_REFUSES = sys.platform == "win32"
# Settings to make SQLite sync like `sync`. Each takes time whenever a connection is opened.
SYNC_PRAGMAS = {"fullfsync": 1, "checkpoint_fullfsync": 1} if sys.platform == "darwin" else {}


def sync(path: str) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    is_folder = os.path.isdir(path)
    if is_folder and sys.platform == "win32":  # not possible; file names are journaled
        return
    # Windows syncs only files that are open for writing.
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        if sys.platform == "darwin":  # fsync leaves the data in the disk's cache
            import fcntl

            with contextlib.suppress(OSError):  # a network disk may not support it
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
                return
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- Sockets -----------------------------------------------------------------------------------

# Whether wasyncore's loop uses `poll`, or `select`. Windows has no `poll`, and macOS's reports a
# client that has only finished sending as disconnected.
USE_POLL = sys.platform == "linux"
# `select` takes only descriptors below this. (On Windows a socket's number doesn't matter.)
MAX_DESCRIPTORS = sys.maxsize if USE_POLL or sys.platform == "win32" else 1024
# `select` takes 512 sockets on Windows, including the listening ones and the one that wakes it.
MAX_CONNECTIONS = 500 if sys.platform == "win32" else math.inf
# The option of a listening socket. On Windows SO_REUSEADDR would let two processes share a port,
# and without SO_EXCLUSIVEADDRUSE another could take it. Elsewhere, restarts need SO_REUSEADDR.
LISTEN_OPTION: int = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
# C's struct linger: two shorts on Windows.
LINGER_FORMAT = "hh" if sys.platform == "win32" else "ii"

READ, WRITE = 1, 2  # as psycopg has them


def wait_for(wanted: Mapping[int, int], seconds: float) -> dict[int, int]:
    """Wait until sockets are readable or writable, or have failed. Return READ or WRITE for each.

    `wanted` maps descriptors to READ, WRITE or both.
    """
    if sys.platform == "win32":  # has only `select`
        reading = [number for number, events in wanted.items() if events & READ]
        writing = [number for number, events in wanted.items() if events & WRITE]
        timeout = None if seconds == math.inf else seconds
        if not wanted:  # `select` would raise
            return {}
        # A failed connection is reported only in the third list.
        readable, writable, failed = select.select(reading, writing, writing, timeout)
        found = dict.fromkeys(readable, READ)
        for number in {*writable, *failed}:
            found[number] = found.get(number, 0) | WRITE
        return found
    poll, ready_to_read, ready_to_write = select.poll(), select.POLLIN, select.POLLOUT
    for number, events in wanted.items():
        poll.register(number, ready_to_read * (events & READ) | ready_to_write * (events // WRITE))
    found = poll.poll(None if seconds == math.inf else seconds * 1000)
    return {
        number: READ * bool(events & ~ready_to_write) | WRITE * bool(events & ready_to_write)
        for number, events in found
    }


def has_gone(sock: socket.socket) -> bool:
    """Return whether the other end of a non-blocking socket has closed it.

    Except on Linux, this is only noticed after everything that it sent has been read.
    """
    try:
        if sys.platform == "linux":
            poll = select.poll()
            poll.register(sock, select.POLLRDHUP)
            return bool(poll.poll(0))
        return peek(sock) == b""
    except ValueError:  # closed on this side
        return True


def peek(sock: socket.socket) -> bytes | None:
    """Return the next byte of a non-blocking socket; b"" at its end, None if there is none yet."""
    try:
        return sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:  # reset, or closed on this side
        return b""


# --- Output ------------------------------------------------------------------------------------

if sys.platform == "win32":
    MAX_PIECES = 1000  # that may be pending
    GATHERED = 0.01  # seconds to collect output before writing it: waking threads is slow

    class Output:
        """A descriptor to write to: a file, a console, or a pipe that may not be read.

        Windows can't say whether there is room in a pipe, so a thread writes.
        """

        def __init__(self, descriptor: int) -> None:
            # For a console, `open` accepts UTF-8, whatever its code page.
            self._file = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115
            self._pieces: queue.Queue[bytes] = queue.Queue(MAX_PIECES)
            threading.Thread(target=self._run, name="fense-admin log", daemon=True).start()

        def write(self, data: bytes, seconds: float = 0) -> int:
            """Queue the data to be written soon. Return its length; 0 if the queue is full."""
            try:
                self._pieces.put(data, timeout=seconds)
            except queue.Full:
                return 0
            return len(data)

        def flush(self, seconds: float) -> None:
            """Wait until everything is written, at most this long."""
            deadline = clock() + seconds
            while self._pieces.unfinished_tasks and clock() < deadline:
                time.sleep(0.005)

        def _run(self) -> None:
            while True:
                pieces = [self._pieces.get()]
                time.sleep(GATHERED)
                while not self._pieces.empty():
                    pieces.append(self._pieces.get())
                data = b"".join(pieces)
                with contextlib.suppress(OSError):  # nobody can read it anymore
                    while data:
                        data = data[self._file.write(data) or 0 :]
                for _ in pieces:
                    self._pieces.task_done()

else:

    class Output:
        """A descriptor to write to: a file, a terminal, or a pipe that may not be read."""

        def __init__(self, descriptor: int) -> None:
            self._descriptor = descriptor

        def write(self, data: bytes, seconds: float = 0) -> int:
            """Write as much as possible, waiting this long for each part. Return its length."""
            # A writable pipe takes PIPE_BUF bytes without blocking. (macOS's `poll` doesn't support
            # terminals, so this uses `select`.)
            for start in range(0, len(data), select.PIPE_BUF):
                if not select.select([], [self._descriptor], [], seconds)[1]:
                    return start
                os.write(self._descriptor, data[start : start + select.PIPE_BUF])
            return len(data)

        def flush(self, seconds: float) -> None:
            """Do nothing: everything is written already."""


@functools.cache
def output(descriptor: int) -> Output:
    """Return the only `Output` of a descriptor, so that output keeps its order."""
    return Output(descriptor)
