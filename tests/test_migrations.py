"""Databases of earlier versions are migrated completely, or left unchanged."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from conftest import CHECKOUT, FIELDS, account_fields, all_usage, daily
from peewee import sqlite3

from fense_admin import databases, models, sqlite
from fense_admin.sqlite import Unusable


def totals(db, start, end):
    answer = json.loads(all_usage(db, start, end))
    each = {row["fense_account_id"]: row["total_lookups"] for row in answer["accounts"]}
    return answer["total_lookups"], each


SECTIONS = re.split("-- version [0-9]+\n", Path(sqlite.SCHEMA_FILE).read_text("utf-8"))[1:]


def make_version(path, version):
    """Create a database of this version of the schema, with an account and its days."""
    old = sqlite3.connect(path)
    old.executescript(Path(__file__).with_name("schema-1.sql").read_text())
    old.execute("PRAGMA journal_mode = wal")
    old.execute(f"PRAGMA application_id = {sqlite.APPLICATION_ID}")
    old.execute(f"PRAGMA user_version = {version}")
    old.execute(
        "INSERT INTO account (name, email, api_key_sha256, created_at, updated_at)"
        " VALUES ('Acme Ltd', 'owner@acme.example', ?, ?, ?)",
        (models.digest(FIELDS["api_key"]), *["2026-11-01T00:00:00Z"] * 2),
    )
    days = [(f"2026-{month:02}-{day:02}", month * day) for month in range(1, 12) for day in (1, 28)]
    old.executemany("INSERT INTO usage VALUES (1, ?, ?)", days)
    for section in SECTIONS[1:version]:
        old.executescript(section)
    old.commit()
    old.close()
    return dict(days)


@pytest.mark.parametrize("version", range(1, len(SECTIONS)))
def test_a_database_of_an_earlier_version_becomes_like_a_new_one(tmp_path, open_database, version):
    days = make_version(tmp_path / "old", version)
    db = open_database(tmp_path / "old")
    assert daily(db) == days
    assert totals(db, None, None) == (sum(days.values()), {1: sum(days.values())})
    db.record_lookups(1, 5, "2026-03-28")
    assert totals(db, None, None)[0] == sum(days.values()) + 5
    new = open_database(tmp_path / "new")
    schema = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
    assert db.engine.execute_sql(schema).fetchall() == new.engine.execute_sql(schema).fetchall()
    assert db.engine.user_version == new.engine.user_version == len(SECTIONS)
    for it in (db, new):
        it.engine.close_all()


@pytest.mark.parametrize("version", range(1, len(SECTIONS) + 1))
def test_a_column_can_be_added_after_every_version(tmp_path, monkeypatch, open_database, version):
    days = make_version(tmp_path / "old", version)
    schema = Path(sqlite.SCHEMA_FILE).read_text("utf-8")
    added = "ALTER TABLE account ADD COLUMN phone TEXT CHECK (length(phone) BETWEEN 1 AND 40);\n"
    added = f"\n-- version {len(SECTIONS) + 1}\n\n{added}"
    (tmp_path / "schema.sql").write_bytes((schema + added).encode())
    monkeypatch.setattr(sqlite, "SCHEMA_FILE", str(tmp_path / "schema.sql"))
    db = open_database(tmp_path / "old")
    assert db.engine.user_version == len(SECTIONS) + 1
    assert db.engine.execute_sql("SELECT phone FROM account").fetchall() == [(None,)]
    assert daily(db) == days


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path, request, open_database):
    days = make_version(tmp_path / "old", 1)
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
        databases.open_database(str(tmp_path / "old"))
    assert content() == before
    assert old.execute("PRAGMA user_version").fetchone() == (1,)
    old.execute("DELETE FROM usage WHERE date = 'no day'")
    old.commit()
    old.close()
    db = open_database(tmp_path / "old")
    assert totals(db, None, None)[0] == sum(days.values())


@pytest.mark.slow
def test_six_processes_that_start_at_once_on_an_old_database_all_serve(tmp_path, start):
    days = make_version(tmp_path / "old", 1)
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


@pytest.mark.parametrize(
    "date", ["0001-01-01", "0300-02-29", "0300-03-01", "0300-03-31", "1582-10-10"]
)
def test_dates_of_long_ago_are_valid(tmp_path, open_database, date):
    make_version(tmp_path / "old", 1)
    for db in (open_database(tmp_path / "old"), open_database(":memory:")):
        if db.count_accounts() == 0:
            db.create_account(FIELDS)
        if date == "0300-02-29":
            with pytest.raises(ValueError, match="must be a valid date"):
                db.record_lookups(1, 5, date)
            continue
        db.record_lookups(1, 5, date)
        assert daily(db)[date] == 5
        time_of_day = f"{date}T00:00:00Z"
        account = {"fense_account_id": 1, "name": "n", "email": "a@b", "api_key_sha256": "0" * 64}
        db.replace([account | {"created_at": time_of_day, "updated_at": time_of_day}], [])
        assert db.get_account(1)["created_at"] == time_of_day


# --- Sections of the schema --------------------------------------------------------------------

# The SHA-256 of each section, comments and white space aside.
IN_USE = {
    "schema.sql": [
        "73afbeb2301d8935fca6cbeb25069044b9b2677b81d0a27e7b9ec89efc3d1ec3",
        "9add13630bd7c0133f568b896250802d49e2c15bc9ae2867ee259e0381bf8277",
        "9956c05f88a4f222c694cff5c16e8546e572669ed2904fcf46b035aceee4f9c4",
    ],
    "schema-postgresql.sql": [
        "d360d8b72b9e571deefdc333b815c18c053f5e1fe8f49b8b64bf2647e73c494e",
        "66b0242bee0803b1d293277325bff96cd2da59e195610919a9ef28ef1fdf89b1",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ],
}


def digest_of(section):
    words = re.sub("--.*", "", section).split()
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


@pytest.mark.parametrize("schema", IN_USE)
def test_a_released_section_never_changes(schema):
    """Databases that have the section never run it again, so they would lack the change."""
    text = (CHECKOUT / schema).read_text("utf-8")
    found = [digest_of(section) for section in re.split("-- version [0-9]+\n", text)[1:]]
    in_use = IN_USE[schema]
    assert len(found) == len(in_use), "add the new section's digest to IN_USE"
    changed = [number for number, it in enumerate(found, 1) if it != in_use[number - 1]]
    assert not changed, f"section {changed} is in use: put the change into a new section"
