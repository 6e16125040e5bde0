"""PostgreSQL: deadlines, transactions, migrations."""

from __future__ import annotations

# pyright: reportArgumentType=false, reportCallIssue=false
# psycopg's types require each query to be a literal, so that it can't contain client input.
import contextlib
import errno
import functools
import itertools
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

import psycopg
from peewee import DatabaseError, IntegrityError, OperationalError
from psycopg import pq

from fense_admin import engines
from fense_admin.engines import CommitUnknown, Cursor, Names, Read, Result, Row, Unusable, Values
from fense_admin.libpq import URL, NoResponse
from fense_admin.pool import START_TIMEOUT, Connection, Pool, value_of
from fense_admin.realtime import monotonic

SCHEMA_FILE = os.path.join(os.path.dirname(__file__), "schema-postgresql.sql")
MIGRATING = 0x46656E73  # "Fens": the advisory lock that a migration holds
MIGRATION = 3600  # seconds after which a migration is no longer retried

# Together these bound the time of a request: it fails after 3.4 s.
WORKING = 2.6  # seconds for an operation, a new connection included
COMMITTING = 0.5  # seconds more for its COMMIT
CANCELLING = 0.3  # seconds to cancel a COMMIT that timed out
CONNECTING = 0.15  # seconds that other threads wait for the one that probes a silent server
AFTERWARDS = 0.2  # seconds after a timeout; requests that come then have waited in a queue
HURRIED = 0.3  # seconds for the operations of those requests
COPIED = 10_000  # rows in one COPY
CHECKING = 60  # seconds to check a foreign key for all rows; three million take one second
AT_ONCE = 1_000  # rows in one statement, so that Python can handle signals in between
RUNS = 10  # attempts for a transaction that conflicts with others: see `CONFLICTS`

# SQLSTATEs, or the first two characters of a class
CONFLICTS = ("40001", "40P01", "23505")  # conflict with another transaction; 23505: with a load
# Demoted or shutting down: reconnect to find the new primary. Or a table has changed since a
# statement was prepared: a new connection prepares it again.
ELSEWHERE = ("25006", "57P", "0A000")
PAUSED = ("25P03", "25P04")  # this process was suspended inside a transaction for too long
LOST = ("0A", "3F", "42", "55")  # a table, column or function is missing or was changed
CHANGED = ("22001", "22003", "22P02", "23502")  # a column was made stricter: its type, NOT NULL
UNAVAILABLE = ("08", "25006", *PAUSED, "40", *LOST, *CHANGED, "53", "54", "57", "58", "XX")
OUR_BUGS = ("42601", "42P02")  # the text of a query is wrong

UNHURRIED = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
# Long reads and writes consist of many short statements.
PACE = 10  # seconds for each of their statements; after that, the server counts as silent
LONG_RUNNING = f"""
SET LOCAL statement_timeout = '{PACE - 1}s'; SET LOCAL idle_in_transaction_session_timeout = 0
"""
READ_ONE_MOMENT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
NO_LOCKS = "BEGIN; SET LOCAL lock_timeout = 100"  # milliseconds
# The tables of the first schema in search_path, except those of extensions.
TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
    AND oid NOT IN (
        SELECT objid FROM pg_depend WHERE classid = 'pg_class'::regclass AND deptype = 'e')
"""
# The foreign keys of some tables, if this role may drop and add them.
FOREIGN_KEYS = """
SELECT referring.oid::regclass, quote_ident(conname), pg_get_constraintdef(pg_constraint.oid)
FROM pg_constraint JOIN pg_class AS referring ON referring.oid = conrelid
    JOIN pg_class AS referred ON referred.oid = confrelid
WHERE contype = 'f' AND referring.oid = ANY (%s::regclass[])
    AND pg_has_role(referring.relowner, 'USAGE') AND pg_has_role(referred.relowner, 'USAGE')
"""
ARRAYS = {int: "bigint[]", str: "text[]"}
FAILURES = (psycopg.Error, DatabaseError, NoResponse, ValueError, RuntimeError)  # of a start
IDLE = pq.TransactionStatus.IDLE
SEQUENCE = "account_fense_account_id_seq"
LAST_ID = f"SELECT last_value - (NOT is_called)::int FROM {SEQUENCE}"


# --- Circuit breaker ---------------------------------------------------------------------------


class CircuitBreaker:
    """While the server is silent, lets one thread probe it, and the others fail at once."""

    def __init__(self) -> None:
        self.is_tripped = False
        self._timed_out_at = 0.0
        self._probed_since = 0.0
        self._probing = threading.Lock()

    def trip(self, after_timeout: bool = False) -> None:
        self.is_tripped = True
        if after_timeout:
            self._timed_out_at = monotonic()

    def was_just_tripped(self) -> bool:
        """Whether a wait timed out within the last `AFTERWARDS` seconds."""
        return self.is_tripped and monotonic() < self._timed_out_at + AFTERWARDS

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Return the context of an attempt to use the server.

        Raises `OperationalError` if it is tripped and another thread is still probing.
        """
        if self.is_tripped:
            left = self._probed_since + CONNECTING - monotonic()
            if not self._probing.acquire(timeout=max(0, left)):
                raise OperationalError("the server does not respond")
            try:
                if self.is_tripped:  # still, after another thread's probe
                    self._probed_since = monotonic()
                    yield
                    return
            finally:
                self._probing.release()
        yield


def is_out_of_resources(error: BaseException) -> bool:
    """Return whether this process can't get more memory, descriptors or threads."""
    if isinstance(error, OSError):
        return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
    is_thread = isinstance(error, RuntimeError) and "can't start new thread" in str(error)
    return isinstance(error, MemoryError) or is_thread


@functools.cache
def translated(query: str) -> str:
    """Translate a query of `models` for psycopg and PostgreSQL."""
    query = query.replace("%", "%%").replace("group_concat(", "string_agg(")
    query = re.sub(r"json_quote\((\w+)\)", r"COALESCE(to_json(\1)::text, 'null')", query)
    return re.sub(r"(?<!:):([a-z]\w*)", r"%(\1)s", query)


@functools.cache
def for_many(query: str, types: tuple[tuple[str, type], ...], returned: tuple[str, ...]) -> str:
    """Turn a query for one row into one for arrays of values, which returns these columns."""
    query = re.sub(r"VALUES \((.+?)\)", r"SELECT * FROM unnest(\1)", query)
    query = re.sub(r"= (:\w+)", r"= ANY(\1)", query)
    for name, kind in types:
        query = re.sub(rf":{name}\b", f":{name}::{ARRAYS[kind]}", query)
    return query + f" RETURNING {', '.join(returned)}" * query.startswith("INSERT")


# --- The database ------------------------------------------------------------------------------


class Engine(Pool):
    """A PostgreSQL database with the tables of schema-postgresql.sql: see `engines.Engine`.

    `url` is one of libpq. With `read_only`, nothing is written, tables of an earlier version are
    read as they are, and the server may be a standby. Raises `Unusable`.

    While the server is silent, one thread at a time waits for it, and the others fail at once.
    """

    last_id = LAST_ID

    def __init__(self, url: str, read_only: bool = False) -> None:
        self._server = CircuitBreaker()
        self._commits = CircuitBreaker()  # a COMMIT may wait for a standby while reads continue
        known = URL(url)
        try:
            super().__init__(known)
            self._start(read_only)
        except BaseException as error:
            self.close_all()
            if not isinstance(error, FAILURES):
                raise
            reason = f"{self._reason(error)}{known.advice}"
            raise Unusable(f"can't use {self.info.name}: {reason}") from None

    # Start

    def _start(self, read_only: bool) -> None:
        deadline = monotonic() + START_TIMEOUT
        try:
            connection = self._connect(deadline)
        except psycopg.OperationalError:
            if not read_only or not self._connector.accept_standby():
                raise
            connection = self._connect(deadline)
        self._give_back(connection)
        # Retried if it conflicts with other transactions, such as those of running nodes.
        self._run_until(monotonic() + MIGRATION, lambda it: self._migrate(it, read_only))

    def _migrate(self, connection: Connection, read_only: bool) -> None:
        """Run the missing sections of the schema. Raise `Unusable` if the database isn't ours.

        With `read_only`, only check the database.
        """
        name, sections = self.info.name, engines.read_schema(SCHEMA_FILE)
        connection.deadline = monotonic() + START_TIMEOUT
        encoding = value_of(connection, "SHOW server_encoding")
        if encoding != "UTF8":
            raise Unusable(f"{name} is encoded in {encoding}: choose a database in UTF8")
        connection.execute(f"BEGIN; {UNHURRIED}; SET LOCAL lock_timeout = '{START_TIMEOUT}s'")
        # Several nodes may start at once.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATING,))
        tables, version = {table for (table,) in connection.execute(TABLES)}, 0
        if "fense_admin" in tables:
            version = value_of(connection, "SELECT max(version) FROM fense_admin") or 0
        elif tables:
            raise Unusable(f"{name} has tables of another program: choose an empty database")
        engines.check_tables(name, sections, version, tables)
        if read_only:
            connection.execute("COMMIT")
            if not tables:
                raise Unusable(f"{name} is empty: choose the database that has the accounts")
            return
        connection.deadline = math.inf
        for section in sections[version:]:
            connection.execute(section)
        # Writes always, so that a read-only database fails here.
        written = f"INSERT INTO fense_admin VALUES ({len(sections)})"
        connection.execute(f"DELETE FROM fense_admin; {written}")
        # In this order: the counter is raised before an account with the id can be seen.
        highest = value_of(connection, "SELECT max(fense_account_id) FROM account") or 0
        last_id = value_of(connection, LAST_ID)
        if highest > last_id:
            raise Unusable(
                f"{name} would assign ids twice: the highest id in use is {highest}, but the "
                f"counter is at {last_id} (logical replication does not copy it): run SELECT "
                f"setval('{SEQUENCE}', N) there, where N is the counter of the original server, or "
                f"{highest} if no account with a higher id was ever made"
            )
        connection.deadline = monotonic() + START_TIMEOUT  # COMMIT may wait for a standby
        connection.execute("COMMIT")

    # Reading and writing

    def execute_sql(self, sql: str, params: Values | None = None) -> Cursor:
        if self._local.connection is not None:
            return self._local.connection.execute(translated(sql), params)
        return self._run(sql, lambda connection: connection.execute(translated(sql), params))

    def execute_each(self, query: str, columns: Names, rows: Sequence[Row], keys: int) -> list[Row]:
        if len(rows) == 1:  # arrays would be slower
            values = dict(zip(columns, rows[0], strict=True))
            return [] if self.execute_sql(query, values).rowcount else [*rows]
        missed: list[Row] = []
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            arrays = dict(zip(columns, map(list, zip(*some, strict=True)), strict=True))
            types = tuple((name, type(array[0])) for name, array in arrays.items())
            found = set(self.execute_sql(for_many(query, types, columns[:keys]), arrays))
            missed += [row for row in some if row[:keys] not in found]
        return missed

    def load(self, table: str, columns: Names, rows: Iterable[Row]) -> None:
        query = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        rows = iter(rows)
        while some := list(itertools.islice(rows, COPIED)):
            with self._own.cursor() as cursor, cursor.copy(query) as copy:
                for row in some:
                    copy.write_row(row)

    @contextlib.contextmanager
    def without_keys(self, tables: Names) -> Iterator[None]:
        # Checking the account of each row doubles the time; checking all at once takes a second.
        own = self._own
        found = own.execute(FOREIGN_KEYS, (list(tables),)).fetchall()
        for table, name, _ in found:
            own.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        yield
        own.execute(f"SET LOCAL statement_timeout = '{CHECKING - 1}s'")
        own.pace = CHECKING
        for table, name, definition in found:
            own.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
        own.pace = PACE

    def peek(self, query: str, values: Values) -> list[Row]:
        def look(connection: Connection) -> list[Row]:
            # With several statements at once, psycopg must put the values into the text.
            with psycopg.ClientCursor(connection) as cursor:
                cursor.execute(f"{NO_LOCKS}; {translated(query)}; COMMIT", values)
                while not cursor.description:
                    cursor.nextset()
                return cursor.fetchall()

        return self._run("peek", look)

    def ping(self, query: str) -> None:
        def look(connection: Connection) -> None:
            try:
                connection.execute(f"{NO_LOCKS}; {translated(query)}; COMMIT")
            except psycopg.errors.LockNotAvailable:  # at least accounts must be readable
                connection.execute("ROLLBACK")
                connection.execute("SELECT 1 FROM account LIMIT 1")

        self._run("ping", look)

    def ensure_same_file(self) -> None:
        """Do nothing: there is no file."""

    def set_last_id(self, last_id: int) -> None:
        self.execute_sql(f"ALTER SEQUENCE {SEQUENCE} RESTART WITH {last_id + 1}")

    # Transactions

    @property
    def _own(self) -> Connection:
        """This thread's connection. Only within a transaction."""
        assert self._local.connection is not None
        return self._local.connection

    def write(self, work: Callable[[], Result], long_running: bool = False) -> Result:
        def transaction(connection: Connection) -> Result:
            connection.pace = PACE if long_running else 0
            connection.execute(f"BEGIN; {LONG_RUNNING}" if long_running else "BEGIN")
            result = work()
            self._commit(connection)
            return result

        if self._commits.was_just_tripped():
            raise OperationalError("the server does not respond to COMMIT")
        with self._commits.attempt():
            return self._run("write", transaction, long_running)

    @contextlib.contextmanager
    def reading(self, long_running: bool = False) -> Iterator[Read]:
        def begin(connection: Connection) -> Connection:
            connection.pace = PACE if long_running else WORKING
            connection.execute(
                f"{READ_ONE_MOMENT}; {LONG_RUNNING}" if long_running else READ_ONE_MOMENT
            )
            return connection

        connection = self._run("reading", begin, long_running, keep=True)
        # A substitute already runs for this worker, so its waits don't count in `_waiting`.
        connection.while_waiting = contextlib.nullcontext

        def read(query: str, values: Values) -> list[Row]:
            # Not prepared: a generic plan wouldn't know the size of a piece.
            found = connection.execute(translated(query), values, prepare=False).fetchall()
            self._server.is_tripped = False
            return found

        failure: psycopg.Error | NoResponse | None = None
        try:
            yield read
        except (psycopg.Error, NoResponse) as error:
            failure = error
            raise self._translated(error) from None
        finally:
            connection.while_waiting = self._waiting
            self._recover(failure, connection)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        try:
            connection = self._take(math.inf)
            connection.pace = WORKING
            connection.execute(READ_ONE_MOMENT)
            yield
        except (psycopg.Error, NoResponse) as error:
            raise self._translated(error) from None
        finally:
            self._recover(None, self._local.connection)

    def scratch(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def lock(self, key_digest: str = "") -> None:
        if key_digest:
            number = int(key_digest[:15], 16)  # advisory locks have 64 bits
            self.execute_sql("SELECT pg_advisory_xact_lock(:number)", {"number": number})
        else:
            self.execute_sql("LOCK TABLE account IN EXCLUSIVE MODE")

    def _commit(self, connection: Connection) -> None:
        is_long_running = connection.pace > 0
        connection.warned, connection.pace = False, 0.0
        # Long writes had a deadline for each operation only; COMMIT may wait for a standby.
        if is_long_running:
            connection.deadline = monotonic() + START_TIMEOUT
        connection.deadline += COMMITTING
        try:
            connection.execute("COMMIT")
        except NoResponse:
            self._commits.trip(after_timeout=True)
            try:  # otherwise the server's process would keep waiting
                connection.cancel_safe(timeout=CANCELLING)
            except psycopg.Error:
                self._server.trip(after_timeout=True)
            raise CommitUnknown(
                f"the server does not respond to COMMIT: {engines.UNKNOWN}"
            ) from None
        except psycopg.Error as error:
            if connection.info.transaction_status != IDLE:
                raise CommitUnknown(f"{self._reason(error)}: {engines.UNKNOWN}") from None
            raise  # it was rolled back
        except MemoryError:
            raise CommitUnknown(f"out of memory in a COMMIT: {engines.UNKNOWN}") from None
        if connection.warned:  # the wait for a standby was cancelled
            raise CommitUnknown(f"the server stopped waiting for a standby: {engines.UNKNOWN}")
        self._commits.is_tripped = False

    def _run(
        self,
        kind: str,
        work: Callable[[Connection], Result],
        long_running: bool = False,
        keep: bool = False,
    ) -> Result:
        """Run `work` on a connection, which it may `keep`. Retry it if that may help."""
        with self._server.attempt():
            if long_running:
                return self._run_until(math.inf, work, keep)
            deadline = monotonic() + (HURRIED if self._server.was_just_tripped() else WORKING)
            with self._admitted(kind, deadline):
                return self._run_until(deadline, work, keep)

    def _run_until(
        self, deadline: float, work: Callable[[Connection], Result], keep: bool = False
    ) -> Result:
        runs = 0
        while True:
            runs += 1
            try:
                connection = self._take(deadline)
                result = work(connection)
                if keep:
                    self._local.connection = None
                else:
                    self._give_back(connection)
                self._server.is_tripped = False
                return result
            except NoResponse as error:
                self._recover(error, self._local.connection)
                raise self._translated(error) from None
            except psycopg.Error as error:
                is_connected = self._recover(error, self._local.connection)
                is_over = deadline == math.inf or monotonic() > deadline - engines.BRIEFLY
                can_help = error.sqlstate in CONFLICTS if is_connected else runs <= 2
                if is_over or not can_help or runs == RUNS:
                    if not is_connected:
                        self._server.trip()
                    raise self._translated(error) from None
            except BaseException as error:
                self._recover(error, self._local.connection)
                if is_out_of_resources(error):
                    raise OperationalError(self._reason(error)) from None
                raise
            time.sleep(random.uniform(0, 0.01) * (runs - 1))

    def _recover(self, error: BaseException | None, connection: Connection | None) -> bool:
        """End a connection's transaction. Return whether the connection is still usable."""
        if isinstance(error, NoResponse):
            self._server.trip(after_timeout=True)
            self._drop(connection)
            self._drop_idle()
            return False
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
        except (psycopg.Error, NoResponse):
            self._drop(connection)
            return False
        self._give_back(connection)
        return True

    def _translated(self, error: psycopg.Error | NoResponse) -> Exception:
        """Translate an error into one that `engines.is_unavailable` understands."""
        state = getattr(error, "sqlstate", None)
        is_lost = isinstance(error, (NoResponse, psycopg.OperationalError, psycopg.InterfaceError))
        if state in OUR_BUGS:
            return error
        if state.startswith(UNAVAILABLE) if state else is_lost:
            return OperationalError(self._reason(error))
        return IntegrityError(self._reason(error)) if state and state[:2] == "23" else error
