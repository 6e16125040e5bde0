"""How waitress serves an application: addresses, limits, errors, stop, log. Knows no route."""

from __future__ import annotations

import collections
import contextlib
import copy
import errno
import ipaddress
import logging
import os
import re
import select
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from waitress import parser, task, wasyncore
from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer
from waitress.channel import ClientDisconnected
from waitress.server import TcpWSGIServer
from waitress.utilities import InternalServerError

from fense_admin import choose_request_id, common_headers, error_body
from fense_admin.models import Database

log = logging.getLogger("fense_admin")

MAX_HEADER = 16 * 1024  # bytes of request line and headers together
MAX_BODY = 128 * 1024  # bytes; up to here the application reads a body, and refuses it in its words
CONNECTIONS = 500  # open at the same time; for those beyond, one that is idle is closed
IDLE_TIMEOUT = 30  # seconds a connection has to bring a whole request, or to take some of an answer
MAX_CHUNK_LINE = 256  # bytes of the line before a chunk, with its extensions
RECEIVE = 16 * 1024  # bytes read at once
SEND, SENDS = 64 * 1024, 8  # bytes sent at once, and how often before others have their turn
PATIENCE = 0.005  # seconds a request waits for the worker at work before another one is woken
TLS_HANDSHAKE = b"\x16"  # its first byte, with which no request of HTTP begins
LINGER = 5  # seconds that a refused client's sending is listened to, and thrown away
DRAIN = 10  # seconds that a stop gives the requests that were sent before it
SD_LISTEN_FDS_START = 3  # the first descriptor that systemd hands over
BACKLOG = 1024  # connections that wait to be accepted
FIRST_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Z]+ [^ ]+(?: HTTP/[0-9]\.[0-9])?")
CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
HUNG_UP = getattr(select, "POLLRDHUP", None)  # Linux's
HOST = re.compile(r"[^\s,/?#@]*")  # two come joined by a comma
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

    def __init__(self, db: Database, count: int, is_quick: Callable[[str, str, str], bool]) -> None:
        super().__init__()
        self._db = db
        self._is_quick = is_quick
        self.quick: collections.deque[Channel] = collections.deque()
        self.answered: collections.deque[Channel] = collections.deque()  # by a worker
        self._first: Channel | None = None  # in the queue, when it was last looked at
        self._first_since = 0.0
        self._wanted = count
        self._lock = threading.Lock()
        self._running: set[threading.Thread] = set()
        self.set_thread_count(count)

    def add_task(self, channel: Channel) -> None:
        request = channel.at_work
        if request.error or self._is_quick(request.command, request.path, request.query):
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
        try:
            thread.start()
        except RuntimeError:
            self.threads.discard(thread_no)
            raise
        self._running.add(thread)

    @contextlib.contextmanager
    def spare(self) -> Iterator[None]:
        """For a worker that has nothing to do but wait: another one takes its place meanwhile."""
        try:
            self._change(+1)
        except RuntimeError:  # no more threads are to be had: there is none in its place
            self._change(-1)
            yield
            return
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
        deadline = time.monotonic() + 1
        with self._lock:
            self._wanted = 0
        self.shutdown(timeout=1)
        for thread in list(self._running):
            thread.join(timeout=max(0.0, deadline - time.monotonic()))


# --- Reading a request -------------------------------------------------------------------------


class RequestParser(parser.HTTPRequestParser):
    """waitress's own, as strict as RFC 9112, and bounded in what it keeps of a chunked body."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel.adj)
        self._server = channel.server
        self.is_head = False

    def parse_header(self, header_plus: bytes) -> None:
        # First what waitress's own patterns would take seconds to find wrong.
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
            limit = self._server.body_limit(self.path, headers)
            if limit is not None:
                self.adj = copy.copy(self.adj)
                self.adj.max_request_body_size = limit + 1

    def received(self, data: bytes) -> int:
        if self.body_rcv is None:  # told before it is parsed, as it may be that it can't be
            begin = self.header_plus[:9] + data[:9]
            self.is_head = begin.lstrip(b"\r\n").startswith(b"HEAD ")
        used = super().received(data)
        if self.chunked and not self.completed:
            # What has no end yet is copied anew at each read.
            receiver = self.body_rcv
            if len(receiver.control_line) > MAX_CHUNK_LINE or len(receiver.trailer) > MAX_HEADER:
                self.error = parser.BadRequest("a chunk's line or a trailer without end")
                self.completed = True
        return used

    def wants_continue(self) -> bool:
        """Whether the client waits to be told to send its body."""
        return self.expect_continue and self.headers_finished and not self.completed


# --- Answering it ------------------------------------------------------------------------------

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
        status, headers = self.request.error.code, self.request.headers
        request_id = self.channel.server.choose_id(
            headers.get("X_REQUEST_ID"), headers.get("X_API_KEY", "")
        )
        limits = {"header": MAX_HEADER, "body": self.request.adj.max_request_body_size - 1}
        message = ERRORS.get(status, "a fault of this service").format(**limits)
        body = error_body(status, message)
        self.status = f"{status} {self.request.error.reason}"
        self.response_headers += [("Content-Type", "application/json"), *common_headers(request_id)]
        self.response_headers += self.channel.server.headers
        self.set_close_on_finish()
        self.content_length = len(body)
        self.channel.refused = True
        self.write(b"" if self.request.is_head else body)
        log.info("- - %d 0.0ms %s: %s", status, request_id, message)


class WSGITask(task.WSGITask):
    """Takes paths to the byte, and tells a client when this connection has had its last answer."""

    def get_environment(self) -> dict[str, Any]:
        environ = super().get_environment()
        environ["PATH_INFO"] = self.request.path  # with all its slashes
        return environ

    def build_response_header(self) -> bytes:
        server = self.channel.server
        is_last = server.draining and not self.channel.has_sent_more()
        if is_last or server.is_full() or self.request.connection_close:
            self.set_close_on_finish()
        return super().build_response_header()


# --- Connections -------------------------------------------------------------------------------


class Channel(wasyncore.dispatcher):
    """A connection, on which there is one request at a time.

    It is read on only when the request before is answered and the answer sent. Until it is
    answered only the thread that does so, in `service`, touches the request and the answer; all
    else, and the socket at any time, belongs to the loop. So there is nothing to race for, and no
    worker waits for a client.
    """

    def __init__(
        self,
        server: Listener,
        sock: socket.socket,
        addr: tuple[Any, ...],
        adj: Adjustments,
        map: dict[int, Any],
    ) -> None:
        self.server, self.addr, self.adj = server, addr, adj
        self.reading: RequestParser | None = None
        self.unread = b""  # what came behind the request at work
        self.at_work: RequestParser | None = None
        self.answer = OverflowableBuffer(adj.outbuf_overflow)
        self.unsent = 0  # bytes of it
        self.is_last = False  # the answer; then the connection is closed
        self.refused = False  # in the middle of a request, so that the client may be sending still
        self.lingers_until: float | None = None
        # For a whole request, or for the client to take some of an answer: each byte of a request
        # is not enough.
        self.waits_since = time.monotonic()
        super().__init__(sock, map)
        self.connected = True

    def add_channel(self, map: dict[int, Any] | None = None) -> None:
        super().add_channel(map)
        self.server.channels.add(self)

    def del_channel(self, map: dict[int, Any] | None = None) -> None:
        super().del_channel(map)
        self.server.channels.discard(self)

    # In the loop's thread

    def readable(self) -> bool:
        if self.lingers_until is not None:
            return True
        return self.at_work is None and not self.unsent and not self.is_last

    def writable(self) -> bool:
        return self.at_work is None and self.unsent > 0

    def handle_read(self) -> None:
        try:
            data = self.recv(RECEIVE)  # it closes the connection that has come to its end
        except OSError:  # of a network that has gone, say
            self.abandon()
            return
        if not data:
            return
        if self.lingers_until is not None:
            if time.monotonic() > self.lingers_until:
                self.handle_close()
        elif data[:1] == TLS_HANDSHAKE and self.reading is None:
            # Before a whole request nothing would answer it, and it would wait for one.
            log.info("closed a connection that began with TLS: the URL is http://, not https://")
            self.handle_close()
        else:
            self.unread += data
            self.read_on()

    def read_on(self) -> None:
        """Take what was sent, up to the end of a request, and have that answered."""
        while self.unread and self.at_work is None:
            if self.reading is None:
                self.reading = RequestParser(self)
            used = self.reading.received(self.unread)
            self.unread = self.unread[used:]
            if self.reading.completed:
                request, self.reading = self.reading, None
                if not request.empty:
                    self.at_work = request
                    self.server.add_task(self)
        if self.reading and self.reading.wants_continue():
            self.reading.expect_continue = False
            self.write_soon(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.handle_write()

    def handle_write(self) -> None:
        """Send what the client takes, but not without end: others have their turn."""
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
            self.waits_since = time.monotonic()
        if self.connected and not self.unsent:
            if self.answer.buf is not None:  # a large one, whose memory would be kept
                self.answer.close()
                self.answer = OverflowableBuffer(self.adj.outbuf_overflow)
            if self.is_last:
                self.handle_close()
            elif self.reading is None:
                self.read_on()

    def answered(self) -> None:
        """Send the answer, which is whole."""
        self.at_work.close()
        self.at_work = None
        self.waits_since = time.monotonic()
        if self.connected:
            self.handle_write()
        else:  # it was closed meanwhile
            self._let_go()

    def handle_expt(self) -> None:
        self.abandon()  # HTTP has no urgent data

    def handle_close(self) -> None:
        if self.refused and self.lingers_until is None:
            # Closing on a client that still sends would reset the connection, and lose its answer.
            self.lingers_until = time.monotonic() + LINGER
            with contextlib.suppress(OSError):  # it has gone
                self.socket.shutdown(socket.SHUT_WR)
            return
        self.close()
        if self.at_work is None:
            self._let_go()

    def _let_go(self) -> None:
        """Close the files that what is large is kept in."""
        for held in (self.answer, self.reading):
            if held is not None:
                held.close()

    def abandon(self) -> None:
        """Close it, whatever the client may still send."""
        self.refused = False
        self.handle_close()

    def is_idle(self) -> bool:
        """Whether nothing but the client is waited for."""
        return self.at_work is None

    # In the thread that answers

    def service(self) -> None:
        """Answer the request at work, in a worker, and tell the loop."""
        try:
            self.respond()
        finally:
            self.server.task_dispatcher.answered.append(self)
            with contextlib.suppress(OSError):  # the server has stopped
                self.server.pull_trigger()

    def respond(self) -> None:
        """Answer the request at work."""
        request = self.at_work
        its_task = (ErrorTask if request.error else WSGITask)(self, request)
        try:
            its_task.service()
        except ClientDisconnected:
            its_task.close_on_finish = True
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
        self.answer.append(data)
        self.unsent += len(data)
        return len(data)

    def has_sent_more(self) -> bool:
        """Whether the client has sent anything beyond the request that is being answered."""
        return bool(self.unread or self._peek())

    def check_client_disconnected(self) -> bool:
        """Whether the client has gone: who asked, and hung up. (waitress names this.)"""
        if not self.connected or HUNG_UP is None:
            return not self.connected or self._peek() == b""
        poll = select.poll()
        poll.register(self.socket, HUNG_UP)  # whatever it sent before it went
        return bool(poll.poll(0))

    def _peek(self) -> bytes | None:
        """The next byte; b"" at the end of the connection, None where nothing has come yet."""
        try:
            return self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except (OSError, AttributeError):  # reset; closed by the loop
            return b""

    def cancel(self) -> None:
        """Called for a request that was still in the queue when the workers were ended."""


class Listener(TcpWSGIServer):
    """A listening socket; it lets no more clients in than `CONNECTIONS`."""

    channel_class = Channel
    draining = False
    headers: Iterable[tuple[str, str]] = ()
    channels: set[Channel]  # of all listeners
    body_limit: Callable[[str, dict[str, str]], int | None]
    choose_id: Callable[[str | None, str], str]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._trigger_lock = threading.RLock()  # a signal's handler may come in between
        self._has_ended = False
        super().__init__(*arguments, **options)

    def pull_trigger(self) -> None:
        with self._trigger_lock:
            if not self._has_ended:
                super().pull_trigger()

    def end(self) -> None:
        """Pull no trigger any more: its descriptor may be another file's by then."""
        with self._trigger_lock:
            self._has_ended = True

    def is_full(self) -> bool:
        return len(self.channels) >= CONNECTIONS

    def readable(self) -> bool:
        return self.accepting and not (self.is_full() and self._longest_idle() is None)

    def handle_accept(self) -> None:
        """Let a client in; when it is full, the one that has been idle longest gives way."""
        if self.is_full() and not self.draining and not self._make_room():
            return
        try:
            accepted = self.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._make_room()
            return
        if accepted is not None:
            self.channel_class(self, *accepted, self.adj, self._map)

    def _make_room(self) -> bool:
        idle = self._longest_idle()
        if idle is not None:
            idle.abandon()
        return idle is not None

    def _longest_idle(self) -> Channel | None:
        idle = [channel for channel in self.channels if channel.is_idle()]
        for channel in sorted(idle, key=lambda channel: channel.waits_since):
            if channel.unsent or not channel.has_sent_more():  # else it was not looked at yet
                return channel
        return None


# --- The server --------------------------------------------------------------------------------


class Server:
    """An application served on sockets that listen already, until it is told to stop.

    Takes the sockets over, and keeps every thread's connection to `db` in order. `headers` are
    those the application has on all its answers, for the answers that waitress gives without it.
    `is_quick` tells, of a method, a path and a query, whether a request takes no longer than
    handing it to another thread; `body_limit`, of a path and the headers (as X_API_KEY), how many
    bytes a body may have (None: `MAX_BODY`); `choose_id`, of the X-Request-Id and the key that were
    sent, a request's id. `before_drain` lets go of requests that wait for something.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        db: Database,
        sockets: list[socket.socket],
        threads: int,
        *,
        headers: Iterable[tuple[str, str]] = (),
        is_quick: Callable[[str, str, str], bool] = lambda method, path, query: False,
        body_limit: Callable[[str, dict[str, str]], int | None] = lambda path, headers: None,
        choose_id: Callable[[str | None, str], str] = lambda sent, key: choose_request_id(sent),
        before_drain: Callable[[], None] = lambda: None,
    ) -> None:
        self._map: dict[int, Any] = {}
        self._open: set[Channel] = set()
        self._workers = Workers(db, threads, is_quick)
        db.while_waiting = self._workers.spare
        adjustments = Adjustments(
            sockets=sockets,
            threads=threads,
            ident=None,
            max_request_header_size=MAX_HEADER,
            max_request_body_size=MAX_BODY + 1,  # waitress refuses from there on
            clear_untrusted_proxy_headers=False,  # nobody here looks at them
            log_socket_errors=False,
        )
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
            listener.channels = self._open
            listener.headers = headers
            listener.body_limit = body_limit
            listener.choose_id = choose_id
        self._before_drain = before_drain
        self.port: int = sockets[0].getsockname()[1]
        self._stopping = False
        self._looked_at = 0.0
        SERVERS.add(self)

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
                it.abandon()  # with the files that large answers are kept in
            for listener in self._listeners:
                listener.end()
            wasyncore.close_all(self._map)

    def stop(self) -> None:
        """Make `run` come to its end. From any thread, or from a signal's handler."""
        self._stopping = True
        with contextlib.suppress(OSError):  # it has ended already
            self._listeners[0].pull_trigger()

    def stop_on_signal(self, signum: int, _: object) -> None:
        """Stop, as a signal's handler; a second signal ends the process at once."""
        if self._stopping:
            if signum == signal.SIGHUP:  # of a terminal that closes two may come
                return
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            os._exit(128 + signum)  # the first process of a container outlives that
        self.stop()

    def close_inherited(self) -> None:
        """In a process forked off this one: hold no copy of its connections open."""
        for it in self._map.values():
            if isinstance(it.socket, socket.socket):
                it.socket.close()

    def _turn(self, timeout: float) -> None:
        workers = self._workers
        if workers.quick:
            timeout = 0
        elif workers.queue:
            timeout = PATIENCE
        wasyncore.loop(timeout, use_poll=True, map=self._map, count=1)
        while workers.answered:
            self._finish(workers.answered.popleft())
        quick = [workers.quick.popleft() for _ in range(len(workers.quick))]
        for it in quick:
            it.respond()
        for it in quick:  # together: who is woken by the first would take time from the others
            self._finish(it)
        workers.look_after_queue()
        self._close_late()

    def _finish(self, channel: Channel) -> None:
        try:
            channel.answered()
        except Exception:  # no room for the rest of what it sent, say
            log.exception("a fault of this service: it ends a connection")
            channel.abandon()

    def _close_late(self) -> None:
        """Once a second: close those that kept silent, or sent or read so slowly, for too long."""
        now = time.monotonic()
        if now < self._looked_at + 1:
            return
        self._looked_at = now
        for it in self._channels():
            if it.is_idle() and it.waits_since < now - IDLE_TIMEOUT:
                it.abandon()

    def _drain(self, deadline: float) -> None:
        self._before_drain()
        for listener in self._listeners:
            listener.draining = True
            connections = -1
            while connections != (connections := len(self._map)):
                listener.handle_accept()  # until nobody waits to be let in
            wasyncore.dispatcher.close(listener)
        while self._open and time.monotonic() < deadline:
            idle = not self._is_busy()
            self._turn(timeout=0.05)  # a client that keeps asking is told that it was the last
            if idle and not self._is_busy():
                return

    def _channels(self) -> list[Channel]:
        return list(self._open)

    def _is_busy(self) -> bool:
        return any(it.at_work or it.reading or it.unsent for it in self._open)


SERVERS: weakref.WeakSet[Server] = weakref.WeakSet()  # of this process


def _close_inherited() -> None:
    for server in SERVERS:
        server.close_inherited()


os.register_at_fork(after_in_child=_close_inherited)


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


class LogHandler(logging.Handler):
    """Writes to a descriptor that nobody may be reading: it loses lines then, and never waits."""

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
                told = f"{self._lost} lines of the log were lost: nobody read them"
                told = self.format(logging.makeLogRecord({"msg": told})) + "\n"
                if not self._write(told.encode()):
                    self._lost += 1
                    return
                self._lost = 0
            self._lost += not self._write(line)
        except Exception:
            self._lost += 1

    def _write(self, line: bytes) -> bool:
        """Write it if there is room; what poll calls writable takes so many bytes at once."""
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
