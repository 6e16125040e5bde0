"""Large responses come in pieces from one snapshot, with the same bytes."""

import datetime
import functools
import json
import random
import time

import peewee
import pytest
from conftest import FIELDS, all_usage, in_threads
from postgresql_server import start_server

from fense_admin import databases, engines, models, postgres, rules

NAMES = ["Acme", 'Quoted "Q" \\ Ltd', "Größe 株式会社", "\U0001f600", "tab\t\n", " x ", "n" * 255]
TIMES = dict.fromkeys(("created_at", "updated_at"), "2026-11-01T00:00:00Z")
RANGES = [
    (None, None),
    ("2026-01-01", "2026-12-31"),
    ("2026-02-01", "2026-02-28"),
    ("2026-01-15", "2026-12-14"),
    ("2026-01-15", "2026-12-31"),
    ("2026-01-15", "2026-02-14"),
    ("2026-03-09", "2026-03-09"),
    ("2026-12-31", None),
    (None, "2026-01-02"),
]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Pieces of three accounts."""
    monkeypatch.setattr(models, "AT_ONCE", 3)
    monkeypatch.setattr(models, "PIECE", 3)
    monkeypatch.setattr(models, "SUMMED_UP", 4)
    monkeypatch.setattr(models, "FEW_ACCOUNTS", 3)
    models.totals.cache_clear()
    yield
    models.totals.cache_clear()


def fill(db, count, seed=1, highest=()):
    """Load accounts with lookups; return them and their lookups."""
    rng = random.Random(seed)
    ids = rng.sample(range(1, 99), count) if count < 20 else range(1, count + 1)
    ids = sorted([*ids[len(highest) :], *highest])
    uuids = [None, "3f" * 4 + "-1111-2222-3333-" + "ab" * 6]
    accounts = [
        {"fense_account_id": id, "name": rng.choice(NAMES), "email": "a@b"}
        | {"api_key_sha256": f"{id:064x}", "dispute_account_id": rng.choice(uuids)}
        | TIMES
        for id in ids
    ]
    start = datetime.date(2025, 12, 1).toordinal()
    days = [str(datetime.date.fromordinal(start + n)) for n in range(430)]
    usage = [
        (id, day, rng.choice([1, 7, 10**12]))
        for id in ids
        for day in sorted(rng.sample(days, rng.choice([0, 1, 30, 200])))
    ]
    db.replace(accounts, usage)
    return accounts, usage


def expected(accounts, usage, start, end):
    """Return the expected response, computed without a database."""
    totals = {account["fense_account_id"]: 0 for account in accounts}
    for account_id, date, lookups in usage:
        if (start or "") <= date <= (end or "a"):
            totals[account_id] += lookups
    listed = ", ".join(
        f'{{"fense_account_id": {account["fense_account_id"]}, "name": '
        f"{json.dumps(account['name'], ensure_ascii=False)}, "
        f'"dispute_account_id": {json.dumps(account["dispute_account_id"])}, '
        f'"total_lookups": {totals[account["fense_account_id"]]}}}'
        for account in accounts
    )
    head = json.dumps({"start_date": start, "end_date": end, "total_lookups": sum(totals.values())})
    return f'{head[:-1]}, "accounts": [{listed}]}}'


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 7, 10])
def test_the_usage_of_all_is_the_same_in_pieces(db, count):
    accounts, usage = fill(db, count, seed=count, highest=[rules.MAX_ID] * (count > 4))
    assert isinstance(db.all_usage(None, None), str) == (count <= models.PIECE)
    for start, end in RANGES:
        assert all_usage(db, start, end) == expected(accounts, usage, start, end), (start, end)


def test_days_out_of_range_are_not_read():
    db = databases.open_database(":memory:")
    queries, values = models.totals_between("2026-01-15", "2026-12-14")
    for query in (queries.of_all, queries.sum_of_piece, queries.piece):
        values |= {"after": 0, "last_id": 9}
        plan = [row[3] for row in db.engine.execute_sql(f"EXPLAIN QUERY PLAN {query}", values)]
        reads = [step for step in plan if " usage " in step]
        assert len(reads) == 2
        assert all("(fense_account_id=? AND date>? AND date<?)" in step for step in reads)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 7, 10])
def test_a_state_is_the_same_in_pieces(db, count):
    accounts, usage = fill(db, count, seed=count, highest=[rules.MAX_ID] * (count > 4))
    defaults = {"api_key_last4": None, "suppress_notifications": False, "suppress_billing": False}
    defaults |= {"is_active": True}
    days = {account["fense_account_id"]: {} for account in accounts}
    for account_id, date, lookups in usage:
        days[account_id][date] = lookups
    listed = [
        {name: (defaults | account)[name] for name in models.STATE_KEYS}
        | {"usage": days[account["fense_account_id"]]}
        for account in accounts
    ]
    assert isinstance(db.state(), str) == (count < models.FEW_ACCOUNTS)
    assert "".join(db.state()) == json.dumps({"accounts": listed})
    assert db.dump() == {"accounts": listed}


def test_a_sum_of_all_in_pieces_may_exceed_64_bits(db):
    fill(db, 5)
    db.engine.execute_sql("DELETE FROM usage_month")
    most = f"SELECT fense_account_id, '2026-11', {2**63 - 1} FROM account"
    db.engine.execute_sql(f"INSERT INTO usage_month {most}")
    assert json.loads(all_usage(db))["total_lookups"] == 5 * (2**63 - 1)


@pytest.fixture(params=["file", "postgresql"])
def shared(request, tmp_path, open_database):
    """Two objects with the same database open."""
    name = tmp_path / "fense.sqlite3"
    if request.param == "postgresql":
        name = request.getfixturevalue("postgresql").empty()
    return open_database(name), open_database(name)


@pytest.mark.parametrize("what", ["usage", "state"])
def test_a_writer_between_two_pieces_changes_nothing(shared, what):
    db, other = shared
    accounts, _ = fill(db, 10)
    read = db.state if what == "state" else functools.partial(db.all_usage, None, None)
    before = "".join(read())
    pieces = read()
    found = [next(pieces), next(pieces)]
    other.create_account(FIELDS)
    other.record_all([(account["fense_account_id"], "2027-11-05", 5) for account in accounts])
    db.update_account(accounts[-1]["fense_account_id"], {"name": "changed"})  # in this thread, too
    assert "".join([*found, *pieces]) == before
    assert "".join(read()) != before


def open_transactions(db):
    if db.engine.info.is_server:
        return len([c for c in db.engine._connections if c.info.transaction_status != 0])
    return sum(connection.in_transaction for connection in db.engine._connections)


@pytest.mark.parametrize("how", ["closed", "forgotten", "ended"])
def test_a_reader_that_ends_leaves_no_transaction(db, how):
    fill(db, 10)
    pieces = db.all_usage(None, None)
    next(pieces)
    assert open_transactions(db) == 1
    if how == "closed":
        pieces.close()
    elif how == "ended":
        list(pieces)
    else:
        del pieces
    assert open_transactions(db) == 0
    db.create_account(FIELDS)


def test_a_reader_may_end_in_another_thread(db):
    fill(db, 10)
    pieces = db.all_usage(None, None)
    next(pieces)
    in_threads(1, pieces.close)
    assert open_transactions(db) == 0
    db.create_account(FIELDS)


def test_a_large_response_gets_a_substitute_worker(db):
    fill(db, 10)
    spared = []

    class Spare:
        def __enter__(self):
            spared.append(+1)

        def __exit__(self, *_):
            spared.append(-1)

    db.engine.while_waiting = Spare
    pieces = db.all_usage(None, None)
    assert sum(spared) == 1
    list(pieces)
    assert sum(spared) == 0


def test_one_large_response_too_many_is_rejected(shared, monkeypatch):
    db, _ = shared
    monkeypatch.setattr(databases, "BIG_READ_TIMEOUT", 0.05)
    fill(db, 10)
    open_ones = [db.all_usage(None, None) for _ in range(databases.BIG_READS)]
    with pytest.raises(engines.DatabaseError) as error:
        db.all_usage(None, None)
    assert engines.is_unavailable(error.value)
    assert db.get_account(db.find_accounts()[0])["email"] == "a@b"
    open_ones.pop().close()
    assert all_usage(db)
    for pieces in open_ones:
        pieces.close()


# --- A server that fails in the middle -----------------------------------------------------------


@pytest.fixture
def server():
    server = start_server()
    yield server
    server.close()


def unavailable(pieces):
    """Return how many seconds a reader took to fail because the database is unavailable."""
    began = time.monotonic()
    with pytest.raises(engines.DatabaseError) as error:
        list(pieces)
    assert engines.is_unavailable(error.value)
    return time.monotonic() - began


@pytest.mark.slow
def test_a_server_that_fails_in_the_middle_ends_the_response(server, open_database):
    db = open_database(server.url)
    fill(db, 10)

    def started():
        pieces = db.all_usage(None, None)
        next(pieces)
        return pieces

    pieces = started()
    server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state LIKE 'idle in%'"
    )
    assert unavailable(pieces) < 1
    assert all_usage(db)
    pieces = started()
    server.stop()
    server.start()
    assert unavailable(pieces) < 1
    assert all_usage(db)
    pieces, other = started(), started()
    server.freeze()
    try:
        assert postgres.WORKING - 0.1 < unavailable(pieces) < 4
        began = time.monotonic()
        with pytest.raises(engines.DatabaseError):
            db.all_usage(None, None)
        other.close()
        assert time.monotonic() - began < 4
    finally:
        server.thaw()
    time.sleep(postgres.AFTERWARDS)
    assert all_usage(db)
    assert open_transactions(db) == 0


def test_a_response_that_makes_progress_is_never_cut(postgresql, open_database, monkeypatch):
    monkeypatch.setattr(postgres, "WORKING", 0.3)
    db = open_database(postgresql.empty())
    accounts, usage = fill(db, 12)
    pieces = db.all_usage(None, None)
    found = []
    for piece in pieces:
        found.append(piece)
        time.sleep(0.2)
    assert "".join(found) == expected(accounts, usage, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["there", "back"])
def test_a_silent_server_ends_a_move_within_seconds(server, open_database, monkeypatch, way):
    monkeypatch.setattr(postgres, "PACE", 1)
    monkeypatch.setattr(databases, "REPORTED", 100)
    monkeypatch.setattr(models, "MANY_DAYS", 100)
    there, here = open_database(server.url), open_database(":memory:")
    source, target = (here, there) if way == "there" else (there, here)
    fill(source, 15)
    before = source.dump()

    class Frozen(databases.Report):
        def __call__(self, accounts, days):
            if days > 200:
                server.freeze()

    began = time.monotonic()
    try:
        with pytest.raises(engines.DatabaseError, match="the server does not respond") as error:
            databases.copy(source, target, Frozen())
        assert time.monotonic() - began < 4
    finally:
        server.thaw()
    assert engines.is_unavailable(error.value)
    time.sleep(postgres.AFTERWARDS)
    assert target.dump() == {"accounts": []}
    assert databases.copy(source, target)
    assert target.dump() == before


def test_a_long_load_checks_that_each_day_is_of_an_account(db, monkeypatch):
    monkeypatch.setattr(models, "MANY_DAYS", 10)
    accounts, usage = fill(db, 5)
    db.engine.execute_sql("DELETE FROM usage_month")
    db.engine.execute_sql("DELETE FROM usage")
    db.engine.execute_sql("DELETE FROM account")
    with pytest.raises(peewee.IntegrityError, match=r"(?i)foreign key"):
        db.load(accounts, [*usage, (100, "2026-11-03", 1)], 100)
    assert db.count_accounts() == 0
    assert db.load(accounts, usage, 100)
    with pytest.raises(peewee.IntegrityError, match=r"(?i)foreign key"):
        db.engine.execute_sql("INSERT INTO usage VALUES (100, '2026-11-03', 1)")
    with pytest.raises(peewee.IntegrityError, match=r"(?i)foreign key"):
        db.engine.execute_sql("INSERT INTO usage_month VALUES (100, '2026-11', 1)")
