"""Database engines: the protocol they implement, their errors, names of databases."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from peewee import DatabaseError as DatabaseError  # exported
from peewee import OperationalError

from fense_admin import files
from fense_admin.realtime import monotonic

MEMORY = ":memory:"
BRIEFLY = 0.02  # seconds to wait before starting a substitute worker
UNKNOWN = "it is unknown whether the change was saved"
POSTGRESQL = re.compile(r"postgres(?:ql)?://")
# A host with its port in such a URL; and a URL without a password, as libpq parses it.
HOST = r"(?:\[[^]@/]*\]|[^][:@/?,]*)(?::[0-9]+)?"
WITHOUT_PASSWORD = re.compile(rf"{POSTGRESQL.pattern}([^:@/]*@)?{HOST}(,{HOST})*([/?]|$)")
PARAMETER = re.compile(r"(?:password|secret)\s*=", re.IGNORECASE)

Result = TypeVar("Result")
Names = Sequence[str]  # of columns, or tables
Row = tuple[Any, ...]
Values = Mapping[str, Any]  # of a query, by name
Waiting = Callable[[], AbstractContextManager[None]]  # returns a context for a long wait
Read = Callable[[str, Values], list[Row]]  # runs a query and returns its rows


# --- Errors ------------------------------------------------------------------------------------


class Unusable(Exception):
    """The database can't be opened. The message says how to fix it."""


class CommitUnknown(OperationalError):
    """Unknown outcome: the connection was lost during a COMMIT."""


def is_unavailable(error: DatabaseError) -> bool:
    """Return whether the error means that the database is temporarily unavailable.

    Then nothing was changed, except after a `CommitUnknown`. Any other DatabaseError is a bug.
    """
    # peewee raises exactly these classes, not subclasses, when a file of SQLite is locked, full,
    # read-only, damaged or missing.
    return type(error) in (OperationalError, DatabaseError, CommitUnknown)


# --- Names -------------------------------------------------------------------------------------


def _without_drive(text: str) -> str:
    """Return a name without a Windows drive, whose colon could be taken for a password's."""
    drive, path = os.path.splitdrive(text)  # no other system has drives
    return path if drive.endswith(":") and path.startswith((os.sep, "/")) else text


def may_hold_password(text: str) -> bool:
    """Return whether a text may be a URL with a password, or libpq's "host=... password=..."."""
    if PARAMETER.search(text) or PARAMETER.search(urllib.parse.unquote(text)):
        return True
    if is_server(text):
        return not WITHOUT_PASSWORD.match(text)
    return re.search(r":(?!//).*@", _without_drive(text), re.DOTALL) is not None


def check_name(text: str) -> str:
    """Return the name of a database: a file name, ":memory:", or the URL of a PostgreSQL server.

    Raises `ValueError` for other URLs; the message doesn't quote them, as they may hold passwords.
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
    """Return whether this is the URL of a PostgreSQL server, not a file name."""
    return POSTGRESQL.match(name) is not None


# --- Schemas: one section of the file for each version of the tables ------------------------------


def read_schema(path: str) -> list[str]:
    """Return the sections of a schema file."""
    return re.split("-- version [0-9]+\n", files.read(path).decode())[1:]


def check_tables(name: str, sections: Sequence[str], version: int, tables: Iterable[str]) -> None:
    """Raise `Unusable` if the version is newer than the schema, or one of its tables is missing."""
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
    """Call `wait(seconds)`, which returns something true when it succeeds. Return its result.

    It is first called for a short time, then within the context of a long wait.
    """
    found = wait(BRIEFLY)
    if not found:
        with waiting():
            found = wait(max(0, until - monotonic()))
    return found


# --- Engines -----------------------------------------------------------------------------------


@dataclass
class Info:
    """What is known about an open database."""

    name: str  # a file's path, or a URL without secrets
    product: str = ""  # name and version
    in_memory: bool = False
    is_server: bool = False
    warning: str = ""  # to log at the start


class Cursor(Protocol):
    """The result of a query, as in Python's DB API."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Row]: ...
    def __iter__(self) -> Iterator[Row]: ...


class Engine(Protocol):
    """A database with the tables of its schema, shared between threads.

    Queries have named placeholders, such as `:date`. Any method may raise an error for which
    `is_unavailable` is true.
    """

    info: Info
    # The query for the highest id ever assigned; its result is 0 if there was none.
    last_id: str
    # Returns the context for long waits. A server sets one that starts a substitute worker.
    while_waiting: Waiting

    def execute_sql(self, sql: str, params: Values | None = None) -> Cursor:
        """Run a query, in the thread's transaction if there is one."""
        ...

    def execute_each(self, query: str, columns: Names, rows: Sequence[Row], keys: int) -> list[Row]:
        """Within a transaction, run a query that finds, inserts or changes one row, for each row.

        `columns` are the names of its placeholders. The first `keys` of them identify a row and are
        unique. Return the rows for which it found or changed nothing.
        """
        ...

    def load(self, table: str, columns: Names, rows: Iterable[Row]) -> None:
        """Insert many rows, within a transaction."""
        ...

    def without_keys(self, tables: Names) -> AbstractContextManager[None]:
        """Return a context that may check foreign keys of these tables only at its end.

        For long writes within a transaction. Until it ends, nobody else may read the tables.
        """
        ...

    def peek(self, query: str, values: Values) -> list[Row]:
        """Return the rows of a query, without waiting for locks."""
        ...

    def ping(self, query: str) -> None:
        """Raise an error if this query fails."""
        ...

    def ensure_same_file(self) -> None:
        """Raise an error if the database's file was moved or replaced."""
        ...

    def set_last_id(self, last_id: int) -> None:
        """Make the next account's id follow this one."""
        ...

    def write(self, work: Callable[[], Result], long_running: bool = False) -> Result:
        """Run the function in a transaction and return what it returns.

        It may be run several times, unless it is `long_running`: then each query has a longer
        deadline, and the whole has none. Raises `CommitUnknown`.
        """
        ...

    def lock(self, key_digest: str = "") -> None:
        """Prevent other writers from claiming this key until the transaction ends.

        Without a key, prevent them from writing any account.
        """
        ...

    def snapshot(self) -> AbstractContextManager[None]:
        """Return a context in which this thread reads from one snapshot."""
        ...

    def reading(self, long_running: bool = False) -> AbstractContextManager[Read]:
        """Return the context of a function that runs queries on one snapshot.

        It has its own connection: between queries the thread may do something else, and the context
        may end in another thread. Each query has a deadline, a longer one if `long_running`.
        """
        ...

    def scratch(self) -> AbstractContextManager[Engine | None]:
        """Return the context of a new, empty database, which replaces this one at the end.

        For long writes. The context yields None if they don't block readers anyway.
        """
        ...

    def close(self) -> object:
        """Close what this thread no longer needs."""
        ...

    def close_all(self) -> None:
        """Close the connections of all threads, for good."""
        ...
