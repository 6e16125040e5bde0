"""The data: accounts, their lookups by day, and every question asked of them.

Knows no HTTP. The shapes that `Database` gives back are the bodies of the contract, ready to be
serialised; a merchant's key comes in clear, is digested, and is never seen again.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import logging
import os
import re
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from peewee import (
    EXCLUDED,
    AutoField,
    BooleanField,
    CompositeKey,
    DatabaseError,
    ForeignKeyField,
    IntegerField,
    IntegrityError,
    Model,
    OperationalError,
    SqliteDatabase,
    TextField,
)
from peewee import __exception_wrapper__ as peewee_errors
from peewee import sqlite3 as dbapi

log = logging.getLogger("fense_admin")

MEMORY = ":memory:"
MAX_LOOKUPS = 10**12  # of one account on one day; schema.sql enforces it
MAX_ID = 2**53 - 1  # what JSON's numbers hold exactly
FIRST_DAY, LAST_DAY = "0001-01-01", "9999-12-31"

# Together they bound a write to a database that another process has locked: 3.5 s, then it fails.
WRITER_TIMEOUT = 2.0  # seconds for this process's other writers
BUSY_TIMEOUT = 1.5  # seconds for other processes; SQLite's own waiting
START_TIMEOUT = 30  # seconds, as another process may be bringing the file up to date
SETTLED = 100_000_000  # nanoseconds after which a folder's time stamp tells the next write apart
START_STEP = 0.2  # seconds of it that SQLite waits at once: signals are heard in between

FEW_ROWS = 1_000  # which are written in no time

SQLITE = dbapi.sqlite_version  # of the library that peewee uses: pysqlite3's, where there is one
APPLICATION_ID = 0x46656E73  # "Fens": SQLite's own mark of whose file it is
SCHEMA_VERSION = 3
TABLES = ({"account", "usage"}, {"account", "usage", "usage_month"})  # in version 1, and since
SCHEMA_FILE = os.path.join(os.path.dirname(__file__), "schema.sql")


# --- Errors -----------------------------------------------------------------------------------


class NoSuchAccount(LookupError):
    """The id names no account."""


class ApiKeyTaken(ValueError):
    """Another account has this api_key."""


class Unusable(Exception):
    """The database can't be opened at all. The message is one sentence that names the mend."""


def is_unavailable(error: DatabaseError) -> bool:
    """Whether it means: the database can't be read or written just now, nothing was changed.

    Locked, full, read-only, damaged, gone: SQLite calls that an OperationalError or a plain
    DatabaseError. The other subclasses of DatabaseError are faults of ours.
    """
    return type(error) in (OperationalError, DatabaseError)


# --- Tables: schema.sql makes them, these are for asking ---------------------------------------


class Account(Model):
    fense_account_id = AutoField()
    name = TextField()
    email = TextField()
    api_key_sha256 = TextField(unique=True)
    api_key_last4 = TextField(null=True)
    suppress_notifications = BooleanField()
    suppress_billing = BooleanField()
    is_active = BooleanField()
    dispute_account_id = TextField(null=True)
    created_at = TextField()
    updated_at = TextField()

    class Meta:
        table_name = "account"


class Usage(Model):
    account = ForeignKeyField(Account, column_name="fense_account_id")
    date = TextField()
    lookups = IntegerField()

    class Meta:
        table_name = "usage"
        primary_key = CompositeKey("account", "date")


class UsageMonth(Model):
    account = ForeignKeyField(Account, column_name="fense_account_id")
    month = TextField()
    lookups = IntegerField()

    class Meta:
        table_name = "usage_month"
        primary_key = CompositeKey("account", "month")


# --- Queries: peewee writes each once, here; building one costs more than running it -----------


def compiled(query: Any) -> str:
    """The text of a query, its values left out: they are bound, in order, when it is run."""
    return SqliteDatabase(None).get_sql_context().sql(query).query()[0]


# The account as the contract shows it, in the contract's order.
ACCOUNT_SHAPE = (
    Account.fense_account_id,
    Account.name,
    Account.email,
    Account.api_key_last4,
    Account.suppress_notifications,
    Account.suppress_billing,
    Account.is_active,
    Account.dispute_account_id,
    Account.created_at,
    Account.updated_at,
)
ACCOUNT_KEYS = tuple(field.name for field in ACCOUNT_SHAPE)
ACCOUNT_FLAGS = tuple(f.name for f in ACCOUNT_SHAPE if isinstance(f, BooleanField))

SELECT_ACCOUNT = compiled(Account.select(*ACCOUNT_SHAPE).where(Account.fense_account_id == 0))
SELECT_KEY_OWNER = compiled(
    Account.select(Account.fense_account_id).where(Account.api_key_sha256 == "")
)
# Usage as the contract shows it is written as JSON by SQLite itself. For each row that comes out
# of it Python's lock is given up and has to be had again, which takes long in a busy process; and
# while Python writes a long history as JSON, nobody else is served.
SELECT_USAGE = """
SELECT name, dispute_account_id, COALESCE(total_lookups, 0), COALESCE(daily, '')
FROM account, (
    SELECT SUM(lookups) AS total_lookups,
        group_concat(printf('{"date": "%s", "lookups": %d}', date, lookups), ', ') AS daily
    FROM (
        SELECT date, lookups FROM usage
        WHERE fense_account_id = ?1 AND date BETWEEN ?2 AND ?3 ORDER BY date
    )
)
WHERE fense_account_id = ?1
"""
# (The sum of all comes in two halves: it may pass the 64 bits that SQLite counts in.)
SELECT_TOTALS = """
SELECT COALESCE(SUM(total_lookups >> 32), 0), COALESCE(SUM(total_lookups & 0xffffffff), 0),
    COALESCE(group_concat(printf(
        '{{"fense_account_id": %d, "name": %s, "dispute_account_id": %s, "total_lookups": %d}}',
        fense_account_id, json_quote(name), json_quote(dispute_account_id), total_lookups
    ), ', '), '')
FROM (
    SELECT fense_account_id, name, dispute_account_id, {} AS total_lookups
    FROM account ORDER BY fense_account_id
)
"""
# A subquery per account: a JOIN with GROUP BY is slower, and slower still the longer the history.
TOTAL_OF_DAYS = """(
    SELECT COALESCE(SUM(lookups), 0) FROM usage
    WHERE usage.fense_account_id = account.fense_account_id AND date BETWEEN ? AND ?
)"""
TOTAL_OF_MONTHS = """(
    SELECT COALESCE(SUM(lookups), 0) FROM usage_month
    WHERE usage_month.fense_account_id = account.fense_account_id AND month > ? AND month < ?
)"""
SELECT_TOTALS_BY_DAY = SELECT_TOTALS.format(TOTAL_OF_DAYS)
# The first and the last month by day, those between by month.
SELECT_TOTALS_BY_MONTH = SELECT_TOTALS.format(
    " + ".join([TOTAL_OF_DAYS, TOTAL_OF_MONTHS, TOTAL_OF_DAYS])
)
# All of an account and all usage, to be written again elsewhere as they are.
STATE_COLUMNS = (*ACCOUNT_SHAPE[:3], Account.api_key_sha256, *ACCOUNT_SHAPE[3:])
STATE_KEYS = tuple(field.name for field in STATE_COLUMNS)
SELECT_STATE = compiled(Account.select(*STATE_COLUMNS).order_by(Account.fense_account_id))
SELECT_ALL_DAYS = compiled(Usage.select().order_by(Usage.account, Usage.date))

# Adding happens in SQL, in one statement: reading first and writing back would lose lookups.
ADD_LOOKUPS = compiled(
    Usage.insert(account=0, date="", lookups=0).on_conflict(
        conflict_target=(Usage.account, Usage.date),
        update={Usage.lookups: Usage.lookups + EXCLUDED.lookups},
    )
)
ADD_TO_MONTH = compiled(
    UsageMonth.insert(account=0, month="", lookups=0).on_conflict(
        conflict_target=(UsageMonth.account, UsageMonth.month),
        update={UsageMonth.lookups: UsageMonth.lookups + EXCLUDED.lookups},
    )
)
SUM_UP_MONTHS = """
INSERT INTO usage_month
SELECT fense_account_id, substr(date, 1, 7) AS month, SUM(lookups) FROM usage
GROUP BY fense_account_id, month
"""


# --- The database ------------------------------------------------------------------------------


class Database(SqliteDatabase):
    """One database of accounts and usage, safe to share between threads.

    `path` is a file, made if it is not there, or ":memory:" for one that lives until `close_all`.
    Every thread gets a connection of its own, which stays open. Raises `Unusable`.

    Any method may raise an error that `is_unavailable` knows.
    """

    def __init__(self, path: str) -> None:
        self._connections: set[Any] = set()
        self._writer = threading.Lock()
        # A context in which a thread that waits long does its waiting; the server puts in a spare.
        self.while_waiting = contextlib.nullcontext
        options = {
            "lock_type": "IMMEDIATE",  # else a transaction that reads first can't wait to write
            "timeout": START_STEP,
            "check_same_thread": False,  # for close_all
        }
        if path == MEMORY:
            # A plain ":memory:" would be a new empty database in each thread.
            self._path = None
            pragmas = {"foreign_keys": 1, "synchronous": "OFF"}
            name = f"file:/{uuid.uuid4().hex}?vfs=memdb"
            super().__init__(name, pragmas=pragmas, uri=True, **options)
        else:
            # FULL: what was acknowledged survives a power cut. (Absolute: a path is only a path.)
            self._path = os.path.realpath(path)  # beside which SQLite keeps the log, too
            pragmas = {"foreign_keys": 1, "synchronous": "FULL"}
            super().__init__(self._path, pragmas=pragmas, **options)
        self._files: dict[str, tuple[int, int]] = {}
        self._folder_state = (0, 0)
        try:
            if self._path is not None:
                self._make_file()
            self._wait_for_others(path)
            connection = self._connect()  # no thread's, so that there is one until the end
            with peewee_errors:
                connection.execute("SELECT * FROM account LIMIT 1").fetchone()
            self._files = self._find_files()
            if self._path is not None and os.stat(self._path).st_mode & 0o044:
                log.warning("%s can be read by others: chmod 600 mends that", path)
            self.timeout = BUSY_TIMEOUT
        except (DatabaseError, OSError) as error:
            self.close_all()
            raise Unusable(_why_unusable(path, error)) from error
        except Unusable:
            self.close_all()
            raise

    def _make_file(self) -> None:
        """Make a file that is not there, for nobody else to read.

        It gets its name once it is whole: none that is found empty can be ours.
        """
        if os.path.exists(self._path):
            return
        folder, name = os.path.split(self._path)
        with _removed(folder, f".{name}-") as made:
            with contextlib.closing(dbapi.connect(made)) as connection:
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            with contextlib.suppress(FileExistsError):  # another process was faster
                _give_name(made, self._path)

    def _wait_for_others(self, path: str) -> None:
        """Prepare the file as soon as other processes let go of it."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                return self._prepare(path)
            except OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            self.close()
            time.sleep(0.01)

    def _prepare(self, path: str) -> None:
        """Make the tables that are missing; refuse a file that is not ours, or takes no write."""
        with self.atomic():  # several processes may start at once
            version, owner = self.user_version, self.application_id
            if path == MEMORY:
                self.application_id = APPLICATION_ID
            elif owner == version == 0 and not self.get_tables():
                raise Unusable(f"{path} is empty, and was there before: remove it, or name another")
            elif owner != APPLICATION_ID:
                raise Unusable(f"{path} is another program's SQLite database: name another file")
            elif version > SCHEMA_VERSION:
                raise Unusable(
                    f"{path} was written by a newer version of fense-admin: upgrade this one"
                )
            elif version and not TABLES[version > 1] <= set(self.get_tables()):
                raise Unusable(f"{path} has lost its tables: restore a backup, or name another")
            sections = _schema()[version:]
            if version == 0:
                del sections[2:]  # it is made with the checks that version 3 brings
            for section in sections:
                for statement in section.split(";\n"):
                    self.execute_sql(statement)
            if version < 2:
                self.execute_sql(SUM_UP_MONTHS)
            self.user_version = SCHEMA_VERSION  # a write: a file that takes none is found here
        if path != MEMORY:
            # So that readers and the writer don't wait for each other. Where others open a new file
            # at the same time, SQLite refuses this without waiting.
            self.journal_mode = "wal"
            self.close()  # this connection would go by the checks as they were

    # Connections. One is kept open until the end, whatever the threads do with theirs: it keeps a
    # database in memory alive, and a file's write-ahead log from being folded in at every close.

    def _connect(self) -> Any:
        self.check_place()  # else SQLite would make a new and empty one
        connection = super()._connect()
        self._connections.add(connection)
        return connection

    def _close(self, conn: Any) -> None:
        self._connections.discard(conn)
        super()._close(conn)

    def close_all(self) -> None:
        """Close the connections of all threads, and for good."""
        while self._connections:
            super()._close(self._connections.pop())
        self.dispose()

    # A file that is moved, deleted or replaced while it is open would be written on, and what is
    # written there is lost: so each request asks first. The same holds for the write-ahead log and
    # its index beside it. (For a file put in its place, the log of the old one would be taken for
    # its own: that takes a stop.)

    def check_place(self) -> None:
        """Raise an error that `is_unavailable` knows if a file is not where it was opened."""
        if not self._files:
            return
        # As long as its folder was not written to, each file is where it was: one question for all.
        folder = _stat(os.path.dirname(self._path))
        state = folder.st_ino, folder.st_mtime_ns
        if state == self._folder_state:
            return
        if self._files != self._find_files():
            raise OperationalError("the database file, its -wal or -shm was replaced: start anew")
        if time.time_ns() - folder.st_mtime_ns > SETTLED:
            self._folder_state = state

    def _find_files(self) -> dict[str, tuple[int, int]]:
        if self._path is None:
            return {}
        found = {end: _stat(self._path + end) for end in ("", "-wal", "-shm")}
        return {end: (status.st_dev, status.st_ino) for end, status in found.items()}

    def check(self) -> None:
        """Raise an error that `is_unavailable` knows if the database can't be opened and read."""
        self.close()  # this thread's connection, which would answer from what it remembers
        self.execute_sql("SELECT * FROM account LIMIT 1").fetchone()

    def rollback(self) -> None:
        if self.connection().in_transaction:  # else SQLite has done it: the disk is full
            super().rollback()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction, one at a time in this process: SQLite's own queue is slow and unfair."""
        with self._alone(), self.atomic():
            yield

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other thread of this process writes meanwhile."""
        if not self._writer.acquire(timeout=0.05):
            with self.while_waiting():
                if not self._writer.acquire(timeout=WRITER_TIMEOUT):
                    raise OperationalError("other writers take too long")
        try:
            self.check_place()
            yield
        finally:
            self._writer.release()

    # Accounts

    def count_accounts(self) -> int:
        """How many accounts there are."""
        return self.execute_sql("SELECT COUNT(*) FROM account").fetchone()[0]

    def is_merchant_key(self, key: str) -> bool:
        """Whether it is the api_key of some account."""
        return self.execute_sql(SELECT_KEY_OWNER, (digest(key),)).fetchone() is not None

    def get_account(self, fense_account_id: int) -> dict[str, Any]:
        """The account. Raises `NoSuchAccount`."""
        row = None
        if 0 < fense_account_id <= MAX_ID:
            row = self.execute_sql(SELECT_ACCOUNT, (fense_account_id,)).fetchone()
        if row is None:
            raise NoSuchAccount(fense_account_id)
        return _account(ACCOUNT_KEYS, row)

    def create_account(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Make an account of checked fields and give it back. Raises `ApiKeyTaken`."""
        created_at = now()
        values = as_columns(fields) | {"created_at": created_at, "updated_at": created_at}
        with self.writing(), _unique_key():
            return self.get_account(self._insert_account(values))

    def update_account(self, fense_account_id: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Change the checked fields given, no others, and give the account back.

        Raises `NoSuchAccount`, `ApiKeyTaken`.
        """
        with self.writing(), _unique_key():
            account = self.get_account(fense_account_id)
            if not fields:
                return account
            values = as_columns(fields) | {"updated_at": now()}
            changes = ", ".join(f"{column} = ?" for column in values)
            update = f"UPDATE account SET {changes} WHERE fense_account_id = ?"
            self.execute_sql(update, (*values.values(), fense_account_id))
            return self.get_account(fense_account_id)

    def _insert_account(self, values: dict[str, Any]) -> int:
        """Write these columns, the others as the schema has them; gives the id."""
        marks = ", ".join("?" * len(values))
        insert = f"INSERT INTO account ({', '.join(values)}) VALUES ({marks})"
        number = self.execute_sql(insert, tuple(values.values())).lastrowid
        if number > MAX_ID:
            raise OperationalError("every fense_account_id is used up")
        return number

    # Usage

    def account_usage(
        self, fense_account_id: int, start_date: str | None, end_date: str | None
    ) -> str:
        """The lookups of one account, day by day, both ends included; as JSON.

        Raises `NoSuchAccount`.
        """
        values = (fense_account_id, start_date or FIRST_DAY, end_date or LAST_DAY)
        row = None
        if 0 < fense_account_id <= MAX_ID:
            row = self.execute_sql(SELECT_USAGE, values).fetchone()
        if row is None:
            raise NoSuchAccount(fense_account_id)
        name, dispute_account_id, total_lookups, daily = row
        head = {
            "fense_account_id": fense_account_id,
            "name": name,
            "dispute_account_id": dispute_account_id,
            "start_date": start_date,
            "end_date": end_date,
            "total_lookups": total_lookups,
        }
        return f'{json.dumps(head)[:-1]}, "daily": [{daily}]}}'

    def all_usage(self, start_date: str | None, end_date: str | None) -> str:
        """The lookups of every account, one total each, both ends included; as JSON."""
        first, last = start_date or FIRST_DAY, end_date or LAST_DAY
        first_month, last_month = first[:7], last[:7]
        if count_months(first_month, last_month) > 2:
            bounds = (first, f"{first_month}-31", first_month, last_month, f"{last_month}-01", last)
            row = self.execute_sql(SELECT_TOTALS_BY_MONTH, bounds).fetchone()
        else:
            row = self.execute_sql(SELECT_TOTALS_BY_DAY, (first, last)).fetchone()
        high, low, accounts = row
        total = (high << 32) + low
        head = {"start_date": start_date, "end_date": end_date, "total_lookups": total}
        return f'{json.dumps(head)[:-1]}, "accounts": [{accounts}]}}'

    def record_lookups(self, fense_account_id: int, lookups: int, date: str | None = None) -> None:
        """Add lookups to an account's UTC day (YYYY-MM-DD; today unless given).

        Raises `NoSuchAccount`, and `ValueError` for a number below 0 or no number, for a day that
        is none, and where the day's total would pass 10^12.
        """
        if type(fense_account_id) is not int:
            raise ValueError("fense_account_id must be an integer")
        date = today() if date is None else check_date(date)
        check_lookups(lookups)
        with self.writing():
            self.add_lookups(fense_account_id, lookups, date)

    def add_lookups(self, fense_account_id: int, lookups: int, date: str) -> None:
        """`record_lookups` of checked values, within a transaction of the caller's."""
        self.get_account(fense_account_id)
        if lookups:
            try:
                self.execute_sql(ADD_LOOKUPS, (fense_account_id, date, lookups))
                self.execute_sql(ADD_TO_MONTH, (fense_account_id, date[:7], lookups))
            except IntegrityError:
                raise ValueError(f"would take {date} past {MAX_LOOKUPS}, a day's most") from None

    # All of it

    def dump(self) -> dict[str, Any]:
        """Every account with its usage by day, in order of id: what `replace` makes again."""
        with self.atomic("DEFERRED"):  # one moment of both tables
            accounts = self.execute_sql(SELECT_STATE).fetchall()
            days = self.execute_sql(SELECT_ALL_DAYS).fetchall()
        usage: dict[int, dict[str, int]] = {row[0]: {} for row in accounts}
        for fense_account_id, date, lookups in days:
            usage[fense_account_id][date] = lookups
        shown = [_account(STATE_KEYS, row) | {"usage": usage[row[0]]} for row in accounts]
        return {"accounts": shown}

    def replace(
        self, accounts: Sequence[dict[str, Any]], usage: Sequence[tuple[int, str, int]]
    ) -> None:
        """Forget everything and write this: accounts by column, usage as (id, date, lookups).

        The next id follows the highest.
        """
        if self._path is None and len(accounts) + len(usage) > FEW_ROWS:
            # A long write would keep readers out of what is in memory: it is made elsewhere.
            made = Database(MEMORY)
            try:
                made._replace(accounts, usage)
                with self._alone(), peewee_errors:
                    made.connection().backup(self.connection(), sleep=0.001)
            finally:
                made.close_all()
        else:
            with self.writing():
                self._replace(accounts, usage)

    def _replace(
        self, accounts: Sequence[dict[str, Any]], usage: Sequence[tuple[int, str, int]]
    ) -> None:
        with self.atomic():
            for table in ("usage_month", "usage", "account", "sqlite_sequence"):
                self.execute_sql(f"DELETE FROM {table}")
            for account in accounts:
                self._insert_account(account)
            with peewee_errors:
                # (Row by row from Python, where signals are heard.)
                self.cursor().executemany(ADD_LOOKUPS, (row for row in usage))
            self.execute_sql(SUM_UP_MONTHS)


def backup(path: str, target: str) -> None:
    """Copy the database file at `path`, as it is at one moment, into a new file.

    In one go, while others read and write. Raises `OSError` for the target, `DatabaseError`, and
    `Unusable` for a file that is not ours.
    """
    source = SqliteDatabase(os.path.realpath(path), timeout=START_TIMEOUT)
    target = os.path.abspath(target)  # which SQLite takes for no URI
    with contextlib.closing(source):
        if source.application_id != APPLICATION_ID or not source.table_exists("account"):
            raise Unusable(f"{path} is no database of fense-admin: name it with --database")
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        folder, name = os.path.split(target)
        with _removed_come_what_may(folder, f".{name}-") as made:
            with peewee_errors, contextlib.closing(dbapi.connect(made)) as copy:
                copy.execute("PRAGMA journal_mode = OFF")  # which would be one more file
                source.connection().backup(copy)
            _sync(made)
            _give_name(made, target)
            _sync(folder)


@contextlib.contextmanager
def _removed_come_what_may(folder: str, prefix: str) -> Iterator[str]:
    """A new file, for nobody else to read. It is removed at the end, even of a killed process."""
    with _removed(folder, prefix) as path:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # a process that waits for the end of this one
            try:
                for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    signal.signal(signum, signal.SIG_IGN)
                os.close(writer)
                os.read(reader, 1)
                os.unlink(path)
            finally:
                os._exit(0)
        os.close(reader)
        try:
            yield path
        finally:
            os.close(writer)
            os.waitpid(child, 0)


@contextlib.contextmanager
def _removed(folder: str, prefix: str) -> Iterator[str]:
    """A new file, for nobody else to read, whose name is removed at the end."""
    descriptor, path = tempfile.mkstemp(dir=folder, prefix=prefix)
    os.close(descriptor)
    try:
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _give_name(path: str, name: str) -> None:
    """Let the file have this name. Raises `FileExistsError` if another one has it."""
    try:
        os.link(path, name)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
        os.rename(path, name)


def _sync(path: str) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- Helpers -----------------------------------------------------------------------------------


def now() -> str:
    """This second, UTC, as the contract writes times."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def today() -> str:
    """This day, UTC, as YYYY-MM-DD."""
    return now()[:10]


def check_date(text: object) -> str:
    """The same text, if it is a day of the calendar as YYYY-MM-DD; else raises `ValueError`."""
    try:
        if isinstance(text, str) and str(datetime.date.fromisoformat(text)) == text:
            return text
    except ValueError:
        pass
    raise ValueError("must be a day of the calendar, written YYYY-MM-DD")


def count_months(first: str, last: str) -> int:
    """How many months there are from YYYY-MM to YYYY-MM, both included."""
    return (int(last[:4]) - int(first[:4])) * 12 + int(last[5:]) - int(first[5:]) + 1


def check_lookups(number: object) -> int:
    """The same number, if one day can hold so many; else raises `ValueError`."""
    if type(number) is not int or not 0 <= number <= MAX_LOOKUPS:
        raise ValueError(f"must be a whole number of lookups from 0 to {MAX_LOOKUPS}")
    return number


def digest(key: str) -> str:
    """The SHA-256 of a key in hex, which is all that is ever kept or compared of one."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def last4(key: str) -> str | None:
    """The last four characters of a key; None where four would give too much of it away."""
    return key[-4:] if len(key) >= 12 else None


def as_columns(fields: dict[str, Any]) -> dict[str, Any]:
    """The contract's fields as columns: the same, but for the key."""
    columns = dict(fields)
    if "api_key" in columns:
        key = columns.pop("api_key")
        columns |= {"api_key_sha256": digest(key), "api_key_last4": last4(key)}
    return columns


def _schema() -> list[str]:
    """The schema's sections, one for each version."""
    with open(SCHEMA_FILE, encoding="utf-8") as schema:
        return re.split("-- version [0-9]+\n", schema.read())[1:]


def _account(keys: tuple[str, ...], row: tuple[Any, ...]) -> dict[str, Any]:
    account = dict(zip(keys, row, strict=True))
    for flag in ACCOUNT_FLAGS:
        account[flag] = bool(account[flag])
    return account


@contextlib.contextmanager
def _unique_key() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        # Checked fields break no other constraint; if they do, that is a fault of ours.
        if "account.api_key_sha256" not in str(error):
            raise
        raise ApiKeyTaken from None


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise OperationalError(f"{os.path.basename(path)} is gone: {error.strerror}") from error


def _why_unusable(path: str, error: Exception) -> str:
    if os.path.isdir(path):
        return f"{path} is a directory: name a file with --database"
    if "not a database" in str(error):
        return f"{path} is no SQLite database: name another file with --database"
    if "locked" in str(error):
        return f"{path} is locked by another program: stop that one first"
    reason = error.strerror if isinstance(error, OSError) else error
    return f"can't open {path} ({reason}): name a file in a folder that exists and can be written"
