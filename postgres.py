"""PostgreSQL: connections, deadlines, transactions, migrations. Knows no account."""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import ipaddress
import os
import queue
import random
import re
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import psycopg
from peewee import IntegrityError, OperationalError
from psycopg import pq

from fense_admin.engines import UNKNOWN, CommitUnknown, Unusable
from fense_admin.libpq import BRIEFLY, URL, Address, Connector, NoAnswer, first_line
from fense_admin.realtime import monotonic

SCHEMA_FILE = os.path.join(os.path.dirname(__file__), "schema-postgresql.sql")
MIGRATING = 0x46656E73  # "Fens": the advisory lock that one migration holds

# Together they bound what a request waits for: 3.4 s, then it fails.
WORKING = 2.6  # seconds for an operation, a new connection included
COMMITTING = 0.5  # seconds more for its COMMIT
CANCELLING = 0.3  # seconds to tell the server that nobody waits for the COMMIT any more
START_TIMEOUT = 30  # seconds for the first connection, and for another process's migration
CONNECTING = 0.15  # seconds that others wait for one that tries a server which did not answer
AFTERWARDS = 0.2  # seconds after a wait in vain: what comes then has waited in a queue meanwhile
HURRIED = 0.3  # seconds for an operation that comes then
MOST_WAITING = 32  # threads that others stand in for while they wait; each may have a connection
CROWDED = 24  # waiting threads: with more, none might be left for operations that don't wait
QUEUED = 0.5  # seconds that an operation then waits for others of its kind before it is rejected
IDLE_KEPT = 4  # connections that stay open when there are fewer threads again
FULL = 1  # seconds to the next attempt after the server has refused one more connection
AT_ONCE = 1_000  # rows in one statement: between two of them Python handles signals
RUNS = 10  # of a transaction that meets others; see `CONFLICTS`

# What every session sets, whatever its role and its database say. These the service relies on:
RELIED_ON = {
    "client_min_messages": "warning",  # a wait for a standby that was cancelled is one
    "DateStyle": "ISO",
    "default_transaction_isolation": "read committed",
    "row_security": "on",
    "standard_conforming_strings": "on",
}
# These stand under `options` in the URL, a service file or PGOPTIONS.
LIMITS = {
    "idle_in_transaction_session_timeout": "10s",
    "jit": "off",
    "lock_timeout": "0",
    "statement_timeout": "2400ms",
    "transaction_timeout": "0",  # PostgreSQL 17 has it
}
# A server that takes no writes, by its configuration, is left alone; so are `options`.
READ_ONLY = "default_transaction_read_only"
SET_SESSION = f"""
SELECT set_config(name, value, false)
FROM (VALUES ('{READ_ONLY}', 'off'), {", ".join(map(str, (RELIED_ON | LIMITS).items()))})
    AS ours (name, value) JOIN pg_settings USING (name)
WHERE source IN ('database', 'user', 'database user') OR name IN {tuple(RELIED_ON)}
    OR name IN {tuple(LIMITS)} AND source <> 'client'
"""
ROUNDS = 20  # of looking whether a pooler shares sessions: some milliseconds
POOLER = 2  # seconds to wait for a second connection of a pooler, which may have only one

# SQLSTATEs, or the first two characters of their class
CONFLICTS = ("40001", "40P01", "23505")  # it met another transaction; 23505: a load was faster
# A standby now, or shutting down; or a table has changed since a statement was prepared.
ELSEWHERE = ("25006", "57P", "0A000")  # a new connection finds better
PAUSED = ("25P03", "25P04")  # this process was, for too long within a transaction
LOST = ("0A", "3F", "42", "55")  # a table, column or function is gone, or is not as we made it
CHANGED = ("22001", "22003", "22P02", "23502")  # a column takes less than ours: its type, NOT NULL
UNAVAILABLE = ("08", "25006", *PAUSED, "40", *LOST, *CHANGED, "53", "54", "57", "58", "XX")
OUR_BUGS = ("42601", "42P02")  # the text of a query is wrong

PATIENT = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
NO_LOCKS = "BEGIN; SET LOCAL lock_timeout = 100"  # milliseconds to wait for one
# The tables of the schema that comes first in search_path, but for those of extensions.
TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
    AND NOT EXISTS (
        SELECT FROM pg_depend
        WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e'
    )
"""
ARRAYS = {int: "bigint[]", str: "text[]"}
IDLE = pq.TransactionStatus.IDLE
SEQUENCE = "account_fense_account_id_seq"
LAST_ID = f"SELECT last_value - (NOT is_called)::int FROM {SEQUENCE}"


# --- Connections -------------------------------------------------------------------------------


class Connection(psycopg.Connection):
    """A connection whose server has until a deadline to answer."""

    deadline: float | None = None  # by the monotonic clock
    while_waiting: Callable[[], Any] = contextlib.nullcontext
    warned = False  # by the server, since it was last looked at

    def wait(self, gen: Any, interval: float = 0, timeout: float | None = None) -> Any:
        """Run a generator of psycopg's. Raises `NoAnswer`."""
        try:
            wanted = next(gen)
            while True:
                wanted = gen.send(self._ready_for(wanted))
        except StopIteration as end:
            return end.value

    def _ready_for(self, wanted: int) -> int:
        poll = select.poll()
        events = select.POLLIN * bool(wanted & 1) | select.POLLOUT * bool(wanted & 2)
        poll.register(self.pgconn.socket, events)
        found = poll.poll(BRIEFLY * 1000)
        if not found:
            with self.while_waiting():
                left = None
                if self.deadline is not None:
                    left = max(0, self.deadline - monotonic()) * 1000
                found = poll.poll(left)
        if not found:
            raise NoAnswer
        return bool(found[0][1] & ~select.POLLOUT) | 2 * bool(found[0][1] & select.POLLOUT)

    def notice(self, diagnostic: Any) -> None:
        self.warned = self.warned or diagnostic.severity_nonlocalized == "WARNING"


class Local(threading.local):
    """What belongs to a thread: its connection, during an operation or a transaction."""

    connection: Connection | None = None


class Gate:
    """Lets one at a time through while what is behind it does not answer."""

    def __init__(self) -> None:
        self.is_shut = False
        self._waited_until = 0.0  # in vain
        self._tried_since = 0.0
        self._trying = threading.Lock()

    def shut(self, after_waiting: bool = False) -> None:
        self.is_shut = True
        if after_waiting:
            self._waited_until = monotonic()

    def was_just_shut(self) -> bool:
        """Whether somebody has waited until just now: what comes has waited, too, in a queue."""
        return self.is_shut and monotonic() < self._waited_until + AFTERWARDS

    @contextlib.contextmanager
    def passed(self) -> Iterator[None]:
        """A context for one that goes through. Raises `OperationalError` while another tries."""
        if self.is_shut:
            left = self._tried_since + CONNECTING - monotonic()
            if not self._trying.acquire(timeout=max(0, left)):
                raise OperationalError("the server does not answer")
            try:
                if self.is_shut:  # still, after waiting for another
                    self._tried_since = monotonic()
                    yield
                    return
            finally:
                self._trying.release()
        yield


def is_out_of_resources(error: BaseException) -> bool:
    """Whether the system gives this process no more memory, descriptors or threads."""
    if isinstance(error, RuntimeError):
        return str(error).startswith("can't start new thread")
    if isinstance(error, OSError):
        return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
    return isinstance(error, MemoryError)


OPEN = contextlib.nullcontext()  # in place of a gate that is not shut


@functools.cache
def translated(query: str) -> str:
    """A query of `models`, as psycopg and PostgreSQL take it."""
    query = query.replace("%", "%%").replace("group_concat(", "string_agg(")
    return re.sub(r"(?<!:):([a-z]\w*)", r"%(\1)s", query)


@functools.cache
def for_many(query: str, types: tuple[tuple[str, type], ...], returned: tuple[str, ...]) -> str:
    """The query about one row, for many rows: each value is an array. It returns these columns."""
    query = re.sub(r"VALUES \((.+?)\)", r"SELECT * FROM unnest(\1)", query)
    query = re.sub(r"= (:\w+)", r"= ANY(\1)", query)
    for name, kind in types:
        query = re.sub(rf":{name}\b", f":{name}::{ARRAYS[kind]}", query)
    return query + f" RETURNING {', '.join(returned)}" * query.startswith("INSERT")


# --- The database ------------------------------------------------------------------------------


class Engine:
    """A PostgreSQL database with the tables of schema-postgresql.sql, shared between threads.

    `url` is libpq's. A thread takes a connection for an operation, and leaves it open to others;
    one that broke is replaced. With `read_only`, tables of an earlier version are read as they are,
    on a standby, too, and nothing is written. Raises `Unusable`.

    Any method may raise an error for which `is_unavailable` is true. While the server does not
    answer, one thread at a time waits for it; the others are told at once.
    """

    is_server = True
    in_memory = False

    def __init__(self, url: str, read_only: bool = False) -> None:
        self._url = URL(url)
        self.database = self._url.shown
        self.product = ""  # until the first connection is made
        self.warning = ""  # for the log of the start
        self._local = Local()
        self._connections: set[Connection] = set()  # all that are open
        self._idle: list[Connection] = []  # those that no thread uses
        self._queue: collections.deque[queue.SimpleQueue[Connection | None]] = collections.deque()
        self._full_until = 0.0
        self._server = Gate()
        self._commits = Gate()  # of its own: reads go on while a COMMIT waits for a standby
        # The context in which a thread waits; a server sets one that spares a worker.
        self.while_waiting: Callable[[], Any] = contextlib.nullcontext
        self._changed = threading.Condition()  # guards all these
        self._waiting_threads = 0
        self._held = 0  # threads that `_admit` lets wait
        # When each operation in progress began, by its kind; the oldest first.
        self._running: dict[str, dict[object, float]] = collections.defaultdict(dict)
        try:
            self._connector = Connector(self._url)
            self._start(read_only)
            self._give_back()  # for the first request
        except (psycopg.Error, OperationalError, NoAnswer, ValueError) as error:
            self.close_all()
            reason = f"{self._reason(error)}{self._url.advice}"
            raise Unusable(f"can't use {self.database}: {reason}") from None
        except BaseException:
            self.close_all()
            raise

    # Start

    def _start(self, read_only: bool) -> None:
        """Migrate; again if it met other transactions, of nodes that serve already, say."""
        for left in reversed(range(RUNS)):
            try:
                self._migrate(read_only)
                return
            except psycopg.Error as error:
                if error.sqlstate not in CONFLICTS or not left:
                    raise
                self._drop(self._local.connection)
            time.sleep(random.uniform(0, 0.1))

    def _migrate(self, read_only: bool) -> None:
        """Run the sections of the schema that are missing; refuse a database that is not ours.

        If it is `read_only`, do no more than the latter.
        """
        schema = __spec__.loader.get_data(SCHEMA_FILE).decode()  # which may be in a zip file
        sections = re.split("-- version [0-9]+\n", schema)[1:]
        deadline = monotonic() + START_TIMEOUT
        try:
            connection = self._connect(deadline)
        except psycopg.OperationalError:
            if not read_only or not self._connector.accept_standby():
                raise
            connection = self._connect(deadline)
        self._local.connection = connection

        def look(query: str) -> list[Any]:
            return [row[0] for row in connection.execute(query)]

        name = self.database
        encoding = look("SHOW server_encoding")[0]
        if encoding != "UTF8":
            raise Unusable(f"{name} is encoded in {encoding}: name a database in UTF8")
        connection.execute(f"BEGIN; {PATIENT}; SET LOCAL lock_timeout = '{START_TIMEOUT}s'")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATING,))  # several may start
        tables, version = look(TABLES), 0
        if "fense_admin" in tables:
            version = max(look("SELECT version FROM fense_admin"), default=0)
        elif tables:
            raise Unusable(f"{name} has another program's tables: name an empty database")
        if version > len(sections):
            raise Unusable(
                f"{name} was written by a newer version of fense-admin: upgrade this one"
            )
        created = re.findall(r"^CREATE TABLE (\w+) \($", "".join(sections[:version]), re.MULTILINE)
        if not set(created) <= set(tables):
            raise Unusable(f"{name} has lost its tables: restore a backup, or name another")
        if read_only:
            connection.execute("COMMIT")
            if not tables:
                raise Unusable(f"{name} is empty: name the database that has the accounts")
            return
        connection.deadline = None
        for section in sections[version:]:
            connection.execute(section)
        # A write, in any case: a database that takes none is found here.
        connection.execute("DELETE FROM fense_admin")
        connection.execute("INSERT INTO fense_admin VALUES (%s)", (len(sections),))
        # In this order: an account that is seen had its id before.
        highest, last_id = look("SELECT max(fense_account_id) FROM account")[0], look(LAST_ID)[0]
        if highest and highest > last_id:
            raise Unusable(
                f"{name} would give ids twice: the last account has the id {highest}, but the "
                f"counter is at {last_id} (logical replication does not copy it): run SELECT "
                f"setval('{SEQUENCE}', N) there, where N is the counter of the original server, or "
                f"{highest} if no account with a higher id was ever made"
            )
        connection.deadline = monotonic() + START_TIMEOUT  # for a standby, say
        connection.execute("COMMIT")

    # Connections

    def _connect(self, deadline: float) -> Connection:
        """A new connection, to a server that takes writes if there is one.

        Raises `psycopg.Error`, `NoAnswer`; `Unusable` if it is the first one.
        """
        unfit: list[Address] = []
        while True:
            connection, address = self._open(deadline, unfit)
            try:
                if not self.product:
                    self._check_server(connection)
                connection.execute(SET_SESSION)
            except BaseException:
                self._drop(connection)
                raise
            # The server reports it: to know costs nothing. (Neither pgbouncer nor 13 does.)
            is_fit = connection.pgconn.parameter_status(READ_ONLY.encode()) != b"on"
            if is_fit or address in unfit:
                return connection
            unfit.append(address)
            if len(unfit) == self._connector.count:
                return connection
            self._drop(connection)

    def _open(self, deadline: float, last: list[Address]) -> tuple[Connection, Address]:
        """A new connection and its address, without our settings: at last to those addresses."""
        made = self._connector.connect(deadline, self._waiting, last)
        connection = Connection(made.connection)
        connection.autocommit = True
        connection.deadline = deadline
        connection.while_waiting = self._waiting
        connection.add_notice_handler(connection.notice)
        self._connections.add(connection)
        return connection, made.address

    def _check_server(self, connection: Connection) -> None:
        """Raise `Unusable` if it isn't PostgreSQL, or shares the session with others."""
        product = connection.execute("SELECT version()").fetchone()[0]
        if not product.startswith("PostgreSQL "):
            raise Unusable(
                f"{self.database} is no PostgreSQL ({product.split()[0]}): nothing else was tried"
            )
        self._refuse_shared_sessions(connection)
        self.product = " ".join(product.split()[:2])
        self.warning = self._warn_of_clear_text(connection)

    def _refuse_shared_sessions(self, connection: Connection) -> None:
        """Raise `Unusable` behind a pooler that gives each transaction any of its sessions.

        What a session sets or prepares would be missing in the next transaction, and reach others.
        """

        def process_of(connection: Connection) -> int:
            return connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()[0]

        if process_of(connection) == connection.info.backend_pid:
            return  # no pooler: the process is the one that was connected to
        other = None
        try:
            other = self._open(monotonic() + POOLER, [])[0]
            ours, others = set(), set()
            for _ in range(ROUNDS):  # as other clients take their share of the sessions
                ours.add(process_of(connection))
                others |= {process_of(other), process_of(other)}  # two if they take turns
        except (psycopg.OperationalError, NoAnswer):
            return  # the only session is taken, so it is ours
        finally:
            self._drop(other)
        if len(ours) > 1 or len(others) > 1 or ours == others:
            raise Unusable(
                f"{self.database} is a pooler that shares sessions (pgbouncer's pool_mode="
                "transaction or statement): set pool_mode=session, or name the server itself"
            )

    def _warn_of_clear_text(self, connection: Connection) -> str:
        """A warning if all that is sent can be read between here and the server."""
        address = connection.info.hostaddr  # none for a Unix socket
        if not address or ipaddress.ip_address(address.partition("%")[0]).is_loopback:
            return ""
        if connection.pgconn.ssl_in_use:
            return ""
        return (
            f"the connection to {connection.info.host} is not encrypted: add "
            "sslmode=verify-full to the URL, and sslrootcert if the server's certificate needs it"
        )

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """The context in which a thread waits: another one stands in for it, up to a number."""
        with self._changed:
            self._waiting_threads += 1
            is_spared = self._waiting_threads <= MOST_WAITING
        try:
            with self.while_waiting() if is_spared else contextlib.nullcontext():
                yield
        finally:
            with self._changed:
                self._waiting_threads -= 1
                if self._held:
                    self._changed.notify_all()

    def _take(self, deadline: float | None) -> Connection:
        """Take an idle connection for this thread, or else a new one, and set its deadline.

        If no new one can be made, wait for one that another thread uses. Raises `psycopg.Error`,
        `NoAnswer`, `OperationalError`.
        """
        by = monotonic() + START_TIMEOUT if deadline is None else deadline
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
                connection.deadline = deadline
                self._local.connection = connection
                return connection
            if monotonic() > by:
                raise OperationalError(f"all connections are in use: {reason}")

    def _wait_for_one(self, until: float) -> Connection | None:
        """Wait for a connection that another thread gives back, in the order of arrival.

        Returns None if it takes too long, and once there may be room for a new one.
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
        return turn.get()  # it came just now

    def _give_back(self) -> None:
        """Leave this thread's connection to others."""
        connection, self._local.connection = self._local.connection, None
        with self._changed:
            if self._queue:
                self._queue.popleft().put(connection)
            else:
                self._idle.append(connection)

    def _drop(self, connection: Connection | None) -> None:
        """Close a connection that no other thread uses."""
        if connection is not None:
            if connection is self._local.connection:
                self._local.connection = None
            connection.close()
            with self._changed:
                self._connections.discard(connection)
                # Those that wait may make a new one in its place, or see that they can't.
                for _ in range(1 if self._connections else len(self._queue)):
                    if self._queue:
                        self._queue.popleft().put(None)

    def _drop_idle(self) -> None:
        """Close the idle connections: most likely they are broken, too."""
        with self._changed:
            idle = self._idle[:]
            self._idle.clear()
        for connection in idle:
            self._drop(connection)

    def close(self) -> None:
        """Close an idle connection if there are many: a thread ends, which needs none any more."""
        with self._changed:
            connection = self._idle.pop(0) if len(self._idle) > IDLE_KEPT else None
        self._drop(connection)

    def close_all(self) -> None:
        """Close the connections of all threads."""
        while self._connections:
            self._connections.pop().close()
        self._idle.clear()

    def ping(self, query: str) -> None:
        """Raise an error for which `is_unavailable` is true if this query can't be answered.

        If another program has locked a table that it reads, accounts must be readable, at least.
        """

        def look(connection: Connection) -> None:
            try:
                connection.execute(f"{NO_LOCKS}; {query}; COMMIT")
            except psycopg.errors.LockNotAvailable:
                connection.execute("ROLLBACK")
                connection.execute("SELECT 1 FROM account LIMIT 1")

        self._run("ping", look)

    def peek(self, query: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        """The rows that a query returns, which waits for no lock of another program."""

        def look(connection: Connection) -> list[tuple[Any, ...]]:
            # Values of several statements at once are put into their text, here by psycopg.
            with psycopg.ClientCursor(connection) as cursor:
                cursor.execute(f"{NO_LOCKS}; {translated(query)}; COMMIT", values)
                while not cursor.description:
                    cursor.nextset()
                return cursor.fetchall()

        return self._run("peek", look)

    def ensure_same_file(self) -> None:
        """Nothing: there is no file."""

    # Errors

    def _reason(self, error: Exception) -> str:
        """Why it failed, in one line, without a password."""
        if isinstance(error, NoAnswer):
            return str(error) or "the server does not answer"
        return self._url.hide_secrets(first_line(str(error)) or type(error).__name__)

    def _told(self, error: psycopg.Error | NoAnswer) -> Exception:
        """The error as `models` knows it: see `is_unavailable`."""
        state = getattr(error, "sqlstate", None)
        is_lost = isinstance(error, (NoAnswer, psycopg.OperationalError, psycopg.InterfaceError))
        if state in OUR_BUGS:
            return error
        if state.startswith(UNAVAILABLE) if state else is_lost:
            return OperationalError(self._reason(error))
        return IntegrityError(self._reason(error)) if state and state[:2] == "23" else error

    # Reading and writing

    def execute_sql(self, query: str, values: dict[str, Any] | None = None) -> Any:
        """Run a query; gives its cursor. Within a transaction it is part of that."""
        if self._local.connection is not None:
            return self._local.connection.execute(translated(query), values)
        return self._run(query, lambda connection: connection.execute(translated(query), values))

    def write(self, work: Callable[[], Any], patient: bool = False) -> Any:
        """Run the function in a transaction; gives what it returns.

        It is run again where it met another transaction, or where the connection broke before its
        COMMIT. A `patient` one has no deadline, and is run once. Raises `CommitUnknown`.
        """

        def transaction(connection: Connection) -> Any:
            connection.execute("BEGIN")
            if patient:
                connection.execute(PATIENT)
            result = work()
            self._commit(connection)
            return result

        if self._commits.was_just_shut():
            raise OperationalError("the server does not answer a COMMIT")
        with self._commits.passed():
            return self._run("write", transaction, patient)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """A context in which all that is read is of one moment. It has no deadline."""
        try:
            connection = self._take(None)
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(PATIENT)
            yield
        except (psycopg.Error, NoAnswer) as error:
            raise self._told(error) from None
        finally:
            self._recover(None)

    def claim(self, key_digest: str) -> None:
        """Keep other writers from claiming the same, until the transaction ends."""
        number = int(key_digest[:15], 16)  # an advisory lock has 64 bits
        self.execute_sql("SELECT pg_advisory_xact_lock(:number)", {"number": number})

    def lock_accounts(self) -> None:
        """Keep other writers out, until the transaction ends."""
        self.execute_sql("LOCK TABLE account IN EXCLUSIVE MODE")

    def insert(self, query: str, values: dict[str, Any], id_column: str) -> int:
        """Run a query that inserts a row; gives the id that the row got."""
        return self.execute_sql(f"{query} RETURNING {id_column}", values).fetchone()[0]

    def execute_each(
        self, query: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]], keys: int
    ) -> list[tuple[Any, ...]]:
        """Run a query that finds, inserts or changes a row, for each of these, in a transaction.

        The columns name its values; the first `keys` of them identify a row, and no two rows are
        the same in these. Returns the rows for which it found or changed none.
        """
        if len(rows) == 1:  # arrays would take longer
            values = dict(zip(columns, rows[0], strict=True))
            return [] if self.execute_sql(query, values).rowcount else [*rows]
        missed = []
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            values = dict(zip(columns, map(list, zip(*some, strict=True)), strict=True))
            types = tuple((name, type(array[0])) for name, array in values.items())
            found = set(self.execute_sql(for_many(query, types, columns[:keys]), values))
            missed += [row for row in some if row[:keys] not in found]
        return missed

    def load(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Insert many rows, within a transaction."""
        query = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        with self._local.connection.cursor() as cursor, cursor.copy(query) as copy:
            for row in rows:
                copy.write_row(row)

    def rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        """The rows that a query returns, one after another, within a `snapshot`."""
        with self._local.connection.cursor("rows") as cursor:
            cursor.itersize = 10_000
            yield from cursor.execute(translated(query))

    def last_id(self) -> int:
        """The highest id that an account had, 0 if there was none yet."""
        return self.execute_sql(LAST_ID).fetchone()[0]

    def set_last_id(self, last_id: int) -> None:
        """Let the next account's id follow this one."""
        self.execute_sql(f"ALTER SEQUENCE {SEQUENCE} RESTART WITH {last_id + 1}")

    # Transactions

    def _commit(self, connection: Connection) -> None:
        connection.warned = False
        if connection.deadline is None:  # a patient one; but the wait for a standby has no end
            connection.deadline = monotonic() + START_TIMEOUT
        connection.deadline += COMMITTING
        try:
            connection.execute("COMMIT")
        except NoAnswer:
            self._commits.shut(after_waiting=True)
            try:  # else the server's process would wait on, for a standby say
                connection.cancel_safe(timeout=CANCELLING)
            except psycopg.Error:
                self._server.shut(after_waiting=True)
            raise CommitUnknown(f"the server does not answer a COMMIT: {UNKNOWN}") from None
        except psycopg.Error as error:
            if connection.info.transaction_status != IDLE:
                raise CommitUnknown(f"{self._reason(error)}: {UNKNOWN}") from None
            raise  # it was rolled back
        except MemoryError:
            raise CommitUnknown(f"out of memory in a COMMIT: {UNKNOWN}") from None
        if connection.warned:  # the wait for a standby was cancelled
            raise CommitUnknown(f"the server waits for no standby any more: {UNKNOWN}")
        self._commits.is_shut = False

    def _admit(self, kind: str, deadline: float) -> object:
        """Circuit breaker: begin an operation of a kind, a query's or a write; see `_leave`.

        While many threads wait for the server (for a lock that another program holds, say), this
        one waits for those of its kind. They are stuck if they take `QUEUED` seconds: then it
        fails at once, so that threads are left for other kinds. Raises `OperationalError`.
        """
        operation = object()
        with self._changed:
            others = self._running[kind]
            while others and self._waiting_threads >= CROWDED:
                oldest = next(iter(others.values()))
                left = min(oldest + QUEUED, deadline) - monotonic()
                if left <= 0:
                    raise OperationalError("others wait for the same too long: a lock, or a COMMIT")
                self._held += 1
                try:
                    self._changed.wait(left)
                finally:
                    self._held -= 1
            others[operation] = monotonic()
        return operation

    def _leave(self, kind: str, operation: object) -> None:
        """End an operation that was admitted."""
        with self._changed:
            del self._running[kind][operation]
            if self._held:
                self._changed.notify_all()

    def _run(self, kind: str, work: Callable[[Connection], Any], patient: bool = False) -> Any:
        """Run it on a connection; again where that may help."""
        with self._server.passed() if self._server.is_shut else OPEN:
            if patient:
                return self._run_until(None, work)
            seconds = HURRIED if self._server.was_just_shut() else WORKING
            deadline = monotonic() + seconds
            operation = self._admit(kind, deadline)
            try:
                return self._run_until(deadline, work)
            finally:
                self._leave(kind, operation)

    def _run_until(self, deadline: float | None, work: Callable[[Connection], Any]) -> Any:
        runs = 0
        while True:
            runs += 1
            try:
                result = work(self._take(deadline))
                self._give_back()
                self._server.is_shut = False
                return result
            except NoAnswer as error:
                self._server.shut(after_waiting=True)
                self._drop(self._local.connection)
                self._drop_idle()
                raise self._told(error) from None
            except psycopg.Error as error:
                is_connected = self._recover(error)
                is_over = deadline is None or monotonic() > deadline - BRIEFLY
                can_help = error.sqlstate in CONFLICTS if is_connected else runs <= 2
                if is_over or not can_help or runs == RUNS:
                    if not is_connected:
                        self._server.shut()
                    raise self._told(error) from None
            except BaseException as error:
                self._recover(error)
                if is_out_of_resources(error):
                    raise OperationalError(self._reason(error)) from None
                raise
            time.sleep(random.uniform(0, 0.01) * (runs - 1))

    def _recover(self, error: BaseException | None) -> bool:
        """End this thread's transaction; whether its connection can be used on."""
        connection = self._local.connection
        if connection is None:
            return False
        state = getattr(error, "sqlstate", None) or ""
        is_unknown = isinstance(error, CommitUnknown)
        if connection.closed or is_unknown or state.startswith(ELSEWHERE):
            self._drop(connection)
            if not is_unknown:
                self._drop_idle()
            return False
        try:
            if connection.info.transaction_status != IDLE:
                connection.execute("ROLLBACK")
        except (psycopg.Error, NoAnswer):
            self._drop(connection)
            return False
        self._give_back()
        return True
