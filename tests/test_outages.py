"""Failures of the machine are 503, end with their cause, and lose no acknowledged write."""

import contextlib
import errno
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time

import pytest
from conftest import (
    HEAD,
    MASTER_KEY,
    Served,
    account_fields,
    connect,
    http_request,
    parse_answer,
    port_of,
    read_all,
    sentence,
    talk,
)
from peewee import sqlite3

from fense_admin import create_app, databases, engines, sqlite

UNAVAILABLE = "the database is temporarily unavailable; nothing was changed"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "fense.sqlite3"


@pytest.fixture
def served(path, monkeypatch):
    monkeypatch.setattr(
        sqlite, "BUSY_TIMEOUT", 0.2
    )  # how long it is, test_transactions.py looks at
    path.parent.mkdir(exist_ok=True)
    app = create_app(str(path), master_key=MASTER_KEY)
    with contextlib.closing(app), Served(app) as served:
        yield served
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []


@contextlib.contextmanager
def pragma(served, name, value, afterwards):
    """Change a setting of all connections, including future ones."""
    db = served.app.db
    for to in (value, afterwards):
        db.engine.pragma(name, to, permanent=True)
        for connection in list(db.engine._connections):
            connection.execute(f"PRAGMA {name} = {to}").close()
        if to is value:
            yield


@contextlib.contextmanager
def full(served, path):
    pages = served.app.db.engine.execute_sql("PRAGMA page_count").fetchone()[0]
    with pragma(served, "max_page_count", pages, 2**30):
        yield


@contextlib.contextmanager
def read_only(served, path):
    with pragma(served, "query_only", 1, 0):
        yield


@contextlib.contextmanager
def locked_elsewhere(served, path):
    code = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('BEGIN IMMEDIATE'); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        yield


@contextlib.contextmanager
def moved_away(served, path):
    os.rename(path, f"{path}.away")
    yield
    os.rename(f"{path}.away", path)


def create(served):
    return served.call("POST", "/accounts", account_fields())


@pytest.mark.parametrize(
    ("fault", "health"),
    [
        (full, 200),
        (read_only, 200),
        (locked_elsewhere, 200),
        pytest.param(moved_away, 503, marks=pytest.mark.needs("removing open files")),
    ],
)
def test_an_outage_is_503_and_ends_with_its_cause(served, path, fault, health):
    acknowledged = [create(served)[1] for _ in range(20)]
    with fault(served, path):
        status, body = create(served)
        while status == 201 and fault is full:  # what still fits
            acknowledged.append(body)
            status, body = create(served)
        assert (status, body["error"]["code"]) == (503, "service_unavailable")
        assert body["error"]["message"] == UNAVAILABLE
        if fault is not full:  # what takes no new page is still written
            assert served.call("POST", "/accounts/1", {"is_active": False})[0] == 503
            with pytest.raises(engines.DatabaseError):
                served.app.db.record_lookups(1, 1)
        assert served.call("GET", "/healthz")[0] == health
        if health == 200:
            for account in acknowledged:
                number = account["fense_account_id"]
                assert served.call("GET", f"/accounts/{number}") == (200, account)
            assert served.call("GET", "/accounts/usage")[0] == 200
    served.app.db.engine.close()
    status, account = create(served)
    assert status == 201
    acknowledged.append(account)
    assert served.call("GET", "/healthz") == (200, {"status": "ok"})
    numbers = [account["fense_account_id"] for account in acknowledged]
    kept = [served.call("GET", f"/accounts/{number}")[1] for number in numbers]
    assert kept == acknowledged
    listed = served.call("GET", "/accounts/usage")[1]["accounts"]
    assert [row["fense_account_id"] for row in listed] == sorted(numbers)


@pytest.mark.needs("removing open files")
def test_a_503_says_when_to_retry(served, path):
    with moved_away(served, path):
        answer = served.talk(
            b"POST /accounts/1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
            b"x-api-key: %s\r\nConnection: close\r\n\r\n{}" % MASTER_KEY.encode()
        )
    assert b"HTTP/1.1 503 Service Unavailable\r\n" in answer
    assert b"\r\nRetry-After: 1\r\n" in answer


@pytest.mark.needs("removing open files")
def test_a_deleted_database_is_never_created_again(served, path):
    create(served)
    os.rename(path, f"{path}.away")
    for _ in range(6):  # whichever worker's turn it is
        assert create(served)[0] == 503
        assert served.call("GET", "/healthz")[0] == 503
    assert not path.exists()
    os.rename(f"{path}.away", path)
    assert create(served)[0] == 201


@pytest.mark.needs("removing open files")
def test_a_replaced_database_needs_a_restart(served, path):
    create(served)
    shutil.copy(path, f"{path}.copy")
    os.rename(path, f"{path}.away")
    os.rename(f"{path}.copy", path)
    for method, where in (("GET", "/accounts/1"), ("GET", "/healthz"), ("POST", "/accounts/1")):
        assert served.call(method, where, {})[0] == 503
    os.rename(f"{path}.away", path)
    assert create(served)[0] == 201


def test_a_damaged_page_is_reported_and_repaired_without_a_restart(served, path):
    for _ in range(60):
        create(served)
    served.app.db.engine.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    db = served.app.db
    root = db.engine.execute_sql(
        "SELECT rootpage FROM sqlite_master WHERE name = 'account'"
    ).fetchone()[0]
    whole = path.read_bytes()
    begin = (root - 1) * 4096

    def write(page):
        with open(path, "r+b") as file:
            file.seek(begin)
            file.write(page)

    write(b"\xff" * 4096)
    statuses = [served.call("GET", "/accounts/1")[0] for _ in range(3)]
    assert statuses[-1] == 503
    assert create(served)[0] == 503
    assert served.call("GET", "/healthz")[0] == 503
    write(whole[begin : begin + 4096])
    assert served.call("GET", "/accounts/1")[0] == 200
    assert create(served)[0] == 201
    assert served.call("GET", "/healthz")[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_change_disconnects_nobody(served, monkeypatch, hours):
    def ask(method, path, body=None):
        headers = {"x-api-key": MASTER_KEY, "Content-Type": "application/json"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers["Connection"]

    connection = http.client.HTTPConnection("127.0.0.1", served.server.port, timeout=10)
    assert ask("GET", "/healthz")[0] == 200
    sock = connection.sock
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)
    time.sleep(1.1)  # the server looks for silent clients once a second
    assert ask("GET", "/healthz")[::2] == (200, None)
    assert connection.sock is sock
    assert create(served)[0] == 201
    connection.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    folder = tmp_path / "data"
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    """Fill the disk of this folder. Return the file that fills it."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


@pytest.mark.needs("mount")
def test_a_start_or_a_backup_on_a_full_disk_leaves_nothing_and_says_why(
    small_disk, tmp_path, run_command, open_database
):
    open_database(tmp_path / "fense-admin.sqlite3")
    filler = fill(small_disk)
    with pytest.raises(engines.Unusable, match=r"full\): free space on its disk"):
        databases.open_database(str(small_disk / "fense.sqlite3"))
    line = sentence(run_command("backup", str(small_disk / "copy")))
    assert line.startswith("fense-admin: can't copy fense-admin.sqlite3 to ")
    assert line.endswith(": database or disk is full")
    assert list(small_disk.iterdir()) == [filler]


@pytest.mark.needs("mount")
def test_a_full_disk_is_503_until_there_is_space(small_disk, served):
    acknowledged = [create(served)[1] for _ in range(5)]
    filler = fill(small_disk)
    status = 201
    while status == 201:
        status, account = create(served)
        if status == 201:
            acknowledged.append(account)
    assert status == 503
    assert served.call("GET", "/accounts/1") == (200, acknowledged[0])
    assert served.call("GET", "/healthz")[0] == 200
    filler.unlink()
    status, last = create(served)
    assert status == 201
    for account in [*acknowledged, last]:
        assert served.call("GET", f"/accounts/{account['fense_account_id']}") == (200, account)


@pytest.fixture(
    params=[
        "missing",
        pytest.param("full", marks=pytest.mark.needs("/dev/full")),
        pytest.param("nearly full", marks=pytest.mark.needs("mount")),
        "no descriptors",
    ]
)
def no_temporary_files(request, monkeypatch, tmp_path):
    """A context in which no large temporary file can be written; yields the reason."""

    def open_full(mode):
        return open("/dev/full", mode)

    def fail(mode):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    name, value, reason = {
        "missing": ("tempdir", str(tmp_path / "missing"), errno.ENOENT),
        "full": ("TemporaryFile", open_full, errno.ENOSPC),
        "nearly full": ("tempdir", str(tmp_path / "data"), errno.ENOSPC),  # it holds some of it
        "no descriptors": ("TemporaryFile", fail, errno.EMFILE),
    }[request.param]
    if request.param == "nearly full":
        request.getfixturevalue("small_disk")

    @contextlib.contextmanager
    def no_temporary_files():
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, name, value)
            yield os.strerror(reason)

    return no_temporary_files


# waitress leaves it to Python to close a file that can't be written.
unclosed = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.mark.slow
@unclosed
def test_a_large_response_without_a_temporary_file_is_503_from_its_first_byte(
    fense, no_temporary_files, caplog
):
    fense.load({"accounts": [account_fields()]})
    for decade in range(1820, 2020, 10):
        fense.record_lookups(1, 10**12, date=f"{decade}-01-01..{decade + 9}-12-31")
    ask = http_request("GET /accounts/usage/1", "X-Request-Id: large-1", "Connection: close")
    with no_temporary_files() as reason:
        status, headers, body = parse_answer(talk(port_of(fense), ask))
        assert (status, body["error"]["code"]) == (503, "service_unavailable")
        assert "needs a temporary file" in body["error"]["message"]
        assert (headers["Retry-After"], headers["X-Request-Id"]) == ("1", "large-1")
        (line,) = [line for line in caplog.messages if "temporary file" in line and "Errno" in line]
        assert reason in line
        assert line.endswith("make room for temporary files, or set TMPDIR id=large-1")
        small = http_request("GET /accounts/1", "Connection: close")
        assert parse_answer(talk(port_of(fense), small))[0] == 200
    status, _, body = parse_answer(talk(port_of(fense), ask))
    assert (status, len(body["daily"])) == (200, 73_049)
    assert not [line for line in caplog.messages if "Traceback" in line]


@pytest.mark.needs("mount")
@unclosed
@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_without_a_temporary_file_is_503(fense, no_temporary_files, caplog, chunked):
    size = 3_000_000
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    body = b'{"accounts": []' + b" " * (size - 16) + b"}"
    if chunked:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (size, body)
    put = f"PUT /_standin/state HTTP/1.1\r\n{HEAD}{length}\r\n".encode()
    with no_temporary_files() as reason, connect(port_of(fense)) as sock:
        sock.sendall(put + b"\r\n" + body)
        status, headers, answer = parse_answer(read_all(sock))
        assert (status, answer["error"]["code"]) == (503, "service_unavailable")
        assert headers["Retry-After"] == "1"
        assert reason in caplog.text
    ended = talk(port_of(fense), put + b"Connection: close\r\n\r\n" + body)
    assert parse_answer(ended)[0] == 200
