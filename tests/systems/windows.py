"""Simulate on Linux what Windows lacks or does differently."""

from __future__ import annotations

import _thread
import builtins
import contextlib
import ctypes
import enum
import errno
import fcntl
import importlib
import io
import os
import pathlib
import platform
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
import types
from typing import Any

import names

FD_SETSIZE = 512  # how many sockets select takes: see selectmodule.c
BREAK = signal.SIGUSR1  # stands for SIGBREAK, which Linux doesn't have
ENDED_BY_BREAK = 0xC000013A  # STATUS_CONTROL_C_EXIT
CODE_PAGE = "cp1252"  # of western Europe and America; others have others
CHARACTERS = set('<>"|?*:')  # in no file's name
MODULES = (
    "fcntl resource pwd grp termios tty pty syslog spwd crypt nis _posixshmem readline".split()
)
SHELLS = "sh bash dash zsh env nohup".split()  # programs that nobody has there
FLAGS = {
    "CREATE_NEW_PROCESS_GROUP": 0x200, "CREATE_NEW_CONSOLE": 0x10, "CREATE_NO_WINDOW": 0x8000000,
    "DETACHED_PROCESS": 0x8,
}  # fmt: skip

# The standard library's originals, which the simulation itself uses.
_listdir, _stat, _fstat, _fsync = os.listdir, os.stat, os.fstat, os.fsync
_open = open
_getpgid = os.getpgid
_kill, _killpg, _write, _read, _sleep = os.kill, os.killpg, os.write, os.read, time.sleep
_select, _mask = select.select, signal.pthread_sigmask
_signal, _raise = signal.signal, signal.raise_signal
_bind = socket.socket.bind
_setsockopt, _REUSEPORT = socket.socket.setsockopt, socket.SO_REUSEPORT
_fcntl, _F_GETFL, _ACCESS = fcntl.fcntl, fcntl.F_GETFL, os.O_ACCMODE
_popen, _ended = subprocess.Popen.__init__, subprocess.Popen._handle_exitstatus  # type: ignore[attr-defined]


def simulate(without: list[str]) -> None:
    """`without` these names, too: "os.link"."""
    signals_come_in_another_thread()
    change_signals()
    change_processes()
    change_files()
    change_sockets()
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    sys.modules["msvcrt"] = types.ModuleType("msvcrt")
    sys.modules["msvcrt"].setmode = lambda number, flags: 0  # type: ignore[attr-defined]
    names.remove(select, "poll", "epoll", "E?POLL.*", "PIPE_BUF", "kqueue")
    names.remove(
        os,
        "register_at_fork",
        "fork.*",
        "wait",
        "wait[34]",
        "waitid.*",
        "W(?!NOHANG)[A-Z]+",
        "P_.*",
    )
    names.remove(os, "[gs]ete?[ug]id", "[gs]etre[ug]id", "[gs]etres[ug]id", "[gs]etgroups", "uname")
    names.remove(os, "[gs]etpgid", "[gs]etpgrp", "[gs]etsid", "killpg", "posix_.*", "sched_.*")
    names.remove(os, "[lf]?chown", "fchmod", "mkfifo", "mknod", "chroot", "openpty", "ttyname")
    names.remove(os, "sysconf.*", "f?pathconf.*", "confstr.*", "f?statvfs", "nice", "fdatasync")
    names.remove(
        os, "p(read|write)v?", "readv", "writev", "sendfile", "lockf", "getloadavg", "fchdir"
    )
    names.remove(
        os, "O_(CLOEXEC|NONBLOCK|NOCTTY|DIRECTORY|NOFOLLOW|D?SYNC|TMPFILE|PATH|DIRECT|ACCMODE)"
    )
    names.remove(
        os, "pipe2", "eventfd.*", "memfd_create", "getrandom", "splice", "pidfd_open", "sync"
    )
    names.remove(
        os, ".*xattr", "copy_file_range", "[gs]etpriority", "PRIO_.*", "initgroups", "ctermid"
    )
    names.remove(socket, "AF_UNIX", "MSG_(DONTWAIT|NOSIGNAL|CMSG_CLOEXEC|MORE)", "SO_REUSEPORT")
    names.remove(socket, "SOCK_(NONBLOCK|CLOEXEC)", "SO_PEERCRED", "TCP_USER_TIMEOUT", "TCP_CORK")
    names.remove(time, "tzset", "clock_.*", "CLOCK_.*", "pthread_getcpuclockid")
    if sys.version_info < (3, 12):
        names.remove(os, "set_blocking", "get_blocking")
    for name in without:
        holder, _, attribute = name.partition(".")
        names.remove({"os": os, "socket": socket}[holder], attribute)
    sys.addaudithook(WATCH)
    names.localhost_is_ipv6_first()
    names.pretend("win32", "nt")
    sys.modules.pop("selectors", None)
    importlib.import_module("selectors")  # chooses among what there is now
    platform.uname()  # and keeps the answer


# --- Signals ------------------------------------------------------------------------------------


def signals_come_in_another_thread() -> None:
    """No system call of the main thread is interrupted: its handlers run once it returns."""

    def take_signals() -> None:
        _mask(UNBLOCK, HELD)
        while True:
            _sleep(1000)

    _mask(BLOCK, HELD)
    _thread.start_new_thread(take_signals, ())


BLOCK, UNBLOCK, SETMASK = signal.SIG_BLOCK, signal.SIG_UNBLOCK, signal.SIG_SETMASK
HELD = {signal.SIGINT, signal.SIGTERM, BREAK}


@contextlib.contextmanager
def not_held() -> Any:
    before = _mask(UNBLOCK, HELD)
    try:
        yield
    finally:
        _mask(SETMASK, before)


def change_signals() -> None:
    values = {
        name: int(getattr(signal, name))
        for name in "SIGABRT SIGFPE SIGILL SIGINT SIGSEGV SIGTERM".split()
    }
    known = enum.IntEnum("Signals", values | {"SIGBREAK": int(BREAK)})  # type: ignore[misc]

    def set_handler(signum: int, handler: Any) -> Any:
        if signum not in known._value2member_map_:
            raise ValueError("invalid signal value")
        return _signal(signum, handler)

    def raise_signal(signum: int) -> None:
        with not_held():
            _raise(signum)

    def kill(pid: int, signum: int) -> None:
        """Send Ctrl-C or Ctrl-Break; any other signal ends the process."""
        if signum == EVENTS.CTRL_C_EVENT:
            _killpg(_getpgid(pid), signal.SIGINT)
        elif signum == EVENTS.CTRL_BREAK_EVENT:
            try:
                _killpg(pid, BREAK)
            except ProcessLookupError:  # it leads no group
                raise OSError(errno.EINVAL, "The parameter is incorrect") from None
        elif pid == os.getpid():
            os._exit(signum)
        else:
            try:
                _kill(pid, 9)
            except ProcessLookupError:
                raise OSError(errno.EINVAL, "The parameter is incorrect") from None

    others = {name for name in vars(signal) if name[:3] == "SIG"} - {*known.__members__}
    names.remove(
        signal,
        *(name for name in others if "_" not in name),
        "SIG_(BLOCK|UNBLOCK|SETMASK)",
        "pthread_.*",
        "sig[a-z]+wait.*",
    )
    names.remove(signal, "sigwait.*", "sigpending", "alarm", "[gs]etitimer", "ITIMER_.*", "pause")
    names.remove(signal, "siginterrupt", "Sigmasks", "pidfd_send_signal", "sigtimedwait")
    signal.Signals = known
    for member in (*known, *EVENTS):
        setattr(signal, member.name, member)
    signal.signal, signal.raise_signal, os.kill = set_handler, raise_signal, kill


class EVENTS(enum.IntEnum):
    CTRL_C_EVENT = 0
    CTRL_BREAK_EVENT = 1


def sleep(seconds: float) -> None:
    """Let handlers run during a sleep: Ctrl-C wakes up a sleeping main thread."""
    if seconds <= 0.05:
        _sleep(seconds)
        return
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        _sleep(min(left, 0.05))


# --- Processes ----------------------------------------------------------------------------------


def change_processes() -> None:
    def begin(self: Any, args: Any, *positional: Any, **options: Any) -> None:
        assert len(positional) <= 1, "name the other arguments"
        flags = options.pop("creationflags", 0)
        options.pop("startupinfo", None)
        for name in ("preexec_fn", "start_new_session", "pass_fds", "process_group"):
            if options.get(name) not in (None, False, ()):
                raise ValueError(f"{name} is not supported on Windows platforms")
        if options.get("text") or options.get("universal_newlines"):
            options.setdefault("encoding", None if sys.flags.utf8_mode else CODE_PAGE)
        self._ended_by_us = False
        with not_held():
            if flags & FLAGS["CREATE_NEW_PROCESS_GROUP"]:
                options["start_new_session"] = True
            _popen(self, args, *positional, **options)

    def end(self: Any) -> None:
        if self.poll() is None:
            self._ended_by_us = True
            with contextlib.suppress(ProcessLookupError):
                _kill(self.pid, 9)

    def send(self: Any, signum: int) -> None:
        if self.poll() is not None:
            return
        if signum == signal.SIGTERM:
            self.terminate()
        elif signum in (EVENTS.CTRL_C_EVENT, EVENTS.CTRL_BREAK_EVENT):
            os.kill(self.pid, signum)
        else:
            raise ValueError(f"Unsupported signal: {signum}")

    def set_code(self: Any, status: int, *more: Any) -> None:
        _ended(self, status, *more)
        if self.returncode is not None and self.returncode < 0:
            signum = -self.returncode
            self.returncode = {2: ENDED_BY_BREAK, int(BREAK): ENDED_BY_BREAK}.get(signum, 15)
            if signum == 9 and self._ended_by_us:
                self.returncode = 1

    changed: Any = subprocess.Popen
    changed.__init__, changed.terminate, changed.kill, changed.send_signal = begin, end, end, send
    changed._handle_exitstatus = set_code
    subprocess._USE_POSIX_SPAWN = subprocess._USE_VFORK = False  # type: ignore[attr-defined]
    ctypes.WinDLL, ctypes.WINFUNCTYPE = Library, ctypes.CFUNCTYPE  # type: ignore[attr-defined,misc]
    for name, value in FLAGS.items():
        setattr(subprocess, name, value)
    time.sleep = sleep


class Library:
    """One of Windows, whose functions do nothing: the console's events, jobs."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: 1


# --- Files --------------------------------------------------------------------------------------


def check(event: str, arguments: Any) -> None:
    """Raise the error that Windows would raise for this action."""
    names.refuse_proc(event, arguments)
    if event == "subprocess.Popen":
        program = os.fsdecode(arguments[0]) if arguments[0] else ""
        if os.path.basename(program) in SHELLS:
            raise FileNotFoundError(2, "The system cannot find the file specified", program)
        return
    if event == "open" and arguments[1] is None:  # `open` passes a mode
        event = "os.open"
    paths = arguments[:2] if event == "os.rename" else arguments[:1]
    for path in paths:
        if isinstance(path, (str, bytes, os.PathLike)):
            check_path(event, os.fsdecode(path))


def check_path(event: str, path: str) -> None:
    if CHARACTERS & set(path) and not path.startswith("/sys"):
        raise OSError(errno.EINVAL, "Invalid argument", path)
    if event == "os.open" and os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)
    if event in ("os.rename", "os.remove") and is_open(path):
        raise PermissionError(
            errno.EACCES, "The process cannot access the file: it is being used", path
        )


def is_open(path: str) -> bool:
    """Return whether this process has the file open."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    if not stat.S_ISREG(found.st_mode):
        return False
    for number in _listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            other = _fstat(int(number))
            if (other.st_dev, other.st_ino) == (found.st_dev, found.st_ino):
                return True
    return False


WATCH = names.Watch(check)


def as_windows_tells(found: os.stat_result) -> os.stat_result:
    """Of a mode Windows knows whether one may write."""
    may_write = bool(found.st_mode & 0o200)
    bits = (0o666 if may_write else 0o444) | (0o111 if stat.S_ISDIR(found.st_mode) else 0)
    kept, details = found.__reduce__()[1]
    return os.stat_result(((found.st_mode & ~0o777) | bits, *kept[1:]), details)


def change_files() -> None:
    def changed_stat(path: Any, *, dir_fd: Any = None, follow_symlinks: bool = True) -> Any:
        return as_windows_tells(_stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks))

    def rename(source: Any, target: Any) -> None:
        """Refuse to replace a file."""
        import ctypes  # late: few processes rename

        WATCH("os.rename", (source,))
        names_of_both = os.fsencode(source), os.fsencode(target)
        with names.linux():
            c = ctypes.CDLL(None, use_errno=True)
        here, no_replace = -100, 1  # AT_FDCWD, RENAME_NOREPLACE
        if c.renameat2(here, names_of_both[0], here, names_of_both[1], no_replace):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), source, None, target)

    def fsync(file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        if _fcntl(number, _F_GETFL) & _ACCESS == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        _fsync(number)

    def open_file(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *more: Any, **named: Any) -> Any:  # fmt: skip
        """Text is in the code page, unless it is said what it is in, and lines end in CR LF."""
        if "b" not in mode and not sys.flags.utf8_mode:
            encoding = CODE_PAGE if encoding in (None, "locale") else encoding
            if len(more) < 2 and named.get("newline") is None and not mode.startswith("r"):
                named["newline"] = "\r\n"
        return _open(file, mode, buffering, encoding, *more, **named)

    builtins.open = io.open = open_file  # type: ignore[assignment]
    os.linesep = "\r\n"
    if not sys.flags.utf8_mode and "PYTHONIOENCODING" not in os.environ:
        for stream, ends in ((sys.stdin, None), (sys.stdout, "\r\n"), (sys.stderr, "\r\n")):
            if stream is not None and not stream.isatty():  # a console takes any character
                stream.reconfigure(encoding=CODE_PAGE, newline=ends)  # type: ignore[union-attr]
    os.supports_dir_fd.clear()
    os.supports_follow_symlinks.add(changed_stat)
    os.stat, os.fstat = changed_stat, lambda number: as_windows_tells(_fstat(number))
    os.rename, os.fsync = rename, fsync
    os.write = lambda number, data: _write(only_file(number), data)
    os.read = lambda number, count: _read(only_file(number), count)
    sys._vpath = ""  # type: ignore[attr-defined]  # sysconfig's
    os.O_BINARY = os.O_TEMPORARY = os.O_NOINHERIT = 0  # type: ignore[attr-defined]
    os.environ.setdefault("TEMP", tempfile.gettempdir())
    os.environ.setdefault("PATHEXT", ".COM:.EXE:.BAT:.CMD:")  # and the names of Linux's programs
    io._WindowsConsoleIO = type("_WindowsConsoleIO", (), {})  # type: ignore[attr-defined]
    tempfile.TemporaryFile = tempfile.NamedTemporaryFile  # type: ignore[misc,assignment]
    shutil._use_fd_functions = shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined]
    need = types.SimpleNamespace(NeedCurrentDirectoryForExePath=lambda name: True)
    shutil._winapi = need  # type: ignore[attr-defined]
    original = shutil.which

    def which(cmd: Any, *arguments: Any, **named: Any) -> Any:
        """Programs without .exe are those of Linux, where tests need one."""
        if os.path.basename(os.fsdecode(cmd)) in SHELLS:
            return None
        found = original(cmd, *arguments, **named)
        if found is None:
            with names.linux():
                found = original(cmd, *arguments, **named)
        return found

    shutil.which = which
    for module in (pathlib, getattr(pathlib, "_local", None)):
        if module is not None:  # what Path() makes where os.name is "nt"
            module.WindowsPath, module.PureWindowsPath = pathlib.PosixPath, pathlib.PurePosixPath


def only_file(number: int) -> int:
    if stat.S_ISSOCK(_fstat(number).st_mode):
        raise OSError(errno.EBADF, "Bad file descriptor")
    return number


# --- Sockets ------------------------------------------------------------------------------------


def change_sockets() -> None:
    def changed_select(readers: Any, writers: Any, others: Any, timeout: Any = None) -> Any:
        lists = [list(readers), list(writers), list(others)]
        if not any(lists):
            raise OSError(errno.EINVAL, "An invalid argument was supplied")
        for waiting in lists:
            if len(waiting) > FD_SETSIZE:
                raise ValueError("too many file descriptors in select()")
            for it in waiting:
                number = it if isinstance(it, int) else it.fileno()
                if number < 0 or not stat.S_ISSOCK(_fstat(number).st_mode):
                    raise OSError(
                        errno.ENOTSOCK,
                        "An operation was attempted on something that is not a socket",
                    )
        return _select(*lists, timeout)

    def set_option(self: Any, level: int, option: int, *value: Any) -> None:
        """SO_REUSEADDR lets others listen on the same port, too."""
        if level == socket.SOL_SOCKET and option == EXCLUSIVE:
            option = socket.SO_REUSEADDR  # of Linux: not while another listens
        elif option == socket.SO_LINGER and len(value[0]) == 4:  # two shorts: see winsock.h
            value = (struct.pack("ii", *struct.unpack("hh", value[0])),)
        elif level == socket.SOL_SOCKET and option == socket.SO_REUSEADDR:
            _setsockopt(self, level, _REUSEPORT, *value)
        _setsockopt(self, level, option, *value)

    def bind(self: Any, address: Any) -> None:
        """A port on which nobody listens is free, whatever the state of its old connections."""
        if self.type == socket.SOCK_STREAM:
            _setsockopt(self, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(self, address)

    def pair(family: Any = None, kind: Any = socket.SOCK_STREAM, protocol: int = 0) -> Any:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            one = socket.create_connection(listener.getsockname())
            return listener.accept()[0], one

    select.select = changed_select
    changed: Any = socket.socket
    changed.setsockopt, changed.bind = set_option, bind
    socket.SO_EXCLUSIVEADDRUSE = EXCLUSIVE  # type: ignore[attr-defined]
    socket.socketpair = pair


EXCLUSIVE = ~socket.SO_REUSEADDR
