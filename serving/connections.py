"""Connections, and the responses to the requests on them."""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import socket
import struct
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from fense_admin import systems
from fense_admin.exchange import HOP_BY_HOP, RECEIVED, RESET, error_body, log, log_request
from fense_admin.realtime import monotonic
from fense_admin.serving import internals
from fense_admin.serving.application import Application
from fense_admin.serving.internals import ClientDisconnected, Dispatcher
from fense_admin.serving.outgoing import Outgoing
from fense_admin.serving.parser import NoTemporaryFile, RequestParser, asked_environ

RECEIVE = 16 * 1024  # maximum bytes of one read
SEND, SENDS = 64 * 1024, 8  # maximum bytes of one send, and sends before others have their turn
TLS_HANDSHAKE = b"\x16"  # first byte of a TLS handshake; never the start of an HTTP request
LINGER = 5  # seconds to drain input from a rejected client before closing
ON_ITS_WAY = 0.25  # seconds that a new connection may take to send its first request
MAKE_ROOM = "make room for temporary files, or set TMPDIR"


# --- Responding --------------------------------------------------------------------------------

HEADER_TOO_LARGE = 431
# waitress's own messages may quote the request, including a key; these don't.
ERRORS = {
    400: "the request is not valid HTTP/1.1",
    413: "the body exceeds the maximum of {body} bytes",
    HEADER_TOO_LARGE: "the request line and headers exceed the maximum of {header} bytes",
    501: "chunked is the only supported transfer coding",
    503: "a request or response this large needs a temporary file, which can't be written now",
}


class ErrorTask(internals.ErrorTask):
    """Sends an error response when the server itself rejects a request. Must never raise."""

    channel: Channel
    request: RequestParser

    def execute(self) -> None:
        request, app = self.request, self.channel.server.application
        status = request.error.code
        request_id = app.choose_id(asked_environ(request))
        limits = {"header": app.limits.header, "body": request.adj.max_request_body_size - 1}
        message = ERRORS.get(status, "internal error").format(**limits)
        body = error_body(status, message)
        self.status = f"{status} {request.error.reason}"
        self.response_headers = [("Content-Type", "application/json")]
        self.response_headers += app.common_headers(request_id)
        if isinstance(request.error, NoTemporaryFile):
            self.response_headers.append(("Retry-After", "1"))
            log.warning("no temporary file (%s): %s id=%s", request.error, MAKE_ROOM, request_id)
        self.set_close_on_finish()
        self.content_length = len(body)
        self.channel.rejected = True
        self.write(b"" if request.is_head else body)
        log_request("- -", status, 0, request_id, message)


@functools.lru_cache
def capitalized(name: str) -> str:
    return "-".join(word.capitalize() for word in name.split("-"))


http_date = functools.lru_cache(maxsize=1)(internals.build_http_date)


class WSGITask(internals.WSGITask):
    """Keeps the path as it was sent, and closes a connection after its last response.

    A response of unknown length is a stream: it is sent while the application produces it.
    """

    channel: Channel
    request: RequestParser
    close_on_finish: bool
    chunked_response: bool

    def get_environment(self) -> dict[str, Any]:
        self.hop_by_hop: list[tuple[str, str]] = []
        environ: dict[str, Any] = super().get_environment()
        environ["PATH_INFO"] = self.request.path  # with all its slashes
        environ[RECEIVED] = self.request.received_at
        environ[RESET] = self.channel.reset
        environ[HOP_BY_HOP] = self.hop_by_hop
        return environ

    def build_response_header(self) -> bytes:
        server, is_current, has_body = self.channel.server, self.version == "1.1", self.has_body
        is_stream = has_body and self.content_length is None
        if (
            self.request.connection_close
            or server.is_full()
            or (server.draining and not self.channel.has_sent_more())
            or (is_stream and not is_current)
            or not has_body
        ):
            self.close_on_finish = True
        headers = [pair for pair in self.response_headers if pair[0] != "Content-Length"]
        headers += self.hop_by_hop
        headers.append(("Date", http_date(int(self.start_time))))
        if self.close_on_finish or not is_current:
            headers.append(("Connection", "close" if self.close_on_finish else "Keep-Alive"))
        if has_body and not is_stream:
            headers.append(("Content-Length", str(self.content_length)))
        elif has_body and is_current:
            headers.append(("Transfer-Encoding", "chunked"))
            self.chunked_response = not self.request.is_head
        named = sorted([(capitalized(name), value) for name, value in headers], key=itemgetter(0))
        lines = [
            f"HTTP/{self.version} {self.status}",
            *[f"{name}: {value}" for name, value in named],
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def write(self, data: bytes) -> None:
        super().write(data)
        if data and self.content_length is None:
            self.channel.streams = True
            self.channel.server.waker.wake()


# --- One connection ----------------------------------------------------------------------------


class Channel(Dispatcher):
    """A connection, with one request in flight at a time.

    The next request is read after the previous response was sent. While a request is in flight, the
    thread that runs `service` owns the request and adds to `outgoing`. Everything else, and always
    the socket, belongs to the loop's thread. So no worker ever waits for a client.
    """

    def __init__(self, server: Connections, sock: socket.socket, addr: tuple[Any, ...]) -> None:
        self.server, self.addr, self.adj = server, addr, server.adj
        self.read_at = 0.0  # monotonic time of the last read; 0 if there was none
        self.reading: RequestParser | None = None
        self.unread = b""  # data received after the request in flight
        self.in_flight: RequestParser | None = None
        self.outgoing = Outgoing()
        self.streams = False  # whether the response in flight is sent while it is produced
        self.is_last = False  # whether to close the connection after this response
        self.rejected = False  # a request, before its end: the client may still be sending
        self.lingers_until: float | None = None
        # Since when it waits for a whole request, or for the client to take a part of the response.
        # Receiving single bytes doesn't reset it.
        self.idle_since = monotonic()
        super().__init__(sock, server.map)
        self.connected = True
        server.channels.add(self)

    def del_channel(self, map: dict[int, Any] | None = None) -> None:
        super().del_channel(map)
        self.server.channels.discard(self)

    # In the loop's thread

    def is_new(self) -> bool:
        """Return whether its first request may still arrive."""
        return not self.read_at and self.idle_since > monotonic() - ON_ITS_WAY

    def readable(self) -> bool:
        if self.lingers_until is not None:
            return True
        return self.in_flight is None and not self.outgoing and not self.is_last

    def writable(self) -> bool:
        return bool(self.outgoing) and (self.in_flight is None or self.streams)

    def handle_read(self) -> None:
        try:
            data = self.recv(RECEIVE)  # closes the connection at its end
        except OSError:  # for example, the network is down
            self.abandon()
            return
        if not data:
            return
        self.read_at = monotonic()
        if self.lingers_until is not None:
            if monotonic() > self.lingers_until:
                self.handle_close()
        elif data[:1] == TLS_HANDSHAKE and self.reading is None:
            # Otherwise it would wait for the end of a request, without a response.
            log.info("closed a connection that began with TLS: the URL is http://, not https://")
            self.handle_close()
        else:
            self.unread += data
            self.read_on()

    def read_on(self) -> None:
        """Parse what was received, up to the end of a request, and dispatch the request."""
        while self.unread and self.in_flight is None:
            if self.reading is None:
                self.reading = RequestParser(self.server.application, self.adj)
            used = self.reading.received(self.unread)
            self.unread = self.unread[used:]
            if self.reading.completed:
                request, self.reading = self.reading, None
                if not request.empty:
                    request.received_at = self.read_at
                    self.in_flight = request
                    self.server.dispatch(self, request)
        if self.reading and self.reading.headers_finished and self.reading.expect_continue:
            self.reading.expect_continue = False
            self.write_soon(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.handle_write()

    def handle_write(self) -> None:
        """Send what the client takes, up to a limit, so that other connections have their turn."""
        for _ in range(SENDS):
            try:
                sent = self.send(self.outgoing.first(SEND)) if self.outgoing else 0
            except OSError:
                self.abandon()
                return
            if not sent:
                break
            self.outgoing.drop(sent)
            self.idle_since = monotonic()
        if self.connected and not self.outgoing:
            if self.is_last:
                self.handle_close()
            elif self.reading is None:
                self.read_on()

    def reset(self) -> None:
        """Make closing this connection a TCP reset."""
        with contextlib.suppress(OSError):  # the loop has closed it
            linger = struct.pack(systems.LINGER_FORMAT, 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def finish_request(self) -> None:
        """Send the complete response."""
        if self.in_flight is not None:
            self.in_flight.close()
        self.in_flight, self.streams = None, False
        self.idle_since = monotonic()
        if self.connected:
            self.handle_write()
        else:  # it has been closed
            self._close_files()

    def handle_expt(self) -> None:
        self.abandon()  # HTTP has no urgent data

    def handle_close(self) -> None:
        if self.rejected and self.lingers_until is None:
            # Closing while the client still sends would reset the connection and lose the response.
            self.lingers_until = monotonic() + LINGER
            with contextlib.suppress(OSError):  # it is disconnected
                self.socket.shutdown(socket.SHUT_WR)
            return
        self.close()
        if self.in_flight is None:
            self._close_files()

    def _close_files(self) -> None:
        """Close the temporary files of a large request or response."""
        self.outgoing.clear()
        if self.reading is not None:
            self.reading.close()

    def abandon(self) -> None:
        """Close it, without waiting for what the client still sends."""
        self.rejected = False
        self.handle_close()

    # In the thread that responds

    def service(self, request: RequestParser) -> None:
        """Respond to the request in flight, in a worker, and wake the loop."""
        try:
            self.respond(request)
        finally:
            self.server.finished.append(self)
            self.server.waker.wake()

    def respond(self, request: RequestParser) -> None:
        """Respond to the request in flight."""
        its_task = (ErrorTask if request.error else WSGITask)(self, request)
        try:
            its_task.service()
        except ClientDisconnected:
            its_task.close_on_finish = True
        except NoTemporaryFile as error:
            if self.streams:
                log.warning("a response was cut off: no temporary file (%s): %s", error, MAKE_ROOM)
                self.reset()
                its_task.close_on_finish = True
            else:
                self.outgoing.clear()  # nothing was sent yet
                request.error = NoTemporaryFile(str(error))  # without a traceback
                sent = dict(its_task.response_headers)
                request.headers["X_REQUEST_ID"] = sent.get("X-Request-Id", "")  # the logged one
                its_task = ErrorTask(self, request)
                its_task.service()
        except Exception:
            log.exception("internal error while responding")
            if not its_task.wrote_header:
                request.error = internals.InternalServerError("")
                with contextlib.suppress(Exception):
                    ErrorTask(self, request).service()
            its_task.close_on_finish = True
        self.is_last = its_task.close_on_finish

    def write_soon(self, data: bytes) -> int:
        if not self.connected:  # the server has stopped
            raise ClientDisconnected
        try:
            self.outgoing.add(data)
        except OSError as error:
            raise NoTemporaryFile(str(error)) from error
        return len(data)

    def has_sent_more(self) -> bool:
        """Return whether the client has sent anything after the request in flight."""
        return bool(self.unread or systems.peek(self.socket))

    def check_client_disconnected(self) -> bool:
        """Return whether the client has closed the connection. (waitress requires this name.)"""
        return not self.connected or systems.has_gone(self.socket)


# --- All of them -------------------------------------------------------------------------------


class Listener(Dispatcher):
    """A listening socket. It accepts a connection if there are less than the maximum."""

    def __init__(self, server: Connections, sock: socket.socket) -> None:
        super().__init__(sock, server.map)
        self.accepting = True
        self.server = server

    def readable(self) -> bool:
        return not self.server.is_full() or self.server.longest_idle() is not None

    def writable(self) -> bool:
        return False

    def handle_accept(self) -> None:
        self.server.ready.append(self)

    def accept_one(self) -> bool:
        """Accept a waiting connection, if any; at the limit, close the longest idle one first."""
        server = self.server
        if server.is_full() and not server.close_longest_idle():
            return False
        try:
            accepted = self.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return server.close_longest_idle()
            return False
        if accepted is not None and accepted[0].fileno() >= systems.MAX_DESCRIPTORS:
            accepted[0].close()
            return server.close_longest_idle()
        if accepted is not None:
            Channel(server, *accepted)
        return accepted is not None


class Waker(Dispatcher):
    """Wakes the loop. Any thread or signal handler may use it, even after the loop has ended."""

    def __init__(self, map: dict[int, Any]) -> None:
        receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        super().__init__(receiver, map)

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # closed; or full, and then the loop wakes anyway
            self._sender.send(b"x")

    def handle_read(self) -> None:
        self.recv(RECEIVE)

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        super().close()
        self._sender.close()


class Connections:
    """The listening sockets and the open connections: at most `Limits.connections`.

    waitress's tasks take it for their server. `dispatch` starts the response to a connection's
    request in flight; when it is complete, the connection is in `finished`.
    """

    def __init__(
        self,
        application: Application,
        sockets: list[socket.socket],
        dispatch: Callable[[Channel, RequestParser], None],
    ) -> None:
        self.application, self.dispatch, self.limits = application, dispatch, application.limits
        self.draining = False
        self.map: dict[int, Any] = {}  # of the loop, by descriptor
        self.channels: set[Channel] = set()
        self.ready: list[Listener] = []  # with a waiting connection
        self.finished: collections.deque[Channel] = collections.deque()  # with a complete response
        self._looked_at = 0.0
        # Attributes that waitress's tasks use.
        self.adj = internals.Adjustments(
            sockets=sockets,
            ident=None,
            max_request_header_size=self.limits.header,
            max_request_body_size=self.limits.read_body + 1,  # waitress rejects from this size on
            log_socket_errors=False,
        )
        self.server_name, self.effective_port = self.adj.server_name, sockets[0].getsockname()[1]
        self.waker = Waker(self.map)
        self._listeners = [Listener(self, sock) for sock in sockets]

    def is_full(self) -> bool:
        """Return whether the maximum of connections is reached; during a stop, the system's."""
        most = systems.MAX_CONNECTIONS if self.draining else self.limits.connections
        return len(self.channels) >= most

    def close_longest_idle(self) -> bool:
        """Close the connection that has been idle longest. Return whether there was one."""
        idle = self.longest_idle()
        if idle is not None:
            idle.abandon()
        return idle is not None

    def longest_idle(self) -> Channel | None:
        idle = [it for it in self.channels if it.in_flight is None and not it.is_new()]
        for channel in sorted(idle, key=lambda channel: channel.idle_since):
            # Skip one that has sent a request which wasn't read yet.
            if channel.outgoing or not channel.has_sent_more():
                return channel
        return None

    def accept(self) -> None:
        """Accept a connection at each listener that has one.

        Called after all events of a turn: a new connection may reuse the descriptor of one that was
        closed, and would receive its events.
        """
        while self.ready:
            self.ready.pop().accept_one()

    def close_stalled(self) -> None:
        """Close connections that were idle or too slow for `Limits.idle`. Checks once a second."""
        now = monotonic()
        if now < self._looked_at + 1:
            return
        self._looked_at = now
        for channel in list(self.channels):
            if channel.in_flight is None and channel.idle_since < now - self.limits.idle:
                channel.abandon()

    def close_listeners(self) -> None:
        """Accept the connections queued on the listening sockets, then close these.

        Connections beyond the maximum are left for the next call.
        """
        self.draining = True  # from now on, responses have `Connection: close`
        while self._listeners:
            while self._listeners[-1].accept_one():
                pass
            if self.is_full():
                return
            self._listeners.pop().close()

    def are_busy(self) -> bool:
        """Return whether any connection has a request, a part of one, or a response to send."""
        return any(it.in_flight or it.reading or it.outgoing or it.is_new() for it in self.channels)

    def close(self) -> None:
        for channel in list(self.channels):
            channel.abandon()  # also closes the files of large responses
        internals.close_all(self.map)
