"""A backup is complete and has all acknowledged writes; a failed one leaves nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import FIELDS, TIMEOUT, account_fields, daily, in_background, join, sentence
from peewee import sqlite3

from fense_admin import databases, disk, progress, sqlite


def test_a_failed_backup_leaves_nothing(tmp_path, open_database, monkeypatch):
    open_database(tmp_path / "fense.sqlite3").create_account(FIELDS)
    folder = tmp_path / "backups"
    folder.mkdir()

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "rename_to_new", fails)
    with pytest.raises(OSError, match="No space"):
        sqlite.backup(str(tmp_path / "fense.sqlite3"), str(folder / "copy"))
    assert list(folder.iterdir()) == []


KILLED = """
import os, sys, time
from fense_admin import sqlite, systems
def killed(path):
    os.kill(os.getpid(), 9)
systems.sync = killed
sqlite.backup(sys.argv[1], sys.argv[2])
"""


def test_the_file_of_a_killed_backup_is_removed_an_hour_later(tmp_path, open_database):
    source = tmp_path / "fense.sqlite3"
    open_database(source).create_account(FIELDS)
    folder = tmp_path / "backups"
    folder.mkdir()
    command = [sys.executable, "-c", KILLED, source, folder / "copy"]
    assert subprocess.run(command, timeout=TIMEOUT).returncode in (-9, 9)
    (left,) = folder.iterdir()
    kept = [".fense-admin-notes.tmp", ".another.tmp", left.name[1:]]
    for name in kept:
        (folder / name).touch()
        os.utime(folder / name, (0, 0))
    sqlite.backup(str(source), str(folder / "copy"))
    assert left.exists()  # it may be another backup's
    os.utime(left, (time.time() - 3_700,) * 2)
    sqlite.backup(str(source), str(folder / "next"))
    assert sorted(os.listdir(folder)) == sorted(["copy", "next", *kept])


def test_no_other_program_is_run(tmp_path, open_database, monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError(2, "No such file or directory", "/bin/sh")

    monkeypatch.setattr(subprocess, "Popen", missing)
    monkeypatch.setattr(os, "fork", missing, raising=False)
    open_database(tmp_path / "fense.sqlite3").create_account(FIELDS)
    sqlite.backup(str(tmp_path / "fense.sqlite3"), str(tmp_path / "copy"))
    assert open_database(tmp_path / "copy").count_accounts() == 1
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


@pytest.mark.parametrize("table", ["usage", "usage_month"])
def test_a_database_without_a_table_is_not_backed_up(run_command, tmp_path, table):
    databases.open_database(str(tmp_path / "fense-admin.sqlite3")).engine.close_all()
    with contextlib.closing(sqlite3.connect(tmp_path / "fense-admin.sqlite3")) as database:
        database.execute(f"DROP TABLE {table}")
    line = sentence(run_command("backup", "copy"))
    assert line.endswith(
        "fense-admin.sqlite3 lacks some of its tables: restore a backup or choose another database"
    )
    assert os.listdir(tmp_path) == ["fense-admin.sqlite3"]


@pytest.mark.parametrize("version", [1, 999])
def test_a_database_of_another_version_is_backed_up(run_command, tmp_path, version):
    databases.open_database(str(tmp_path / "fense-admin.sqlite3")).engine.close_all()
    with contextlib.closing(sqlite3.connect(tmp_path / "fense-admin.sqlite3")) as database:
        database.execute(f"PRAGMA user_version = {version}")
        if version == 1:
            database.execute("DROP TABLE usage_month")
    assert run_command("backup", "--quiet", "copy") == (0, "", "")


def test_a_damaged_database_is_not_backed_up(run_command, tmp_path):
    path = tmp_path / "fense-admin.sqlite3"
    db = databases.open_database(str(path))
    for _ in range(100):
        db.create_account(account_fields())
    query = "SELECT rootpage FROM sqlite_master WHERE name = 'account'"
    (root,) = db.engine.execute_sql(query).fetchone()
    db.engine.close_all()
    with open(path, "r+b") as file:
        file.seek(root * 4096 - 200)  # the end of this page
        file.write(b"\xff" * 200)
    line = sentence(run_command("backup", "copy"))
    assert line.startswith("fense-admin: fense-admin.sqlite3 is damaged (")
    assert line.endswith("): restore an earlier backup")
    assert os.listdir(tmp_path) == ["fense-admin.sqlite3"]


@pytest.mark.needs("any character in the name of a file")
def test_a_backup_goes_to_a_path_and_never_to_a_uri(tmp_path, open_database, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_database(tmp_path / "fense.sqlite3").create_account(FIELDS)
    (tmp_path / "precious").write_bytes(b"")
    sqlite.backup("fense.sqlite3", "file:precious")
    assert (tmp_path / "precious").read_bytes() == b""
    copy = open_database(tmp_path / "file:precious")
    assert copy.get_account(1)["name"] == "Acme Ltd"


@pytest.mark.slow
def test_a_backup_of_a_served_database_has_all_acknowledged_writes(start, tmp_path, open_database):
    service = start("--port=0")
    service.ready()
    stop, acknowledged = threading.Event(), []

    def write():
        while not stop.is_set():
            acknowledged.append(service.call("/accounts", account_fields())[1])

    counts = []
    with in_background(write, stop=stop.set):
        for number in range(3):
            time.sleep(0.1)
            counts.append(len(acknowledged))
            result = start("backup", "--quiet", f"copy-{number}", name="errors").end(None)
            assert result == (0, "", "")
    for number, count in enumerate(counts):
        copy = open_database(tmp_path / f"copy-{number}")
        for account in acknowledged[:count]:
            assert copy.get_account(account["fense_account_id"]) == account
    assert counts[0]


def test_a_backup_is_a_snapshot_and_ends_despite_concurrent_writes(
    tmp_path, open_database, monkeypatch
):
    source = open_database(tmp_path / "fense.sqlite3")
    source.create_account(FIELDS)
    steps = []

    def write(done, total):
        steps.append((done, total))
        assert len(steps) <= total // 4096, "it began again"
        source.record_lookups(1, 1)

    monkeypatch.setattr(sqlite, "COPIED", 1)
    sqlite.backup(str(tmp_path / "fense.sqlite3"), str(tmp_path / "copy"), write)
    assert len(steps) > 5
    assert steps[-1][0] == steps[-1][1] == (tmp_path / "copy").stat().st_size
    assert daily(open_database(tmp_path / "copy")) == {}
    assert sum(daily(source).values()) == len(steps)


def test_a_signal_ends_the_check_of_a_copy(tmp_path, open_database, monkeypatch):
    open_database(tmp_path / "fense.sqlite3").create_account(FIELDS)
    endless = (
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    )
    monkeypatch.setattr(sqlite, "QUICK_CHECK", endless)
    before = signal.signal(signal.SIGINT, progress.stop_at_once)
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    timer.start()
    try:
        with pytest.raises(progress.Stopped):
            sqlite.backup(str(tmp_path / "fense.sqlite3"), str(tmp_path / "copy"))
    finally:
        join(timer)
        signal.signal(signal.SIGINT, before)
    assert [name for name in os.listdir(tmp_path) if "fense.sqlite3" not in name] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["there"], "can't write there: File exists"),
        (["no/folder/copy"], "can't write no/folder/copy: No such file or directory"),
        ([":memory:"], "a backup needs a file"),
        (["copy", "--database=missing"], "there is no database file missing"),
        (["copy", "--database=:memory:"], "there is no database file :memory:"),
        (["copy", "--database=there"], "there is an SQLite database of another program"),
    ],
)
def test_a_backup_that_can_not_be_made_changes_nothing(run_command, tmp_path, arguments, message):
    databases.open_database(str(tmp_path / "fense-admin.sqlite3")).engine.close_all()
    other = sqlite3.connect(tmp_path / "there")
    other.execute("CREATE TABLE mine (id)")
    other.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code, _, errors = run_command("backup", *arguments)
    assert code == 1
    assert errors.startswith("fense-admin: ")
    assert message in errors
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after == before
