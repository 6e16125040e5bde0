"""Concurrent writers and readers don't interfere."""

import contextlib
import datetime
import json
import signal
import threading
import time

import pytest
from conftest import (
    FIELDS,
    TIMEOUT,
    account_fields,
    all_usage,
    daily,
    in_background,
    in_threads,
    join,
    locked,
)

from fense_admin import databases, engines, sqlite
from fense_admin.engines import Unusable


def test_lookups_of_concurrent_callers_are_all_counted(db):
    db.create_account(FIELDS)

    def record():
        for _ in range(25):
            db.record_lookups(1, 1, "2026-11-03")

    assert in_threads(8, record) == [None] * 8
    assert daily(db) == {"2026-11-03": 200}


def totals(db, start, end):
    answer = json.loads(all_usage(db, start, end))
    each = {row["fense_account_id"]: row["total_lookups"] for row in answer["accounts"]}
    return answer["total_lookups"], each


def test_a_failed_write_keeps_days_and_months_consistent(db):
    db.create_account(FIELDS)
    db.record_lookups(1, 10**12, "2026-11-03")
    with pytest.raises(ValueError, match="would exceed the daily maximum"):
        db.record_lookups(1, 1, "2026-11-03")
    assert totals(db, None, None) == (10**12, {1: 10**12})


def test_two_apps_in_one_process_never_see_each_others_rows(tmp_path, make_app):
    apps = [make_app(master_key="k"), make_app(master_key="k")]
    apps += [make_app(str(tmp_path / name), master_key="k") for name in ("a", "b")]

    def fill(app, number):
        for i in range(20):
            app.db.create_account(FIELDS | {"api_key": f"{number}-{i}", "name": f"of {number}"})
        return {account["name"] for account in json.loads(all_usage(app.db))["accounts"]}

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


def test_four_writers_on_a_database_locked_elsewhere_fail_within_four_seconds(
    tmp_path, open_database, monkeypatch
):
    assert sqlite.WRITER_TIMEOUT + sqlite.BUSY_TIMEOUT < 4
    monkeypatch.setattr(sqlite, "WRITER_TIMEOUT", 0.4)
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.3)
    db = open_database(tmp_path / "fense.sqlite3")
    db.create_account(FIELDS)
    with locked(tmp_path / "fense.sqlite3"):
        began = time.monotonic()
        errors = in_threads(4, lambda: db.record_lookups(1, 1))
        assert time.monotonic() - began < 0.4 + 0.3 + 0.5
        assert all(engines.is_unavailable(error) for error in errors)
        assert db.get_account(1)["name"] == "Acme Ltd"
    db.record_lookups(1, 1)
    db.engine.close_all()


def test_a_start_waits_for_a_locked_file_but_not_forever(tmp_path, monkeypatch):
    path = tmp_path / "fense.sqlite3"
    databases.open_database(str(path)).engine.close_all()
    with locked(path):
        monkeypatch.setattr(sqlite, "START_TIMEOUT", 0.3)
        began = time.monotonic()
        with pytest.raises(Unusable, match="is locked by another program"):
            databases.open_database(str(path))
        assert 0.2 < time.monotonic() - began < 3
        monkeypatch.setattr(sqlite, "START_TIMEOUT", 30)
        opened = []
        thread = threading.Thread(target=lambda: opened.append(databases.open_database(str(path))))
        thread.start()
        time.sleep(0.3)
        assert opened == []
    join(thread)
    opened[0].engine.close_all()


def test_a_writer_waits_for_another_writer(tmp_path, open_database):
    db = open_database(tmp_path / "fense.sqlite3")
    inside = threading.Event()

    def hold():
        inside.set()
        time.sleep(0.3)

    with in_background(lambda: db.engine.write(hold)):
        assert inside.wait(TIMEOUT)
        assert db.create_account(FIELDS)["fense_account_id"] == 1


@pytest.mark.slow
def test_readers_do_not_wait_while_a_state_is_loaded(db):
    rows = [
        {"fense_account_id": n, "name": "n" * 200, "email": "a@b", "api_key_sha256": f"{n:064x}"}
        | dict.fromkeys(("created_at", "updated_at"), "2026-11-01T00:00:00Z")
        for n in range(1, 40_001)
    ]
    db.create_account(FIELDS)
    seen, waits, over = set(), [], threading.Event()

    def read():
        while not over.is_set():
            began = time.monotonic()
            seen.add(db.count_accounts())
            waits.append(time.monotonic() - began)
            time.sleep(0.001)  # leaves the processor to the load
        db.engine.close()

    with in_background(read, 3, over.set):
        began = time.monotonic()
        db.replace(rows, [(1, "2026-11-01", 1)])
        loading = time.monotonic() - began
    assert seen <= {1, 40_000}
    assert max(waits) < loading / 2
    assert db.count_accounts() == 40_000
    assert db.create_account(FIELDS)["fense_account_id"] == 40_001
    assert daily(db) == {"2026-11-01": 1}
    db.replace([], [])
    assert db.create_account(FIELDS)["fense_account_id"] == 1


def test_a_signal_is_handled_during_a_long_write(db):
    class SignalError(Exception):
        pass

    def on_signal(*_):
        raise SignalError

    times = dict.fromkeys(("created_at", "updated_at"), "2026-11-01T00:00:00Z")
    account = {"fense_account_id": 1, "name": "n", "email": "a@b", "api_key_sha256": "0" * 64}
    usage = ((1, str(datetime.date.fromordinal(n)), 1) for n in range(1, 3_000_000))
    before = signal.signal(signal.SIGINT, on_signal)
    timer = threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,))
    timer.start()
    try:
        began = time.monotonic()
        with pytest.raises(SignalError):
            db.load([account | times], usage, 1)
        assert time.monotonic() - began < 1.5
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert db.count_accounts() == 0


def test_rollback_after_sqlite_rolled_back(sqlite_db):
    with contextlib.suppress(ZeroDivisionError), sqlite_db.engine.atomic():
        sqlite_db.engine.execute_sql("ROLLBACK")  # as SQLite does by itself where the disk is full
        raise ZeroDivisionError


@pytest.fixture
def short_timeouts(monkeypatch):
    """Return how long a write may wait in the next database to be opened."""
    monkeypatch.setattr(sqlite, "WRITER_TIMEOUT", 0.8)
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.6)
    return 0.8 + 0.6


@pytest.mark.slow
def test_waiting_writers_block_nobody_else(short_timeouts, served, tmp_path):
    waits, statuses = [], []

    def write():
        began = time.monotonic()
        statuses.append(served.call("POST", "/accounts", account_fields())[0])
        waits.append(time.monotonic() - began)

    with locked(tmp_path / "fense.sqlite3"), in_background(write, 12):
        time.sleep(0.2)
        for path in ("/healthz", "/accounts/1", "/accounts/usage"):
            began = time.monotonic()
            assert served.call("GET", path)[0] == 200
            assert time.monotonic() - began < 0.5
    assert statuses == [503] * 12
    assert max(waits) < short_timeouts + 0.5
    assert served.call("POST", "/accounts", account_fields())[0] == 201
    assert len(served.call("GET", "/accounts/usage")[1]["accounts"]) == 2
