"""Simulate on Linux what macOS lacks or does differently."""

from __future__ import annotations

import fcntl
import importlib
import os
import platform
import select
import signal
import socket
import stat
import sys
import tempfile
import time
from typing import Any

import names

_poll, _accept, _fcntl = select.poll, socket.socket.accept, fcntl.fcntl
F_FULLFSYNC = 51


def simulate() -> None:
    names.remove(select, "epoll", "EPOLL.*", "POLLRDHUP", "POLLMSG", "POLLREMOVE")
    names.remove(socket, "MSG_NOSIGNAL", "MSG_CMSG_CLOEXEC", "MSG_ERRQUEUE", "MSG_MORE")
    names.remove(socket, "SOCK_NONBLOCK", "SOCK_CLOEXEC", "TCP_KEEPIDLE", "TCP_USER_TIMEOUT")
    names.remove(socket, "SO_BINDTODEVICE", "SO_PEERCRED", "TCP_QUICKACK", "TCP_CORK")
    names.remove(os, "sched_.*affinity", "fdatasync", "posix_fadvise", "posix_fallocate", "pipe2")
    names.remove(os, "O_TMPFILE", "O_PATH", "O_DIRECT", "splice", "eventfd.*", "memfd_create")
    names.remove(os, "getrandom", "[gs]etres[ug]id", ".*xattr", "copy_file_range", "pidfd_open")
    names.remove(signal, "SIGRTM.*", "SIGPWR", "SIGSTKFLT", "SIGCLD", "SIGPOLL", "sigtimedwait")
    names.remove(signal, "sigwaitinfo", "pidfd_send_signal")
    names.remove(time, "CLOCK_BOOTTIME", "CLOCK_TAI")
    tempfile._O_TMPFILE_WORKS = False  # type: ignore[attr-defined]
    select.poll = Poll
    fcntl.F_FULLFSYNC, fcntl.fcntl = F_FULLFSYNC, control
    os.uname = lambda: os.uname_result(("Darwin", "mac", "22.6.0", "Darwin Kernel", "arm64"))
    socket.socket.accept = accept  # type: ignore[method-assign]
    names.localhost_is_ipv6_first()
    sys.addaudithook(names.Watch(names.refuse_proc))
    data = f"_sysconfigdata_{sys.abiflags}_linux_{sys.implementation._multiarch}"
    os.environ.setdefault("_PYTHON_SYSCONFIGDATA_NAME", data)  # else named after sys.platform
    names.pretend("darwin", "posix")
    sys.modules.pop("selectors", None)
    importlib.import_module("selectors")  # chooses among what there is now
    platform.uname()  # and keeps the answer


def control(file: Any, command: int, *argument: Any) -> Any:
    return os.fsync(file) if command == F_FULLFSYNC else _fcntl(file, command, *argument)


class Poll:
    """A poll that knows no devices: a terminal, /dev/null."""

    def __init__(self) -> None:
        self._poll = _poll()
        self._devices: dict[int, Any] = {}

    def register(self, file: Any, events: int = select.POLLIN | select.POLLOUT) -> None:
        number = file if isinstance(file, int) else file.fileno()
        try:
            is_device = stat.S_ISCHR(os.fstat(number).st_mode)
        except OSError:
            is_device = False
        if is_device:
            self._devices[number] = events
        else:
            self._poll.register(number, events)

    def modify(self, file: Any, events: int) -> None:
        number = file if isinstance(file, int) else file.fileno()
        if number in self._devices:
            self._devices[number] = events
        else:
            self._poll.modify(number, events)

    def unregister(self, file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        if number in self._devices:
            del self._devices[number]
        else:
            self._poll.unregister(number)

    def poll(self, timeout: Any = None) -> Any:
        refused = [(number, select.POLLNVAL) for number in self._devices]
        return refused + self._poll.poll(0 if refused else timeout)


def accept(listener: socket.socket) -> Any:
    """Accepted sockets inherit the mode of the listener, as on BSD."""
    sock, address = _accept(listener)
    if listener.gettimeout() == 0:
        os.set_blocking(sock.fileno(), False)
    return sock, address
