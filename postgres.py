"""PostgreSQL: connections, deadlines, transactions, migrations. Knows no account."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
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
MOST_WAITING = 32  # threads whose places others take; each of these has a connection, too
MOST_COMMITTING = 24  # threads: if more waited for a COMMIT, none might be left for reads
STALLED = 0.15  # seconds without an answer to any of them
QUEUED = 0.5  # seconds that a write waits for an answer to one of them
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
ELSEWHERE = ("25006", "57P")  # a standby now, or shutting down: a new connection finds better
PAUSED = ("25P03", "25P04")  # this process was, for too long within a transaction
UNAVAILABLE = ("08", "25006", *PAUSED, "40", "42501", "42P01", "53", "55P03", "57", "58", "XX")

PATIENT = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
# The tables of the schema that comes first in search_path, but for those of extensions.
TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
    AND NOT EXISTS (
        SELECT FROM pg_depend
        WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e'
    )
"""
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
                    left = max(0, self.deadline - time.monotonic()) * 1000
                found = poll.poll(left)
        if not found:
            raise NoAnswer
        return bool(found[0][1] & ~select.POLLOUT) | 2 * bool(found[0][1] & select.POLLOUT)

    def notice(self, diagnostic: Any) -> None:
        self.warned = self.warned or diagnostic.severity_nonlocalized == "WARNING"


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
            self._waited_until = time.monotonic()

    def was_just_shut(self) -> bool:
        """Whether somebody has waited until just now: what comes has waited, too, in a queue."""
        return self.is_shut and time.monotonic() < self._waited_until + AFTERWARDS

    @contextlib.contextmanager
    def passed(self) -> Iterator[None]:
        """A context for one that goes through. Raises `OperationalError` while another tries."""
        if self.is_shut:
            left = self._tried_since + CONNECTING - time.monotonic()
            if not self._trying.acquire(timeout=max(0, left)):
                raise OperationalError("the server does not answer")
            try:
                if self.is_shut:  # still, after waiting for another
                    self._tried_since = time.monotonic()
                    yield
                    return
            finally:
                self._trying.release()
        yield


@functools.cache
def translated(query: str) -> str:
    """A query of `models`, as psycopg and PostgreSQL take it."""
    query = query.replace("%", "%%").replace("group_concat(", "string_agg(")
    return re.sub(r"(?<!:):([a-z]\w*)", r"%(\1)s", query)


# --- The database ------------------------------------------------------------------------------


class Engine:
    """A PostgreSQL database with the tables of schema-postgresql.sql, shared between threads.

    `url` is libpq's. Each thread gets a connection of its own, which stays open; one that broke is
    made anew. Raises `Unusable`.

    Any method may raise an error for which `is_unavailable` is true. While the server does not
    answer, one thread at a time waits for it; the others are told at once.
    """

    is_server = True
    in_memory = False

    def __init__(self, url: str) -> None:
        self._url = URL(url)
        self.database = self._url.shown
        self.product = ""  # until the first connection is made
        self.warning = ""  # for the log of the start
        self._local = threading.local()
        self._connections: set[Connection] = set()
        self._server = Gate()
        self._commits = Gate()  # of its own: reads go on while a COMMIT waits for a standby
        # The context in which a thread waits; a server sets one that spares a worker.
        self.while_waiting: Callable[[], Any] = contextlib.nullcontext
        self._places = threading.Semaphore(MOST_WAITING)
        self._committing: set[Connection] = set()
        self._committed = 0.0  # when a COMMIT was answered last
        try:
            self._connector = Connector(self._url)
            self._start()
        except (psycopg.Error, OperationalError, NoAnswer, ValueError) as error:
            self.close_all()
            reason = f"{self._reason(error)}{self._url.advice}"
            raise Unusable(f"can't use {self.database}: {reason}") from None
        except BaseException:
            self.close_all()
            raise

    # Start

    def _start(self) -> None:
        """Migrate; again if it met other transactions, of nodes that serve already, say."""
        for left in reversed(range(RUNS)):
            try:
                self._migrate()
                return
            except psycopg.Error as error:
                if error.sqlstate not in CONFLICTS or not left:
                    raise
                self._drop(self._local.connection)
            time.sleep(random.uniform(0, 0.1))

    def _migrate(self) -> None:
        """Run the sections of the schema that are missing; refuse a database that is not ours."""
        schema = __spec__.loader.get_data(SCHEMA_FILE).decode()  # which may be in a zip file
        sections = re.split("-- version [0-9]+\n", schema)[1:]
        deadline = time.monotonic() + START_TIMEOUT
        self._local.connection = connection = self._connect(deadline)

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
        connection.deadline = time.monotonic() + START_TIMEOUT  # for a standby, say
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

    def _drop(self, connection: Connection | None) -> None:
        if connection is not None:
            self._connections.discard(connection)
            connection.close()

    def _check_server(self, connection: Connection) -> None:
        """Raise `Unusable` if it is no PostgreSQL, or shares the session with others."""
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
            other = self._open(time.monotonic() + POOLER, [])[0]
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
        """The context in which a thread waits for the server."""
        if not self._places.acquire(blocking=False):
            yield
            return
        try:
            with self.while_waiting():
                yield
        finally:
            self._places.release()

    def _connection(self, deadline: float | None) -> Connection:
        """This thread's connection, with a new deadline."""
        connection = getattr(self._local, "connection", None)
        if connection is None or connection.closed:
            self.close()
            by = time.monotonic() + START_TIMEOUT if deadline is None else deadline
            connection = self._local.connection = self._connect(by)
        connection.deadline = deadline
        return connection

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            self._local.connection = None
            self._connections.discard(connection)
            connection.close()

    def close_all(self) -> None:
        """Close the connections of all threads."""
        while self._connections:
            self._connections.pop().close()

    def ping(self) -> None:
        """Raise an error for which `is_unavailable` is true if it can't be reached and read."""
        self.execute_sql("SELECT 1 FROM account LIMIT 1")

    def ensure_same_file(self) -> None:
        """Nothing: there is no file."""

    # Errors

    def _reason(self, error: Exception) -> str:
        """Why it failed, in one line, without a password."""
        if isinstance(error, NoAnswer):
            return str(error) or "the server does not answer"
        return self._url.hide_secrets(first_line(str(error)))

    def _told(self, error: psycopg.Error | NoAnswer) -> Exception:
        """The error as `models` knows it: see `is_unavailable`."""
        state = getattr(error, "sqlstate", None)
        is_lost = isinstance(error, (NoAnswer, psycopg.OperationalError, psycopg.InterfaceError))
        if state.startswith(UNAVAILABLE) if state else is_lost:
            return OperationalError(self._reason(error))
        return IntegrityError(self._reason(error)) if state and state[:2] == "23" else error

    # Reading and writing

    def execute_sql(self, query: str, values: dict[str, Any] | None = None) -> Any:
        """Run a query; gives its cursor. Within a transaction it is part of that."""
        if self._is_inside():
            return self._local.connection.execute(translated(query), values)
        return self._run(lambda connection: connection.execute(translated(query), values))

    def write(self, work: Callable[[], Any], patient: bool = False) -> Any:
        """Run the function in a transaction; gives what it returns.

        It is run again where it met another transaction, or where the connection broke before its
        COMMIT. A `patient` one has no deadline, and is run once. Raises `CommitUnknown`.
        """

        def transaction(connection: Connection) -> Any:
            self._leave_threads_to_reads()
            connection.execute("BEGIN")
            if patient:
                connection.execute(PATIENT)
            with self._inside():
                result = work()
            self._commit(connection)
            return result

        if self._commits.was_just_shut():
            raise OperationalError("the server does not answer a COMMIT")
        with self._commits.passed():
            return self._run(transaction, patient)

    def _leave_threads_to_reads(self) -> None:
        """Wait while many wait for a COMMIT and none is answered. Raises `OperationalError`."""
        until = time.monotonic() + QUEUED
        while (
            len(self._committing) >= MOST_COMMITTING
            and time.monotonic() > self._committed + STALLED
        ):
            if time.monotonic() > until:
                self._commits.shut(after_waiting=True)
                raise OperationalError("the server does not answer a COMMIT")
            time.sleep(BRIEFLY)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """A context in which all that is read is of one moment. It has no deadline."""
        try:
            connection = self._connection(None)
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(PATIENT)
            with self._inside():
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

    def _is_inside(self) -> bool:
        return getattr(self._local, "is_inside", False)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        """A context in which what this thread runs is part of a transaction."""
        self._local.is_inside = True
        try:
            yield
        finally:
            self._local.is_inside = False

    def _commit(self, connection: Connection) -> None:
        connection.warned = False
        if connection.deadline is None:  # a patient one; but the wait for a standby has no end
            connection.deadline = time.monotonic() + START_TIMEOUT
        connection.deadline += COMMITTING
        self._committing.add(connection)
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
        finally:
            self._committing.discard(connection)
        if connection.warned:  # the wait for a standby was cancelled
            raise CommitUnknown(f"the server waits for no standby any more: {UNKNOWN}")
        self._committed = time.monotonic()
        self._commits.is_shut = False

    def _run(self, work: Callable[[Connection], Any], patient: bool = False) -> Any:
        """Run it on this thread's connection; once more where that may help."""
        with self._server.passed():
            seconds = HURRIED if self._server.was_just_shut() else WORKING
            deadline = None if patient else time.monotonic() + seconds
            runs = 0
            while True:
                runs += 1
                try:
                    result = work(self._connection(deadline))
                    self._server.is_shut = False
                    return result
                except NoAnswer as error:
                    self._server.shut(after_waiting=True)
                    self.close()
                    raise self._told(error) from None
                except psycopg.Error as error:
                    is_connected = self._recover(error)
                    is_over = patient or time.monotonic() > deadline - BRIEFLY
                    can_help = error.sqlstate in CONFLICTS if is_connected else runs <= 2
                    if is_over or not can_help or runs == RUNS:
                        if not is_connected:
                            self._server.shut()
                        raise self._told(error) from None
                except BaseException as error:
                    self._recover(error)
                    raise
                time.sleep(random.uniform(0, 0.01) * (runs - 1))

    def _recover(self, error: BaseException | None) -> bool:
        """End this thread's transaction; whether its connection can be used on."""
        connection = getattr(self._local, "connection", None)
        state = getattr(error, "sqlstate", None) or ""
        is_lost = isinstance(error, CommitUnknown) or state.startswith(ELSEWHERE)
        if connection is None or connection.closed or is_lost:
            self.close()
            return False
        if connection.info.transaction_status != IDLE:
            try:
                connection.execute("ROLLBACK")
            except (psycopg.Error, NoAnswer):
                self.close()
                return False
        return True
