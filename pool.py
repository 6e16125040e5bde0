"""Connections to a PostgreSQL server, shared between threads."""

from __future__ import annotations

# pyright: reportArgumentType=false, reportCallIssue=false
# psycopg's types require each query to be a literal, so that it can't contain client input.
import collections
import contextlib
import functools
import ipaddress
import math
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any

import psycopg
from peewee import OperationalError
from psycopg.rows import TupleRow

from fense_admin import systems
from fense_admin.engines import BRIEFLY, Info, Unusable, Waiting, wait_long
from fense_admin.libpq import URL, Address, Connector, NoResponse, first_line
from fense_admin.realtime import monotonic

START_TIMEOUT = 30  # seconds for the first connection, and for another process's migration
MAX_WAITING = 32  # waiting threads with a substitute; each may have a connection
CROWDED = 24  # waiting threads; with more, none might be left for operations that don't wait
QUEUED = 0.5  # seconds an operation then waits for others of its kind before it is rejected
IDLE_KEPT = 4  # idle connections that stay open when there are fewer threads again
FULL = 1  # seconds before the next attempt after the server has refused a connection

# Settings of every session, overriding those of role and database. The service relies on these:
RELIED_ON = {
    "client_min_messages": "warning",  # a cancelled wait for a standby is a warning
    "DateStyle": "ISO",
    "default_transaction_isolation": "read committed",
    "row_security": "on",
    "standard_conforming_strings": "on",
}
# `options` in the URL, a service file or PGOPTIONS override these.
LIMITS = {
    "idle_in_transaction_session_timeout": "10s",
    "jit": "off",
    "lock_timeout": "0",
    "statement_timeout": "2400ms",
    "transaction_timeout": "0",  # since PostgreSQL 17
}
# Not overridden if the server's configuration or `options` set it.
READ_ONLY = "default_transaction_read_only"
SET_SESSION = f"""
SELECT set_config(name, value, false)
FROM (VALUES ('{READ_ONLY}', 'off'), {", ".join(map(str, (RELIED_ON | LIMITS).items()))})
    AS ours (name, value) JOIN pg_settings USING (name)
WHERE source IN ('database', 'user', 'database user') OR name IN {tuple(RELIED_ON)}
    OR name IN {tuple(LIMITS)} AND source <> 'client'
"""
ROUNDS = 20  # queries to detect a pooler that shares sessions; they take some milliseconds
PROCESS = "SELECT pg_backend_pid()"
POOLER = 2  # seconds to wait for a second connection; a pooler may have only one


class Connection(psycopg.Connection[TupleRow]):
    """A connection with a deadline for the server's responses."""

    deadline = math.inf  # by the monotonic clock
    pace = 0.0  # seconds for each operation, which reset the deadline; 0: it is for all
    while_waiting: Waiting = contextlib.nullcontext
    warned = False  # whether the server has sent a warning since this was last cleared

    def wait(
        self, gen: Generator[int, int, Any], interval: float = 0, timeout: float | None = None
    ) -> Any:
        """Run an operation, a generator of psycopg. Raises `NoResponse`."""
        if self.pace:
            self.deadline = monotonic() + self.pace
        try:
            wanted = next(gen)
            while True:
                wanted = gen.send(self._ready_for(wanted))
        except StopIteration as end:
            return end.value

    def _ready_for(self, wanted: int) -> int:
        number = self.pgconn.socket
        wait = functools.partial(systems.wait_for, {number: wanted})
        found = wait_long(wait, self.deadline, self.while_waiting)
        if not found:
            raise NoResponse
        return found[number]

    def notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        self.warned = self.warned or diagnostic.severity_nonlocalized == "WARNING"


class Local(threading.local):
    """A thread's own data: its connection, during an operation or a transaction."""

    connection: Connection | None = None


def value_of(connection: Connection, query: str) -> Any:
    """Return the first value of the first row that a query returns."""
    return connection.execute(query, prepare=False).fetchall()[0][0]


class Pool:
    """The connections to the server of a URL.

    A thread takes one for an operation, then returns it, still open. Broken ones are replaced.
    """

    def __init__(self, url: URL) -> None:
        """Don't connect yet. Raises `ValueError`, `psycopg.Error`."""
        self._url = url
        self.info = Info(url.shown, is_server=True)  # completed by the first connection
        self.while_waiting: Waiting = contextlib.nullcontext
        self._local = Local()
        self._connections: set[Connection] = set()  # all that are open
        self._idle: list[Connection] = []  # those that no thread uses
        self._queue: collections.deque[queue.SimpleQueue[Connection | None]] = collections.deque()
        self._full_until = 0.0
        self._changed = threading.Condition()  # guards all of these
        self._waiting_threads = 0
        # When each operation in progress began, by kind; oldest first.
        self._running: dict[str, dict[object, float]] = collections.defaultdict(dict)
        self._connector = Connector(url)

    # Connecting

    def _connect(self, deadline: float) -> Connection:
        """Return a new connection, to a server that takes writes if there is one.

        Raises `psycopg.Error`, `NoResponse`; `Unusable` if it is the first one.
        """
        unfit: list[Address] = []
        while True:
            connection, address = self._open(deadline, unfit)
            try:
                if not self.info.product:
                    self._check_server(connection)
                connection.execute(SET_SESSION)
            except BaseException:
                self._drop(connection)
                raise
            # The server reports this setting by itself. (pgbouncer and PostgreSQL 13 don't.)
            is_fit = connection.pgconn.parameter_status(READ_ONLY.encode()) != b"on"
            is_last = len(unfit) + 1 == len(self._connector.hosts)
            if is_fit or is_last or address in unfit:
                return connection
            unfit.append(address)
            self._drop(connection)

    def _open(self, deadline: float, last: list[Address]) -> tuple[Connection, Address]:
        """Return a new connection without our settings, and its address. Try `last` last."""
        made = self._connector.connect(deadline, self._waiting, last)
        connection = Connection(made.connection)
        connection.autocommit = True
        connection.deadline = deadline
        connection.while_waiting = self._waiting
        connection.add_notice_handler(connection.notice)
        self._connections.add(connection)
        return connection, made.address

    def _check_server(self, connection: Connection) -> None:
        """Raise `Unusable` if it isn't PostgreSQL, or a pooler shares the session."""
        product = value_of(connection, "SELECT version()")
        if not product.startswith("PostgreSQL "):
            raise Unusable(
                f"{self.info.name} is {product.split()[0]}: only PostgreSQL is supported"
            )
        self._refuse_shared_sessions(connection)
        self.info.product = " ".join(product.split()[:2])
        self.info.warning = self._warn_of_clear_text(connection)

    def _refuse_shared_sessions(self, connection: Connection) -> None:
        """Raise `Unusable` behind a pooler that assigns sessions to single transactions.

        What we set and prepare would be missing in our next transaction, and affect other clients.
        """

        if value_of(connection, PROCESS) == connection.info.backend_pid:
            return  # no pooler: it is the process that we connected to
        other = None
        try:
            other = self._open(monotonic() + POOLER, [])[0]
            ours, others = set(), set()
            for _ in range(ROUNDS):  # other clients use some of the sessions, too
                ours.add(value_of(connection, PROCESS))
                others |= {value_of(other, PROCESS) for _ in range(2)}  # two if they take turns
        except (psycopg.OperationalError, NoResponse):
            return  # there is only one session, and it is ours
        finally:
            self._drop(other)
        if len(ours) > 1 or len(others) > 1 or ours == others:
            raise Unusable(
                f"{self.info.name} is a pooler that shares sessions (pgbouncer's pool_mode="
                "transaction or statement): set pool_mode=session, or use the server's own address"
            )

    def _warn_of_clear_text(self, connection: Connection) -> str:
        """Return a warning if the connection is unencrypted and leaves this machine; else ""."""
        address = connection.info.hostaddr.partition("%")[0]  # none for a Unix socket
        is_local = not address or ipaddress.ip_address(address).is_loopback
        if is_local or connection.pgconn.ssl_in_use:
            return ""
        return (
            f"the connection to {connection.info.host} is not encrypted: add "
            "sslmode=verify-full to the URL, and sslrootcert if the server's certificate needs it"
        )

    # Sharing

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """Return the context of a wait, with a substitute worker, up to `MAX_WAITING` of them."""
        with self._changed:
            self._waiting_threads += 1
            is_spared = self._waiting_threads <= MAX_WAITING
        try:
            with self.while_waiting() if is_spared else contextlib.nullcontext():
                yield
        finally:
            with self._changed:
                self._waiting_threads -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def _admitted(self, kind: str, deadline: float) -> Iterator[None]:
        """Circuit breaker: the context of an operation of one kind, such as a query or a write.

        While many threads wait for the server (for example, for a lock of another program), an
        operation waits for others of its kind. If these take `QUEUED` seconds, they are stuck: then
        it fails at once, to leave threads for other kinds. Raises `OperationalError`.
        """
        operation = object()
        with self._changed:
            others = self._running[kind]
            while others and self._waiting_threads >= CROWDED:
                oldest = next(iter(others.values()))
                left = min(oldest + QUEUED, deadline) - monotonic()
                if left <= 0:
                    raise OperationalError(
                        "too many requests already wait for the same lock or COMMIT"
                    )
                self._changed.wait(left)
            others[operation] = monotonic()
        try:
            yield
        finally:
            with self._changed:
                del others[operation]
                self._changed.notify_all()

    def _take(self, deadline: float) -> Connection:
        """Take an idle connection for this thread, or a new one, and set its deadline.

        If it can't make one, wait for one that another thread returns. Raises `psycopg.Error`,
        `NoResponse`, `OperationalError`.
        """
        by = min(deadline, monotonic() + START_TIMEOUT)
        reason = "the server refuses more"
        while True:
            connection = None
            with contextlib.suppress(IndexError):
                connection = self._idle.pop()  # takes no lock: it is atomic
            is_full = monotonic() < self._full_until and self._connections
            if connection is None and not is_full:
                try:
                    connection = self._connect(by)
                except (psycopg.Error, MemoryError, OSError, RuntimeError) as error:
                    if not self._connections:
                        raise
                    reason = self._reason(error)
                    self._full_until = monotonic() + FULL
            if connection is None:
                connection = self._wait_for_one(by)
            if connection is not None:
                connection.deadline, connection.pace = deadline, 0.0
                self._local.connection = connection
                return connection
            if monotonic() > by:
                raise OperationalError(f"all connections are in use: {reason}")

    def _wait_for_one(self, until: float) -> Connection | None:
        """Wait, in order of arrival, for a connection that another thread returns.

        Returns None if that takes too long, or if a new one may be possible.
        """
        turn: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        with self._changed:
            if self._idle or not self._connections:
                return self._idle.pop() if self._idle else None
            self._queue.append(turn)
        with contextlib.suppress(queue.Empty):
            return turn.get(timeout=BRIEFLY)
        with self._waiting(), contextlib.suppress(queue.Empty):
            return turn.get(timeout=max(0, until - monotonic()))
        with self._changed:
            if turn in self._queue:
                self._queue.remove(turn)
                return None
        return turn.get()  # it has just arrived

    def _give_back(self, connection: Connection) -> None:
        """Return a connection to the pool."""
        if connection is self._local.connection:
            self._local.connection = None
        with self._changed:
            if self._queue:
                self._queue.popleft().put(connection)
            else:
                self._idle.append(connection)

    def _drop(self, connection: Connection | None) -> None:
        """Close a connection, which no other thread may use."""
        if connection is not None:
            if connection is self._local.connection:
                self._local.connection = None
            connection.close()
            with self._changed:
                self._connections.discard(connection)
                # Waiting threads may open a new one in its place, or notice that they can't.
                for _ in range(1 if self._connections else len(self._queue)):
                    if self._queue:
                        self._queue.popleft().put(None)

    def _drop_idle(self) -> None:
        """Close the idle connections, which are probably broken, too."""
        with contextlib.suppress(IndexError):  # other threads take some, too
            for _ in self._idle[:]:
                self._drop(self._idle.pop())

    def close(self) -> None:
        """Close an idle connection if there are many, because a thread ends."""
        with self._changed:
            connection = self._idle.pop(0) if len(self._idle) > IDLE_KEPT else None
        self._drop(connection)

    def close_all(self) -> None:
        """Close the connections of all threads."""
        while self._connections:
            self._connections.pop().close()
        self._idle.clear()

    def _reason(self, error: BaseException) -> str:
        """Return the reason of a failure in one line, without passwords."""
        if isinstance(error, NoResponse):
            return str(error) or "the server does not respond"
        return self._url.hide_secrets(first_line(str(error)) or type(error).__name__)
