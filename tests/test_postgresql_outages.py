"""Outages of PostgreSQL (stopped, frozen, waiting): how long requests take, and their responses.

Each test breaks its own server, and repairs it.
"""

import collections
import contextlib
import errno
import functools
import logging
import sys
import threading
import time

import psycopg
import pytest
from conftest import (
    FIELDS,
    HEAD,
    MASTER_KEY,
    TIMEOUT,
    Served,
    account_fields,
    ids,
    in_background,
    in_threads,
    run_program,
    statuses,
    talk,
    tools,
    wait_until,
)
from postgresql_server import start_server
from webtest import TestApp

from fense_admin import create_app, databases, engines, pool, postgres

UNCHANGED = "the database is temporarily unavailable; nothing was changed"
UNKNOWN = "the database is temporarily unavailable; it is unknown whether the change was saved"
OURS = "FROM pg_stat_activity WHERE application_name = 'fense-admin'"
READS = (("GET", "/accounts/1"), ("GET", "/healthz"), ("GET", "/accounts/usage"))


@pytest.fixture(scope="module")
def server():
    tools("pg_ctl")
    with contextlib.closing(start_server()) as server:
        yield server


@pytest.fixture
def served(server):
    """The application on that server, with one account, on a port."""
    app = create_app(server.empty(), master_key=MASTER_KEY)
    with contextlib.closing(app), Served(app) as served:
        assert served.call("POST", "/accounts", account_fields())[0] == 201
        yield served


@pytest.fixture
def frozen(server):
    """Return a function that freezes the server; it is woken at the end."""
    yield lambda: server.freeze()
    server.thaw()


@pytest.fixture
def without_standby(server):
    """Make the server wait for a standby that doesn't exist."""
    set_standbys(server, "'missing'")
    yield
    set_standbys(server, "DEFAULT")


def set_standbys(server, names):
    server.execute(
        f"ALTER SYSTEM SET synchronous_standby_names = {names}", "SELECT pg_reload_conf()"
    )
    wanted = "missing" if "missing" in names else ""
    wait_until(lambda: server.execute("SHOW synchronous_standby_names") == [(wanted,)])


def timed(served, method, path):
    """The status, the message and how long it took, in seconds."""
    began = time.monotonic()
    body = None
    if method == "POST":
        body = account_fields() if path == "/accounts" else {"name": "changed"}
    status, answer = served.call(method, path, body)
    took = time.monotonic() - began
    return status, answer.get("error", {}).get("message"), took


def many(served, *calls):
    """Make calls concurrently and return their responses."""
    queue = collections.deque(calls)
    return in_threads(len(calls), lambda: timed(served, *queue.popleft()))


WRITE = ("POST", "/accounts")


# --- Connections ---------------------------------------------------------------------------------


def test_the_next_request_replaces_a_broken_connection(server, served):
    for _ in range(3):
        many(served, *READS, WRITE, WRITE)  # each thread has a connection
        server.execute(f"SELECT pg_terminate_backend(pid) {OURS}")
        answers = many(served, *READS, WRITE, WRITE)
        assert sorted(status for status, *_ in answers) == [200] * 3 + [201] * 2
    server.stop()
    server.start()
    assert [timed(served, *call)[0] for call in (*READS, WRITE)] == [200] * 3 + [201]


def test_a_write_is_retried_if_its_connection_breaks_before_the_commit(server, served, monkeypatch):
    engine = served.app.db.engine
    lock, cut = engine.lock, []

    def lock_and_break(key_digest):
        lock(key_digest)
        if not cut:
            cut.append(
                server.execute(f"SELECT pg_terminate_backend(pid) {OURS} AND state <> 'idle'")
            )

    monkeypatch.setattr(engine, "lock", lock_and_break)
    assert timed(served, *WRITE)[0] == 201
    assert len(cut) == 1
    assert served.app.db.count_accounts() == 2


def test_a_connection_to_a_demoted_server_is_replaced(server, open_database):
    """Like after a failover: the connection is alive, but its server accepts no writes."""
    db = open_database(server.empty())
    db.engine.execute_sql("SET default_transaction_read_only = on")
    assert db.create_account(FIELDS)["fense_account_id"] == 1


def test_a_transaction_suspended_for_too_long_is_unavailable(server, open_database, monkeypatch):
    """Like a suspended machine: the server has ended the transaction."""
    monkeypatch.setattr(postgres, "WORKING", 0.3)
    db = open_database(f"{server.empty()}?options=-cidle_in_transaction_session_timeout%3D100")

    def work():
        for _ in range(2):
            db.engine.execute_sql("SELECT 1")
            time.sleep(0.5)

    with pytest.raises(engines.DatabaseError) as error:
        db.engine.write(work)
    assert engines.is_unavailable(error.value)
    assert db.count_accounts() == 0


def test_a_read_only_server_is_unavailable_until_it_accepts_writes(server, served):
    server.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    wait_until(lambda: server.execute("SHOW default_transaction_read_only") == [("on",)])
    status, message, took = timed(served, *WRITE)
    assert (status, message) == (503, UNCHANGED)
    assert took < 1
    server.execute(
        "SET default_transaction_read_only = off",
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    )
    wait_until(lambda: server.execute("SHOW default_transaction_read_only") == [("off",)])
    assert timed(served, *WRITE)[0] == 201


# --- Away ----------------------------------------------------------------------------------------


def test_a_stopped_server_costs_little_time(server, served):
    server.stop()
    try:
        answers = many(served, *[*READS, WRITE] * 6)
    finally:
        server.start()
    assert {(status, message) for status, message, _ in answers} == {(503, UNCHANGED)}
    assert max(took for *_, took in answers) < 2
    assert [timed(served, *call)[0] for call in (*READS, WRITE)] == [200] * 3 + [201]


@pytest.mark.slow
def test_a_frozen_server_costs_a_request_4_s_at_most_and_the_others_nothing(
    server, served, frozen, caplog
):
    frozen()
    first = many(served, *[*READS, WRITE] * 8)
    assert {status for status, *_ in first} == {503}
    assert 2 < max(took for *_, took in first) < 4
    time.sleep(postgres.AFTERWARDS)
    with in_background(lambda: first.append(timed(served, "GET", "/accounts/1"))):
        time.sleep(0.2)
        later = many(served, *[*READS, WRITE] * 2)  # while one request tries it
    assert max(took for *_, took in later) < 1
    assert first[-1][2] < 4
    health = timed(served, "GET", "/healthz")
    assert health[0] == 503
    assert health[2] < 5
    server.thaw()
    time.sleep(postgres.AFTERWARDS)
    assert [timed(served, *call)[0] for call in (*READS, WRITE)] == [200] * 3 + [201]
    assert "Traceback" not in caplog.text


@pytest.mark.slow
def test_a_server_frozen_during_a_commit_leaves_the_outcome_unknown(
    server, served, frozen, monkeypatch
):
    commit = served.app.db.engine._commit

    def frozen_commit(connection):
        frozen()
        commit(connection)

    monkeypatch.setattr(served.app.db.engine, "_commit", frozen_commit)
    status, message, took = timed(served, *WRITE)
    assert (status, message) == (503, UNKNOWN)
    assert took < 4
    assert timed(served, "GET", "/accounts/1")[2] < 1  # that it is frozen is known already


@pytest.mark.slow
def test_a_lock_of_another_program_is_waited_for_then_reported(server, served):
    with psycopg.connect(server.url) as connection:
        connection.execute("LOCK TABLE account IN EXCLUSIVE MODE")
        answers = many(served, WRITE, WRITE, *READS)
        connection.rollback()
    assert sorted(status for status, *_ in answers) == [200] * 3 + [503] * 2
    assert max(took for *_, took in answers) < 4
    assert timed(served, *WRITE)[0] == 201


slow = functools.partial(pytest.param, marks=pytest.mark.slow)
CREATE_INDEX = "CREATE INDEX waited_for ON account (name)"
UPDATE, USAGE = ("POST", "/accounts/1"), ("GET", "/accounts/usage?end_date=2026-11-03")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "blocked", "free"),
    [
        (CREATE_INDEX, WRITE, READS),
        slow("ALTER TABLE usage ADD COLUMN more int", USAGE, (*READS[:2], WRITE)),
        slow("SELECT 1 FROM account WHERE fense_account_id = 1 FOR UPDATE", UPDATE, READS),
        slow("ALTER TABLE account ADD COLUMN more int", WRITE, ()),
    ],
)
def test_many_operations_that_wait_for_a_lock_delay_no_others(
    server, served, statement, blocked, free
):
    waited: list[tuple] = []
    with psycopg.connect(server.url) as connection:
        connection.execute(statement)
        with in_background(lambda: waited.extend(many(served, *[blocked] * 200))):
            time.sleep(1)
            others = many(served, *free * 4)
        connection.rollback()
    assert {(status, message) for status, message, _ in waited} == {(503, UNCHANGED)}
    assert len(waited) == 200
    assert max(took for *_, took in waited) < 4
    assert {status for status, *_ in others} <= {200, 201}
    assert max((took for *_, took in others), default=0) < 1
    assert [timed(served, *call)[0] for call in (WRITE, UPDATE, *READS)] == [201, *[200] * 4]


def test_looking_up_keys_for_the_log_waits_for_no_lock(server, served):
    path = "/accounts/somebody"  # a key, perhaps, as the id may be
    raw = f"GET {path} HTTP/1.1\r\n{HEAD}X-Request-Id: mine\r\nConnection: close\r\n\r\n".encode()
    assert ids(talk(served.server.port, raw)) == [b"mine"]
    with psycopg.connect(server.url) as connection:
        connection.execute("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        answer = talk(served.server.port, raw)
        took = time.monotonic() - began
        connection.rollback()
    assert statuses(answer) == [400]
    assert ids(answer) != [b"mine"]
    assert took < 1


@pytest.mark.slow
def test_updates_of_a_locked_account_do_not_block_others(server, served):
    assert timed(served, *WRITE)[0] == 201
    with psycopg.connect(server.url) as connection:
        connection.execute("SELECT 1 FROM account WHERE fense_account_id = 1 FOR UPDATE")
        with in_background(lambda: many(served, *[UPDATE] * (pool.CROWDED - 4))):
            time.sleep(0.5)
            others = many(served, *[("POST", "/accounts/2")] * 8)
        connection.rollback()
    assert {status for status, *_ in others} == {200}
    assert max(took for *_, took in others) < 1


# --- Commits -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_commit_that_waits_for_a_standby_is_unknown_and_blocks_no_reads(
    server, served, without_standby
):
    writes: list[tuple] = []
    count = 2 * pool.CROWDED  # more than there are threads
    with in_background(lambda: writes.extend(many(served, *[WRITE] * count))):
        time.sleep(0.5)
        reads = many(served, *READS * 4)
    assert {status for status, *_ in reads} == {200}
    assert max(took for *_, took in reads) < 1
    assert (503, UNKNOWN) in {(status, message) for status, message, _ in writes}
    assert {message for _, message, _ in writes} <= {UNKNOWN, UNCHANGED}
    assert max(took for *_, took in writes) < 4
    # No process of the server waits on, and each account is there whose commit was unknown.
    wait_until(lambda: server.execute(f"SELECT 1 {OURS} AND wait_event = 'SyncRep'") == [])
    unknown = sum(message == UNKNOWN for _, message, _ in writes)
    assert served.app.db.count_accounts() == 1 + unknown
    time.sleep(postgres.AFTERWARDS)
    with in_background(lambda: timed(served, *WRITE)):
        time.sleep(0.2)
        status, message, took = timed(served, *WRITE)
        assert (status, message) == (503, UNCHANGED)
        assert took < 1
    set_standbys(server, "DEFAULT")
    time.sleep(postgres.AFTERWARDS)
    assert [timed(served, *call)[0] for call in (WRITE, WRITE, *READS)] == [201] * 2 + [200] * 3


@pytest.mark.slow
def test_slow_commits_are_all_waited_for(server, served, monkeypatch):
    monkeypatch.setattr(pool, "CROWDED", 4)
    server.execute(
        "CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END'",
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON account DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION sleep()",
    )
    try:
        answers = many(served, *[WRITE] * 16)
    finally:
        server.execute("DROP FUNCTION sleep CASCADE")
    assert {status for status, *_ in answers} == {201}


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
def test_a_commit_that_was_cut_off_is_unknown(server, served, without_standby, how, caplog):
    def cut_off():
        wait_until(lambda: server.execute(f"SELECT 1 {OURS} AND wait_event = 'SyncRep'"))
        server.execute(f"SELECT {how}(pid) {OURS} AND wait_event = 'SyncRep'")

    caplog.set_level(logging.WARNING)
    with in_background(cut_off):
        status, message, took = timed(served, *WRITE)
    assert (status, message) == (503, UNKNOWN)
    assert took < 3
    assert served.app.db.count_accounts() == 2  # it was written
    assert "it is unknown whether the change was saved" in caplog.text


def test_a_start_does_not_wait_forever_for_a_standby(server, without_standby, monkeypatch):
    monkeypatch.setattr(postgres, "START_TIMEOUT", 0.5)
    with pytest.raises(engines.Unusable, match="the server does not respond"):
        databases.open_database(server.url)


@pytest.mark.slow
def test_a_503_for_an_unknown_commit_says_when_to_retry(served, without_standby):
    answer = TestApp(served.app).post_json(
        "/accounts", account_fields(), headers={"x-api-key": MASTER_KEY}, status=503
    )
    assert answer.headers["Retry-After"] == "1"
    assert answer.json["error"]["message"] == UNKNOWN


# --- What is gone --------------------------------------------------------------------------------


@pytest.fixture
def own(server):
    """The application on its own schema with a day of usage, and a function to run SQL there."""
    url = server.new()
    name = url.rpartition("%3D")[2]
    app = create_app(url, master_key=MASTER_KEY)
    with contextlib.closing(app), Served(app) as served:
        assert served.call("POST", "/accounts", account_fields())[0] == 201
        app.db.record_lookups(1, 5, "2026-11-03")
        yield served, lambda *statements: server.execute(f"SET search_path = {name}", *statements)


MONTHS = ("GET", "/accounts/usage?start_date=2026-01-01&end_date=2026-12-31")
EVERYTHING = (*READS, MONTHS, WRITE, UPDATE, ("GET", "/accounts/usage/1"))


@pytest.mark.parametrize(
    ("statement", "concerned"),
    [
        ("DROP TABLE usage", USAGE),
        ("DROP TABLE usage_month", MONTHS),
        ("ALTER TABLE usage RENAME TO other", USAGE),
        ("ALTER TABLE usage_month RENAME lookups TO other", MONTHS),
        ("ALTER TABLE account DROP COLUMN dispute_account_id", READS[0]),
        ("ALTER TABLE account RENAME name TO other", WRITE),
        ("DO $$ BEGIN EXECUTE 'DROP SCHEMA ' || current_schema() || ' CASCADE'; END $$", WRITE),
    ],
)
def test_a_missing_table_is_unavailable_and_healthz_reports_it(own, statement, concerned, caplog):
    served, execute = own
    execute(statement)
    for _ in range(2):
        assert timed(served, *concerned)[:2] == (503, UNCHANGED)
        assert timed(served, "GET", "/healthz")[0] == 503
        assert {timed(served, *call)[0] for call in EVERYTHING} <= {200, 201, 503}
    assert "does not exist" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("statement", "call"),
    [
        ("ALTER TABLE account ALTER email TYPE varchar(5) USING 'a@b'", WRITE),
        ("ALTER TABLE account ALTER fense_account_id DROP IDENTITY", WRITE),
        ("ALTER TABLE account ADD COLUMN more int NOT NULL DEFAULT 1, ALTER more DROP DEFAULT", WRITE),
    ],
)  # fmt: skip
def test_a_table_that_rejects_our_rows_is_unavailable(own, statement, call, caplog):
    served, execute = own
    if "more" in statement:
        execute("ALTER TABLE account ADD COLUMN more int NOT NULL DEFAULT 1")
        statement = "ALTER TABLE account ALTER more DROP DEFAULT"
    execute(statement)
    assert timed(served, *call)[:2] == (503, UNCHANGED)
    assert "Traceback" not in caplog.text


def test_a_changed_table_costs_no_request(own):
    served, execute = own
    for _ in range(8):  # each connection has prepared its statements
        many(served, *EVERYTHING)
    for statement in (
        "ALTER TABLE account ADD COLUMN more text, ALTER name TYPE varchar(255)",
        "ALTER TABLE usage ADD COLUMN more text, ALTER lookups TYPE numeric",
        "ALTER TABLE account DROP COLUMN more, ALTER name TYPE text",
    ):
        execute(statement)
        answers = many(served, *EVERYTHING * 3)
        assert {status for status, *_ in answers} == {200, 201}


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        MemoryError(),
        OSError(errno.EMFILE, "Too many open files"),
    ],
)
def test_a_process_out_of_resources_is_unavailable_until_it_has_more(
    server, served, monkeypatch, error, caplog
):
    def fail(_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(served.app.db.engine, "_connect", fail)
        assert timed(served, "GET", "/accounts/1")[0] == 200  # it has a connection
        server.execute(f"SELECT pg_terminate_backend(pid) {OURS}")
        answers = many(served, *[*READS, WRITE] * 3)
    assert {answer[:2] for answer in answers} == {(503, UNCHANGED)}
    assert "Traceback" not in caplog.text
    assert [timed(served, *call)[0] for call in (*READS, WRITE)] == [200] * 3 + [201]


def test_workers_continue_without_substitutes(served, monkeypatch):
    start, spare = threading.Thread.start, served.app.db.engine.while_waiting

    def refused(thread):
        if thread.name == "fense-admin":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)

    def wait():
        with spare():
            time.sleep(0.1)

    assert in_threads(8, wait) == [None] * 8
    assert {status for status, *_ in many(served, *READS * 4)} == {200}


# --- Transactions that meet ----------------------------------------------------------------------


def test_a_transaction_is_retried_after_a_conflict(server, open_database):
    db = open_database(server.empty())
    runs = []

    def work():
        runs.append(db.engine.execute_sql("SELECT 1"))
        if len(runs) < 4:
            state = ("40001", "40P01", "23505")[len(runs) - 1]
            db.engine.execute_sql(
                f"DO $$ BEGIN RAISE 'met another' USING ERRCODE = '{state}'; END $$"
            )
        return "done"

    assert db.engine.write(work) == "done"
    assert len(runs) == 4


def test_a_transaction_that_always_conflicts_ends_as_unavailable(server, open_database):
    db = open_database(server.empty())

    def work():
        db.engine.execute_sql("DO $$ BEGIN RAISE 'met another' USING ERRCODE = '40001'; END $$")

    with pytest.raises(engines.DatabaseError) as error:
        db.engine.write(work)
    assert engines.is_unavailable(error.value)


def test_our_own_bug_is_not_an_outage(server, open_database):
    db = open_database(server.empty())
    for query in ("SELECT 1 1", "SELECT"[:3], "SELECT :missing", "SELECT 1 / 0"):
        with pytest.raises(psycopg.Error):
            db.engine.execute_sql(query, {"other": 1})
    assert db.count_accounts() == 0


def test_a_write_that_raises_leaves_nothing_behind(server, open_database):
    db = open_database(server.empty())
    for number in range(3):
        db.create_account(FIELDS | {"api_key": f"key-{number}"})
        with pytest.raises(ValueError, match="daily maximum"):
            db.record_lookups(1, 10**12, "2026-11-03") or db.record_lookups(1, 1, "2026-11-03")
    assert db.engine.execute_sql("SELECT pg_is_in_recovery()").fetchone() == (False,)
    assert server.execute(f"SELECT count(*) {OURS} AND state LIKE 'idle in%'") == [(0,)]


# --- Threads and connections ---------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 4])
def test_fewer_connections_than_threads_are_shared(server, limit):
    name = f"few{limit}"
    server.execute(
        f"DROP DATABASE IF EXISTS {name}",
        f"DROP ROLE IF EXISTS {name}",
        f"CREATE ROLE {name} LOGIN CONNECTION LIMIT {limit}",
        f"CREATE DATABASE {name} OWNER {name}",
    )
    url = server.url.replace("fense@", f"{name}@").replace("/postgres", f"/{name}")
    app = create_app(url, master_key=MASTER_KEY)
    with contextlib.closing(app), Served(app, threads=8) as served:
        assert timed(served, *WRITE)[0] == 201
        assert len(app.db.engine._connections) == 1  # that of the start
        one_by_one = [timed(served, *call)[0] for call in (*READS, WRITE) * 10]
        at_once = [status for status, *_ in many(served, *(*READS, WRITE) * 10)]
        assert set(one_by_one + at_once) == {200, 201}
        assert len(app.db.engine._connections) <= limit


def test_a_connection_that_others_use_for_too_long_is_unavailable_to_the_rest(
    server, open_database, monkeypatch
):
    monkeypatch.setattr(postgres, "WORKING", 0.3)
    engine = open_database(server.empty()).engine
    with engine.snapshot():
        monkeypatch.setattr(engine, "_connect", refuse_one_more)
        (error,) = in_threads(1, lambda: engine.execute_sql("SELECT 1"))
        assert engines.is_unavailable(error)
        assert str(error) == "all connections are in use: too many connections"
        assert not engine._server.is_tripped
    assert in_threads(1, lambda: engine.execute_sql("SELECT 1").fetchone()) == [(1,)]


def refuse_one_more(_):
    raise psycopg.OperationalError("too many connections")


@pytest.mark.slow
def test_threads_and_connections_do_not_pile_up(server, served, frozen):
    for _ in range(3):
        many(served, *[*READS, WRITE] * 4)
    frozen()
    many(served, *[*READS, WRITE] * 8)
    server.thaw()
    time.sleep(postgres.AFTERWARDS)
    many(served, *[*READS, WRITE] * 4)

    def is_small():
        (count,) = server.execute(f"SELECT count(*) {OURS}")[0]
        return count <= 4 + 1 and threading.active_count() <= 4 + 3

    wait_until(is_small)


OPPOSITE = """
import sys
from fense_admin import databases
db = databases.open_database(sys.argv[1])
rows = [(id, f"2026-11-{day:02}", 1) for id in range(1, 9) for day in range(1, 11)]
for _ in range(25):
    db.record_all(rows if sys.argv[2] == "forwards" else rows[::-1])
db.engine.close_all()
"""


@pytest.mark.slow
def test_opposite_lists_of_lookups_do_not_deadlock(server, open_database, tmp_path):
    db = open_database(server.empty())
    for number in range(8):
        db.create_account(FIELDS | {"api_key": f"key-{number}"})
    command = [sys.executable, "-c", OPPOSITE, server.url]
    ways = collections.deque(("forwards", "backwards") * 2)
    programs = in_threads(
        4, lambda: run_program(*command, ways.popleft(), cwd=tmp_path, timeout=TIMEOUT)
    )
    assert programs == [""] * 4
    assert [total for _, _, total in db.engine.execute_sql("SELECT * FROM usage")] == [100] * 80
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert server.execute(deadlocks) == [(0,)]
