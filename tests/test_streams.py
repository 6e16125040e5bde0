"""Streamed responses are complete or visibly cut off, and never entirely in memory."""

import contextlib
import functools
import http.client
import json
import logging
import random
import socket
import tempfile
import threading
import time

import pytest
import this_system
from conftest import (
    MASTER_KEY,
    Served,
    account_fields,
    call_standin,
    change_limits,
    http_request,
    in_background,
    statuses,
    talk,
    wait_until,
)
from test_leaks import open_files
from webtest import TestRequest

from fense_admin.engines import DatabaseError, OperationalError
from fense_admin.serving import outgoing
from fense_admin.standin.control import ControlPlane

PIECE = "x" * 500_000
ASK = http_request("GET /accounts/usage")


@pytest.fixture
def temporary_files(tmp_path, monkeypatch):
    """Return the temporary files that are open now."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if this_system.NEEDS["/proc"]:
        return lambda: [name for name in open_files() if name.startswith(f"{tmp_path}/#")]
    made, original = [], tempfile.TemporaryFile

    def make(*arguments, **options):
        made.append(original(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", make)
    return lambda: [file for file in made if not file.closed]


def produce(app, count=3, last=None, piece=PIECE):
    """Make the usage of all accounts a stream of pieces; a last one may be an error to raise.

    Returns what is known of it: how many pieces were asked for, and whether it is closed.
    """
    known = {"pieces": 0, "closed": False}

    def pieces(*_):
        try:
            for _ in range(count):
                known["pieces"] += 1
                yield piece
            if last is not None:
                raise last
        finally:
            known["closed"] = True

    app.db.all_usage = pieces
    return known


def ask(served, version=11, method="GET"):
    """Request the usage of all accounts. Return the connection and the unread response."""
    connection = http.client.HTTPConnection("127.0.0.1", served.server.port, timeout=10)
    connection._http_vsn, connection._http_vsn_str = version, f"HTTP/1.{version % 10}"
    connection.request(method, "/accounts/usage", headers={"x-api-key": MASTER_KEY})
    return connection, connection.getresponse()


def test_it_comes_in_chunks_and_the_connection_stays_open(file_app, caplog):
    caplog.set_level(logging.INFO)
    produce(file_app)
    with Served(file_app) as served:
        connection, answer = ask(served)
        with contextlib.closing(connection):
            assert answer.getheader("Transfer-Encoding") == "chunked"
            assert answer.getheader("Connection") is None
            assert answer.read() == (3 * PIECE).encode()
            connection.request("GET", "/healthz")  # on the same connection
            assert connection.getresponse().status == 200
    assert "GET /accounts/usage 200" in caplog.text
    assert "the response was cut off" not in caplog.text


@pytest.mark.needs("/dev/full")
def test_the_next_response_is_whole_or_an_error(file_app, monkeypatch):
    produce(file_app)
    file_app.db.account_usage = lambda *_: json.dumps("x" * 2_000_000)
    with Served(file_app) as served:
        connection, answer = ask(served)
        with contextlib.closing(connection):
            answer.read()
            monkeypatch.setattr("tempfile.TemporaryFile", functools.partial(open, "/dev/full"))
            connection.request("GET", "/accounts/usage/1", headers={"x-api-key": MASTER_KEY})
            assert connection.getresponse().status == 503


def test_a_client_of_http_1_0_reads_to_the_end_of_the_connection(file_app):
    produce(file_app)
    with Served(file_app) as served:
        connection, answer = ask(served, version=10)
        with contextlib.closing(connection):
            assert answer.getheader("Transfer-Encoding") is None
            assert answer.read() == (3 * PIECE).encode()


def test_a_head_request_gets_no_body_and_the_next_request_is_answered(file_app):
    known = produce(file_app)
    with Served(file_app) as served:
        head = http_request("HEAD /accounts/usage")
        answer = talk(served.server.port, head + http_request("GET /healthz", "Connection: close"))
    assert statuses(answer) == [200, 200]
    assert answer.split(b"\r\n\r\n")[1].startswith(b"HTTP/1.1 200")
    assert known["closed"]


def test_a_client_that_asks_to_close_is_closed_after_the_last_chunk(file_app):
    produce(file_app, 1, piece="[]")
    with Served(file_app) as served:
        answer = talk(served.server.port, http_request("GET /accounts/usage", "Connection: close"))
    assert answer.endswith(b"\r\n\r\n2\r\n[]\r\n0\r\n\r\n")
    assert b"Connection: close\r\n" in answer


def test_each_piece_is_sent_at_once(file_app):
    go_on = threading.Event()

    def pieces(*_):
        time.sleep(0.1)  # until the server's loop waits
        yield "first"
        go_on.wait(10)
        yield "second"

    file_app.db.all_usage = pieces
    with Served(file_app) as served:
        began = time.monotonic()
        connection, answer = ask(served)
        with contextlib.closing(connection):
            assert answer.read(5) == b"first"
            assert time.monotonic() < began + 0.8  # of the loop's second
            go_on.set()
            assert answer.read() == b"second"


@pytest.mark.parametrize("version", [10, 11])
@pytest.mark.parametrize("last", [OperationalError("gone"), ValueError("a bug")])
def test_an_error_in_the_middle_is_logged_and_noticed_by_the_client(
    file_app, version, last, caplog
):
    caplog.set_level(logging.INFO)
    known = produce(file_app, 1, last, piece="half")
    with Served(file_app) as served:
        connection, answer = ask(served, version)
        with contextlib.closing(connection), pytest.raises((OSError, http.client.IncompleteRead)):
            answer.read()
        assert served.call("GET", "/healthz")[0] == 200
    assert known["closed"]
    lines = [record.getMessage() for record in caplog.records]
    (of_request,) = [line for line in lines if "GET /accounts/usage 200" in line]
    assert of_request.endswith(": the response was cut off")
    request_id = of_request.removesuffix(": the response was cut off").split()[-1]
    assert [line for line in lines if line.endswith(f"id={request_id}")]


def test_a_client_that_leaves_ends_it(file_app, temporary_files, caplog):
    caplog.set_level(logging.INFO)
    known = produce(file_app, 10_000)
    with Served(file_app) as served:
        connection, answer = ask(served)
        answer.read(1_000)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        answer.close()
        connection.close()
        wait_until(lambda: known["closed"])
        assert known["pieces"] < 10_000
        wait_until(lambda: "the response was cut off" in caplog.text)
        wait_until(lambda: not temporary_files())


def test_a_client_that_never_reads_costs_disk_space_but_no_worker(file_app, temporary_files):
    change_limits(file_app, idle=1)
    known = produce(file_app, 100)
    with Served(file_app, threads=1) as served, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", served.server.port))
        before = this_system.peak_memory()
        sock.sendall(ASK)
        wait_until(lambda: known["closed"])
        assert temporary_files()
        assert served.call("POST", "/accounts", account_fields())[0] == 201
        grown = this_system.peak_memory() - before  # KiB
        assert grown < 16 * 1024
        wait_until(lambda: not temporary_files())  # it was let go


def test_a_client_that_reads_slowly_gets_it_whole(file_app):
    produce(file_app, 20)
    with Served(file_app) as served, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock.connect(("127.0.0.1", served.server.port))
        sock.settimeout(10)
        sock.sendall(http_request("GET /accounts/usage", "Connection: close"))
        answer, began = b"", time.monotonic()
        while chunk := sock.recv(1 << 20):
            answer += chunk
            if time.monotonic() < began + 0.5:
                time.sleep(0.02)
    assert answer.count(b"x") == 20 * len(PIECE)
    assert answer.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize("has_control_plane", [False, True])
def test_a_fast_client_costs_no_memory(file_app, has_control_plane):
    produce(file_app, 200)
    with Served(ControlPlane(file_app, MASTER_KEY) if has_control_plane else file_app) as served:
        connection, answer = ask(served)
        with contextlib.closing(connection):
            answer.read(1_000_000)
            before = this_system.peak_memory()
            while answer.read(1_000_000):
                pass
    assert this_system.peak_memory() - before < 16 * 1024  # KiB


def test_a_stop_lets_it_end(file_app):
    produce(file_app, 40)
    with Served(file_app) as served:
        connection, answer = ask(served)
        with contextlib.closing(connection), in_background(served.stop):
            assert len(answer.read()) == 40 * len(PIECE)


@pytest.mark.needs("/dev/full")
@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_without_space_for_a_temporary_file_it_is_cut_off(file_app, version, monkeypatch, caplog):
    monkeypatch.setattr("tempfile.TemporaryFile", functools.partial(open, "/dev/full"))
    known = produce(file_app, 100)
    with Served(file_app) as served, socket.socket() as sock:
        sock.settimeout(5)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", served.server.port))
        sock.sendall(ASK.replace(b"HTTP/1.1", version))
        wait_until(lambda: known["closed"])
        with pytest.raises(ConnectionResetError):
            all(iter(functools.partial(sock.recv, 1 << 20), b""))
        assert served.call("GET", "/healthz")[0] == 200
    assert "a response was cut off: no temporary file ([Errno 28] No space left" in caplog.text


@pytest.mark.parametrize("seed", range(5))
def test_bytes_are_sent_in_order_whatever_their_sizes(seed, monkeypatch, temporary_files):
    monkeypatch.setattr(outgoing, "MAX_IN_MEMORY", 300)
    monkeypatch.setattr(outgoing, "SMALL", 20)
    chance, sent, got = random.Random(seed), b"", b""
    it = outgoing.Outgoing()
    for _ in range(3_000):
        if chance.random() < 0.5:
            data = chance.randbytes(chance.choice([1, 15, 100, 400]))
            it.add(data)
            sent += data
        elif first := bytes(it.first(chance.choice([1, 50, 1_000]))):
            taken = first[: chance.randint(1, len(first))]
            it.drop(len(taken))
            got += taken
        assert len(it) == len(sent) - len(got)
    assert temporary_files()
    while first := bytes(it.first(1_000)):
        it.drop(len(first))
        got += first
    assert got == sent
    assert not temporary_files()


# --- The control plane -------------------------------------------------------------------------


def test_the_journal_has_the_beginning_of_it(fense):
    text = json.dumps("y" * outgoing.MAX_IN_MEMORY)
    fense._db.all_usage = lambda *_: iter([text[:5_000], text[5_000:]])
    connection = http.client.HTTPConnection("127.0.0.1", fense._server.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/accounts/usage", headers={"x-api-key": fense.master_key})
        assert connection.getresponse().read().decode() == text
    (entry,) = fense.requests()
    assert entry["status"] == 200
    assert entry["response"] == text[: 8 * 1024]
    assert entry["duration_ms"] > 0


def begin(app, path, key):
    """Request a path in-process. Return the body after one piece was read, and the rest."""
    environ = TestRequest.blank(path, headers={"x-api-key": key}).environ
    body = app(environ, lambda *_: None)
    pieces = iter(body)
    next(pieces)
    return body, pieces


def test_an_instance_that_ends_is_closed_after_it(fense):
    call_standin(fense, "POST", "/_standin/instances")
    (instance,) = fense.app.instances.all()
    produce(instance.plane)
    body, pieces = begin(fense.app, instance.path + "/accounts/usage", instance.master_key)
    fense.app.instances.end([instance.id])
    assert instance.plane.db.count_accounts() == 0
    assert len(list(pieces)) == 2
    body.close()
    with pytest.raises(DatabaseError):
        instance.plane.db.count_accounts()


def test_a_reset_waits_for_it(fense):
    produce(fense.app)
    body, pieces = begin(fense.app, "/accounts/usage", fense.master_key)
    over = threading.Event()
    with in_background(lambda: (fense.reset(), over.set())):
        assert not over.wait(0.1)
        assert len(list(pieces)) == 2
        body.close()
        assert over.wait(5)
    assert fense.requests() == []
