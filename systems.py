"""What differs between operating systems, each difference with its reason.

No other module names a system, or asks whether one has something.
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

# See realtime.py. Windows has no clock_gettime; there it takes a copy of the module `time`, because
# freezegun may have replaced what that one has.
if sys.platform == "win32":
    _found = importlib.util.find_spec("time")
    assert _found
    clock: Callable[[], float] = importlib.util.module_from_spec(_found).perf_counter
else:
    clock = functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)

# --- Processes ---------------------------------------------------------------------------------

# Windows has no SIGHUP, and SIGTERM only within a process: there SIGBREAK is what a parent process
# can send (as CTRL_BREAK_EVENT).
HANGUP: int | None = getattr(signal, "SIGHUP", None)
STOP_SIGNALS: tuple[int, ...] = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
)
# A program's name is completed by the endings that PATHEXT lists, and a batch file is one, too.
FINDS_BY_PATHEXT = sys.platform == "win32"
# On Windows a console's events reach all its processes, and `Popen.send_signal` ends one.
PROCESSES_SHARE_SIGNALS = sys.platform == "win32"
# Seconds that the main thread may wait at a time. On Windows a signal doesn't end a wait.
LONGEST_WAIT = 0.2 if sys.platform == "win32" else 1


def end_process(signum: int) -> None:
    """End this process at once, as this signal does. (On Windows `os.kill` takes no signal.)"""
    if sys.platform != "win32":
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    os._exit(128 + signum)  # the kernel spares PID 1 of a container the signal


def take_console_events() -> None:
    """Have Windows stop this process with SIGBREAK when its console closes, or the session ends.

    The C library would set that signal's flag and return, upon which Windows ends the process at
    once. It ends it after some five seconds if this doesn't return.
    """
    if sys.platform == "win32":
        import ctypes

        def handle(event: int) -> bool:
            if event in (signal.CTRL_C_EVENT, signal.CTRL_BREAK_EVENT):
                return False  # the C library makes signals of these
            _thread.interrupt_main(signal.SIGBREAK)
            time.sleep(60)
            return True

        handler = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint)(handle)
        _kept.append(handler)
        ctypes.WinDLL("kernel32").SetConsoleCtrlHandler(handler, 1)


_kept: list[object] = []  # what Windows calls: Python must not free it


def after_fork_in_child(function: Callable[[], object]) -> None:
    """Have a forked process call this first. Nothing forks on Windows."""
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=function)


def exit_code(code: int) -> int:
    """Return what to exit with if that of a process was this: 128 + n if signal n ended it.

    On Windows it may be a number that `sys.exit` takes as a negative one, such as 0xC000013A.
    """
    if sys.platform == "win32":
        return code - 2**32 if code >= 2**31 else code
    return code if code >= 0 else 128 - code


def end_with_this_process(process: subprocess.Popen[bytes]) -> None:
    """Have Windows end a process, with all that it starts, when this one ends; see `let_go`.

    Elsewhere it is passed the signal that ends this one. There a stop from outside is a kill.
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
    """Leave what a process has started to itself: the process has ended, this one has not."""
    if sys.platform == "win32":
        _limit(_jobs.pop(process.pid), 0)


def _limit(job: object, flags: int) -> None:
    """Set the limits of a job of Windows."""
    if sys.platform == "win32":
        import ctypes

        # JobObjectExtendedLimitInformation: the flags are the third number of nineteen.
        limits = struct.pack("qqLNNLNLL6Q4N", 0, 0, flags, *[0] * 16)
        ctypes.WinDLL("kernel32").SetInformationJobObject(job, 9, limits, len(limits))


_jobs: dict[int, object] = {}  # by process; open as long as this process lives


def allow_open_files() -> None:
    """Raise macOS's limit of 256 open files, which is less than our connections need."""
    if sys.platform == "darwin":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(MAX_DESCRIPTORS, hard)
        if soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def give_back_memory() -> None:
    """Let the C library return large blocks to the system as soon as they are freed.

    glibc does so until the first of them is freed. From then on it keeps up to 64 MiB for each
    thread: several times a large state, after a few of them. Other C libraries have no such rule.
    """
    if sys.platform == "linux":
        import ctypes  # late: most commands do without it

        m_mmap_threshold, large_block = -3, 128 * 1024  # as in glibc's malloc.h; bytes
        with contextlib.suppress(AttributeError, OSError):  # musl has none
            ctypes.CDLL(None).mallopt(m_mmap_threshold, large_block)


# --- Files -------------------------------------------------------------------------------------

# Whether a file's mode says who may read it. On Windows that is up to the folder's access control.
HAS_MODES = sys.platform != "win32"
# Whether `os.rename` refuses a name that is taken, as on Windows. Elsewhere it replaces that file.
RENAME_REFUSES = sys.platform == "win32"
# SQLite's settings to have it sync as `sync` does. Each takes time whenever a connection is opened.
SYNC_PRAGMAS = {"fullfsync": 1, "checkpoint_fullfsync": 1} if sys.platform == "darwin" else {}


def sync(path: str) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    is_folder = os.path.isdir(path)
    if is_folder and sys.platform == "win32":  # which can't, and has a journal for names
        return
    # Windows syncs only what is open for writing.
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        if sys.platform == "darwin":  # where fsync leaves the data in the disk's own cache
            import fcntl

            with contextlib.suppress(OSError):  # a disk on the network may not know it
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
                return
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- Sockets -----------------------------------------------------------------------------------

# Whether wasyncore's loop uses `poll`. macOS's reports a client that has only finished sending as
# one that has gone, and Windows has none: there it uses `select`.
USE_POLL = sys.platform == "linux"
# `select` takes only descriptors below this. (On Windows a socket's number doesn't matter.)
MAX_DESCRIPTORS = sys.maxsize if USE_POLL or sys.platform == "win32" else 1024
# `select` takes 512 sockets on Windows, the listening ones and the one that wakes it among them.
MAX_CONNECTIONS = 500 if sys.platform == "win32" else math.inf
# The option of a listening socket. On Windows SO_REUSEADDR would let two processes share a port,
# and without SO_EXCLUSIVEADDRUSE another one could take it. Elsewhere a restart needs SO_REUSEADDR.
LISTEN_OPTION: int = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
# C's struct linger: two shorts on Windows.
LINGER_FORMAT = "hh" if sys.platform == "win32" else "ii"

READ, WRITE = 1, 2  # as psycopg has them


def wait_for(wanted: Mapping[int, int], seconds: float) -> dict[int, int]:
    """Wait until sockets can be read or written, or have failed. Return these, with READ or WRITE.

    `wanted` says by descriptor what is waited for: READ, WRITE or both.
    """
    if sys.platform == "win32":  # which has only `select`
        reading = [number for number, events in wanted.items() if events & READ]
        writing = [number for number, events in wanted.items() if events & WRITE]
        timeout = None if seconds == math.inf else seconds
        if not wanted:  # for which `select` raises
            return {}
        # A connection that failed is reported among the last ones alone.
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

    Linux says so whatever it sent before. Elsewhere that is seen once all it sent has been read.
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
    """Return the next byte of a non-blocking socket; b"" at its end, None if none has come yet."""
    try:
        return sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:  # reset, or closed on this side
        return b""


# --- Output ------------------------------------------------------------------------------------

if sys.platform == "win32":
    MAX_PIECES = 1000  # that may wait to be written
    GATHERED = 0.01  # seconds in which what is written is put together: to wake a thread costs time

    class Output:
        """A descriptor to write to: a file, a console, or a pipe that may not be read.

        Windows can't say whether there is room in a pipe, so a thread writes.
        """

        def __init__(self, descriptor: int) -> None:
            # A console takes text; `open` makes UTF-8 of it, whatever its code page.
            self._file = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115
            self._pieces: queue.Queue[bytes] = queue.Queue(MAX_PIECES)
            threading.Thread(target=self._run, name="fense-admin log", daemon=True).start()

        def write(self, data: bytes, seconds: float = 0) -> int:
            """Write as soon as possible, and return how many bytes; 0 if the queue is full."""
            try:
                self._pieces.put(data, timeout=seconds)
            except queue.Full:
                return 0
            return len(data)

        def flush(self, seconds: float) -> None:
            """Wait until everything is written, but not longer than this."""
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
                with contextlib.suppress(OSError):  # nobody can read it any more
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
            """Write what there is room for, waiting for each part this long. Return how much."""
            # A pipe that is writable takes PIPE_BUF bytes without waiting. (`poll` would do on
            # Linux alone: to macOS's a terminal is none.)
            for start in range(0, len(data), select.PIPE_BUF):
                if not select.select([], [self._descriptor], [], seconds)[1]:
                    return start
                os.write(self._descriptor, data[start : start + select.PIPE_BUF])
            return len(data)

        def flush(self, seconds: float) -> None:
            """Wait for nothing: all is written."""


@functools.cache
def output(descriptor: int) -> Output:
    """Return the one `Output` of a descriptor, so that what is written keeps its order."""
    return Output(descriptor)
