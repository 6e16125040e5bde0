"""Databases with many accounts and lookups, written by SQL."""

from __future__ import annotations

import contextlib
import datetime
import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

from contenders import Contender, PostgreSQL, find_program

from fense_admin import databases

LAST_DAY = datetime.date(2026, 11, 22)
MONTH = ("2026-10-24", "2026-11-22")  # 30 days
# Each table as its project made it: names of the account's id, there and in the usage.
NAMES = {"ours": ("fense_account_id", "fense_account_id"), "fastapi": ("id", "account_id")}
NAMES["naive"] = NAMES["fastapi"]
SUM_UP_MONTHS = """
INSERT INTO usage_month (fense_account_id, month, lookups)
SELECT fense_account_id, substr(date, 1, 7), SUM(lookups) FROM usage GROUP BY 1, 2
"""


@contextlib.contextmanager
def filling(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for fast bulk writes."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -1000000")
    connection.execute("BEGIN")
    yield connection
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def add_accounts(path: Path, count: int) -> None:
    with filling(path) as db:
        db.execute(
            """
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
            INSERT INTO account (name, email, api_key_sha256, api_key_last4, suppress_billing,
                suppress_notifications, is_active, created_at, updated_at)
            SELECT 'Merchant ' || i, 'owner' || i || '@merchant.example', printf('%064x', i),
                '0001', 0, 0, 1, t, t
            FROM n, (SELECT CASE ? WHEN 'ours' THEN '2026-11-01T00:00:00Z'
                ELSE '2026-11-01 00:00:00.000000' END AS t)
            """,
            (count, path.name.split(".")[0].split("-")[0]),
        )


def add_usage(path: Path, name: str, days: range) -> None:
    """Add lookups of every account on each of these days, counted back from the last."""
    account_id, in_usage = NAMES[name]
    with filling(path) as db:
        db.execute(
            f"""
            WITH RECURSIVE d(i) AS (SELECT ? UNION ALL SELECT i - 1 FROM d WHERE i > ?)
            INSERT INTO usage ({in_usage}, date, lookups)
            SELECT {account_id}, date(?, '-' || i || ' days'), 1 + ({account_id} * 31 + i * 7) % 100
            FROM account CROSS JOIN d ORDER BY 1, 2
            """,
            (days.stop - 1, days.start, str(LAST_DAY)),
        )
        if name == "ours":
            db.execute("DELETE FROM usage_month")
            db.execute(SUM_UP_MONTHS)


def make_ours(path: Path, accounts: int, days: int) -> Path:
    databases.open_database(str(path)).engine.close_all()
    add_accounts(path, accounts)
    if days:
        add_usage(path, "ours", range(days))
    return path


def make_ours_on(server: PostgreSQL, schema: str, accounts: int, days: int, folder: Path) -> str:
    """The same in a schema of a PostgreSQL server. Return its URL."""
    url = new_schema(server, schema)
    with Contender("postgresql", folder, database=url) as ours:  # it makes the tables
        ours.get("/healthz")
    run_sql(
        url,
        "SET session_replication_role = replica",  # foreign keys are not checked: they hold
        f"""
        INSERT INTO account (name, email, api_key_sha256, api_key_last4, created_at, updated_at)
        SELECT 'Merchant ' || i, 'owner' || i || '@merchant.example',
            lpad(to_hex(i), 64, '0'), '0001', '2026-11-01T00:00:00Z', '2026-11-01T00:00:00Z'
        FROM generate_series(1, {accounts}) AS i
        """,
        f"""
        INSERT INTO usage (fense_account_id, date, lookups)
        SELECT account, CAST(DATE '{LAST_DAY}' - day AS TEXT), 1 + (account * 31 + day * 7) % 100
        FROM (
            SELECT account, generate_series({days} - 1, 0, -1) AS day
            FROM generate_series(1, {accounts}) AS account
        ) AS days
        """,
        SUM_UP_MONTHS,
        "VACUUM ANALYZE",
        "CHECKPOINT",  # now, and not while something is measured
    )
    return url


def new_schema(server: PostgreSQL, name: str) -> str:
    """Return the URL of a new, empty schema."""
    run_sql(server.url, f"CREATE SCHEMA {name}")
    return f"{server.url}?options=-csearch_path%3D{name}"


def run_sql(url: str, *statements: str) -> str:
    """Run statements with psql, as the benchmark has no driver. Return its output."""
    command = [find_program("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url]
    for statement in statements:
        command += ["-c", statement]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path)
    yield connection
    connection.close()


def raw_usage(connection: sqlite3.Connection, start: str, end: str) -> bytes:
    """The best SQL over the table of days, and `json.dumps`."""
    rows = connection.execute(
        """
        SELECT fense_account_id, name, dispute_account_id,
            (SELECT COALESCE(SUM(lookups), 0) FROM usage
             WHERE usage.fense_account_id = account.fense_account_id AND date BETWEEN ? AND ?)
        FROM account ORDER BY fense_account_id
        """,
        (start, end),
    )
    keys = ("fense_account_id", "name", "dispute_account_id", "total_lookups")
    accounts = [dict(zip(keys, row, strict=True)) for row in rows]
    total = sum(account["total_lookups"] for account in accounts)
    head = {"start_date": start, "end_date": end, "total_lookups": total}
    return json.dumps(head | {"accounts": accounts}).encode()
