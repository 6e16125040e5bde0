"""Queries and tables follow the contract, in memory and in a file."""

import datetime
import json
import random

import peewee
import pytest
from conftest import FIELDS, all_usage, daily

from fense_admin import models
from fense_admin.models import Account, ApiKeyTaken, NoSuchAccount, NotRecorded

# The columns of each table, as the queries know them, and whether they may be null.
COLUMNS = {
    "account": {field.column_name: field.null for field in Account._meta.sorted_fields},
    "usage": dict.fromkeys(models.USAGE_KEYS, False),
    "usage_month": dict.fromkeys(models.MONTH_KEYS, False),
}


def test_lookups_add_up_by_day(db):
    db.create_account(FIELDS)
    for lookups in (5, 7, 0):
        db.record_lookups(1, lookups, "2026-11-03")
    db.record_lookups(1, 0, "2026-11-04")
    assert daily(db) == {"2026-11-03": 12}


def test_lookups_are_recorded_for_today_by_default(db):
    db.create_account(FIELDS)
    before = db.today()
    db.record_lookups(1, 3)
    assert daily(db) in ({before: 3}, {db.today(): 3})


@pytest.mark.parametrize("lookups", [-1, 10**12 + 1, 2**63, True, 1.5, "1", None])
def test_an_invalid_number_of_lookups_is_rejected(db, lookups):
    db.create_account(FIELDS)
    with pytest.raises(ValueError, match="must be a whole number of lookups from 0 to 10"):
        db.record_lookups(1, lookups, "2026-11-03")
    assert daily(db) == {}


def test_a_float_without_a_fraction_is_accepted(db):
    db.create_account(FIELDS)
    db.record_lookups(1, 12.0, "2026-11-03")
    db.record_lookups(1, 1, "2026-11-03")
    assert str(daily(db)) == "{'2026-11-03': 13}"


def test_a_day_holds_at_most_ten_to_the_twelve(db):
    db.create_account(FIELDS)
    db.record_lookups(1, 10**12 - 1, "2026-11-03")
    db.record_lookups(1, 1, "2026-11-03")
    with pytest.raises(
        ValueError, match="would exceed the daily maximum of 1000000000000 on 2026-11-03"
    ):
        db.record_lookups(1, 1, "2026-11-03")
    assert daily(db) == {"2026-11-03": 10**12}


def test_a_list_names_a_day_as_often_as_it_likes(db):
    for number in (1, 2):
        db.create_account(FIELDS | {"api_key": f"key-{number}"})
    days = ["2026-11-03", "2026-11-02", "2026-11-03", "2026-10-31", "2026-11-03"]
    db.record_all([(1, day, 2) for day in days] + [(2, "2026-11-03", 0), (2, "2026-11-04", 7)])
    assert daily(db) == {"2026-10-31": 2, "2026-11-02": 2, "2026-11-03": 6}
    assert totals(db, None, None) == (17, {1: 10, 2: 7})
    assert totals(db, "2026-01-01", "2026-12-31") == (17, {1: 10, 2: 7})


def test_invalid_entries_of_a_list_are_named_by_index(db):
    for number in (1, 2):
        db.create_account(FIELDS | {"api_key": f"key-{number}"})
    db.record_lookups(1, 10**12 - 5, "2026-11-03")
    before = db.dump()
    rows = [
        (1, "2026-11-03", 4),
        (3, "2026-11-03", 1),  # unknown
        (1, "2026-11-04", 1),
        (1, "2026-11-03", 2),  # exceeds it, after the 4
        (1, "2026-11-03", 1),  # fits without it
        (2, "2026-11-03", 10**12),
        (2, "2026-11-03", 1),  # exceeds it, in the list alone
        (2, "2026-11-03", 0),
        (0, "2026-11-03", 0),  # unknown
        (2**63, "2026-11-03", 1),  # unknown
    ]
    with pytest.raises(NotRecorded) as refused:
        db.record_all(rows)
    assert (refused.value.unknown, refused.value.excessive) == ([1, 8, 9], [3, 6])
    assert db.dump() == before


@pytest.mark.parametrize("date", ["2026-02-30", "2026-1-1", "", "today", 20261101, "2026-11-01 "])
def test_lookups_need_a_valid_date(db, date):
    db.create_account(FIELDS)
    with pytest.raises(ValueError, match="must be a valid date"):
        db.record_lookups(1, 1, date)
    assert daily(db) == {}


@pytest.mark.parametrize("number", [0, 2, -1, 2**63, 10**30])
@pytest.mark.parametrize("lookups", [0, 1])
def test_lookups_of_an_unknown_account_are_rejected(db, number, lookups):
    db.create_account(FIELDS)
    with pytest.raises(NoSuchAccount):
        db.record_lookups(number, lookups, "2026-11-03")


def totals(db, start, end):
    answer = json.loads(all_usage(db, start, end))
    each = {row["fense_account_id"]: row["total_lookups"] for row in answer["accounts"]}
    return answer["total_lookups"], each


def a_day(rng):
    # Years near the ends of the calendar, too; and often the first or the last day of a month.
    day = datetime.date(rng.choice([1, 2023, 2024, 2025, 2026, 9999]), rng.randint(1, 12), 1)
    ends = [0, 1, 27, 28, 29, 30]
    return str(
        day + datetime.timedelta(rng.choice(ends) if day.year < 9999 else rng.randint(0, 30))
    )


@pytest.mark.slow
def test_totals_are_correct_for_every_range(db):
    rng = random.Random(4)
    for number in (1, 2, 3):
        db.create_account(FIELDS | {"api_key": f"key-{number}"})
    days = []

    def record(count):
        for _ in range(count):
            row = (rng.randint(1, 2), a_day(rng), rng.randint(0, 99))  # 3 stays without any
            days.append(row)
            db.record_lookups(row[0], row[2], row[1])

    def compare(count):
        for _ in range(count):
            start, end = sorted([a_day(rng), a_day(rng)])
            start, end = rng.choice([(start, end), (start, end), (None, end), (None, None)])
            inside = [row for row in days if (start or "") <= row[1] <= (end or "a")]
            each = {n: sum(row[2] for row in inside if row[0] == n) for n in (1, 2, 3)}
            assert totals(db, start, end) == (sum(each.values()), each), (start, end)

    record(300)
    compare(1000)
    accounts = db.dump()["accounts"]
    shown = [{k: v for k, v in account.items() if k != "usage"} for account in accounts]
    db.replace(
        shown, [(a["fense_account_id"], *day) for a in accounts for day in a["usage"].items()]
    )
    compare(1000)
    record(300)
    compare(1000)


def test_the_total_of_all_may_exceed_64_bits(db):
    for number in (1, 2, 3):
        db.create_account(FIELDS | {"api_key": f"key-{number}"})
        db.engine.execute_sql(f"INSERT INTO usage_month VALUES ({number}, '2026-11', {2**63 - 1})")
    assert totals(db, None, None)[0] == 3 * (2**63 - 1)


@pytest.mark.parametrize("table", COLUMNS)
def test_the_models_have_the_columns_of_the_schema(sqlite_db, table):
    columns = {column.name: column.null for column in sqlite_db.engine.get_columns(table)}
    assert {name: null or name == "fense_account_id" for name, null in COLUMNS[table].items()} == {
        name: null or name == "fense_account_id" for name, null in columns.items()
    }


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE account SET name = ''",
        "UPDATE account SET name = NULL",
        "UPDATE account SET email = 'ab'",
        "UPDATE account SET is_active = 2",
        "UPDATE account SET suppress_notifications = NULL",
        "UPDATE account SET api_key_sha256 = 'short'",
        "UPDATE account SET api_key_last4 = '12345'",
        "UPDATE account SET dispute_account_id = 'short'",
        "UPDATE account SET created_at = '2026-02-30T00:00:00Z'",
        "UPDATE account SET updated_at = 'soon'",
        "UPDATE usage SET lookups = 0",
        "UPDATE usage SET lookups = -1",
        "UPDATE usage SET lookups = 1000000000001",
        "UPDATE usage SET date = '2026-02-30'",
        "UPDATE usage SET date = '2026-2-3'",
        "UPDATE usage SET fense_account_id = 2",
        "INSERT INTO usage SELECT * FROM usage",
        "UPDATE usage_month SET lookups = 0",
        "UPDATE usage_month SET month = '2026-13'",
        "UPDATE usage_month SET month = '2026-1'",
        "UPDATE usage_month SET month = '2026-11-01'",
        "UPDATE usage_month SET fense_account_id = 2",
        "INSERT INTO usage_month SELECT * FROM usage_month",
        "DELETE FROM account",
    ],
)
def test_the_schema_itself_rejects_invalid_values(db, statement):
    db.create_account(FIELDS)
    db.record_lookups(1, 1, "2026-11-03")
    before = db.dump()
    with pytest.raises((peewee.IntegrityError, peewee.OperationalError)):
        db.engine.execute_sql(statement)
    assert db.dump() == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE account SET suppress_billing = 'true'",
        "UPDATE usage SET lookups = 1.5",
        "UPDATE usage_month SET lookups = 1.5",
    ],
)
def test_sqlite_rejects_values_of_the_wrong_type(sqlite_db, statement):
    """PostgreSQL converts these to TRUE and 2."""
    sqlite_db.create_account(FIELDS)
    sqlite_db.record_lookups(1, 1, "2026-11-03")
    with pytest.raises(peewee.IntegrityError):
        sqlite_db.engine.execute_sql(statement)


def test_a_key_is_stored_as_a_digest(tmp_path, open_database):
    path = tmp_path / "fense.sqlite3"
    db = open_database(path)
    db.create_account(FIELDS)
    db.engine.close_all()
    assert FIELDS["api_key"].encode() not in path.read_bytes()
    assert models.digest(FIELDS["api_key"]).encode() in path.read_bytes()


def test_an_id_is_never_reused(db):
    db.create_account(FIELDS)
    with pytest.raises(ApiKeyTaken):
        db.create_account(FIELDS)
    db.engine.execute_sql("DELETE FROM account")
    assert db.create_account(FIELDS)["fense_account_id"] == 2


def test_the_usage_of_an_account_takes_one_query(db, monkeypatch):
    db.create_account(FIELDS)
    asked = []
    execute = db.engine.execute_sql
    monkeypatch.setattr(db.engine, "execute_sql", lambda *sql: asked.append(1) or execute(*sql))
    db.account_usage(1, None, None)
    assert asked == [1]


def test_only_a_duplicate_key_raises_api_key_taken(db):
    with pytest.raises(peewee.IntegrityError, match=r"(?i)check"):
        db.create_account(FIELDS | {"name": ""})


def test_no_account_is_created_after_the_last_id(db):
    account = {
        "name": "n",
        "email": "a@b",
        "api_key_sha256": "0" * 64,
        "fense_account_id": 2**53 - 2,
    }
    times = dict.fromkeys(("created_at", "updated_at"), "2026-11-01T00:00:00Z")
    db.replace([account | times], [])
    assert db.create_account(FIELDS)["fense_account_id"] == 2**53 - 1
    with pytest.raises(peewee.OperationalError, match="used up"):
        db.create_account(FIELDS | {"api_key": "another"})
    assert db.count_accounts() == 2


def test_updated_at_never_goes_back_whatever_the_system_clock_does(db, monkeypatch):
    noon = datetime.datetime(2026, 11, 3, 12)
    second = datetime.timedelta(seconds=1)

    def at(time, write, *arguments):
        monkeypatch.setattr(models, "utc_now", lambda: time)
        return write(*arguments)["updated_at"][11:19]

    assert at(noon, db.create_account, FIELDS) == "12:00:00"
    # Of another node, or of this one that was set back.
    assert at(noon - second, db.update_account, 1, {"name": "A"}) == "12:00:00"
    assert at(noon + second, db.update_account, 1, {"is_active": False}) == "12:00:01"
    assert at(noon, db.update_account, 1, {"name": "B", "is_active": True}) == "12:00:01"
    account = db.get_account(1)
    assert (account["name"], account["is_active"]) == ("B", True)
