"""How waitress serves an application: addresses, limits, errors, stop, log. Knows no route."""

from __future__ import annotations

import collections
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from waitress import channel, parser, task, wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from fense_admin import choose_request_id, common_headers, error_body
from fense_admin.models import Database

log = logging.getLogger("fense_admin")

MAX_HEADER = 16 * 1024  # bytes of request line and headers together
MAX_BODY = 128 * 1024  # bytes; up to here the application reads a body, and refuses it in its words
CONNECTIONS = 500  # open at the same time; those beyond wait to be accepted
IDLE_TIMEOUT = 30  # seconds a connection has to bring a whole request, or to take some of an answer
PATIENCE = 0.005  # seconds a request waits for the worker at work before another one is woken
TLS_HANDSHAKE = b"\x16"  # its first byte, with which no request of HTTP begins
LINGER = 5  # seconds that a refused client's sending is listened to, and thrown away
DRAIN = 10  # seconds that a stop gives the requests that were sent before it
SD_LISTEN_FDS_START = 3  # the first descriptor that systemd hands over
BACKLOG = 1024  # connections that wait to be accepted
NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # what localhost's ::1 may meet


# --- Addresses ---------------------------------------------------------------------------------


class CannotListen(Exception):
    """The address can't be had. The message is one sentence that names the mend."""


def resolve(host: str, port: int) -> list[tuple[Any, ...]]:
    """The addresses of a host, as `socket.getaddrinfo` gives them. Raises `CannotListen`."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise CannotListen(f"{host} is no address of this machine: check --host") from error


def inherited() -> list[socket.socket]:
    """The listening sockets that systemd has opened for this process, if it has.

    They outlive it: who calls during a restart waits, and is not refused.
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
    port = 0
    for family, kind, protocol, _, address in addresses:
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], port or address[1], *address[2:]))
            sock.listen(BACKLOG)
        except OSError as error:
            if sock is not None:
                sock.close()
            if error.errno in NO_IPV6 and address != addresses[0][-1]:
                continue
            for sock in sockets:
                sock.close()
            where = f"port {port or address[1]} of {address[0]}"
            if error.errno == errno.EADDRINUSE:
                advice = "is in use: stop what uses it, or choose another --port"
            else:
                advice = f"can't be had ({error.strerror}): check --host and --port"
            raise CannotListen(f"{where} {advice}") from error
        sockets.append(sock)
        port = sock.getsockname()[1]
    return sockets


# --- Workers -----------------------------------------------------------------------------------


class Workers(task.ThreadedTaskDispatcher):
    """waitress's threads, as few of them awake as keep up: they share one interpreter's lock.

    A quick request is not given to them at all: it is left to the loop that read it, in `quick`. To
    hand it over, and its answer back, costs more than to answer it.
    """

    queue_logger = logging.Logger("waitress.queue", logging.ERROR)  # else a line for each wait

    def __init__(self, db: Database, count: int, is_quick: Callable[[str, str], bool]) -> None:
        super().__init__()
        self._db = db
        self._is_quick = is_quick
        self.quick: collections.deque[Channel] = collections.deque()
        self._first: Channel | None = None  # in the queue, when it was last looked at
        self._first_since = 0.0
        self._wanted = count
        self._lock = threading.Lock()
        self._running: set[threading.Thread] = set()
        self.set_thread_count(count)

    def add_task(self, channel: Channel) -> None:
        request = channel.requests[0]
        # With an answer still to be sent, the next might have to wait until it is.
        waits = request.error or channel.total_outbufs_len
        if not waits and self._is_quick(request.command, request.path):
            self.quick.append(channel)
            return
        with self.lock:
            self.queue.append(channel)
            if len(self.queue) == 1 and not self.active_count:
                self.queue_cv.notify()

    def look_after_queue(self) -> None:
        """Wake one more worker, if those awake have not come to the first for so long."""
        with self.lock:
            first = self.queue[0] if self.queue else None
            if first is not self._first:
                self._first, self._first_since = first, time.monotonic()
            elif first and time.monotonic() > self._first_since + PATIENCE:
                self._first = None  # the next look begins to wait anew
                self.queue_cv.notify()

    def start_new_thread(self, target: Callable[[int], None], thread_no: int) -> None:
        def work() -> None:
            try:
                target(thread_no)
            finally:
                self._db.close()  # this thread's connection
                self._running.discard(threading.current_thread())

        thread = threading.Thread(target=work, name=f"fense-admin-{thread_no}", daemon=True)
        self._running.add(thread)
        thread.start()

    @contextlib.contextmanager
    def spare(self) -> Iterator[None]:
        """For a worker that has nothing to do but wait: another one takes its place meanwhile."""
        self._change(+1)
        try:
            yield
        finally:
            self._change(-1)

    def _change(self, by: int) -> None:
        with self._lock:
            if self._wanted:
                self._wanted += by
                self.set_thread_count(self._wanted)

    def stop(self) -> None:
        """End them; one that is still at work is left behind after a second."""
        with self._lock:
            self._wanted = 0
        self.shutdown(timeout=1)
        for thread in list(self._running):
            thread.join(timeout=1)


# --- Connections -------------------------------------------------------------------------------

# waitress's own words may quote the request, a key in it too; these never do.
ERRORS = {
    400: "the request is not valid HTTP/1.1",
    413: "the body is over {body} bytes",
    431: "the request line and headers are over {header} bytes",
    501: "of the transfer codings only chunked is known here",
}


class ErrorTask(task.ErrorTask):
    """Answers, in the error shape, a request that waitress itself refuses. Must never raise."""

    def execute(self) -> None:
        status = self.request.error.code
        request_id = choose_request_id(self.request.headers.get("X_REQUEST_ID"))
        limits = {"header": MAX_HEADER, "body": self.channel.adj.max_request_body_size - 1}
        message = ERRORS.get(status, "a fault of this service").format(**limits)
        body = error_body(status, message)
        self.status = f"{status} {self.request.error.reason}"
        self.response_headers += [("Content-Type", "application/json"), *common_headers(request_id)]
        self.response_headers += self.channel.server.headers
        self.set_close_on_finish()
        self.content_length = len(body)
        self.channel.refused = True
        begin = self.request.header_plus or getattr(self.request, "first_line", b"")
        self.write(b"" if begin.startswith(b"HEAD ") else body)
        log.info("- - %d 0.0ms %s: %s", status, request_id, message)


class WSGITask(task.WSGITask):
    """Tells a client, once the server drains, that this connection has had its last answer."""

    def build_response_header(self) -> bytes:
        if self.channel.server.draining and not self.channel.has_sent_more():
            self.set_close_on_finish()
        return super().build_response_header()


class RequestParser(parser.HTTPRequestParser):
    """waitress's own, for which `GET http://[` is a crash and not a malformed request."""

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            raise parser.ParsingError("the target is no URI") from error


class Channel(channel.HTTPChannel):
    """A connection, which hears a client out that was refused in the middle of its request.

    Closing on a client that still sends would reset the connection, and its answer would be lost.
    """

    parser_class = RequestParser
    task_class = WSGITask
    error_task_class = ErrorTask
    refused = False
    lingers_until: float | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.waits_since = time.monotonic()  # for a whole request: each byte of it is not enough

    def send(self, data: bytes, do_close: bool = True) -> int:
        self.waits_since = time.monotonic()
        return super().send(data, do_close)

    def received(self, data: bytes) -> bool:
        if data[:1] == TLS_HANDSHAKE and not (self.request or self.requests):
            # Before a whole request nothing would answer it, and it would wait for one.
            log.info("closed a connection that began with TLS: the URL is http://, not https://")
            self.handle_close()
            return False
        return super().received(data)

    def has_sent_more(self) -> bool:
        """Whether the client has sent anything beyond the request that is being answered."""
        if len(self.requests) > 1 or self.request:
            return True
        with contextlib.suppress(OSError):
            return bool(self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        return False

    def handle_close(self) -> None:
        if self.refused and self.lingers_until is None:
            self.lingers_until = time.monotonic() + LINGER
            self.will_close = False
            with contextlib.suppress(OSError):  # it has gone
                self.socket.shutdown(socket.SHUT_WR)
        else:
            super().handle_close()

    def readable(self) -> bool:
        return self.lingers_until is not None or super().readable()

    def handle_read(self) -> None:
        if self.lingers_until is None:
            super().handle_read()
        elif self.recv(65536) and time.monotonic() > self.lingers_until:
            self.handle_close()


class Listener(TcpWSGIServer):
    channel_class = Channel
    draining = False
    headers: Iterable[tuple[str, str]] = ()


# --- The server --------------------------------------------------------------------------------


class Server:
    """An application served on sockets that listen already, until it is told to stop.

    Takes the sockets over, and keeps every thread's connection to `db` in order. `max_body` is in
    bytes; `headers` are those the application has on all its answers, for the answers that waitress
    gives without it; `before_drain` lets go of requests that wait for something; `is_quick` tells,
    of a method and a path, whether a request takes no longer than handing it to another thread.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        db: Database,
        sockets: list[socket.socket],
        threads: int,
        *,
        max_body: int = MAX_BODY,
        headers: Iterable[tuple[str, str]] = (),
        before_drain: Callable[[], None] = lambda: None,
        is_quick: Callable[[str, str], bool] = lambda method, path: False,
    ) -> None:
        self._map: dict[int, Any] = {}
        self._workers = Workers(db, threads, is_quick)
        db.while_waiting = self._workers.spare
        adjustments = Adjustments(
            sockets=sockets,
            threads=threads,
            ident=None,
            max_request_header_size=MAX_HEADER,
            max_request_body_size=max_body + 1,  # waitress refuses from there on
            connection_limit=CONNECTIONS,
            channel_timeout=10**9,  # never: by its clock, which may jump. `_close_late` is ours
            clear_untrusted_proxy_headers=False,  # nobody here looks at them
            log_socket_errors=False,
        )
        # The loop sends an answer once it is whole, the worker doesn't send it by halves: twice the
        # throughput. (As an argument it is deprecated, until waitress 4.)
        adjustments.send_bytes = 18000
        self._listeners = [
            Listener(
                app,
                self._map,
                _sock=sock,
                dispatcher=self._workers,
                adj=adjustments,
                sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
                bind_socket=False,
            )
            for sock in sockets
        ]
        for listener in self._listeners:
            listener.headers = headers
        self._before_drain = before_drain
        self.port: int = sockets[0].getsockname()[1]
        self._stopping = False
        self._looked_at = 0.0

    def run(self, drain: float = DRAIN) -> None:
        """Serve. Comes back once `stop` was called and what was sent before it is answered.

        `drain` is how many seconds that may take.
        """
        try:
            while not self._stopping:
                self._turn(timeout=1)
            self._drain(time.monotonic() + drain)
        finally:
            self._workers.stop()
            for it in self._channels():
                it.refused = False  # nobody is listened to any more
                it.handle_close()  # with the files that large answers are kept in
            wasyncore.close_all(self._map)

    def stop(self) -> None:
        """Make `run` come to its end. From any thread, or from a signal's handler."""
        self._stopping = True
        with contextlib.suppress(OSError):  # it has ended already
            self._listeners[0].pull_trigger()

    def stop_on_signals(self) -> None:
        """Stop on SIGTERM or SIGINT; a second one ends the process at once."""

        def stop(*_: object) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            self.stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)

    def _turn(self, timeout: float) -> None:
        workers = self._workers
        timeout = PATIENCE if workers.queue else timeout
        wasyncore.loop(timeout, use_poll=True, map=self._map, count=1)
        while workers.quick:
            workers.quick.popleft().service()
        workers.look_after_queue()
        self._close_late()

    def _close_late(self) -> None:
        """Once a second: close those that kept silent, or sent so slowly, for too long."""
        now = time.monotonic()
        if now < self._looked_at + 1:
            return
        self._looked_at = now
        for it in self._channels():
            if not it.requests and it.waits_since < now - IDLE_TIMEOUT:
                it.will_close = True

    def _drain(self, deadline: float) -> None:
        self._before_drain()
        for listener in self._listeners:
            listener.draining = True
            connections = -1
            while connections != (connections := len(self._map)):
                listener.handle_accept()  # until nobody waits to be let in
            wasyncore.dispatcher.close(listener)
        while self._channels() and time.monotonic() < deadline:
            idle = not self._is_busy()
            self._turn(timeout=0.05)  # a client that keeps asking is told that it was the last
            if idle and not self._is_busy():
                return

    def _channels(self) -> list[Channel]:
        return [it for it in self._map.values() if isinstance(it, Channel)]

    def _is_busy(self) -> bool:
        return any(it.requests or it.request or it.total_outbufs_len for it in self._channels())


# --- The log -----------------------------------------------------------------------------------


class LogFormatter(logging.Formatter):
    """One line each, which nothing in it can break; a traceback is indented, so it begins none."""

    converter = time.gmtime
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        return line if line.isprintable() else ascii(line)[1:-1]

    def formatException(self, exc_info: Any) -> str:
        return "\n".join("    " + line for line in super().formatException(exc_info).splitlines())


def log_to_stderr() -> None:
    """Send this process's log to standard error: ours whole, other libraries' warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log.setLevel(logging.INFO)
