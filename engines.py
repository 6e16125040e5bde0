"""What a database engine is: its protocol, its errors and names of databases. Knows no account."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from peewee import DatabaseError as DatabaseError  # for all who catch it
from peewee import OperationalError

from fense_admin import files
from fense_admin.realtime import monotonic

MEMORY = ":memory:"
BRIEFLY = 0.02  # seconds that a thread waits before another takes its place
UNKNOWN = "it is unknown whether the change was saved"
POSTGRESQL = re.compile(r"postgres(?:ql)?://")
# A host in such a URL, with its port; and a URL without a password, as libpq reads it.
HOST = r"(?:\[[^]@/]*\]|[^][:@/?,]*)(?::[0-9]+)?"
WITHOUT_PASSWORD = re.compile(rf"{POSTGRESQL.pattern}([^:@/]*@)?{HOST}(,{HOST})*([/?]|$)")
PARAMETER = re.compile(r"(?:password|secret)\s*=", re.IGNORECASE)

Result = TypeVar("Result")
Names = Sequence[str]  # of columns, or tables
Row = tuple[Any, ...]
Values = Mapping[str, Any]  # of a query, by name
Waiting = Callable[[], AbstractContextManager[None]]  # makes the context of a long wait
Read = Callable[[str, Values], list[Row]]  # runs a query, and returns what it finds


# --- Errors ------------------------------------------------------------------------------------


class Unusable(Exception):
    """The database can't be opened at all. The message is one sentence that says what to do."""


class CommitUnknown(OperationalError):
    """The connection was lost during a COMMIT: nobody knows whether the data was written."""


def is_unavailable(error: DatabaseError) -> bool:
    """Whether it means: the database can't be read or written just now.

    Then nothing was changed, but for a `CommitUnknown`. Any other DatabaseError is a bug.
    """
    # SQLite raises these two themselves where a file is locked, full, read-only, damaged or gone.
    return type(error) in (OperationalError, DatabaseError, CommitUnknown)


# --- Names -------------------------------------------------------------------------------------


def _without_drive(text: str) -> str:
    """A name without the drive of a Windows path, whose colon looks like that of a password."""
    drive, path = os.path.splitdrive(text)  # no other system has drives
    return path if drive.endswith(":") and path.startswith((os.sep, "/")) else text


def may_hold_password(text: str) -> bool:
    """Whether it may be a URL with a password, or libpq's "host=... password=..."."""
    if PARAMETER.search(text) or PARAMETER.search(urllib.parse.unquote(text)):
        return True
    if is_server(text):
        return not WITHOUT_PASSWORD.match(text)
    return re.search(r":(?!//).*@", _without_drive(text), re.DOTALL) is not None


def check_name(text: str) -> str:
    """A database's name: a file's, ":memory:", or the URL of a PostgreSQL server.

    Raises `ValueError` for another URL, without its text: there may be a password in it.
    """
    like_a_url = "://" in _without_drive(text) or may_hold_password(text)
    if is_server(text) or (text and not like_a_url):
        return text
    other = re.match(r"\s*(?!postgres)(\w[\w+.-]*://)", text, re.IGNORECASE)
    if other:
        known = "only SQLite (a file name) and PostgreSQL (postgresql://...) are"
        raise ValueError(f"{other[1]} is not supported: {known}")
    raise ValueError("must be a file name, :memory:, or a URL such as postgresql://host/name")


def is_server(name: str) -> bool:
    """Whether it names a PostgreSQL server, and not a file."""
    return POSTGRESQL.match(name) is not None


# --- Schemas: a section of the file for each version of the tables --------------------------------


def read_schema(path: str) -> list[str]:
    """Return the sections of a schema file."""
    return re.split("-- version [0-9]+\n", files.read(path).decode())[1:]


def check_tables(name: str, sections: Sequence[str], version: int, tables: Iterable[str]) -> None:
    """Raise `Unusable` if the version is newer than the schema, or lacks one of its tables."""
    if version > len(sections):
        raise Unusable(
            f"{name} was written by a newer version of fense-admin: upgrade this installation"
        )
    created = re.findall(r"^CREATE TABLE (\w+) \($", "".join(sections[:version]), re.MULTILINE)
    if not set(created) <= set(tables):
        raise Unusable(
            f"{name} lacks some of its tables: restore a backup or choose another database"
        )


# --- Waiting -----------------------------------------------------------------------------------


def wait_long(wait: Callable[[float], Result], until: float, waiting: Waiting) -> Result:
    """Call `wait` with the seconds that it may take; return what it returns, which is true in time.

    If nothing comes within a moment, call it again in the context of a long wait.
    """
    found = wait(BRIEFLY)
    if not found:
        with waiting():
            found = wait(max(0, until - monotonic()))
    return found


# --- Engines -----------------------------------------------------------------------------------


@dataclass
class Info:
    """What an open database is, for the log and for those who must know where it is."""

    name: str  # a file's path, or a URL as it may be shown
    product: str = ""  # with its version
    in_memory: bool = False
    is_server: bool = False
    warning: str = ""  # for the log of the start


class Cursor(Protocol):
    """The result of a query, as in Python's DB API."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Row]: ...
    def __iter__(self) -> Iterator[Row]: ...


class Engine(Protocol):
    """A database with the tables of its schema, shared between threads.

    A query is a text with names for its values, as `:date`. Any method may raise an error for which
    `is_unavailable` is true.
    """

    info: Info
    # The query for the highest id that an account has had; 0 if there was none yet.
    last_id: str
    # The context in which a thread waits for others. A server sets one that spares a worker.
    while_waiting: Waiting

    def execute_sql(self, sql: str, params: Values | None = None) -> Cursor:
        """Run a query, within the thread's transaction if there is one."""
        ...

    def execute_each(self, query: str, columns: Names, rows: Sequence[Row], keys: int) -> list[Row]:
        """Within a transaction, run a query that finds, inserts or changes a row for each of these.

        The columns name its values; the first `keys` of them identify a row, and no two rows are
        the same in these. Return the rows for which it found or changed none.
        """
        ...

    def load(self, table: str, columns: Names, rows: Iterable[Row]) -> None:
        """Insert many rows, within a transaction."""
        ...

    def without_keys(self, tables: Names) -> AbstractContextManager[None]:
        """Return a context in which foreign keys of these tables may be checked at its end.

        It is for long writes within a transaction: nobody else may read the tables until it ends.
        """
        ...

    def peek(self, query: str, values: Values) -> list[Row]:
        """Return what a query finds. Wait for no lock."""
        ...

    def ping(self, query: str) -> None:
        """Raise an error if this query can't be answered."""
        ...

    def ensure_same_file(self) -> None:
        """Raise an error if the database's file was moved or replaced."""
        ...

    def set_last_id(self, last_id: int) -> None:
        """Let the next account's id follow this one."""
        ...

    def write(self, work: Callable[[], Result], long_running: bool = False) -> Result:
        """Run the function in a transaction and return what it returns.

        It may be run several times, unless it is `long_running`: then each query has a longer
        deadline, and the whole has none. Raises `CommitUnknown`.
        """
        ...

    def lock(self, key_digest: str = "") -> None:
        """Until the transaction ends, keep other writers from claiming this key.

        Without a key, keep them from writing any account.
        """
        ...

    def snapshot(self) -> AbstractContextManager[None]:
        """Return a context in which all that this thread reads is of one moment."""
        ...

    def reading(self, long_running: bool = False) -> AbstractContextManager[Read]:
        """Return the context of a function that reads what there is at one moment, query by query.

        It has a connection to itself: in between, the thread may do something else, and the context
        may end in another one. Each query has a deadline, a long one if it is `long_running`.
        """
        ...

    def scratch(self) -> AbstractContextManager[Engine | None]:
        """Return the context of a new, empty database, which replaces this one at its end.

        It is for long writes. The context is of None where they don't block readers anyway.
        """
        ...

    def close(self) -> object:
        """Close what this thread needs no more."""
        ...

    def close_all(self) -> None:
        """Close the connections of all threads, for good."""
        ...
