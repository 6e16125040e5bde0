"""SQLite and PostgreSQL have the same tables and give byte-for-byte equal responses."""

import datetime
import json
import random
import re
from pathlib import Path

import peewee
import psycopg
import pytest
from conftest import FIELDS, MASTER_KEY
from webtest import TestApp

from fense_admin import models, postgres, sqlite
from fense_admin.models import ApiKeyTaken

NOW = datetime.datetime(2026, 11, 3, 12)


class StoppedClock(models.Clock):
    def now(self):
        return NOW


@pytest.fixture
def both(postgresql, open_database):
    """A database without accounts on each engine."""
    return open_database(":memory:"), open_database(postgresql.empty())


# --- The schemas -------------------------------------------------------------------------------


def sections(module):
    return re.split("-- version ([0-9]+)\n", Path(module.SCHEMA_FILE).read_text("utf-8"))[1::2]


def test_the_schemas_have_the_same_sections():
    assert sections(sqlite) == sections(postgres)


def test_the_schemas_have_the_same_columns(both):
    here, there = both
    kinds = {"INTEGER": "bigint", "TEXT": "text"}
    for table in ("account", "usage", "usage_month"):
        of_sqlite = [
            (name, "boolean" if is_flag(name) else kinds[kind], bool(not_null or key))
            for _, name, kind, not_null, _, key in here.engine.execute_sql(
                f"PRAGMA table_info({table})"
            )
        ]
        of_postgresql = there.engine.execute_sql(
            "SELECT column_name, data_type, is_nullable = 'NO' FROM information_schema.columns"
            f" WHERE table_schema = current_schema() AND table_name = '{table}' ORDER BY ordinal_position"
        ).fetchall()
        assert of_sqlite == of_postgresql, table


def is_flag(name):
    return name.startswith(("suppress_", "is_"))


TEXTS = ["", "a", "ab", "a@b", "1234", "12345", "n" * 255, "n" * 256, "ä" * 255, "\U0001f600" * 255]
TEXTS += ["0" * 64, "0" * 63 + "A", "0" * 63, "0" * 65, "a" * 36, "a" * 37, "e" * 254]
# (Whatever sorts before 1600 SQLite takes for a date.)
DAYS = ["2026-11-03", "2026-02-29", "2024-02-29", "2026-13-01", "2026-11-31", "2026-11-00", "soon"]
DAYS += ["2026-11-3", "2026-11", "9999-12-31", "2026-11-03 ", "2026-00-01", "2100-02-29"]
HOURS = "T23:59:59Z T24:00:00Z T12:60:00Z T12:00:60Z T12:00:00 T1:00:00Z T12:00Z".split()
TIMES = [f"{day}T00:00:00Z" for day in DAYS] + [f"2026-11-03{hours}" for hours in HOURS]
MONTHS = ["2026-11", "2026-13", "2026-00", "2026-1", "2026", "2026-11-03", "9999-12", "soon"]
FLAGS = [False, True]
IDS = [1, 2]
NUMBERS = [-1, 0, 1, 10**12, 10**12 + 1, 2**53]
VALUES = {
    "account.name": TEXTS,
    "account.email": TEXTS,
    "account.api_key_sha256": TEXTS,
    "account.api_key_last4": TEXTS,
    "account.suppress_notifications": FLAGS,
    "account.suppress_billing": FLAGS,
    "account.is_active": FLAGS,
    "account.dispute_account_id": TEXTS,
    "account.created_at": TIMES,
    "account.updated_at": TIMES,
    "usage.fense_account_id": IDS,
    "usage.date": DAYS,
    "usage.lookups": NUMBERS,
    "usage_month.fense_account_id": IDS,
    "usage_month.month": MONTHS,
    "usage_month.lookups": NUMBERS,
}


def test_each_column_is_tested():
    tables = {"usage": models.USAGE_KEYS, "usage_month": models.MONTH_KEYS}
    columns = {f"{table}.{name}" for table, names in tables.items() for name in names}
    columns |= {f"account.{name}" for name in models.STATE_KEYS if name != "fense_account_id"}
    assert VALUES.keys() == columns


@pytest.mark.parametrize("column", VALUES)
def test_the_schemas_reject_the_same_values(both, column):
    table, name = column.split(".")
    taken = {}
    for db in both:
        db.create_account(FIELDS)
        db.record_lookups(1, 1, "2026-11-03")

        def takes(value, db=db):
            try:
                db.engine.execute_sql(f"UPDATE {table} SET {name} = :value", {"value": value})
            except (peewee.DatabaseError, psycopg.Error):
                return False
            return True

        taken[db] = [value for value in [*VALUES[column], None] if takes(value)]
    here, there = both
    assert taken[here] == taken[there]
    assert 0 < len(taken[here]) <= len(VALUES[column])


def test_a_new_account_gets_the_same_defaults(both):
    for db in both:
        db.clock = StoppedClock()
    here, there = (db.create_account(FIELDS) for db in both)
    assert here == there


# --- Answers -----------------------------------------------------------------------------------


def random_calls(count, seed):
    """Calls of the contract, valid and not, as (method, path, body)."""
    choose = random.Random(seed)
    names = [
        "Acme",
        'Quoted "Q" \\ Ltd',
        "Größe 株式会社",
        "\U0001f600",
        "tab\t",
        "",
        " x ",
        "n" * 256,
    ]
    keys = [f"sk_test_random_{number:04}" for number in range(12)]
    flags = [True, False, "yes", None]
    days = ["2026-10-31", "2026-11-01", "2026-11-03", "2025-02-10", "0001-01-01", "2026-02-30", ""]
    for _ in range(count):
        fields = {
            "api_key": choose.choice(keys),
            "name": choose.choice(names),
            "email": choose.choice(["a@b", "owner@acme.example", "none"]),
            "suppress_billing": choose.choice(flags),
            "suppress_notifications": choose.choice(flags),
            "is_active": choose.choice(flags),
            "dispute_account_id": choose.choice(
                [None, "3F" * 4 + "-1111-2222-3333-" + "ab" * 6, "x"]
            ),
            "suppress_biling": True,
        }
        account_id = choose.choice(["1", "2", "3", "7", "0", "-1", str(2**63), "x"])
        kind = choose.random()
        if kind < 0.35:
            wanted = {
                "api_key",
                "name",
                "email",
                *choose.sample(list(fields), choose.choice([0, 0, 1, 2])),
            }
            yield "POST", "/accounts", {name: fields[name] for name in fields if name in wanted}
        elif kind < 0.55:
            wanted = choose.sample(list(fields), choose.choice([0, 1, 1, 2, 4]))
            yield "POST", f"/accounts/{account_id}", {name: fields[name] for name in wanted}
        elif kind < 0.65:
            yield "GET", f"/accounts/{account_id}", None
        else:
            path = choose.choice(["/accounts/usage", f"/accounts/usage/{account_id}"])
            start, end = choose.choice(days), choose.choice(days)
            query = choose.choice(["", f"?start_date={start}&end_date={end}", f"?end_date={end}"])
            yield "GET", path + query, None


@pytest.mark.slow
def test_300_random_calls_get_the_same_bytes_on_both_engines(postgresql, make_app):
    apps = [make_app(name, master_key=MASTER_KEY) for name in (":memory:", postgresql.empty())]
    clients = [TestApp(app) for app in apps]
    for app in apps:
        app.db.clock = StoppedClock()
    headers = {"x-api-key": MASTER_KEY, "Content-Type": "application/json", "X-Request-Id": "same"}
    choose = random.Random(7)
    statuses = []
    for method, path, body in random_calls(300, seed=1603):
        answers = [
            client.request(
                path,
                method=method,
                body=b"" if body is None else json.dumps(body).encode(),
                headers=headers,
                expect_errors=True,
            )
            for client in clients
        ]
        here, there = ((a.status, sorted(a.headers.items()), a.body) for a in answers)
        assert here == there, (method, path, body)
        statuses.append(answers[0].status_code)
        lookups = (
            choose.choice([0, 1, 10**12]),
            choose.choice(["2026-11-01", "2026-01-01..2026-02-03"]),
        )
        results = []
        for app in apps:
            try:
                results.append(app.db.record_lookups(1, *lookups))
            except (LookupError, ValueError) as error:
                results.append(repr(error))
        assert results[0] == results[1]
    assert {200, 201, 400, 404} <= set(statuses)
    assert apps[0].db.dump() == apps[1].db.dump()


def test_a_rejected_account_consumes_no_id(db):
    for number in range(3):
        db.create_account(FIELDS | {"api_key": f"key-{number}"})
        with pytest.raises(ApiKeyTaken):
            db.create_account(FIELDS | {"api_key": "key-0"})
    assert db.create_account(FIELDS)["fense_account_id"] == 4
