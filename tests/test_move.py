"""`move` never writes to its source, whether it succeeds or not."""

import contextlib
import os
import subprocess
import sys

import pytest
from conftest import AS_SOMEBODY_ELSE, FIELDS, TIMEOUT, account_fields, few, sentence
from peewee import sqlite3
from postgresql_server import start_server
from test_migrations import SECTIONS, make_version

from fense_admin import databases, sqlite


def content(folder):
    """Return the content of every file of a folder, except the index of a write-ahead log."""
    return {
        path.name: None if path.name.endswith("-shm") else path.read_bytes()
        for path in folder.iterdir()
    }


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder / "old.sqlite3"


@pytest.mark.parametrize("version", range(1, len(SECTIONS) + 1))
def test_a_file_of_any_version_is_moved_and_stays_as_it_was(
    run_command, tmp_path, source, open_database, version
):
    days = make_version(source, version)
    before = content(source.parent)
    refused = run_command("move", str(source), "postgresql://fense@127.0.0.1:1/fense")
    assert "Connection refused" in sentence(refused)
    assert content(source.parent) == before
    moved = run_command("move", "--quiet", str(source), "new.sqlite3")
    assert moved == (0, "fense-admin moved accounts=1\n", "")
    assert content(source.parent) == before
    db = open_database(tmp_path / "new.sqlite3")
    assert db.dump()["accounts"][0]["usage"] == days
    assert db.create_account(FIELDS | {"api_key": "another"})["fense_account_id"] == 2


def kill_in_use(path, ends):
    """Kill a process that has the file open, and keep its log and the given index."""
    code = (
        "import os, sys; from fense_admin import databases\n"
        "db = databases.open_database(sys.argv[1]); db.create_account(eval(sys.argv[2])); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code, path, repr(FIELDS)]
    assert subprocess.run(command, timeout=TIMEOUT).returncode in (-9, 9)
    for end in {"-wal", "-shm"} - set(ends):
        os.unlink(f"{path}{end}")


def test_changes_in_the_log_of_a_killed_process_are_moved_and_stay_there(
    run_command, tmp_path, source, open_database
):
    kill_in_use(source, ["-wal", "-shm"])
    before = content(source.parent)
    assert before["old.sqlite3-wal"]
    assert run_command("move", str(source), "new.sqlite3")[0] == 0
    assert content(source.parent) == before
    assert open_database(tmp_path / "new.sqlite3").get_account(1)["name"] == "Acme Ltd"


def move_as_somebody_else(start, source, target):
    """Move as a user who is subject to file modes."""
    command = (sys.executable, "-c", AS_SOMEBODY_ELSE)
    return start("move", str(source), str(target), command=command).end(None)


@pytest.mark.needs("modes of files")
@pytest.mark.parametrize("ends", few([["-wal", "-shm"], []]))
def test_a_file_in_a_folder_that_can_only_be_read_is_moved(
    start,
    open_folder,
    ends,
):
    folder, target = open_folder / "source", open_folder / "target"
    folder.mkdir()
    target.mkdir()
    target.chmod(0o777)
    source = folder / "old.sqlite3"
    if ends:
        kill_in_use(source, ends)
    else:
        databases.open_database(str(source)).engine.close_all()
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    before = content(folder)
    result = move_as_somebody_else(start, source, target / "new.sqlite3")
    folder.chmod(0o755)
    assert result[:2] == (0, f"fense-admin moved accounts={len(ends) // 2}\n")
    assert content(folder) == before


@pytest.mark.needs("modes of files")
def test_an_unreadable_write_ahead_log_is_reported(start, open_folder):
    source = open_folder / "old.sqlite3"
    kill_in_use(source, ["-wal"])
    for path in open_folder.iterdir():
        path.chmod(0o444)
    open_folder.chmod(0o555)
    line = sentence(move_as_somebody_else(start, source, "/nowhere/new.sqlite3"))
    assert line.startswith(f"fense-admin: can't open {source} (")
    assert line.endswith("if a -wal file is beside it, copy both to a writable folder")


KILLED_IN_A_CHANGE = """
import os, sys
from peewee import sqlite3
database = sqlite3.connect(sys.argv[1], isolation_level=None)
for text in "PRAGMA journal_mode = delete", "PRAGMA cache_size = 2", "BEGIN":
    database.execute(text)
days = (f"{year}-{month:02}-15" for year in range(1600, 2600) for month in range(1, 13))
database.executemany("INSERT INTO usage VALUES (1, ?, 1)", ([day] for day in days))
os.kill(os.getpid(), 9)
"""


def test_a_pending_rollback_is_reported_and_left_alone(run_command, source):
    make_version(source, 1)
    subprocess.run([sys.executable, "-c", KILLED_IN_A_CHANGE, source], timeout=TIMEOUT)
    before = content(source.parent)
    assert sorted(before) == ["old.sqlite3", "old.sqlite3-journal"]
    line = sentence(run_command("move", str(source), "new.sqlite3"))
    assert line.endswith("open it with the version that wrote it, which rolls back the last change")
    assert content(source.parent) == before


@pytest.mark.parametrize("how", ["written", "written and closed"])
def test_a_file_that_changes_during_the_move_is_not_moved(source, open_database, monkeypatch, how):
    make_version(source, len(SECTIONS))
    target = open_database(":memory:")
    read = databases.open_database(str(source), read_only=True)
    state = read.engine._file_state

    def written_meanwhile():
        if not keep:
            with contextlib.closing(sqlite3.connect(source)) as other:
                other.execute("UPDATE account SET name = 'other'")
                other.commit()
                keep.append(sqlite3.connect(source))
                if how == "written":
                    keep[0].execute("SELECT * FROM account").fetchall()
        return state()

    keep = []
    monkeypatch.setattr(read.engine, "_file_state", written_meanwhile)
    with pytest.raises(sqlite.OperationalError, match="was changed while"):
        databases.copy(read, target)
    read.engine.close_all()
    for connection in keep:
        connection.close()
    assert target.count_accounts() == 0


def test_a_target_that_has_accounts_is_not_migrated(run_command, tmp_path, source):
    make_version(source, 1)
    make_version(tmp_path / "target", 1)
    before = (tmp_path / "target").read_bytes()
    line = sentence(run_command("move", str(source), "target"))
    assert line == "fense-admin: target already has accounts: choose an empty database"
    assert (tmp_path / "target").read_bytes() == source.read_bytes() == before


@pytest.mark.parametrize("has_accounts", [True, False])
def test_a_file_is_not_moved_to_itself(run_command, tmp_path, has_accounts):
    """On systems that ignore case, the file may be named differently."""
    db = databases.open_database(str(tmp_path / "A"))
    if has_accounts:
        db.create_account(FIELDS)
    db.engine.close_all()
    (tmp_path / "other").hardlink_to(tmp_path / "A")
    line = sentence(run_command("move", "A", "other"))
    assert line == "fense-admin: other is A itself: choose a new database"


# --- From a server -----------------------------------------------------------------------------


@pytest.fixture
def old_url(postgresql, tmp_path, open_database):
    """A schema of version 1, with an account."""
    url = postgresql.new()
    db = open_database(url)
    db.create_account(FIELDS)
    db.record_lookups(1, 5, "2026-11-02")
    schema = url.rpartition("%3D")[2]
    postgresql.execute(
        f"SET search_path = {schema}",
        "UPDATE fense_admin SET version = 1",
        "DROP TABLE usage_month",
    )
    return url


def test_the_tables_of_a_server_stay_as_older_nodes_need_them(
    run_command, tmp_path, postgresql, old_url, open_database
):
    code, out, errors = run_command("move", "--quiet", old_url, "new.sqlite3")
    assert (code, out, errors) == (0, "fense-admin moved accounts=1\n", "")
    assert open_database(tmp_path / "new.sqlite3").dump()["accounts"][0]["usage"] == {
        "2026-11-02": 5
    }
    line = sentence(run_command("move", str(tmp_path / "new.sqlite3"), old_url))
    assert "already has accounts" in line
    schema = old_url.rpartition("%3D")[2]
    assert postgresql.execute(f"SELECT version FROM {schema}.fense_admin") == [(1,)]
    assert postgresql.execute(f"SELECT to_regclass('{schema}.usage_month')") == [(None,)]


def test_an_empty_database_on_a_server_is_not_a_source(run_command, postgresql):
    line = sentence(run_command("move", postgresql.new(), "new.sqlite3"))
    assert line.endswith("is empty: choose the database that has the accounts")


def test_a_role_that_may_only_read_can_move(run_command, postgresql, old_url):
    schema = old_url.rpartition("%3D")[2]
    postgresql.execute(
        "CREATE ROLE reader LOGIN",
        f"GRANT USAGE ON SCHEMA {schema} TO reader",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO reader",
        f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO reader",
    )
    url = old_url.replace("fense@", "reader@")
    assert run_command("move", url, "new.sqlite3")[0] == 0
    postgresql.execute("DROP OWNED BY reader", "DROP ROLE reader")


def test_a_standby_can_be_the_source(run_command, postgresql, open_database):
    db = open_database(postgresql.empty())
    db.create_account(account_fields())
    count = db.count_accounts()
    with contextlib.closing(start_server(primary=postgresql)) as standby:
        code, out, _ = run_command("move", standby.url, "new.sqlite3")
    assert (code, out) == (0, f"fense-admin moved accounts={count}\n")
