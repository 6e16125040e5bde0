"""PostgreSQL: what the start rejects, the commands, passwords."""

import gc
import io
import json
import os
import re
import signal
import sys
import threading
import types
from pathlib import Path

import pytest
from conftest import (
    FIELDS,
    MASTER_KEY,
    SEED_FILE,
    account_fields,
    all_usage,
    daily,
    in_threads,
    join,
    sentence,
    tools,
)
from postgresql_server import start_server

from fense_admin import databases, engines, libpq, models, postgres, progress
from fense_admin.databases import copy

PASSWORD = "pw-Zq81xK"
KEY = {"DISPUTE_MASTER_KEY": MASTER_KEY}


@pytest.fixture
def url(postgresql):
    """The URL of a schema without tables."""
    return postgresql.new()


@pytest.fixture
def schema(postgresql, url):
    """Runs SQL in that schema."""
    name = url.rpartition("%3D")[2]
    return lambda *statements: postgresql.execute(f"SET search_path = {name}", *statements)


# --- Start -------------------------------------------------------------------------------------


def test_processes_that_start_at_once_make_the_tables_once(url, open_database):
    found = in_threads(6, lambda: open_database(url).count_accounts())
    assert found == [0] * 6


def make_foreign(schema, url):
    schema("CREATE TABLE account (id int)")


def make_newer(schema, url):
    databases.open_database(url).engine.close_all()
    schema("UPDATE fense_admin SET version = version + 1")


def make_one_without_a_table(schema, url):
    databases.open_database(url).engine.close_all()
    schema("DROP TABLE usage_month")


@pytest.mark.parametrize(
    ("make", "reported"),
    [
        (make_foreign, "has tables of another program"),
        (make_newer, "was written by a newer version of fense-admin"),
        (make_one_without_a_table, "lacks some of its tables"),
    ],
)
def test_a_database_that_is_not_ours_is_rejected_unchanged(
    schema, url, run_command, make, reported
):
    make(schema, url)
    look = (
        "SELECT relname, relkind FROM pg_class WHERE relnamespace = current_schema()::regnamespace"
    )
    before = sorted(schema(look))
    line = sentence(run_command("--port=0", FENSE_ADMIN_DATABASE=url, **KEY))
    assert reported in line
    assert sorted(schema(look)) == before


def test_a_database_in_another_encoding_is_rejected(postgresql):
    postgresql.execute(
        "DROP DATABASE IF EXISTS latin1",
        "CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
    )
    with pytest.raises(engines.Unusable, match="is encoded in LATIN1: choose a database in UTF8"):
        databases.open_database(postgresql.url.replace("/postgres", "/latin1"))


def test_a_read_only_server_is_rejected(url):
    with pytest.raises(engines.Unusable, match="read-only"):
        databases.open_database(f"{url}%20-cdefault_transaction_read_only%3Don")


def test_without_the_driver_the_message_names_the_extra(run_command, monkeypatch, url):
    monkeypatch.delitem(sys.modules, "fense_admin.postgres")
    monkeypatch.delattr("fense_admin.postgres", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    line = sentence(run_command("--port=0", FENSE_ADMIN_DATABASE=url, **KEY))
    assert "run pip install 'fense-admin[postgresql]'" in line


SECTIONS = re.split("-- version [0-9]+\n", Path(postgres.SCHEMA_FILE).read_text("utf-8"))[1:]


@pytest.mark.parametrize("version", range(1, len(SECTIONS)))
def test_a_database_of_an_earlier_version_gets_the_later_sections(
    schema, url, postgresql, open_database, version
):
    schema(
        SECTIONS[0],
        f"INSERT INTO fense_admin VALUES ({version})",
        "INSERT INTO account (name, email, api_key_sha256, created_at, updated_at) VALUES ('Acme Ltd',"
        f" 'a@acme.example', '{models.digest('a-key')}', '2026-11-01T00:00:00Z', '2026-11-01T00:00:00Z')",
        "INSERT INTO usage VALUES (1, '2026-10-31', 5), (1, '2026-11-01', 5), (1, '2026-11-02', 5)",
        *SECTIONS[1:version],
    )
    db = open_database(url)
    assert schema("SELECT version FROM fense_admin") == [(len(SECTIONS),)]
    assert daily(db) == {"2026-10-31": 5, "2026-11-01": 5, "2026-11-02": 5}
    assert schema("SELECT * FROM usage_month ORDER BY month") == [
        (1, "2026-10", 5),
        (1, "2026-11", 10),
    ]
    columns = (
        "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
        " WHERE table_schema = current_schema() ORDER BY table_name, ordinal_position"
    )
    new = open_database(postgresql.empty())
    assert db.engine.execute_sql(columns).fetchall() == new.engine.execute_sql(columns).fetchall()


# --- Settings of the connection ------------------------------------------------------------------


def setting(db, name):
    return db.engine.execute_sql(f"SHOW {name}").fetchone()[0]


def test_the_users_settings_override_ours(postgresql, open_database, monkeypatch):
    url = postgresql.empty()
    db = open_database(url)
    assert setting(db, "jit") == "off"
    assert setting(db, "statement_timeout") == "2400ms"
    assert setting(db, "application_name") == "fense-admin"
    db = open_database(f"{url}?options=-cstatement_timeout%3D7s&application_name=ours")
    assert setting(db, "jit") == "off"
    assert setting(db, "statement_timeout") == "7s"
    assert setting(db, "application_name") == "ours"
    monkeypatch.setenv("PGAPPNAME", "theirs")
    monkeypatch.setenv("PGOPTIONS", "-cstatement_timeout=8s")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    db = open_database(url)
    assert setting(db, "application_name") == "theirs"
    assert setting(db, "statement_timeout") == "8s"
    assert db.create_account(FIELDS | {"name": "株式会社"})["name"] == "株式会社"


def test_the_first_responding_host_is_used(postgresql, open_database):
    port = postgresql.port
    url = postgresql.empty().replace(f"127.0.0.1:{port}", f"127.0.0.1:1,127.0.0.1:{port}")
    assert open_database(url).count_accounts() == 0


# --- Passwords -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded():
    """A server that requires a difficult password."""
    tools("pg_ctl")
    server = start_server()
    try:
        server.execute(f"ALTER ROLE fense PASSWORD '{PASSWORD}@/?#%'")
        (server.data / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        server.execute("SELECT pg_reload_conf()")
        yield server
    finally:
        server.close()


@pytest.mark.slow
def test_a_percent_encoded_password_is_used_and_shown_nowhere(guarded, start):
    url = f"postgresql://fense:{PASSWORD}%40%2F%3F%23%25@127.0.0.1:{guarded.port}/postgres"
    service = start("--port=0", FENSE_ADMIN_DATABASE=url, **KEY)
    service.ready()
    assert service.call("/accounts/usage", key=MASTER_KEY)[0] == 200
    process = Path(f"/proc/{service.process.pid}")
    title = (process / "cmdline").read_text() + (process / "comm").read_text()
    code, out, log = service.end()
    assert code == 0
    assert PASSWORD not in service.line + out + log
    assert PASSWORD not in title
    assert f"the database is postgresql://fense@127.0.0.1:{guarded.port}/postgres, with" in log


AT = "127.0.0.1:1"  # where nothing listens
BAD_URLS = [
    f"postgresql://fense:{PASSWORD}@{AT}/fense",
    f"postgresql://fense:{PASSWORD}@127.0.0.1:port/fense",
    f"postgresql://fense:{PASSWORD}@nowhere.invalid/fense",
    f"postgresql://fense:{PASSWORD}@more@{AT}/fense",
    f'postgresql://fense:more@"{PASSWORD}"@{AT}/fense',
    f"postgresql://fense:{PASSWORD}%zz@{AT}/fense",
    f"postgresql://fense:{PASSWORD}%00@{AT}/fense",
    f"postgresql://fense:{PASSWORD}/fense",
    f"postgresql://fense@{AT}/fense?password={PASSWORD}&sslmode=none",
    f"postgresql://fense@{AT}/fense?password={PASSWORD}%zz",
    f"postgres://fense:{PASSWORD}@{AT}/fense?unknown={PASSWORD}",
    f"postgresql://fense:{PASSWORD} @[::1/fense",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_an_invalid_url_is_rejected_without_showing_its_password(run_command, caplog, url):
    for way in ({"FENSE_ADMIN_DATABASE": url}, None):
        arguments = ("--port=0",) if way else ("--port=0", "--database", url)
        line = sentence(run_command(*arguments, **(way or {}), **KEY))
        assert line.startswith("fense-admin: can't use postgres")
        assert PASSWORD not in line + caplog.text
    with pytest.raises(engines.Unusable) as refused:
        databases.open_database(url)
    chain = [refused.value, refused.value.__cause__]
    assert PASSWORD not in repr(chain)
    assert refused.value.__suppress_context__


def test_a_wrong_password_is_reported_without_showing_it(guarded, run_command):
    url = f"postgresql://fense:{PASSWORD}@127.0.0.1:{guarded.port}/postgres"
    line = sentence(run_command("--port=0", FENSE_ADMIN_DATABASE=url, **KEY))
    assert "password authentication failed" in line
    assert PASSWORD not in line


SHOWN = [
    ("postgresql://h/d", "postgresql://h/d"),
    ("postgresql://u@h:5432/d?x=y", "postgresql://u@h:5432/d"),
    ("postgresql://u:a%40b@h/d", "postgresql://u@h/d"),
    ("postgresql://u:p?a#b@h/d", "postgresql://u@h/d"),
    ("postgresql://u:100%@h/d", "postgresql://u@h/d"),
    ("postgresql://u:p@h1:1,h2:2/d", "postgresql://u@h1:1,h2:2/d"),
    ("postgresql://u:p@[::1]:5432/d", "postgresql://u@[::1]:5432/d"),
    ("postgresql://[::1]:5432/d", "postgresql://[::1]:5432/d"),
    ("postgresql://[2001:db8::1]/d", "postgresql://[2001:db8::1]/d"),
    ("postgresql://u:p@h/d?application_name=a@b", "postgresql://u@h/d"),
    ("postgresql:///d", "postgresql:///d"),
    ("postgresql:///?service=s&host=/run", "postgresql:///"),
    ("postgresql://u:p@h/d\udcff", "postgresql://u@h/d?"),
    # Where a person may have meant a later "@"
    ("postgresql://u:a@b@h/d", "postgresql://u@…@h/d"),
    ("postgresql://u:a/b@h/d", "postgresql://…@h/d"),
    ("postgresql://u:a@b/c@h/d", "postgresql://u@…@h/d"),
    ("postgresql://u:a@b/c?d@h/d", "postgresql://u@…"),
    ("postgresql://u:a/b?c@h/d", "postgresql://…"),
    ("postgresql://u:p@h/post@gres", "postgresql://u@…@gres"),
    ("postgresql://u:secret/d", "postgresql://u:…"),
    ("postgresql://u@h/d&password=secret", "postgresql://u@h/d&"),
]


@pytest.mark.parametrize(("url", "shown"), SHOWN)
def test_a_url_is_shown_without_what_may_be_a_password(url, shown):
    assert libpq.URL(url).shown == shown


# --- Commands ------------------------------------------------------------------------------------


def test_the_control_plane_is_rejected_with_a_server(run_command, url):
    code, out, errors = run_command("--standin", FENSE_ADMIN_DATABASE=url, **KEY)
    assert (code, out) == (2, "")
    assert "--standin needs SQLite: on a server, its reset would" in errors


def test_the_development_key_leaves_the_control_plane_off(start, url):
    service = start("--port=0", "--database", url)
    service.ready()
    assert service.call("/_standin/state")[0] == 404
    assert service.call("/accounts", account_fields())[0] == 201
    log = service.end()[2]
    assert "the control plane is off: it needs SQLite" in log
    assert re.search(r"fense-admin \S+ with PostgreSQL \d+", log)
    assert "_standin" not in log.replace("GET /_standin/state", "")


def test_backup_points_to_pg_dump(run_command, url, tmp_path):
    line = sentence(run_command("backup", "copy", FENSE_ADMIN_DATABASE=url))
    assert "run pg_dump" in line
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_one_of_several_starting_processes_loads_the_seed(start, url):
    nodes = [
        start("--port=0", "--seed", SEED_FILE, FENSE_ADMIN_DATABASE=url, name=f"log{n}", **KEY)
        for n in range(3)
    ]
    for node in nodes:
        node.ready()
        assert node.call("/accounts/usage/1", key=MASTER_KEY)[1]["total_lookups"] == 19
    logs = [node.end()[2] for node in nodes]
    assert sum(f"{SEED_FILE} is not loaded" in log for log in logs) == 2


TIMES = dict.fromkeys(("created_at", "updated_at"), "2026-11-01T00:00:00Z")
MANY = [
    {"fense_account_id": n, "name": "n", "email": "a@b", "api_key_sha256": f"{n:064x}"} | TIMES
    for n in range(1, 5_001)
]


def test_only_one_of_several_concurrent_loads_succeeds(url, open_database):
    databases = [open_database(url) for _ in range(4)]
    made = in_threads(4, lambda: databases.pop().seed(MANY, [(1, "2026-11-01", 1)]))
    assert sorted(made) == [False, False, False, True]


def test_a_load_may_take_longer_than_the_statement_timeout(url, open_database):
    db = open_database(f"{url}%20-cstatement_timeout%3D20ms")
    assert db.seed(MANY, [(n, "2026-11-01", 1) for n in range(1, 5_001)])
    with pytest.raises(engines.DatabaseError, match="statement timeout"):
        db.engine.execute_sql("SELECT pg_sleep(1)")
    assert db.count_accounts() == 5_000


def give_stdin(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(text.encode())))


@pytest.fixture(params=["sqlite", "postgresql"])
def recorded(request, tmp_path, open_database):
    """The name of a database with two accounts, and the database."""
    name = str(tmp_path / "fense.sqlite3")
    if request.param == "postgresql":
        name = request.getfixturevalue("url")
    db = open_database(name)
    for number in (1, 2):
        db.create_account(FIELDS | {"api_key": f"key-{number}"})
    return name, db


def test_record_adds_to_a_day(run_command, recorded):
    name, db = recorded
    assert run_command("record", "2", "5", "--date=2026-11-03", FENSE_ADMIN_DATABASE=name)[0] == 0
    assert json.loads(all_usage(db))["total_lookups"] == 5
    line = sentence(run_command("record", "3", "5", FENSE_ADMIN_DATABASE=name))
    assert line == "fense-admin: no account has the fense_account_id 3"


def test_a_range_of_days_takes_few_statements(run_command, url, open_database, monkeypatch):
    db = open_database(url)
    db.create_account(FIELDS)
    executed = []
    execute = postgres.Connection.execute

    def counted(self, *arguments):
        executed.append(arguments[0])
        return execute(self, *arguments)

    monkeypatch.setattr(postgres.Connection, "execute", counted)
    db.record_lookups(1, 5)
    few = len(executed)
    db.record_lookups(1, 5, "-3659..0")
    assert len(executed) - few == few + 3_660 // postgres.AT_ONCE  # one for each thousand
    assert db.engine.execute_sql("SELECT sum(lookups)::int FROM usage").fetchone() == (18_305,)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_record_reads_a_list_from_standard_input(run_command, monkeypatch, recorded, mark):
    name, db = recorded
    entries = [
        {"fense_account_id": 2, "lookups": 3, "date": "2026-11-03"},
        {"fense_account_id": 1, "lookups": 4, "date": "2026-11-03"},
        {"fense_account_id": 1, "lookups": 5},
    ]
    give_stdin(monkeypatch, mark + json.dumps(entries))
    assert run_command("record", "-", FENSE_ADMIN_DATABASE=name)[0] == 0
    accounts = json.loads(all_usage(db))["accounts"]
    assert [account["total_lookups"] for account in accounts] == [9, 3]


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ('[{"fense_account_id": 1, "lookups": 1}, {"fense_account_id": 9, "lookups": 1}]',
         "nothing was added: [1].fense_account_id is not the id of an account"),
        ('[{"fense_account_id": 1, "lookups": 1}, {"fense_account_id": 1, "lokups": 1}]',
         "nothing was added: [1].lookups is required; [1].lokups is not accepted here"),
        ('[{"fense_account_id": 1, "lookups": 1}, {"fense_account_id": 1, "lookups": 1000000000000}]',
         "nothing was added: [1].lookups would exceed"),
        ("{}", "standard input must be a JSON array"),
        ("[", "standard input is not valid JSON"),
        ("", "standard input is not valid JSON"),
    ],
)  # fmt: skip
def test_a_list_with_an_error_adds_nothing(run_command, monkeypatch, recorded, text, reported):
    name, db = recorded
    give_stdin(monkeypatch, text)
    line = sentence(run_command("record", "-", FENSE_ADMIN_DATABASE=name))
    assert line.startswith(f"fense-admin: {reported}")
    assert json.loads(all_usage(db))["total_lookups"] == 0


@pytest.mark.parametrize("arguments", [["-", "5"], ["-", "--date=-1"], ["5"]])
def test_record_takes_a_list_or_lookups(run_command, recorded, arguments):
    assert run_command("record", *arguments, FENSE_ADMIN_DATABASE=recorded[0])[0] == 2


# --- move ----------------------------------------------------------------------------------------


def filled(db):
    for number in range(1, 4):
        fields = FIELDS | {"api_key": f"key-{number}-0123456789", "name": f'"{number}" é ☃'}
        db.create_account(fields | {"suppress_billing": number == 2})
        db.record_lookups(number, number, "2026-10-30..2026-11-02")
    db.engine.execute_sql("DELETE FROM usage_month WHERE fense_account_id = 3")
    db.engine.execute_sql("DELETE FROM usage WHERE fense_account_id = 3")
    db.engine.execute_sql("DELETE FROM account WHERE fense_account_id = 3")  # its id is gone
    return db


def test_a_move_there_and_back_keeps_everything_and_ids_go_on(
    run_command, tmp_path, url, open_database
):
    here, back = str(tmp_path / "here.sqlite3"), str(tmp_path / "back.sqlite3")
    db = filled(open_database(here))
    before = db.dump(), all_usage(db, "2026-10-31", None)
    for source, target in ((here, url), (url, back)):
        code, out, errors = run_command("move", "--quiet", source, target)
        assert (code, out, errors) == (0, "fense-admin moved accounts=2\n", "")
        moved = open_database(target)
        assert (moved.dump(), all_usage(moved, "2026-10-31", None)) == before
        assert moved.engine.execute_sql(moved.engine.last_id).fetchone() == (3,)
    assert open_database(back).create_account(FIELDS)["fense_account_id"] == 4
    assert open_database(url).create_account(FIELDS)["fense_account_id"] == 4


def test_a_move_into_a_database_that_has_accounts_changes_nothing(
    run_command, tmp_path, url, open_database
):
    here = str(tmp_path / "here.sqlite3")
    filled(open_database(here))
    there = open_database(url)
    there.create_account(FIELDS)
    before = there.dump()
    assert "already has accounts" in sentence(run_command("move", here, url))
    assert there.dump() == before
    assert "itself: choose a new database" in sentence(run_command("move", here, here))


@pytest.mark.parametrize(
    ("source", "target", "reported"),
    [
        ("missing.sqlite3", "new.sqlite3", "there is no database file missing.sqlite3"),
        (":memory:", "new.sqlite3", "there is no database file :memory:"),
        ("here.sqlite3", ":memory:", "a database in memory is lost when the process ends"),
        ("here.sqlite3", f"postgresql://fense@{AT}/fense", "Connection refused"),
        ("here.sqlite3", "no/folder/new.sqlite3", "can't open no/folder/new.sqlite3"),
    ],
)
def test_a_failed_move_is_reported(run_command, tmp_path, open_database, source, target, reported):
    open_database(tmp_path / "here.sqlite3")
    assert reported in sentence(run_command("move", source, target))
    assert not (tmp_path / "new.sqlite3").exists()


def test_move_takes_no_password_in_its_arguments(run_command, url):
    code, out, errors = run_command("move", f"postgresql://fense:{PASSWORD}@{AT}/fense", url)
    assert (code, out) == (2, "")
    assert "pass the password in PGPASSWORD or ~/.pgpass" in errors
    assert PASSWORD not in errors


def test_move_takes_a_password_from_the_environment(guarded, run_command, tmp_path, open_database):
    here = str(tmp_path / "here.sqlite3")
    filled(open_database(here))
    url = f"postgresql://fense@127.0.0.1:{guarded.port}/postgres"
    assert run_command("move", here, url, PGPASSWORD=f"{PASSWORD}@/?#%")[0] == 0


class AfterAccounts(databases.Report):
    """Calls a function once the accounts are copied, and no days yet."""

    def __init__(self, call):
        self.call = call

    def __call__(self, accounts, days):
        if not days:
            self.call()


def test_a_move_is_a_snapshot(url, tmp_path, open_database):
    source = filled(open_database(url))
    other, target = open_database(url), open_database(tmp_path / "target.sqlite3")
    before = source.dump()
    assert copy(source, target, AfterAccounts(lambda: other.record_lookups(1, 1, "2026-11-03")))
    assert target.dump() == before
    assert other.dump() != before


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["to", "from"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", ["account", "usage"])
def test_a_signal_ends_a_move_cleanly(
    run_command, tmp_path, url, open_database, monkeypatch, direction, signum, at
):
    here, unraisable = str(tmp_path / "here.sqlite3"), []
    source, target = (here, url) if direction == "to" else (url, here)
    filled(open_database(source))
    load = type(open_database(target).engine).load

    def interrupted(self, table, columns, rows):
        def some():
            yield next(rows)
            if table == at:
                signal.raise_signal(signum)
            yield from rows

        load(self, table, columns, some())

    monkeypatch.setattr(f"{load.__module__}.Engine.load", interrupted)
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    code, out, errors = run_command("move", source, target)
    assert (code, out) == (128 + signum, "")
    reported = signal.Signals(signum).name
    assert errors == f"fense-admin: stopped by {reported}: nothing was moved\n"
    gc.collect()
    assert unraisable == []
    assert open_database(target).count_accounts() == 0


def test_a_signal_that_comes_during_the_commit_of_a_move_waits_for_it(
    run_command, schema, url, tmp_path, open_database, monkeypatch
):
    source = str(tmp_path / "here.sqlite3")
    filled(open_database(source))
    target = open_database(url)
    schema(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END'",
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON account DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION slowly()",
    )

    def signal_soon(self):
        before_commit(self)
        timer.start()

    timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
    before_commit = progress.Progress.before_commit
    monkeypatch.setattr(progress.Progress, "before_commit", signal_soon)
    try:
        code, _, errors = run_command("move", source, url)
    finally:
        join(timer)
    assert code == 128 + signal.SIGINT
    reported = errors.splitlines()[-1]  # after its progress, if it took more than a second
    assert reported == "fense-admin: stopped by SIGINT, which came after the work was done"
    assert target.count_accounts() == 2


def test_an_interrupted_move_leaves_nothing(url, tmp_path, open_database, postgresql):
    source = filled(open_database(tmp_path / "here.sqlite3"))
    target = open_database(url)

    def cut_off():
        postgresql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'fense-admin' AND state <> 'idle'"
        )

    with pytest.raises(engines.DatabaseError):
        copy(source, target, AfterAccounts(cut_off))
    assert target.count_accounts() == 0
