"""Opens databases: a name chooses the engine."""

from __future__ import annotations

from fense_admin import engines, sqlite
from fense_admin.engines import Unusable
from fense_admin.models import Database

EXTRA = "run pip install 'fense-admin[postgresql]' (in a checkout '.[postgresql]')"


def open_database(name: str, read_only: bool = False) -> Database:
    """Open a database: see `engines.check_name` for its name. Raises `Unusable`.

    With `read_only` it can be the source of `models.copy`, and no more: its tables may be of an
    earlier version.
    """
    try:
        engines.check_name(name)
    except ValueError as error:
        raise Unusable(f"the database's name {error}") from None
    if not engines.is_server(name):
        return Database(sqlite.Engine(name, read_only))
    try:
        from fense_admin import postgres  # late: few have the driver
    except ImportError as error:
        raise Unusable(f"PostgreSQL needs psycopg ({error}): {EXTRA}") from None
    return Database(postgres.Engine(name, read_only))
