"""Where a service listens."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import Any

SD_LISTEN_FDS_START = 3  # the first descriptor that systemd hands over
BACKLOG = 1024  # connections that wait to be accepted
NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # what localhost's ::1 may meet


class CannotListen(Exception):
    """It can't listen there. The message is one sentence that says what to do."""


def resolve(host: str, port: int) -> list[tuple[Any, ...]]:
    """The addresses of a host, as `socket.getaddrinfo` gives them. Raises `CannotListen`."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise CannotListen(f"{host} is no address of this machine: check --host") from error


def inherited() -> list[socket.socket]:
    """The listening sockets that systemd opened for this process, if it did.

    They stay open during a restart: a client waits then, and is not refused.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    return [socket.socket(fileno=SD_LISTEN_FDS_START + number) for number in range(count)]


def are_loopback(addresses: list[tuple[Any, ...]]) -> bool:
    """Whether none of them can be reached from another machine."""
    return all(ipaddress.ip_address(to[0].partition("%")[0]).is_loopback for *_, to in addresses)


def listen(addresses: list[tuple[Any, ...]]) -> list[socket.socket]:
    """A listening socket for each address, all on one port. Raises `CannotListen`."""
    sockets: list[socket.socket] = []
    for family, *_, address in addresses:
        port = sockets[0].getsockname()[1] if sockets else address[1]
        where = (address[0], port, *address[2:])
        try:
            sockets.append(socket.create_server(where, family=family, backlog=BACKLOG))
        except OSError as error:
            if error.errno in NO_IPV6 and sockets:
                continue
            for sock in sockets:
                sock.close()
            advice = "is in use: stop what uses it, or choose another --port"
            if error.errno != errno.EADDRINUSE:
                advice = f"can't be had ({os.strerror(error.errno or 0)}): check --host and --port"
            raise CannotListen(f"port {port} of {address[0]} {advice}") from error
    return sockets
