"""Addresses and sockets to listen on."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import Any

from fense_admin import systems

SD_LISTEN_FDS_START = 3  # the first descriptor passed by systemd
BACKLOG = 1024  # connections waiting to be accepted
NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # errors for localhost's ::1


class CannotListen(Exception):
    """The address can't be used. The message says how to fix it."""


def resolve(host: str, port: int) -> list[tuple[Any, ...]]:
    """Return the addresses of a host, like `socket.getaddrinfo`. Raises `CannotListen`."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise CannotListen(f"{host} is not an address of this machine: check --host") from error


def inherited() -> list[socket.socket]:
    """Return the listening sockets that systemd opened for this process, if any.

    They stay open during a restart: clients wait instead of being refused.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    return [socket.socket(fileno=SD_LISTEN_FDS_START + number) for number in range(count)]


def are_loopback(addresses: list[tuple[Any, ...]]) -> bool:
    """Return whether no other machine can reach any of the addresses."""
    return all(ipaddress.ip_address(to[0].partition("%")[0]).is_loopback for *_, to in addresses)


def listen(addresses: list[tuple[Any, ...]]) -> list[socket.socket]:
    """Return a listening socket for each address, all on one port. Raises `CannotListen`."""
    sockets: list[socket.socket] = []
    for family, *_, address in addresses:
        port = sockets[0].getsockname()[1] if sockets else address[1]
        try:
            sockets.append(listening_socket(family, (address[0], port, *address[2:])))
        except OSError as error:
            is_last = address is addresses[-1][-1]
            if error.errno in NO_IPV6 and (sockets or not is_last):
                continue  # localhost may also be ::1, which this machine may lack
            for sock in sockets:
                sock.close()
            advice = "is in use: stop the other program or choose another --port"
            if error.errno != errno.EADDRINUSE:
                advice = f"can't be used ({error.strerror}): check --host and --port"
            raise CannotListen(f"port {port} of {address[0]} {advice}") from error
    return sockets


def listening_socket(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, systems.LISTEN_OPTION, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
