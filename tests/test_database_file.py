"""Only our own files are opened; they are private, and never written to after their removal."""

import errno
import os
import sys
import time

import pytest
from conftest import AS_SOMEBODY_ELSE, FIELDS, account_fields, few, in_threads, sentence
from peewee import sqlite3

from fense_admin import databases, disk, engines, sqlite, systems
from fense_admin.engines import Unusable

NOT_ON_WINDOWS = pytest.mark.needs("any character in the name of a file")


@pytest.mark.parametrize(
    "name",
    ["100%.db", "a#b.db", "my file", "ü.db", "%41"]
    + [pytest.param(name, marks=NOT_ON_WINDOWS) for name in ("what?.db", "file:x")],
)
def test_any_file_name_is_a_file_name(tmp_path, monkeypatch, name, open_database):
    monkeypatch.chdir(tmp_path)
    db = open_database(name)
    db.create_account(FIELDS)
    db.engine.close_all()
    assert os.listdir(tmp_path) == [name]
    again = open_database(name)
    assert again.get_account(1)["name"] == "Acme Ltd"


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
    databases.open_database(str(path)).engine.close_all()
    with sqlite3.connect(path) as database:
        for table in ("usage_month", "usage", "account"):
            database.execute(f"DROP TABLE {table}")
    database.close()


def make_newer(path):
    databases.open_database(str(path)).engine.close_all()
    with sqlite3.connect(path) as newer:
        (version,) = newer.execute("PRAGMA user_version").fetchone()
        newer.execute(f"PRAGMA user_version = {version + 1}")
    newer.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_text, "is not an SQLite database"),
        (make_other_program, "is an SQLite database of another program"),
        (lambda path: path.touch(), "already exists and is empty"),
        (make_empty_database, "already exists and is empty"),
        (make_one_without_tables, "lacks some of its tables"),
        (make_newer, "was written by a newer version of fense-admin"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: path.parent.rmdir(), "choose a file in a folder that exists"),
    ],
)
def test_a_file_that_is_not_our_database_is_rejected_unchanged(tmp_path, make, message):
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "fense.sqlite3"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(Unusable, match=message) as caught:
        databases.open_database(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_device_is_rejected(run_command):
    for command in (("record", "1", "1"), ("backup", "copy")):
        line = sentence(run_command(*command, f"--database={os.devnull}"))
        assert line == f"fense-admin: {os.devnull} is a device: choose a file with --database"


def test_a_missing_device_of_windows_is_rejected(monkeypatch):
    def fails(path):
        raise OSError(errno.EBADF, "Invalid handle", path)

    monkeypatch.setattr(os.path, "realpath", fails)
    with pytest.raises(Unusable, match=r"can't open CON \(Invalid handle\): choose a file"):
        databases.open_database("CON")


@pytest.mark.parametrize(
    ("sep", "path", "uri"),
    [
        ("/", "/var/lib/a b%.db", "file:///var/lib/a%20b%25.db"),
        ("\\", r"C:\Users\me@corp\a#.db", "file:///C%3A/Users/me%40corp/a%23.db"),
        ("\\", r"\\server\share\a.db", "file:////server/share/a.db"),
    ],
)
def test_a_uri_of_sqlite_is_a_path_with_slashes(monkeypatch, sep, path, uri):
    monkeypatch.setattr(os, "sep", sep)
    assert sqlite._uri(path) == uri


def no_links(*_):
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.needs("modes of files")
def test_a_file_system_without_links_is_sufficient(tmp_path, open_database, monkeypatch):
    monkeypatch.setattr(os, "link", no_links, raising=False)
    open_database(tmp_path / "fense.sqlite3").create_account(FIELDS)
    sqlite.backup(str(tmp_path / "fense.sqlite3"), str(tmp_path / "copy"))
    assert modes(tmp_path)["copy"] == 0o600
    assert open_database(tmp_path / "copy").count_accounts() == 1
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


def test_a_new_file_that_a_virus_scanner_reads_gets_its_name_later(
    tmp_path, open_database, monkeypatch
):
    rename, refusals = os.rename, [1, 2]

    def refuse_twice(path, name):
        if refusals:
            raise PermissionError(errno.EACCES, f"Sharing violation {refusals.pop()}")
        rename(path, name)

    monkeypatch.setattr(systems, "RENAME_REFUSES", True)
    monkeypatch.setattr(os, "rename", refuse_twice)
    open_database(tmp_path / "fense.sqlite3").create_account(FIELDS)
    assert refusals == []
    monkeypatch.setattr(disk, "SCANNED", 0.1)
    refusals.extend(range(100))
    with pytest.raises(PermissionError, match="Sharing violation"):
        sqlite.backup(str(tmp_path / "fense.sqlite3"), str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_created_by_another_process_is_kept(tmp_path, monkeypatch, has_links):
    if not has_links:
        monkeypatch.setattr(os, "link", no_links, raising=False)
    databases.open_database(str(tmp_path / "fense.sqlite3")).engine.close_all()
    copy = tmp_path / "copy"

    def make_it():
        copy.write_text("precious")

    with pytest.raises(FileExistsError):
        sqlite.backup(str(tmp_path / "fense.sqlite3"), str(copy), before_end=make_it)
    assert copy.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["copy", "fense.sqlite3"]


def test_several_may_open_a_new_file_at_once(tmp_path, open_database):
    path = str(tmp_path / "fense.sqlite3")
    opened = in_threads(6, lambda: open_database(path))
    assert [type(db) for db in opened] == [databases.Database] * 6
    for i, db in enumerate(opened):
        db.create_account(FIELDS | {"api_key": f"key-{i}"})
        db.engine.close_all()


def test_the_file_of_a_killed_start_is_removed_an_hour_later(tmp_path, open_database):
    left = [tmp_path / f".fense-admin-{age:08}.tmp" for age in (0, 3_500, 3_700, 90_000)]
    for path in left:
        path.touch()
        os.utime(path, (time.time() - int(path.name[13:21]),) * 2)
    for _ in range(2):  # a new file, and one that is there
        open_database(tmp_path / "fense.sqlite3")
        assert [path.exists() for path in left] == [True, True, False, False]
        left[2].touch()
        os.utime(left[2], (0, 0))


def modes(folder):
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


@pytest.mark.needs("modes of files")
def test_files_are_readable_only_by_their_owner(tmp_path, open_database):
    old = os.umask(0)
    try:
        open_database(tmp_path / "fense.sqlite3").create_account(FIELDS)
        sqlite.backup(str(tmp_path / "fense.sqlite3"), str(tmp_path / "copy"))
    finally:
        os.umask(old)
    names = ("fense.sqlite3", "fense.sqlite3-wal", "fense.sqlite3-shm", "copy")
    assert modes(tmp_path) == dict.fromkeys(names, 0o600)


@pytest.mark.needs("modes of files")
def test_a_file_readable_by_others_keeps_its_mode_and_is_reported(tmp_path, caplog):
    path = tmp_path / "fense.sqlite3"
    databases.open_database(str(path)).engine.close_all()
    assert caplog.messages == []
    path.chmod(0o644)
    databases.open_database(str(path)).engine.close_all()
    assert modes(tmp_path) == {"fense.sqlite3": 0o644}
    assert caplog.messages == [f"{path} can be read by other users: run chmod 600 on it"]


def test_modes_are_not_reported_where_they_mean_nothing(tmp_path, caplog, monkeypatch):
    path = tmp_path / "fense.sqlite3"
    databases.open_database(str(path)).engine.close_all()
    path.chmod(0o644)
    monkeypatch.setattr(systems, "HAS_MODES", False)
    databases.open_database(str(path)).engine.close_all()
    assert caplog.messages == []


@pytest.mark.needs("removing open files")
@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
@pytest.mark.parametrize("made_anew", [False, True])
def test_nothing_is_written_to_a_file_that_was_removed(tmp_path, open_database, end, made_anew):
    db = open_database(tmp_path / "fense.sqlite3")
    db.create_account(FIELDS)
    path = tmp_path / f"fense.sqlite3{end}"
    path.rename(tmp_path / "away")
    if made_anew:
        path.write_bytes((tmp_path / "away").read_bytes())
    with pytest.raises(
        engines.DatabaseError, match="was replaced" if made_anew else "is missing"
    ) as e:
        db.create_account(FIELDS | {"api_key": "another"})
    assert engines.is_unavailable(e.value)


@pytest.mark.needs("removing open files")
def test_a_file_replaced_within_one_tick_of_the_folders_mtime_is_noticed(tmp_path, open_database):
    """A FAT file system keeps the even second, HFS+ the second."""
    db = open_database(tmp_path / "fense.sqlite3")
    ticked = time.time_ns() - 10**9
    os.utime(tmp_path, ns=(ticked, ticked))
    db.create_account(FIELDS)
    (tmp_path / "fense.sqlite3").rename(tmp_path / "away")
    os.utime(tmp_path, ns=(ticked, ticked))
    with pytest.raises(engines.DatabaseError, match="is missing"):
        db.create_account(FIELDS | {"api_key": "another"})


@pytest.mark.parametrize("is_there", [True, False])
def test_a_database_may_be_named_by_a_link(tmp_path, open_database, is_there):
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "fense.sqlite3"
    if is_there:
        databases.open_database(str(file)).engine.close_all()
    (tmp_path / "link").symlink_to(file)
    db = open_database(tmp_path / "link")
    assert db.create_account(FIELDS)["fense_account_id"] == 1
    sqlite.backup(str(tmp_path / "link"), str(tmp_path / "copy"))
    assert open_database(tmp_path / "copy").count_accounts() == 1


def test_a_database_in_memory_leaves_no_file(start, tmp_path):
    service = start("--port=0", "--database=:memory:", "--threads=1")
    service.ready()
    assert service.call("/accounts", account_fields())[0] == 201
    assert service.end()[0] == 0
    assert os.listdir(tmp_path) == ["stderr"]


@pytest.mark.needs("modes of files")
@pytest.mark.parametrize("folder_mode", few([0o555, 0o777]))
def test_a_read_only_database_is_reported(start, open_folder, folder_mode):
    folder = open_folder
    file = folder / "fense.sqlite3"
    databases.open_database(str(file)).engine.close_all()
    before = file.read_bytes()
    file.chmod(0o444)
    folder.chmod(folder_mode)
    command = (sys.executable, "-c", AS_SOMEBODY_ELSE)
    message = sentence(start("--port=0", "--database", str(file), command=command).end(None))
    assert message.startswith(f"fense-admin: can't open {file} (")
    assert file.read_bytes() == before
