"""Shared by both simulated systems: names are removed, except for the standard library."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import sys
import sysconfig
import threading
from typing import Any

_gone: list[tuple[Any, str, Any]] = []
_back: list[tuple[Any, str, Any]] = []  # those of them that are there just now
_lock = threading.RLock()
_depth = 0  # how many modules of the standard library are being imported
_name = _platform = ""  # what os.name and sys.platform say


def remove(holder: Any, *patterns: str) -> None:
    """Remove the matching names, as on a system without them."""
    for name in list(vars(holder)):
        if any(re.fullmatch(pattern, name) for pattern in patterns):
            _gone.append((holder, name, getattr(holder, name)))
            delattr(holder, name)


def pretend(platform: str, name: str) -> None:
    """Have sys.platform and os.name say this, except to modules of the standard library."""
    global _name, _platform
    sysconfig.get_config_vars()  # keeps the answer
    _name, _platform = name, platform
    sys.platform, os.name = platform, name
    sys.meta_path.insert(0, _StandardLibrary())  # type: ignore[arg-type]


class _StandardLibrary:
    """Imports modules of the standard library as what they are: Linux's.

    Its functions see the simulated system later, when they are called.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name == "selectors" or name.partition(".")[0] not in sys.stdlib_module_names:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                loader: Any = spec.loader
                if not isinstance(loader, type):  # a type: built in, or frozen
                    loader.exec_module = functools.partial(_as_on_linux, loader.exec_module)
                return spec
        return None


def _as_on_linux(execute: Any, module: Any) -> None:
    with linux():
        execute(module)


@contextlib.contextmanager
def linux() -> Any:
    """Restore the removed names and the real system's name for a while."""
    global _depth
    with _lock:
        if _depth == 0:
            sys.platform, os.name = "linux", "posix"
            _back[:] = [it for it in _gone if not hasattr(it[0], it[1])]  # a test may have put one
            for holder, name, value in _back:
                setattr(holder, name, value)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                sys.platform, os.name = _platform, _name
                for holder, name, _ in _back:
                    delattr(holder, name)


class Watch(threading.local):
    """Calls `check(event, arguments)` before Python opens, removes or starts anything."""

    is_looking = False  # itself, which is not to be checked

    def __init__(self, check: Any) -> None:
        self.check = check

    def __call__(self, event: str, arguments: Any) -> None:
        if event in EVENTS and not self.is_looking:
            self.is_looking = True
            try:
                self.check(event, arguments)
            finally:
                self.is_looking = False


EVENTS = {"open", "os.listdir", "os.scandir", "os.rename", "os.remove", "subprocess.Popen"}


def refuse_proc(event: str, arguments: Any) -> None:
    """There is no /proc."""
    path = arguments[0]
    if event in ("open", "os.listdir", "os.scandir") and isinstance(path, (str, os.PathLike)):
        text = os.fspath(path)
        if isinstance(text, str) and (text == "/proc" or text.startswith("/proc/")):
            raise FileNotFoundError(2, "No such file or directory", text)


def localhost_is_ipv6_first() -> None:
    """On Linux, as configured here, 127.0.0.1 is the first or only address."""
    original = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *options: Any, **named: Any) -> Any:
        found = original(host, port, *options, **named)
        if host in ("localhost", b"localhost") and HAS_IPV6:
            with contextlib.suppress(OSError):
                found = original("::1", port, *options, **named) + [
                    one for one in found if one[0] != socket.AF_INET6
                ]
        return found

    socket.getaddrinfo = getaddrinfo


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


HAS_IPV6 = _has_ipv6()
