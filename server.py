"""How waitress serves an application: addresses, limits, errors, graceful shutdown, log.

Knows no route, and of the HTTP door only the error shape and a key of the environment.
"""

# --- What is relied on of waitress beyond its documentation, and what breaks if it moves ----------
#
# pyproject.toml bounds its version; tests/test_waitress.py runs the oldest and the newest allowed.
#
# wasyncore: loop, dispatcher, close_all   The loop and its connections: nothing starts.
# HTTPRequestParser: received,             A request and how far it is read: none is understood, or
#   parse_header, and its attributes       one that is ambiguous is let through.
#   adj.max_request_body_size, read        Large bodies for the master key: each is 413.
#     at each piece of a body
#   body_rcv.control_line, .trailer        The end of endless chunks: each chunked request fails.
# WSGITask, ErrorTask: execute, write,     Answers: none is sent, or the last one of a connection
#   set_close_on_finish,                   does not say that it is.
#   build_response_header, ...
# What they ask of a channel: write_soon,  Answers, and the faults that reset a connection, which is
#   check_client_disconnected; and of its  found by environ["waitress.client_disconnected"]: each
#   server: application, adj,              request is a 500.
#   server_name, effective_port
# OverflowableBuffer: append, get, skip,   Answers that wait for the client: none is sent. Where no
#   close, buf; its OSErrors               temporary file can be written: half of one, not 503.

from __future__ import annotations

import collections
import contextlib
import copy
import errno
import ipaddress
import logging
import mmap
import os
import re
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from waitress import parser, task, wasyncore
from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer
from waitress.channel import ClientDisconnected
from waitress.utilities import InternalServerError

from fense_admin.exchange import REASONS, RECEIVED, RESET, UNAVAILABLE, error_body, log_request
from fense_admin.realtime import monotonic

log = logging.getLogger("fense_admin")

ON_ITS_WAY = 0.25  # seconds that a stop waits for the first request of a new connection
MAX_CHUNK_LINE = 256  # bytes of the line before a chunk, with its extensions
RECEIVE = 16 * 1024  # bytes read at once
SEND, SENDS = 64 * 1024, 8  # bytes sent at once, and how often before others have their turn
WAKE_AFTER = 0.005  # seconds a request waits for busy workers before another one is woken
TLS_HANDSHAKE = b"\x16"  # its first byte, with which no request of HTTP begins
THREAD_MEMORY = 64 * 1024 * 1024  # bytes of address space that must be free to start another
LINGER = 5  # seconds that a refused client's sending is listened to, and thrown away
SD_LISTEN_FDS_START = 3  # the first descriptor that systemd hands over
BACKLOG = 1024  # connections that wait to be accepted
FIRST_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Z]+ [^ ]+(?: HTTP/[0-9]\.[0-9])?")
CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
POLLRDHUP = getattr(select, "POLLRDHUP", None)  # Linux's
HOST = re.compile(r"[^\s,/?#@]*")  # two come joined by a comma
NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # what localhost's ::1 may meet


# --- Addresses ---------------------------------------------------------------------------------


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
                advice = f"can't be had ({os.strerror(error.errno)}): check --host and --port"
            raise CannotListen(f"port {port} of {address[0]} {advice}") from error
    return sockets


# --- Workers -----------------------------------------------------------------------------------


class Workers:
    """The threads that answer requests. As few as keep up are awake, because they share the GIL.

    `at_end` is called in each thread when it ends.
    """

    def __init__(self, count: int, at_end: Callable[[], Any]) -> None:
        self._at_end = at_end
        self.queue: collections.deque[Channel] = collections.deque()
        self._first: Channel | None = None  # in the queue, when it was last looked at
        self._first_since = 0.0
        self._changed = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._wanted = self._running = self._awake = 0
        self._is_over = False
        self._change(count)

    def add(self, channel: Channel) -> None:
        """Queue a connection whose request is to be answered."""
        with self._changed:
            self.queue.append(channel)
            if len(self.queue) == 1 and not self._awake:
                self._changed.notify()

    def wake_another(self) -> None:
        """Wake one more worker if the first request in the queue has waited for too long."""
        with self._changed:
            first = self.queue[0] if self.queue else None
            if first is not self._first:
                self._first, self._first_since = first, monotonic()
            elif first and monotonic() > self._first_since + WAKE_AFTER:
                self._first = None  # the next look begins to wait again
                self._changed.notify()

    def _work(self) -> None:
        try:
            while (channel := self._next()) is not None:
                channel.service()
        finally:
            self._at_end()
            self._threads.discard(threading.current_thread())

    def _next(self) -> Channel | None:
        """The next in the queue, once there is one; None if this thread is to end."""
        with self._changed:
            self._awake -= 1
            while not self.queue and self._running <= self._wanted:
                self._changed.wait()
            if self._running > self._wanted:
                self._running -= 1
                return None
            self._awake += 1
            return self.queue.popleft()

    def _change(self, by: int) -> None:
        with self._changed:
            if self._is_over:
                return
            self._wanted += by
            while self._running < self._wanted:
                thread = threading.Thread(target=self._work, name="fense-admin", daemon=True)
                try:
                    # Python waits without end for a thread that runs out of memory as it starts.
                    mmap.mmap(-1, THREAD_MEMORY).close()
                    thread.start()
                except (OSError, RuntimeError):  # no more memory or threads for this process
                    if not self._running:
                        raise
                    break
                self._threads.add(thread)
                self._running += 1
                self._awake += 1
            self._changed.notify_all()

    @contextlib.contextmanager
    def spare(self) -> Iterator[None]:
        """A context for a worker that only waits: another thread takes its place meanwhile."""
        self._change(+1)
        try:
            yield
        finally:
            self._change(-1)

    def stop(self) -> None:
        """End them; one that is still busy is left behind after a second."""
        deadline = monotonic() + 1
        self._change(-self._wanted)
        self._is_over = True
        for thread in list(self._threads):
            thread.join(timeout=max(0.0, deadline - monotonic()))


# --- Reading a request -------------------------------------------------------------------------


class NoTemporaryFile(Exception):
    """A large request or answer can't be kept in a temporary file: it is answered with 503."""

    code, reason = UNAVAILABLE, REASONS[UNAVAILABLE]  # as waitress's own errors have them


class RequestParser(parser.HTTPRequestParser):
    """waitress's parser, as strict as RFC 9112, with a bound on chunk lines and trailers."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel.adj)
        self._application = channel.server.application
        self.is_head = False
        self.received_at = 0.0  # by the monotonic clock, once it is whole

    def parse_header(self, header_plus: bytes) -> None:
        # First what would take waitress's own patterns seconds.
        line, *lines = header_plus.split(b"\r\n")
        if not FIRST_LINE.fullmatch(line) or CONTROLS.search(header_plus):
            raise parser.ParsingError("no request line, or a control character")
        if any(line.startswith((b" ", b"\t")) for line in lines):
            raise parser.ParsingError("a header of several lines")
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # of `GET http://[`, say
            raise parser.ParsingError("the target is no URI") from error
        headers, host = self.headers, self.headers.get("HOST")
        codings = [
            line.partition(b":")[2].strip(b" \t").lower()
            for line in lines
            if line[:18].lower() == b"transfer-encoding:"
        ]
        if self.version not in ("1.0", "1.1", ""):
            raise parser.ParsingError("a version that is not spoken here")
        if "#" in self.request_uri:
            raise parser.ParsingError("a target has no fragment")
        if (host is None and self.version == "1.1") or not HOST.fullmatch(host or ""):
            raise parser.ParsingError("no Host, or two")
        if codings and (
            codings != [b"chunked"] or self.version != "1.1" or "CONTENT_LENGTH" in headers
        ):
            raise parser.ParsingError("a transfer coding twice, in HTTP/1.0, or beside a length")
        if "CONNECTION" in headers:
            options = headers["CONNECTION"].lower().split(",")
            self.connection_close |= "close" in [option.strip() for option in options]
        if self.body_rcv is not None:
            limit = self._application.body_limit(asked_environ(self))
            if limit is not None:
                self.adj = copy.copy(self.adj)
                self.adj.max_request_body_size = limit + 1

    def received(self, data: bytes) -> int:
        if self.body_rcv is None:  # before it is parsed, which may fail
            begin = self.header_plus[:9] + data[:9]
            self.is_head = begin.lstrip(b"\r\n").startswith(b"HEAD ")
        try:
            used = super().received(data)
        except OSError as error:
            self.error = NoTemporaryFile(str(error))  # without a traceback, which holds files
            self.completed = True
            return len(data)
        if self.chunked and not self.completed:
            # waitress copies these at each read: without a bound, that is quadratic.
            receiver = self.body_rcv
            if (
                len(receiver.control_line) > MAX_CHUNK_LINE
                or len(receiver.trailer) > self._application.limits.header
            ):
                self.error = parser.BadRequest("a chunk's line or a trailer without end")
                self.completed = True
        return used

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closing a file writes what a full disk did not take
            super().close()


def asked_environ(request: RequestParser) -> dict[str, str]:
    """Return what is known of a request so far, as the application reads it from an environ."""
    headers = {f"HTTP_{name}": value for name, value in request.headers.items()}
    return headers | {"PATH_INFO": getattr(request, "path", "")}


# --- Answering it ------------------------------------------------------------------------------

# waitress's own messages may quote the request, and a key in it; these don't.
ERRORS = {
    400: "the request is not valid HTTP/1.1",
    413: "the body is over {body} bytes",
    431: "the request line and headers are over {header} bytes",
    501: "of the transfer codings only chunked is known here",
    503: "a request or response this large needs a temporary file, which can't be written now",
}


class ErrorTask(task.ErrorTask):
    """Answers a request that is refused before or after the application, in the error shape.

    Must never raise.
    """

    def execute(self) -> None:
        request, app = self.request, self.channel.server.application
        status = request.error.code
        request_id = app.choose_id(asked_environ(request))
        limits = {"header": app.limits.header, "body": request.adj.max_request_body_size - 1}
        message = ERRORS.get(status, "a fault of this service").format(**limits)
        body = error_body(status, message)
        self.status = f"{status} {request.error.reason}"
        self.response_headers = [("Content-Type", "application/json")]
        self.response_headers += app.common_headers(request_id)
        if isinstance(request.error, NoTemporaryFile):
            self.response_headers.append(("Retry-After", "1"))
            advice = "make room in /tmp, or set TMPDIR"
            log.warning("no temporary file (%s): %s id=%s", request.error, advice, request_id)
        self.set_close_on_finish()
        self.content_length = len(body)
        self.channel.refused = True
        self.write(b"" if request.is_head else body)
        log_request("- -", status, 0, request_id, message)


class WSGITask(task.WSGITask):
    """Leaves the path as it was sent, and closes a connection after its last answer."""

    def get_environment(self) -> dict[str, Any]:
        environ = super().get_environment()
        environ["PATH_INFO"] = self.request.path  # with all its slashes
        environ[RECEIVED] = self.request.received_at
        environ[RESET] = self.channel.reset
        return environ

    def build_response_header(self) -> bytes:
        server = self.channel.server
        is_last = server.draining and not self.channel.has_sent_more()
        if is_last or server.is_full() or self.request.connection_close:
            self.set_close_on_finish()
        return super().build_response_header()


# --- Connections -------------------------------------------------------------------------------


class Channel(wasyncore.dispatcher):
    """A connection, with one request in flight at a time.

    The next request is read once the answer before it was sent. While a request is in flight, the
    thread that runs `service` owns the request and the answer. All else, and the socket at any
    time, belongs to the loop's thread. So there are no races, and no worker waits for a client.
    """

    def __init__(self, server: Server, sock: socket.socket, addr: tuple[Any, ...]) -> None:
        self.server, self.addr, self.adj = server, addr, server.adj
        self.is_new = True  # nothing has come yet
        self.read_at = 0.0  # by the monotonic clock: when something came last
        self.reading: RequestParser | None = None
        self.unread = b""  # what came behind the request in flight
        self.in_flight: RequestParser | None = None
        self.answer = OverflowableBuffer(self.adj.outbuf_overflow)
        self.unsent = 0  # bytes of it
        self.is_last = False  # the answer; then the connection is closed
        self.refused = False  # before the end of a request: the client may still be sending
        self.lingers_until: float | None = None
        # Since then it waits for a whole request, or for the client to take some of the answer. A
        # request that comes byte by byte does not count.
        self.idle_since = monotonic()
        super().__init__(sock, server.map)
        self.connected = True
        server.channels.add(self)

    def del_channel(self, map: dict[int, Any] | None = None) -> None:
        super().del_channel(map)
        self.server.channels.discard(self)

    # In the loop's thread

    def readable(self) -> bool:
        if self.lingers_until is not None:
            return True
        return self.in_flight is None and not self.unsent and not self.is_last

    def writable(self) -> bool:
        return self.in_flight is None and self.unsent > 0

    def handle_read(self) -> None:
        try:
            data = self.recv(RECEIVE)  # it closes the connection that has come to its end
        except OSError:  # of a network that has gone, say
            self.abandon()
            return
        if not data:
            return
        self.is_new = False
        self.read_at = monotonic()
        if self.lingers_until is not None:
            if monotonic() > self.lingers_until:
                self.handle_close()
        elif data[:1] == TLS_HANDSHAKE and self.reading is None:
            # Else it would wait for the end of a request, and get no answer.
            log.info("closed a connection that began with TLS: the URL is http://, not https://")
            self.handle_close()
        else:
            self.unread += data
            self.read_on()

    def read_on(self) -> None:
        """Parse what was sent, up to the end of a request, and have that answered."""
        while self.unread and self.in_flight is None:
            if self.reading is None:
                self.reading = RequestParser(self)
            used = self.reading.received(self.unread)
            self.unread = self.unread[used:]
            if self.reading.completed:
                request, self.reading = self.reading, None
                if not request.empty:
                    request.received_at = self.read_at
                    self.in_flight = request
                    self.server.dispatch(self)
        if self.reading and self.reading.headers_finished and self.reading.expect_continue:
            self.reading.expect_continue = False
            self.write_soon(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.handle_write()

    def handle_write(self) -> None:
        """Send what the client takes, up to a bound: other connections have their turn."""
        for _ in range(SENDS):
            try:
                sent = self.send(self.answer.get(SEND)) if self.unsent else 0
            except OSError:
                self.abandon()
                return
            if not sent:
                break
            self.answer.skip(sent, True)
            self.unsent -= sent
            self.idle_since = monotonic()
        if self.connected and not self.unsent:
            if self.answer.buf is not None:  # a large one, whose memory would be kept
                self._drop_answer()
            if self.is_last:
                self.handle_close()
            elif self.reading is None:
                self.read_on()

    def reset(self) -> None:
        """Make the end of this connection a reset."""
        if self.socket is not None:  # else it has been closed
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def answered(self) -> None:
        """Send the answer, which is whole."""
        self.in_flight.close()
        self.in_flight = None
        self.idle_since = monotonic()
        if self.connected:
            self.handle_write()
        else:  # it was closed meanwhile
            self._close_files()

    def handle_expt(self) -> None:
        self.abandon()  # HTTP has no urgent data

    def handle_close(self) -> None:
        if self.refused and self.lingers_until is None:
            # Closing on a client that still sends would reset the connection, and lose its answer.
            self.lingers_until = monotonic() + LINGER
            with contextlib.suppress(OSError):  # it has gone
                self.socket.shutdown(socket.SHUT_WR)
            return
        self.close()
        if self.in_flight is None:
            self._close_files()

    def _close_files(self) -> None:
        """Close the temporary files of a large request or answer."""
        self._drop_answer()
        if self.reading is not None:
            self.reading.close()

    def _drop_answer(self) -> None:
        """Forget the answer, and close its temporary file."""
        with contextlib.suppress(OSError):  # closing a file writes what a full disk did not take
            self.answer.close()
        self.answer, self.unsent = OverflowableBuffer(self.adj.outbuf_overflow), 0

    def abandon(self) -> None:
        """Close it, whatever the client may still send."""
        self.refused = False
        self.handle_close()

    # In the thread that answers

    def service(self) -> None:
        """Answer the request in flight, in a worker, and wake the loop."""
        try:
            self.respond()
        finally:
            self.server.answered.append(self)
            self.server.waker.wake()

    def respond(self) -> None:
        """Answer the request in flight."""
        request = self.in_flight
        its_task = (ErrorTask if request.error else WSGITask)(self, request)
        try:
            its_task.service()
        except ClientDisconnected:
            its_task.close_on_finish = True
        except NoTemporaryFile as error:
            self._drop_answer()  # none of which was sent
            request.error = NoTemporaryFile(str(error))  # without a traceback
            sent = dict(its_task.response_headers)
            request.headers["X_REQUEST_ID"] = sent.get("X-Request-Id", "")  # which was logged
            its_task = ErrorTask(self, request)
            its_task.service()
        except Exception:
            log.exception("a fault while answering")
            if not its_task.wrote_header:
                request.error = InternalServerError("")
                with contextlib.suppress(Exception):
                    ErrorTask(self, request).service()
            its_task.close_on_finish = True
        self.is_last = its_task.close_on_finish

    def write_soon(self, data: bytes) -> int:
        if not self.connected:  # any more: the server has stopped
            raise ClientDisconnected
        try:
            self.answer.append(data)
        except OSError as error:
            raise NoTemporaryFile(str(error)) from error
        self.unsent += len(data)
        return len(data)

    def has_sent_more(self) -> bool:
        """Whether the client has sent anything beyond the request that is being answered."""
        return bool(self.unread or self._peek())

    def check_client_disconnected(self) -> bool:
        """Whether the client has closed the connection. (The name is waitress's.)"""
        if not self.connected or POLLRDHUP is None:
            return not self.connected or self._peek() == b""
        poll = select.poll()
        poll.register(self.socket, POLLRDHUP)  # whatever it sent before it went
        return bool(poll.poll(0))

    def _peek(self) -> bytes | None:
        """The next byte; b"" at the end of the connection, None where nothing has come yet."""
        try:
            return self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except (OSError, AttributeError):  # reset; closed by the loop
            return b""


class Listener(wasyncore.dispatcher):
    """A listening socket. It accepts no more than `Limits.connections` at the same time."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        super().__init__(sock, server.map)
        self.accepting = True
        self.server = server

    def readable(self) -> bool:
        return not self.server.is_full() or self.server.longest_idle() is not None

    def writable(self) -> bool:
        return False

    def handle_accept(self) -> None:
        """Accept a connection; at the limit, close the one that has been idle longest."""
        server = self.server
        if server.is_full() and not server.draining and not server.make_room():
            return
        try:
            accepted = self.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                server.make_room()
            return
        if accepted is not None:
            Channel(server, *accepted)


class Waker(wasyncore.dispatcher):
    """Wakes the loop, from any thread or signal handler, even after the loop has ended."""

    def __init__(self, map: dict[int, Any]) -> None:
        receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        super().__init__(receiver, map)

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # closed; or full, so that the loop wakes anyway
            self._sender.send(b"x")

    def handle_read(self) -> None:
        self.recv(RECEIVE)

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        super().close()
        self._sender.close()


# --- The server --------------------------------------------------------------------------------


class Server:
    """An application served on listening sockets, until `stop`.

    Takes the sockets over, and keeps every thread's connection to the application's `db` in order.
    `application` is a `fense_admin.Application`, or what answers the same questions.
    """

    def __init__(self, application: Any, sockets: list[socket.socket], threads: int) -> None:
        self.application = application
        self.limits = application.limits
        self.port: int = sockets[0].getsockname()[1]
        self.draining = False
        self.map: dict[int, Any] = {}  # of the loop: descriptors and what handles them
        self.channels: set[Channel] = set()
        self.answered: collections.deque[Channel] = collections.deque()  # by a worker
        self._inline: collections.deque[Channel] = collections.deque()
        self._stopping = False
        self._looked_at = 0.0
        # What waitress's tasks look up here.
        self.adj = Adjustments(
            sockets=sockets,
            ident=None,
            max_request_header_size=self.limits.header,
            max_request_body_size=self.limits.read_body + 1,  # waitress refuses from there on
            log_socket_errors=False,
        )
        self.server_name, self.effective_port = self.adj.server_name, self.port
        self.waker = Waker(self.map)
        self._workers = Workers(threads, application.end_thread)
        application.use_spare(self._workers.spare)
        self._listeners = [Listener(self, sock) for sock in sockets]
        SERVERS.add(self)

    def run(self, drain: float) -> None:
        """Serve. Returns once `stop` was called and what was sent before it is answered.

        `drain` is how many seconds that may take.
        """
        try:
            while not self._stopping:
                self._turn(timeout=1)
            self._drain(monotonic() + drain)
        finally:
            self._workers.stop()
            for channel in list(self.channels):
                channel.abandon()  # with the files that large answers are kept in
            wasyncore.close_all(self.map)

    def stop(self) -> None:
        """Make `run` return. May be called from any thread, and from a signal handler."""
        self._stopping = True
        self.waker.wake()

    def stop_on_signal(self, signum: int, _: object) -> None:
        """The signal handler that stops it; a second signal ends the process at once."""
        if self._stopping:
            if signum == signal.SIGHUP:  # a terminal that closes may send two
                return
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            os._exit(128 + signum)  # the kernel spares PID 1 of a container the signal
        self.stop()

    # Requests

    def dispatch(self, channel: Channel) -> None:
        """Have its request answered: by a worker, or inline, in the loop's own thread.

        To hand a request to a worker and its answer back costs more than a quick answer does.
        """
        request, app = channel.in_flight, self.application
        if request.error:
            is_quick = not app.may_wait  # which is asked whether the id is a key
        else:
            is_quick = app.runs_inline(request.command, request.path, request.query)
        if is_quick:
            self._inline.append(channel)
        else:
            self._workers.add(channel)

    def _turn(self, timeout: float) -> None:
        if self._inline:
            timeout = 0
        elif self._workers.queue:
            timeout = WAKE_AFTER
        wasyncore.loop(timeout, use_poll=True, map=self.map, count=1)
        while self.answered:
            self._finish(self.answered.popleft())
        inline = [self._inline.popleft() for _ in range(len(self._inline))]
        for channel in inline:
            channel.respond()
        # All sent together: a client that is woken by the first takes time from the others.
        for channel in inline:
            self._finish(channel)
        self._workers.wake_another()
        self._close_stalled()

    def _finish(self, channel: Channel) -> None:
        try:
            channel.answered()
        except Exception:
            log.exception("a fault of this service: it ends a connection")
            channel.abandon()

    # Connections

    def is_full(self) -> bool:
        return len(self.channels) >= self.limits.connections

    def make_room(self) -> bool:
        """Close the connection that has been idle longest. Returns whether there was one."""
        idle = self.longest_idle()
        if idle is not None:
            idle.abandon()
        return idle is not None

    def longest_idle(self) -> Channel | None:
        idle = [channel for channel in self.channels if channel.in_flight is None]
        for channel in sorted(idle, key=lambda channel: channel.idle_since):
            if channel.unsent or not channel.has_sent_more():  # else it was not looked at yet
                return channel
        return None

    def _close_stalled(self) -> None:
        """Once a second: close each connection that was idle, or too slow, for `Limits.idle`."""
        now = monotonic()
        if now < self._looked_at + 1:
            return
        self._looked_at = now
        for channel in list(self.channels):
            if channel.in_flight is None and channel.idle_since < now - self.limits.idle:
                channel.abandon()

    def _drain(self, deadline: float) -> None:
        """Graceful shutdown: accept no more connections, answer the in-flight requests."""
        self.application.release_waiting()
        self.draining = True
        for listener in self._listeners:
            connections = -1
            while connections != (connections := len(self.map)):
                listener.handle_accept()  # those that wait in the socket's queue
            listener.close()
        while self.channels and monotonic() < deadline:
            idle = not self._is_busy()
            self._turn(timeout=0.05)  # each answer now says `Connection: close`
            if idle and not self._is_busy():
                return

    def _is_busy(self) -> bool:
        new = monotonic() - ON_ITS_WAY
        return any(
            it.in_flight or it.reading or it.unsent or (it.is_new and it.idle_since > new)
            for it in self.channels
        )


SERVERS: weakref.WeakSet[Server] = weakref.WeakSet()  # of this process


def _close_inherited() -> None:
    """In a forked process: close its copies of the parent's connections."""
    for server in SERVERS:
        for handler in server.map.values():
            handler.socket.close()


os.register_at_fork(after_in_child=_close_inherited)


# --- The log -----------------------------------------------------------------------------------


class LogFormatter(logging.Formatter):
    """One line for each record, whatever is in it. A traceback's lines are indented below it."""

    converter = time.gmtime
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        return line if line.isprintable() else ascii(line)[1:-1]

    def formatException(self, exc_info: Any) -> str:
        try:
            text = super().formatException(exc_info)
        except Exception:  # the source is in a zip file that an update has replaced
            codes = [(frame.f_code, line) for frame, line in traceback.walk_tb(exc_info[2])]
            places = [f"{code.co_filename}:{line} {code.co_name}" for code, line in codes]
            text = "\n".join([*places, f"{exc_info[0].__name__}: {exc_info[1]}"])
        return "\n".join("    " + line for line in text.splitlines())


class LogHandler(logging.Handler):
    """Writes to a descriptor, and never waits: when nobody reads it, lines are lost."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._lost = 0
        self._is_cut = False  # the last line, which was long

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            line = b"\n" * self._is_cut + line
            if self._lost:
                loss = f"{self._lost} lines of the log were lost: nobody read them"
                loss = self.format(logging.makeLogRecord({"msg": loss})) + "\n"
                if not self._write(loss.encode()):
                    self._lost += 1
                    return
                self._lost = 0
            self._lost += not self._write(line)
        except Exception:
            self._lost += 1

    def _write(self, line: bytes) -> bool:
        """Write it if there is room: a writable pipe takes PIPE_BUF bytes without waiting."""
        for start in range(0, len(line), select.PIPE_BUF):
            if not self._poll.poll(0):
                return False
            os.write(self._descriptor, line[start : start + select.PIPE_BUF])
            self._is_cut = start + select.PIPE_BUF < len(line)
        return True


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send this process's log to standard error: ours from `level` on, others' warnings."""
    handler = LogHandler(sys.stderr.fileno()) if sys.stderr else logging.NullHandler()
    handler.setFormatter(LogFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log.setLevel(level)
