"""The data, past the front door: recording lookups, threads, and what a file may be."""

import contextlib
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import peewee
import pytest
from conftest import TIMEOUT, account_fields, in_background, join, locked, wait_until
from peewee import sqlite3  # the library that the service itself uses

from fense_admin import models, sqlite
from fense_admin.models import (
    Account,
    ApiKeyTaken,
    Database,
    NoSuchAccount,
    Usage,
    UsageMonth,
)
from fense_admin.sqlite import Unusable

FIELDS = {"api_key": "sk_test_models_0001", "name": "Acme Ltd", "email": "owner@acme.example"}


@pytest.fixture
def open_database():
    """Opens databases, which are closed at the end, whatever becomes of the test."""
    with contextlib.ExitStack() as stack:

        def open_database(path):
            db = Database(str(path))
            stack.callback(db.close_all)
            return db

        yield open_database


@pytest.fixture(params=["memory", "file"])
def db(request, tmp_path, open_database):
    return open_database(":memory:" if request.param == "memory" else tmp_path / "fense.sqlite3")


def in_threads(count, work):
    """Run it so many times at once; gives what each raised or returned."""
    results = []
    go = threading.Barrier(count)

    def run():
        go.wait(TIMEOUT)
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    join(*threads)
    return results


def daily(db):
    days = json.loads(db.account_usage(1, None, None))["daily"]
    return {day["date"]: day["lookups"] for day in days}


# --- Lookups -----------------------------------------------------------------------------------


def test_lookups_add_up_by_day(db):
    db.create_account(FIELDS)
    for lookups in (5, 7, 0):
        db.record_lookups(1, lookups, "2026-11-03")
    db.record_lookups(1, 0, "2026-11-04")
    assert daily(db) == {"2026-11-03": 12}


def test_lookups_are_of_today_unless_told(db):
    db.create_account(FIELDS)
    before = models.today()
    db.record_lookups(1, 3)
    assert daily(db) in ({before: 3}, {models.today(): 3})


def test_lookups_of_concurrent_callers_are_all_counted(db):
    db.create_account(FIELDS)

    def record():
        for _ in range(25):
            db.record_lookups(1, 1, "2026-11-03")

    assert in_threads(8, record) == [None] * 8
    assert daily(db) == {"2026-11-03": 200}


@pytest.mark.parametrize("lookups", [-1, 10**12 + 1, 2**63, True, 1.0, "1", None])
def test_a_number_that_counts_no_lookups_is_refused(db, lookups):
    db.create_account(FIELDS)
    with pytest.raises(ValueError, match="must be a whole number of lookups from 0 to 10"):
        db.record_lookups(1, lookups, "2026-11-03")
    assert daily(db) == {}


def test_a_day_holds_ten_to_the_twelve_and_no_more(db):
    db.create_account(FIELDS)
    db.record_lookups(1, 10**12 - 1, "2026-11-03")
    db.record_lookups(1, 1, "2026-11-03")
    with pytest.raises(ValueError, match="would take 2026-11-03 past 1000000000000"):
        db.record_lookups(1, 1, "2026-11-03")
    assert daily(db) == {"2026-11-03": 10**12}


@pytest.mark.parametrize("date", ["2026-02-30", "2026-1-1", "", "today", 20261101, "2026-11-01 "])
def test_lookups_need_a_day_of_the_calendar(db, date):
    db.create_account(FIELDS)
    with pytest.raises(ValueError, match="day of the calendar"):
        db.record_lookups(1, 1, date)
    assert daily(db) == {}


@pytest.mark.parametrize("number", [0, 2, -1, 2**63, 10**30])
@pytest.mark.parametrize("lookups", [0, 1])
def test_lookups_of_an_unknown_account_are_refused(db, number, lookups):
    db.create_account(FIELDS)
    with pytest.raises(NoSuchAccount):
        db.record_lookups(number, lookups, "2026-11-03")


# --- Totals: from months and days --------------------------------------------------------------


def totals(db, start, end):
    answer = json.loads(db.all_usage(start, end))
    each = {row["fense_account_id"]: row["total_lookups"] for row in answer["accounts"]}
    return answer["total_lookups"], each


def a_day(rng):
    # Years near the ends of the calendar, too; and often the first or the last day of a month.
    day = datetime.date(rng.choice([1, 2023, 2024, 2025, 2026, 9999]), rng.randint(1, 12), 1)
    ends = [0, 1, 27, 28, 29, 30]
    return str(
        day + datetime.timedelta(rng.choice(ends) if day.year < 9999 else rng.randint(0, 30))
    )


def test_totals_are_plain_sums_whatever_the_range_and_whoever_wrote(db):
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


def test_a_write_that_fails_leaves_days_and_months_alike(db):
    db.create_account(FIELDS)
    db.record_lookups(1, 10**12, "2026-11-03")
    with pytest.raises(ValueError, match="past"):
        db.record_lookups(1, 1, "2026-11-03")
    assert totals(db, None, None) == (10**12, {1: 10**12})


def test_the_total_of_all_may_pass_64_bits(db):
    for number in (1, 2, 3):
        db.create_account(FIELDS | {"api_key": f"key-{number}"})
        db.execute_sql("INSERT INTO usage_month VALUES (?, '2026-11', ?)", (number, 2**63 - 1))
    assert totals(db, None, None)[0] == 3 * (2**63 - 1)


# --- What the tables hold ----------------------------------------------------------------------


@pytest.mark.parametrize("model", [Account, Usage, UsageMonth])
def test_the_models_have_the_columns_of_the_schema(db, model):
    columns = {column.name: column.null for column in db.get_columns(model._meta.table_name)}
    fields = {field.column_name: field.null for field in model._meta.sorted_fields}
    assert {name: null or name == "fense_account_id" for name, null in fields.items()} == {
        name: null or name == "fense_account_id" for name, null in columns.items()
    }


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE account SET name = ''",
        "UPDATE account SET name = NULL",
        "UPDATE account SET email = 'ab'",
        "UPDATE account SET is_active = 2",
        "UPDATE account SET suppress_billing = 'true'",
        "UPDATE account SET suppress_notifications = NULL",
        "UPDATE account SET api_key_sha256 = 'short'",
        "UPDATE account SET api_key_last4 = '12345'",
        "UPDATE account SET dispute_account_id = 'short'",
        "UPDATE account SET created_at = '2026-02-30T00:00:00Z'",
        "UPDATE account SET updated_at = 'soon'",
        "UPDATE usage SET lookups = 0",
        "UPDATE usage SET lookups = -1",
        "UPDATE usage SET lookups = 1.5",
        "UPDATE usage SET lookups = 1000000000001",
        "UPDATE usage SET date = '2026-02-30'",
        "UPDATE usage SET date = '2026-2-3'",
        "UPDATE usage SET fense_account_id = 2",
        "INSERT INTO usage SELECT * FROM usage",
        "UPDATE usage_month SET lookups = 0",
        "UPDATE usage_month SET lookups = 1.5",
        "UPDATE usage_month SET month = '2026-13'",
        "UPDATE usage_month SET month = '2026-1'",
        "UPDATE usage_month SET month = '2026-11-01'",
        "UPDATE usage_month SET fense_account_id = 2",
        "INSERT INTO usage_month SELECT * FROM usage_month",
        "DELETE FROM account",
    ],
)
def test_the_schema_itself_refuses_what_the_contract_excludes(db, statement):
    db.create_account(FIELDS)
    db.record_lookups(1, 1, "2026-11-03")
    with pytest.raises(models.IntegrityError):
        db.execute_sql(statement)


def test_a_key_is_stored_as_a_digest(tmp_path, open_database):
    path = tmp_path / "fense.sqlite3"
    db = open_database(path)
    db.create_account(FIELDS)
    db.close_all()
    assert FIELDS["api_key"].encode() not in path.read_bytes()
    assert models.digest(FIELDS["api_key"]).encode() in path.read_bytes()


def test_an_id_is_never_used_twice(db):
    db.create_account(FIELDS)
    with pytest.raises(ApiKeyTaken):
        db.create_account(FIELDS)
    db.execute_sql("DELETE FROM account")
    assert db.create_account(FIELDS)["fense_account_id"] == 2


# --- Threads and databases ---------------------------------------------------------------------


def test_two_apps_in_one_process_never_see_each_others_rows(tmp_path, make_app):
    apps = [make_app(master_key="k"), make_app(master_key="k")]
    apps += [make_app(str(tmp_path / name), master_key="k") for name in ("a", "b")]

    def fill(app, number):
        for i in range(20):
            app.db.create_account(FIELDS | {"api_key": f"{number}-{i}", "name": f"of {number}"})
        return {account["name"] for account in json.loads(app.db.all_usage(None, None))["accounts"]}

    todo = list(enumerate(apps))
    results = in_threads(4, lambda: (lambda n, app: (n, fill(app, n)))(*todo.pop()))
    assert sorted(results) == [(n, {f"of {n}"}) for n in range(4)]


def test_a_database_in_memory_outlives_the_thread_that_made_it(open_database):
    made = []
    thread = threading.Thread(target=lambda: made.append(open_database(":memory:")))
    thread.start()
    join(thread)
    made[0].create_account(FIELDS)
    assert in_threads(2, lambda: made[0].get_account(1)["name"]) == ["Acme Ltd"] * 2


def test_closing_leaves_no_connection_and_no_file_beside_the_database(tmp_path, open_database):
    db = open_database(tmp_path / "fense.sqlite3")
    in_threads(4, lambda: db.all_usage(None, None))
    db.close_all()
    assert os.listdir(tmp_path) == ["fense.sqlite3"]
    assert not [name for name in open_files() if name.startswith(str(tmp_path))]


def open_files():
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return [os.readlink(link) for link in links if os.path.lexists(link)]


def test_a_file_is_written_so_that_it_survives_a_power_cut(tmp_path, open_database):
    db = open_database(tmp_path / "fense.sqlite3")
    for look in (lambda: (db.journal_mode, db.synchronous, db.foreign_keys),):
        assert [look(), *in_threads(2, look)] == [("wal", 2, 1)] * 3


def test_four_writers_on_a_database_locked_elsewhere_fail_within_four_seconds(
    tmp_path, open_database
):
    db = open_database(tmp_path / "fense.sqlite3")
    db.create_account(FIELDS)
    with locked(tmp_path / "fense.sqlite3"):
        began = time.monotonic()
        errors = in_threads(4, lambda: db.record_lookups(1, 1))
        assert time.monotonic() - began < 4
        assert all(sqlite.is_unavailable(error) for error in errors)
        assert db.get_account(1)["name"] == "Acme Ltd"
    db.record_lookups(1, 1)
    db.close_all()


# --- What a file may be ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["100%.db", "what?.db", "a#b.db", "my file", "ü.db", "file:x", "%41"]
)
def test_any_file_name_is_a_file_name(tmp_path, monkeypatch, name, open_database):
    monkeypatch.chdir(tmp_path)
    db = open_database(name)
    db.create_account(FIELDS)
    db.close_all()
    assert os.listdir(tmp_path) == [name]
    again = open_database(name)
    assert again.get_account(1)["name"] == "Acme Ltd"


def make_version_1(path):
    """A database as version 1 of the schema made it, with an account and its days."""
    old = sqlite3.connect(path)
    old.executescript(Path(__file__).with_name("schema-1.sql").read_text())
    old.execute("PRAGMA journal_mode = wal")
    old.execute(f"PRAGMA application_id = {sqlite.APPLICATION_ID}")
    old.execute("PRAGMA user_version = 1")
    old.execute(
        "INSERT INTO account (name, email, api_key_sha256, created_at, updated_at)"
        " VALUES ('Acme Ltd', 'owner@acme.example', ?, ?, ?)",
        (models.digest(FIELDS["api_key"]), *["2026-11-01T00:00:00Z"] * 2),
    )
    days = [(f"2026-{month:02}-{day:02}", month * day) for month in range(1, 12) for day in (1, 28)]
    old.executemany("INSERT INTO usage VALUES (1, ?, ?)", days)
    old.commit()
    old.close()
    return dict(days)


def test_a_database_of_version_1_is_brought_up_to_date(tmp_path, open_database):
    days = make_version_1(tmp_path / "old")
    db = open_database(tmp_path / "old")
    assert daily(db) == days
    assert totals(db, None, None) == (sum(days.values()), {1: sum(days.values())})
    db.record_lookups(1, 5, "2026-03-28")
    assert totals(db, None, None)[0] == sum(days.values()) + 5
    new = open_database(tmp_path / "new")
    schema = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
    assert db.execute_sql(schema).fetchall() == new.execute_sql(schema).fetchall()
    assert db.user_version == new.user_version == 3
    for it in (db, new):
        it.close_all()


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path, request, open_database):
    days = make_version_1(tmp_path / "old")
    old = sqlite3.connect(tmp_path / "old")
    request.addfinalizer(old.close)
    # What version 1 could not hold: the months can't be summed up.
    old.execute("PRAGMA ignore_check_constraints = 1")
    old.execute("INSERT INTO usage VALUES (1, 'no day', 1)")
    old.commit()

    def content():
        tables = old.execute("SELECT * FROM sqlite_master").fetchall()
        return tables, [old.execute(f"SELECT * FROM {it[1]}").fetchall() for it in tables if it[4]]

    before = content()
    with pytest.raises(Unusable, match="CHECK constraint failed"):
        Database(str(tmp_path / "old"))
    assert content() == before
    assert old.execute("PRAGMA user_version").fetchone() == (1,)
    old.execute("DELETE FROM usage WHERE date = 'no day'")
    old.commit()
    old.close()
    db = open_database(tmp_path / "old")
    assert totals(db, None, None)[0] == sum(days.values())


def test_six_processes_that_start_at_once_on_an_old_database_all_serve(tmp_path, start):
    days = make_version_1(tmp_path / "old")
    services = [start("--port=0", "--database=old", name=f"stderr-{n}") for n in range(6)]
    for number, service in enumerate(services):
        service.ready()
        fields = account_fields(api_key=f"of process {number}".replace(" ", "-"))
        assert service.call("/accounts", fields)[0] == 201
    for service in services:
        status, body = service.call("/accounts/usage")
        assert (status, len(body["accounts"]), body["total_lookups"]) == (
            200,
            7,
            sum(days.values()),
        )
    assert [service.end()[0] for service in services] == [0] * 6


def make_text(path):
    path.write_text("these are no accounts\n" * 100)


def make_other_program(path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE account (id INTEGER)")
    other.close()


def make_empty_database(path):
    with sqlite3.connect(path) as empty:
        empty.execute("CREATE TABLE other (x)")
        empty.execute("DROP TABLE other")
    empty.close()


def make_one_without_tables(path):
    Database(str(path)).close_all()
    with sqlite3.connect(path) as robbed:
        for table in ("usage_month", "usage", "account"):
            robbed.execute(f"DROP TABLE {table}")
    robbed.close()


def make_newer(path):
    Database(str(path)).close_all()
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 4")
    newer.close()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (make_text, "is no SQLite database"),
        (make_other_program, "is another program's SQLite database"),
        (lambda path: path.touch(), "is empty, and was there before"),
        (make_empty_database, "is empty, and was there before"),
        (make_one_without_tables, "has lost its tables"),
        (make_newer, "was written by a newer version of fense-admin"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: path.parent.rmdir(), "name a file in a folder that exists"),
    ],
)
def test_a_file_that_is_no_database_of_ours_is_refused_untouched(tmp_path, make, told):
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "fense.sqlite3"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(Unusable, match=told) as caught:
        Database(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_several_may_open_a_new_file_at_once(tmp_path, open_database):
    path = str(tmp_path / "fense.sqlite3")
    databases = in_threads(6, lambda: open_database(path))
    assert [type(db) for db in databases] == [Database] * 6
    for i, db in enumerate(databases):
        db.create_account(FIELDS | {"api_key": f"key-{i}"})
        db.close_all()


# --- Files -------------------------------------------------------------------------------------


def modes(folder):
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


def test_files_are_for_their_owner_alone(tmp_path, open_database):
    old = os.umask(0)
    try:
        open_database(tmp_path / "fense.sqlite3").create_account(FIELDS)
        sqlite.backup(str(tmp_path / "fense.sqlite3"), str(tmp_path / "copy"))
    finally:
        os.umask(old)
    names = ("fense.sqlite3", "fense.sqlite3-wal", "fense.sqlite3-shm", "copy")
    assert modes(tmp_path) == dict.fromkeys(names, 0o600)


def test_a_file_that_others_can_read_keeps_its_mode_and_is_told_of(tmp_path, caplog):
    path = tmp_path / "fense.sqlite3"
    Database(str(path)).close_all()
    assert caplog.messages == []
    path.chmod(0o644)
    Database(str(path)).close_all()
    assert modes(tmp_path) == {"fense.sqlite3": 0o644}
    assert caplog.messages == [f"{path} can be read by others: run chmod 600 on it"]


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
@pytest.mark.parametrize("made_anew", [False, True])
def test_nothing_is_written_into_a_file_that_is_no_longer_there(
    tmp_path, open_database, end, made_anew
):
    db = open_database(tmp_path / "fense.sqlite3")
    db.create_account(FIELDS)
    path = tmp_path / f"fense.sqlite3{end}"
    path.rename(tmp_path / "away")
    if made_anew:
        path.write_bytes((tmp_path / "away").read_bytes())
    with pytest.raises(sqlite.DatabaseError, match="was replaced" if made_anew else "is gone") as e:
        db.create_account(FIELDS | {"api_key": "another"})
    assert sqlite.is_unavailable(e.value)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_database_may_be_named_by_a_link(tmp_path, open_database, is_there):
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "fense.sqlite3"
    if is_there:
        Database(str(file)).close_all()
    (tmp_path / "link").symlink_to(file)
    db = open_database(tmp_path / "link")
    assert db.create_account(FIELDS)["fense_account_id"] == 1
    sqlite.backup(str(tmp_path / "link"), str(tmp_path / "copy"))
    assert open_database(tmp_path / "copy").count_accounts() == 1


def test_a_check_reads_the_file_and_not_what_is_remembered_of_it(tmp_path, open_database):
    path = tmp_path / "fense.sqlite3"
    db = open_database(path)
    db.create_account(FIELDS)
    db.ping()
    db.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(path, "r+b") as file:
        file.write(b"no database" * 9)
    with pytest.raises(sqlite.DatabaseError):
        db.ping()


def test_a_start_waits_for_a_file_that_is_locked_and_not_for_ever(tmp_path, monkeypatch):
    path = tmp_path / "fense.sqlite3"
    Database(str(path)).close_all()
    with locked(path):
        monkeypatch.setattr(sqlite, "START_TIMEOUT", 0.5)
        began = time.monotonic()
        with pytest.raises(Unusable, match="is locked by another program"):
            Database(str(path))
        assert 0.4 < time.monotonic() - began < 3
        monkeypatch.setattr(sqlite, "START_TIMEOUT", 30)
        opened = []
        thread = threading.Thread(target=lambda: opened.append(Database(str(path))))
        thread.start()
        time.sleep(0.5)
        assert opened == []
    join(thread)
    opened[0].close_all()


def test_what_goes_wrong_at_a_backup_leaves_nothing(tmp_path, open_database, monkeypatch):
    open_database(tmp_path / "fense.sqlite3").create_account(FIELDS)
    folder = tmp_path / "backups"
    folder.mkdir()

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sqlite, "_rename_to_new", fails)
    with pytest.raises(OSError, match="No space"):
        sqlite.backup(str(tmp_path / "fense.sqlite3"), str(folder / "copy"))
    assert list(folder.iterdir()) == []


KILLED = """
import os, sys, time
from fense_admin import sqlite
sync = sqlite._sync
def killed(path):
    os.kill(os.getpid(), 9)
sqlite._sync = killed
sqlite.backup(sys.argv[1], sys.argv[2])
"""


def test_a_backup_that_is_killed_leaves_nothing(tmp_path, open_database):
    open_database(tmp_path / "fense.sqlite3").create_account(FIELDS)
    folder = tmp_path / "backups"
    folder.mkdir()
    command = [sys.executable, "-c", KILLED, tmp_path / "fense.sqlite3", folder / "copy"]
    assert subprocess.run(command, timeout=TIMEOUT).returncode == -9
    wait_until(lambda: list(folder.iterdir()) == [])


def test_a_backup_goes_to_a_path_and_never_to_a_uri(tmp_path, open_database, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_database(tmp_path / "fense.sqlite3").create_account(FIELDS)
    (tmp_path / "precious").write_bytes(b"")
    sqlite.backup("fense.sqlite3", "file:precious")
    assert (tmp_path / "precious").read_bytes() == b""
    copy = open_database(tmp_path / "file:precious")
    assert copy.get_account(1)["name"] == "Acme Ltd"


# --- One moment --------------------------------------------------------------------------------


def test_a_writer_waits_for_another_writer(tmp_path, open_database):
    db = open_database(tmp_path / "fense.sqlite3")
    inside = threading.Event()

    def hold():
        with db.writing():
            inside.set()
            time.sleep(0.3)

    with in_background(hold):
        assert inside.wait(TIMEOUT)
        assert db.create_account(FIELDS)["fense_account_id"] == 1


def test_a_dump_is_of_one_moment(tmp_path, open_database, monkeypatch):
    db = open_database(tmp_path / "fense.sqlite3")
    other = open_database(tmp_path / "fense.sqlite3")
    execute = Database.execute_sql

    def written_meanwhile(self, sql, *values):
        if self is db and sql == models.SELECT_DAYS:
            other.create_account(FIELDS)
            other.record_lookups(1, 1, "2026-11-01")
        return execute(self, sql, *values)

    monkeypatch.setattr(Database, "execute_sql", written_meanwhile)
    assert db.dump() == {"accounts": []}


def test_the_usage_of_an_account_is_asked_for_in_one_question(db, monkeypatch):
    db.create_account(FIELDS)
    asked = []
    execute = Database.execute_sql
    monkeypatch.setattr(
        Database, "execute_sql", lambda self, *sql: asked.append(1) or execute(self, *sql)
    )
    db.account_usage(1, None, None)
    assert asked == [1]


def test_readers_wait_for_no_state_that_is_being_loaded(db):
    rows = [
        {"name": "n" * 200, "email": "a@b", "api_key_sha256": f"{n:064x}"}
        | dict.fromkeys(("created_at", "updated_at"), "2026-11-01T00:00:00Z")
        for n in range(40_000)
    ]
    db.create_account(FIELDS)
    seen, took, over = set(), [], threading.Event()

    def read():
        while not over.is_set():
            began = time.monotonic()
            seen.add(db.count_accounts())
            took.append(time.monotonic() - began)
        db.close()

    with in_background(read, 3, over.set):
        began = time.monotonic()
        db.replace(rows, [(1, "2026-11-01", 1)])
        loading = time.monotonic() - began
    assert seen <= {1, 40_000}
    assert max(took) < loading / 3
    assert db.count_accounts() == 40_000
    assert db.create_account(FIELDS)["fense_account_id"] == 40_001
    assert daily(db) == {"2026-11-01": 1}
    db.replace([], [])
    assert db.create_account(FIELDS)["fense_account_id"] == 1


def test_a_signal_is_heard_while_much_is_written(db):
    class HeardError(Exception):
        pass

    def heard(*_):
        raise HeardError

    times = dict.fromkeys(("created_at", "updated_at"), "2026-11-01T00:00:00Z")
    account = {"name": "n", "email": "a@b", "api_key_sha256": "0" * 64} | times
    before = signal.signal(signal.SIGUSR1, heard)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        began = time.monotonic()
        with pytest.raises(HeardError), db.writing():
            db._replace([account], [(1, "2026-11-01", 1)] * 3_000_000)
        assert time.monotonic() - began < 1.5
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert db.count_accounts() == 0


def test_a_transaction_that_is_over_already_is_rolled_back_no_more(db):
    with contextlib.suppress(ZeroDivisionError), db.atomic():
        db.execute_sql("ROLLBACK")  # as SQLite does by itself where the disk is full
        raise ZeroDivisionError


def test_only_a_taken_key_is_a_taken_key(db):
    with pytest.raises(models.IntegrityError, match="CHECK"):
        db.create_account(FIELDS | {"name": ""})


# --- Ids and dates -----------------------------------------------------------------------------


def test_the_last_id_is_the_last(db):
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


@pytest.mark.parametrize(
    "date", ["0001-01-01", "0300-02-29", "0300-03-01", "0300-03-31", "1582-10-10"]
)
def test_days_of_long_ago_are_days(tmp_path, open_database, date):
    days = make_version_1(tmp_path / "old")
    for db in (open_database(tmp_path / "old"), open_database(":memory:")):
        if db.count_accounts() == 0:
            db.create_account(FIELDS)
        if date == "0300-02-29":
            with pytest.raises(ValueError, match="day of the calendar"):
                db.record_lookups(1, 5, date)
            continue
        db.record_lookups(1, 5, date)
        assert daily(db)[date] == 5
        time_of_day = f"{date}T00:00:00Z"
        account = {"name": "n", "email": "a@b", "api_key_sha256": "0" * 64}
        db.replace([account | {"created_at": time_of_day, "updated_at": time_of_day}], [])
        assert db.get_account(1)["created_at"] == time_of_day
    assert days
