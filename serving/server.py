"""The server: the loop, which thread answers a request, and a graceful shutdown."""

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
    """An application served on listening sockets, which it takes over, until `stop`."""

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
        """Serve. Returns once `stop` was called and what was sent before it is answered.

        `drain` is how many seconds that may take.
        """
        try:
            while not self._stopping:
                self._turn(systems.LONGEST_WAIT)
            self._drain(monotonic() + drain)
        finally:
            self._workers.stop()
            self.connections.close()

    def stop(self) -> None:
        """Make `run` return. May be called from any thread, and from a signal handler."""
        self._stopping = True
        self.connections.waker.wake()

    def stop_on_signal(self, signum: int, _: object) -> None:
        """The signal handler that stops it; a second signal ends the process at once."""
        if self._stopping:
            if signum == systems.HANGUP:  # a terminal that closes may send two
                return
            systems.end_process(signum)
        self.stop()

    def _dispatch(self, channel: Channel, request: RequestParser) -> None:
        """Have a request answered: by a worker, or inline, in the loop's own thread.

        For fast requests the hand-over to a worker costs more than the answer.
        """
        app = self.application
        if request.error:
            is_quick = not app.may_wait  # for the database to say whether the id is a key
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
        elif self.connections.is_full():  # one that was new may give way then
            timeout = min(timeout, ON_ITS_WAY)
        loop(timeout, use_poll=systems.USE_POLL, map=self.connections.map, count=1)
        self.connections.accept()
        finished = self.connections.finished
        while finished:
            self._finish(finished.popleft())
        inline, self._inline = self._inline, []
        for channel, request in inline:
            channel.respond(request)
        # All sent together: a client that is woken by the first takes time from the others.
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
        """Graceful shutdown: accept no more connections, answer the in-flight requests."""
        self.application.release_waiting()
        self.connections.close_listeners()
        while self.connections.channels and monotonic() < deadline:
            idle = not self.connections.are_busy()
            self._turn(timeout=0.05)
            self.connections.close_listeners()
            if idle and not self.connections.are_busy():
                return


SERVERS: weakref.WeakSet[Server] = weakref.WeakSet()  # of this process


def _close_inherited() -> None:
    """In a forked process: close its copies of the parent's connections."""
    for server in SERVERS:
        for handler in server.connections.map.values():
            handler.socket.close()


systems.after_fork_in_child(_close_inherited)
