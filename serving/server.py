"""The server: the loop, the choice of a thread for each request, and a graceful shutdown."""

from __future__ import annotations

import functools
import socket
import weakref

from fense_admin import systems
from fense_admin.exchange import log
from fense_admin.realtime import monotonic
from fense_admin.serving.application import Application
from fense_admin.serving.connections import ON_ITS_WAY, Channel, Connections
from fense_admin.serving.internals import loop
from fense_admin.serving.parser import RequestParser
from fense_admin.serving.workers import WAKE_AFTER, Workers


class Server:
    """Serves an application until `stop`, on listening sockets that it takes over."""

    def __init__(self, application: Application, sockets: list[socket.socket], threads: int):
        self.application = application
        self.port: int = sockets[0].getsockname()[1]
        self.connections = Connections(application, sockets, self._dispatch)
        self._inline: list[tuple[Channel, RequestParser]] = []
        self._stopping = False
        self._workers = Workers(threads, application.end_thread)
        application.use_spare(self._workers.spare)
        SERVERS.add(self)

    def run(self, drain: float) -> None:
        """Serve. Returns after `stop`, when the requests sent before it have their responses.

        `drain` is the maximum number of seconds for that.
        """
        try:
            while not self._stopping:
                self._turn(systems.LONGEST_WAIT)
            self._drain(monotonic() + drain)
        finally:
            self._workers.stop()
            self.connections.close()

    def stop(self) -> None:
        """Make `run` return. Any thread or signal handler may call it."""
        self._stopping = True
        self.connections.waker.wake()

    def stop_on_signal(self, signum: int, _: object) -> None:
        """Signal handler: stop the server. A second signal ends the process at once."""
        if self._stopping:
            if signum == systems.HANGUP:  # a closing terminal may send two
                return
            systems.end_process(signum)
        self.stop()

    def _dispatch(self, channel: Channel, request: RequestParser) -> None:
        """Give a request to a worker, or handle it inline, in the loop's own thread.

        For fast requests the hand-over to a worker costs more than the response.
        """
        app = self.application
        if request.error:
            is_quick = not app.may_wait  # to check whether the request id is a key
        else:
            is_quick = app.runs_inline(request.command, request.path, request.query)
        if is_quick:
            self._inline.append((channel, request))
        else:
            self._workers.add(functools.partial(channel.service, request))

    def _turn(self, timeout: float) -> None:
        if self._inline:
            timeout = 0
        elif self._workers.queue:
            timeout = WAKE_AFTER
        elif self.connections.is_full():  # a new connection becomes idle after that time
            timeout = min(timeout, ON_ITS_WAY)
        loop(timeout, use_poll=systems.USE_POLL, map=self.connections.map, count=1)
        self.connections.accept()
        finished = self.connections.finished
        while finished:
            self._finish(finished.popleft())
        inline, self._inline = self._inline, []
        for channel, request in inline:
            channel.respond(request)
        # Sent together at the end: a client that wakes up takes CPU time from the others.
        for channel, _ in inline:
            self._finish(channel)
        self._workers.wake_another()
        self.connections.close_stalled()

    def _finish(self, channel: Channel) -> None:
        try:
            channel.finish_request()
        except Exception:
            log.exception("internal error; closing the connection")
            channel.abandon()

    def _drain(self, deadline: float) -> None:
        """Graceful shutdown: accept no more connections, finish the in-flight requests."""
        self.application.release_waiting()
        self.connections.close_listeners()
        while self.connections.channels and monotonic() < deadline:
            idle = not self.connections.are_busy()
            self._turn(timeout=0.05)
            self.connections.close_listeners()
            if idle and not self.connections.are_busy():
                return


SERVERS: weakref.WeakSet[Server] = weakref.WeakSet()  # in this process


def _close_inherited() -> None:
    """In a forked process: close its copies of the parent's connections."""
    for server in SERVERS:
        for handler in server.connections.map.values():
            handler.socket.close()


systems.after_fork_in_child(_close_inherited)
