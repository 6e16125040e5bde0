"""SQLite: connections, pragmas, write-ahead log, migrations, backup. Knows no account."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

import peewee
from peewee import DatabaseError, OperationalError, SqliteDatabase

from fense_admin import disk, engines, systems
from fense_admin.engines import (
    MEMORY,
    Cursor,
    Info,
    Names,
    Read,
    Result,
    Row,
    Unusable,
    Values,
    Waiting,
)
from fense_admin.realtime import monotonic

if TYPE_CHECKING:
    import sqlite3
else:
    from peewee import sqlite3  # pysqlite3 if it is installed

log = logging.getLogger("fense_admin")

# A context that turns sqlite3's errors into peewee's.
peewee_errors: AbstractContextManager[None] = peewee.__exception_wrapper__  # type: ignore[attr-defined]

VERSION = sqlite3.sqlite_version
APPLICATION_ID = 0x46656E73  # "Fens": SQLite stores it in the file to show whose it is
SCHEMA_FILE = os.path.join(os.path.dirname(__file__), "schema.sql")

# Together these bound a write to a database that another process has locked: it fails after 3.5 s.
WRITER_TIMEOUT = 2.0  # seconds to wait for other writers in this process
BUSY_TIMEOUT = 1.5  # seconds that SQLite waits for other processes
START_TIMEOUT = 30  # seconds to wait at the start, while another process may migrate the file
STEP = 0.2  # seconds; long waits are made in such steps, so that Python can handle signals
DURABLE = {"synchronous": "FULL", **systems.SYNC_PRAGMAS}  # commits survive a power cut
NOT_DURABLE = {"synchronous": "OFF"}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
QUICK_CHECK = "PRAGMA quick_check(1)"  # stops at the first error
COPIED = 4096  # pages that a backup copies in one step
SETTLED = 2_100_000_000  # nanoseconds; any change alters an mtime older than this, on FAT, too


# --- The database ------------------------------------------------------------------------------


class Engine(SqliteDatabase):
    """A SQLite database with the tables of schema.sql: see `engines.Engine`.

    `path` is a file, which is created if it is missing, or ":memory:" for one that exists until
    `close_all`. With `read_only`, nothing is written, and a file of an earlier version is read as
    it is. Each thread gets its own connection, which stays open. Raises `Unusable`.
    """

    last_id = "SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'account'"

    def __init__(self, path: str, read_only: bool = False) -> None:
        in_memory = path == MEMORY
        self._path = "" if in_memory else _real_path(path)  # its -wal is beside it
        self.info = Info(self._path or MEMORY, f"SQLite {VERSION}", in_memory)
        # A plain ":memory:" would be a new empty database in each thread.
        name = self._path or f"file:/{uuid.uuid4().hex}?vfs=memdb"
        self._unwritten: list[tuple[int, ...]] = []  # the file's state, if nobody may write to it
        if read_only:
            name = f"{_uri(self._path)}?mode=ro"
            if len(state := self._file_state()) == 1:
                name += "&immutable=1"  # else SQLite would make a -wal and a -shm
                self._unwritten = state
        self._connections: set[sqlite3.Connection] = set()
        self._writer = threading.Lock()
        self.while_waiting: Waiting = contextlib.nullcontext
        self._files: dict[str, tuple[int, int]] = {}
        self._folder, self._folder_state = os.path.dirname(self._path), (0, 0)
        super().__init__(
            name,
            uri=name != self._path,
            pragmas={"foreign_keys": 1, **(DURABLE if self._path else NOT_DURABLE)},
            lock_type="IMMEDIATE",  # else a transaction that reads first can't wait to write
            timeout=STEP,
            check_same_thread=False,  # for close_all
        )
        try:
            if read_only:
                self._when_free(lambda: _check_ours(path, self))
            else:
                self._make_file_if_missing()
                self._when_free(lambda: self._migrate(path))
            connection = self._connect()  # the one that stays open until `close_all`
            with peewee_errors:
                connection.execute("SELECT * FROM account LIMIT 1").fetchone()
            if not read_only:
                self._files = self._find_files()
            if systems.HAS_MODES and self._path and os.stat(self._path).st_mode & 0o044:
                log.warning("%s can be read by other users: run chmod 600 on it", path)
            self.timeout = BUSY_TIMEOUT
        except Unusable:
            self.close_all()
            raise
        except (DatabaseError, OSError) as error:
            self.close_all()
            raise Unusable(_why_unusable(path, error, read_only)) from error

    # Start

    def _make_file_if_missing(self) -> None:
        """Create the file if it is missing, readable only by this user.

        It is renamed into place after its application id is set: so an empty file isn't ours.
        """
        if not self._path:
            return
        disk.remove_left_behind(os.path.dirname(self._path))
        if os.path.exists(self._path):
            return
        with disk.temporary_beside(self._path) as made:
            with peewee_errors, contextlib.closing(sqlite3.connect(made)) as connection:
                connection.execute("PRAGMA journal_mode = OFF")  # a journal would be one more file
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            with contextlib.suppress(FileExistsError):  # another process was faster
                disk.rename_to_new(made, self._path)

    def _when_free(self, work: Callable[[], None]) -> None:
        """Run the first use of the database; retry while another process has locked it."""
        deadline = monotonic() + START_TIMEOUT
        while True:
            try:
                work()
                return
            except OperationalError as error:
                if "locked" not in str(error) or monotonic() > deadline:
                    raise
            self.close()
            time.sleep(0.01)

    def _migrate(self, path: str) -> None:
        """Run the missing sections of the schema. Raise `Unusable` if the file isn't ours."""
        sections = engines.read_schema(SCHEMA_FILE)
        with self.atomic():  # several processes may start at once
            if not self._path:
                self.application_id = APPLICATION_ID
            elif self.application_id != APPLICATION_ID or self.user_version or self.get_tables():
                _check_ours(path, self)  # it isn't new
            version = self.user_version
            for section in sections[version:]:
                # A new database needs no repair, and some builds of SQLite forbid this one.
                if version or "writable_schema" not in section:
                    for statement in section.split(";\n"):
                        self.execute_sql(statement)
            self.user_version = len(sections)  # writes always, so a read-only file fails here
        if self._path:
            # In this mode readers and the writer don't wait for each other. While another process
            # opens a new file, SQLite refuses the change without waiting.
            self.journal_mode = "wal"
            self.close()  # this connection has cached the old schema

    # Connections. Besides those of the threads, one stays open until `close_all`: it keeps a
    # database in memory alive, and prevents a checkpoint of the write-ahead log at every close.

    def _connect(self) -> sqlite3.Connection:
        self.ensure_same_file()  # otherwise SQLite would create a new, empty file
        connection: sqlite3.Connection = super()._connect()  # type: ignore[misc]
        self._connections.add(connection)
        return connection

    def _close(self, conn: sqlite3.Connection) -> None:
        self._connections.discard(conn)
        conn.close()

    def close_all(self) -> None:
        while self._connections:
            self._connections.pop().close()
        self.dispose()

    def ping(self, query: str) -> None:
        self.close()  # this thread's connection would use its cache
        self.execute_sql(query).fetchone()

    def peek(self, query: str, values: Values) -> list[Row]:
        return self.execute_sql(query, values).fetchall()

    # The file's state, for `read_only`

    def _file_state(self) -> list[tuple[int, ...]]:
        """Return the state of the file, and of a -wal or -journal with changes for it."""
        found: list[tuple[int, ...]] = []
        for end in ("", "-wal", "-journal"):
            with contextlib.suppress(OSError):  # there is none
                it = os.stat(self._path + end)
                if it.st_size:
                    found.append((it.st_dev, it.st_ino, it.st_size, it.st_mtime_ns))
        return found

    # If its file is moved, deleted or replaced, SQLite continues to write to the old one, and those
    # writes are lost. So each request first checks the file, its write-ahead log and their index.
    # (After a replacement only a restart helps: the open log belongs to the old file.)

    def ensure_same_file(self) -> None:
        if not self._files:
            return
        # While the folder's mtime is the same, no file in it has moved: one stat for all.
        folder = _stat(self._folder)
        state = folder.st_ino, folder.st_mtime_ns
        if state == self._folder_state:
            return
        if self._files != self._find_files():
            raise OperationalError(
                "the database file, its -wal or its -shm was replaced: restart the service"
            )
        if time.time_ns() - folder.st_mtime_ns > SETTLED:
            self._folder_state = state

    def _find_files(self) -> dict[str, tuple[int, int]]:
        """Return (device, inode) of each of its files, by suffix; {} in memory."""
        found = {end: _stat(self._path + end) for end in ("", "-wal", "-shm") if self._path}
        return {end: (status.st_dev, status.st_ino) for end, status in found.items()}

    # Reading and writing

    def execute_sql(self, sql: str, params: Values | None = None) -> Cursor:
        with peewee_errors:
            return cast("Cursor", self.connection().execute(sql, params or ()))

    def write(self, work: Callable[[], Result], long_running: bool = False) -> Result:
        # One at a time in this process: SQLite's own waiting is slow and unfair.
        with self._only_writer(), self.transaction():
            return work()

    @contextlib.contextmanager
    def _only_writer(self) -> Iterator[None]:
        if not self._writer.acquire(timeout=0.05):
            with self.while_waiting():
                if not self._writer.acquire(timeout=WRITER_TIMEOUT):
                    raise OperationalError("other writers take too long")
        try:
            self.ensure_same_file()
            yield
        finally:
            self._writer.release()

    def snapshot(self) -> AbstractContextManager[None]:
        return cast("AbstractContextManager[None]", self.atomic("DEFERRED"))

    @contextlib.contextmanager
    def reading(self, long_running: bool = False) -> Iterator[Read]:
        # A database in memory has no write-ahead log, so this blocks its writers until it ends,
        # like one long query.
        connection = self._connect()

        def read(query: str, values: Values) -> list[Row]:
            with peewee_errors:
                found: list[Row] = connection.execute(query, values).fetchall()
            if self._unwritten and self._file_state() != self._unwritten:
                reason = "was changed while it was being read: stop the service that uses it"
                raise OperationalError(f"{self._path} {reason}")
            return found

        try:
            read("BEGIN DEFERRED", {})
            yield read
        finally:
            self._close(connection)

    def lock(self, key_digest: str = "") -> None:
        """Do nothing: there is only one writing transaction at a time."""

    def execute_each(self, query: str, columns: Names, rows: Sequence[Row], keys: int) -> list[Row]:
        missed = []
        for row in rows:
            cursor = self.execute_sql(query, dict(zip(columns, row, strict=True)))
            if cursor.rowcount < 1 and cursor.fetchone() is None:
                missed.append(row)
        return missed

    def load(self, table: str, columns: Names, rows: Iterable[Row]) -> None:
        places = ", ".join("?" * len(columns))
        query = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"
        with peewee_errors:
            # An iterator, so that Python can handle signals between rows.
            self.connection().executemany(query, rows)

    def without_keys(self, tables: Names) -> AbstractContextManager[None]:
        """Do nothing: checking each row is cheap here."""
        return contextlib.nullcontext()

    def set_last_id(self, last_id: int) -> None:
        self.execute_sql("DELETE FROM sqlite_sequence WHERE name = 'account'")
        self.execute_sql(f"INSERT INTO sqlite_sequence (name, seq) VALUES ('account', {last_id})")

    def rollback(self) -> None:
        if self.connection().in_transaction:  # on a full disk, SQLite has rolled back already
            super().rollback()

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Engine | None]:
        if not self.info.in_memory:  # a file's write-ahead log lets others read
            yield None
            return
        made = Engine(MEMORY)
        try:
            yield made
            with self._only_writer(), peewee_errors:
                made.connection().backup(self.connection(), sleep=0.001)
        finally:
            made.close_all()


def _uri(path: str) -> str:
    """Return an absolute path as a URI for SQLite, which reads /C:/x as C:/x."""
    slashed = path.replace(os.sep, "/")
    rooted = slashed if slashed.startswith("/") else f"/{slashed}"
    return f"file://{urllib.parse.quote(os.fsencode(rooted))}"


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise OperationalError(f"{os.path.basename(path)} is missing: {error.strerror}") from error


def _real_path(path: str) -> str:
    """Resolve links in a path. Raises `Unusable` for a directory or a device (NUL, CON)."""
    if os.path.exists(path) and not os.path.isfile(path):
        what = "directory" if os.path.isdir(path) else "device"
        raise Unusable(f"{path} is a {what}: choose a file with --database")
    try:
        return os.path.realpath(path)
    except OSError as error:  # a missing device of Windows
        raise Unusable(_why_unusable(path, error, read_only=False)) from error


def _check_ours(path: str, database: SqliteDatabase, or_newer: bool = False) -> None:
    """Raise `Unusable` if a database isn't ours, or lacks a table of its version.

    Unless `or_newer`, a version newer than the schema's is also refused.
    """
    version, owner = database.user_version, database.application_id
    tables = database.get_tables()
    if owner == version == 0 and not tables:
        raise Unusable(f"{path} already exists and is empty: delete it or choose another file")
    if owner != APPLICATION_ID:
        raise Unusable(f"{path} is an SQLite database of another program: choose another file")
    sections = engines.read_schema(SCHEMA_FILE)
    if or_newer:
        version = min(version, len(sections))
    engines.check_tables(path, sections, version or 1, tables)


def _why_unusable(path: str, error: Exception, read_only: bool) -> str:
    text = getattr(error, "strerror", None) or str(error)
    if "not a database" in text:
        return f"{path} is not an SQLite database: choose another file with --database"
    if "locked" in text:
        return f"{path} is locked by another program: stop that program first"
    if read_only and "readonly" in text:  # there is a -journal
        advice = "open it with the version that wrote it, which rolls back the last change"
    elif read_only:
        advice = (
            "check its permissions; if a -wal file is beside it, copy both to a writable folder"
        )
    elif "full" in text or getattr(error, "errno", None) in NO_ROOM:
        advice = "free space on its disk and in the temporary folder"
    elif isinstance(error, OSError) or "unable to open" in text or "readonly" in text:
        advice = "choose a file in a folder that exists and is writable"
    else:
        advice = "restore a backup or choose another file"
    return f"can't open {path} ({text}): {advice}"


# --- Backup ------------------------------------------------------------------------------------


def backup(
    path: str,
    target: str,
    report: Callable[[int, int], None] = lambda done, total: None,
    before_end: Callable[[], None] = lambda: None,
) -> None:
    """Copy a snapshot of the database file at `path` to the new file `target`.

    Others may read and write at the same time. `report` is called with the number of bytes copied
    and the total, `before_end` before the copy gets its final name. Raises `OSError` for the
    target, `DatabaseError`, and `Unusable` for a file that isn't ours, lacks a table or is damaged.
    """
    source = SqliteDatabase(_real_path(path), timeout=START_TIMEOUT)
    target = os.path.abspath(target)  # SQLite would read a name like file:x as a URI
    with contextlib.closing(source):
        _check_ours(path, source, or_newer=True)
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        disk.remove_left_behind(os.path.dirname(target))
        with disk.temporary_beside(target) as made:
            with peewee_errors, contextlib.closing(sqlite3.connect(made)) as copy:
                copy.execute("PRAGMA journal_mode = OFF")  # a journal would be one more file
                _copy_pages(source.connection(), copy, report)
            _check_whole(path, made)
            systems.sync(made)
            before_end()
            disk.rename_to_new(made, target)
            systems.sync(os.path.dirname(target))


def _copy_pages(
    source: sqlite3.Connection, copy: sqlite3.Connection, report: Callable[[int, int], None]
) -> None:
    """Copy a database in steps, so that Python can handle signals between them."""
    # In a transaction, which reads one snapshot: otherwise the copy would start again whenever
    # another process writes, and never end with a busy writer.
    source.execute("BEGIN")
    source.execute("SELECT * FROM sqlite_master LIMIT 1").fetchone()
    (size,) = source.execute("PRAGMA page_size").fetchone()

    def report_bytes(_: int, left: int, pages: int) -> None:
        report((pages - left) * size, pages * size)

    source.backup(copy, pages=COPIED, progress=report_bytes)
    source.execute("COMMIT")


def _check_whole(path: str, copy: str) -> None:
    """Raise `Unusable` if a copy of the file at `path` is damaged."""
    from concurrent.futures import ThreadPoolExecutor, wait  # late: no other command needs it

    uri = f"{_uri(copy)}?immutable=1"  # makes no -wal
    made = sqlite3.connect(uri, uri=True, check_same_thread=False)
    with peewee_errors, contextlib.closing(made) as connection, ThreadPoolExecutor(1) as worker:
        # In another thread, because this one handles signals only between statements.
        check = worker.submit(lambda: connection.execute(QUICK_CHECK).fetchone())
        try:
            while not wait([check], STEP).done:  # in steps: a signal doesn't end a wait on Windows
                pass
            (found,) = check.result()
        finally:
            connection.interrupt()
    if found != "ok":
        what = found.splitlines()[-1]
        raise Unusable(f"{path} is damaged ({what}): restore an earlier backup")
