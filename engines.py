"""The database engines: how a name chooses one, and what both raise. Knows no account."""

from __future__ import annotations

import re
import urllib.parse
from typing import Any

from peewee import DatabaseError, OperationalError

MEMORY = ":memory:"
UNKNOWN = "it may have been written, or not"
EXTRA = "run pip install 'fense-admin[postgresql]' (in a checkout '.[postgresql]')"
POSTGRESQL = re.compile(r"postgres(?:ql)?://")
# A host in such a URL, with its port; and a URL without a password, as libpq reads it.
HOST = r"(?:\[[^]@/]*\]|[^][:@/?,]*)(?::[0-9]+)?"
WITHOUT_PASSWORD = re.compile(rf"{POSTGRESQL.pattern}([^:@/]*@)?{HOST}(,{HOST})*([/?]|$)")
PARAMETER = re.compile(r"(?:password|secret)\s*=", re.IGNORECASE)


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


def may_hold_password(text: str) -> bool:
    """Whether it may be a URL with a password, or libpq's "host=... password=..."."""
    if PARAMETER.search(text) or PARAMETER.search(urllib.parse.unquote(text)):
        return True
    if is_server(text):
        return not WITHOUT_PASSWORD.match(text)
    return re.search(r":(?!//).*@", text, re.DOTALL) is not None


def check_name(text: str) -> str:
    """A database's name: a file's, ":memory:", or the URL of a PostgreSQL server.

    Raises `ValueError` for another URL, without its text: there may be a password in it.
    """
    like_a_url = "://" in text or may_hold_password(text)
    if is_server(text) or (text and not like_a_url):
        return text
    other = re.match(r"\s*(?!postgres)(\w[\w+.-]*://)", text, re.IGNORECASE)
    if other:
        tried = "SQLite (a file's name) and PostgreSQL 15 (postgresql://...) were tried"
        raise ValueError(f"{other[1]} is not supported: {tried}, and nothing else")
    raise ValueError("must be a file's name, :memory:, or a URL as postgresql://host/name")


def is_server(name: str) -> bool:
    """Whether it names a PostgreSQL server, and not a file."""
    return POSTGRESQL.match(name) is not None


def open_engine(name: str, read_only: bool = False) -> Any:
    """The engine of this database: a `sqlite.Engine`, or a `postgres.Engine`. Raises `Unusable`.

    With `read_only` its tables are not migrated, and may be of an earlier version.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise Unusable(f"the database's name {error}") from None
    if is_server(name):
        try:
            from fense_admin import postgres  # late: few have the driver
        except ImportError as error:
            raise Unusable(f"PostgreSQL needs psycopg ({error}): {EXTRA}") from None
        return postgres.Engine(name, read_only)
    from fense_admin import sqlite

    return sqlite.Engine(name, read_only)
