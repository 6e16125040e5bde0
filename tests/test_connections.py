"""Slow, silent, half-closed or greedy clients block no others, and are disconnected."""

import contextlib
import errno
import json
import socket
import threading
import time

import pytest
from conftest import (
    MASTER_KEY,
    Served,
    account_fields,
    change_limits,
    connect,
    http_request,
    in_background,
    port_of,
    read_all,
    statuses,
    talk,
    wait_until,
)

from fense_admin import create_app
from fense_admin.serving import connections


def test_a_client_that_has_closed_its_sending_side_gets_its_response(port):
    with connect(port) as sock:
        sock.sendall(http_request("GET /accounts/usage") * 3)
        sock.shutdown(socket.SHUT_WR)
        assert statuses(read_all(sock)) == [200] * 3


@pytest.mark.slow
def test_a_client_that_never_reads_is_disconnected(file_app):
    change_limits(file_app, idle=1)
    file_app.db.all_usage = lambda *_: json.dumps("x" * 4_000_000)
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(Served(file_app, threads=2))
        sockets = []
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", served.server.port))
            sock.sendall(http_request("GET /accounts/usage") * 40)
            sockets.append(sock)
        deadline = time.monotonic() + 10
        while list(served.server.connections.channels):
            began = time.monotonic()
            assert served.call("POST", "/accounts", account_fields())[0] == 201
            assert served.call("GET", "/healthz")[0] == 200
            assert time.monotonic() - began < 1
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.slow
def test_a_slow_reader_gets_a_whole_long_response(file_app):
    change_limits(file_app, idle=0.3)
    file_app.db.all_usage = lambda *_: json.dumps("x" * 8_000_000)
    with Served(file_app) as served, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock.connect(("127.0.0.1", served.server.port))
        sock.settimeout(10)
        sock.sendall(http_request("GET /accounts/usage", "Connection: close"))
        got, began = 0, time.monotonic()
        while chunk := sock.recv(1 << 20):
            got += len(chunk)
            if time.monotonic() - began < 1.3:
                time.sleep(0.02)
        assert got > 8_000_000


def test_at_the_limit_of_connections_an_idle_one_is_closed(served):
    change_limits(served.server.connections, connections=20, waiting=1)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(connect(served.server.port))
        first.sendall(b"GET /half")
        time.sleep(0.1)
        for _ in range(40):
            stack.enter_context(connect(served.server.port))
        began = time.monotonic()
        assert served.call("GET", "/accounts/1")[0] == 200
        assert time.monotonic() - began < 1
        assert len(list(served.server.connections.channels)) <= 20
        assert first.recv(1) == b""  # it was idle longest


def test_a_new_connection_has_a_moment_to_send_its_first_request(served):
    change_limits(served.server.connections, connections=1, waiting=0)
    with connect(served.server.port) as first, connect(served.server.port) as second:
        second.sendall(http_request("GET /accounts/1"))
        time.sleep(0.05)
        first.sendall(http_request("GET /accounts/1", "Connection: close"))
        assert statuses(read_all(first)) == [200]
        assert statuses(second.recv(65536)) == [200]


def test_a_new_connection_gets_no_event_of_the_closed_one(served, monkeypatch):
    change_limits(served.server.connections, connections=1, waiting=0)
    turns, go_on = threading.Semaphore(0), threading.Event()
    with connect(served.server.port) as old:
        time.sleep(1.1 * connections.ON_ITS_WAY)
        # Two things happen while the loop is held up at the end of a turn.
        monkeypatch.setattr(
            served.server.connections, "close_stalled", lambda: turns.release() or go_on.wait(5)
        )
        assert turns.acquire(timeout=5)
        with connect(served.server.port) as new:
            old.shutdown(socket.SHUT_WR)
            go_on.set()
            time.sleep(0.05)
            new.sendall(http_request("GET /accounts/1", "Connection: close"))
            assert statuses(read_all(new)) == [200]


def test_a_new_connection_is_closed_if_its_first_request_is_late(served):
    change_limits(served.server.connections, connections=1, waiting=0)
    with connect(served.server.port) as first:
        began = time.monotonic()
        assert served.call("GET", "/accounts/1")[0] == 200
        assert time.monotonic() - began < 0.9  # of the loop's second
        assert first.recv(1) == b""


def test_a_connection_that_is_not_read_is_closed_at_the_limit(file_app):
    change_limits(file_app, connections=5, waiting=1)
    file_app.db.all_usage = lambda *_: json.dumps("x" * 4_000_000)
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(Served(file_app))
        for _ in range(5):
            sock = stack.enter_context(connect(served.server.port))
            sock.sendall(http_request("GET /accounts/usage") * 40)
        time.sleep(0.3)
        began = time.monotonic()
        assert served.call("GET", "/healthz")[0] == 200
        assert time.monotonic() - began < 1


def test_a_busy_connection_is_not_closed_at_the_limit(fense):
    change_limits(fense._server.connections, connections=5, waiting=1)
    fense.fail(503, delay_ms=60_000, times=0)
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connect(port_of(fense))) for _ in range(4)]
        for sock in waiting:
            sock.sendall(http_request("GET /accounts/1"))
        wait_until(lambda: len(fense.requests()) == 4)
        for _ in range(3):
            stack.enter_context(connect(port_of(fense)))
        assert statuses(
            talk(port_of(fense), http_request("GET /_standin/faults", "Connection: close"))
        ) == [200]
        fense.disarm()
        for sock in waiting:
            assert statuses(sock.recv(65536)) == [503]


def test_busy_clients_do_not_block_new_ones_at_the_limit(served):
    change_limits(served.server.connections, connections=3, waiting=1)
    over = threading.Event()

    def ask():
        while not over.is_set():
            with contextlib.suppress(OSError), connect(served.server.port) as sock:
                sock.settimeout(1)
                while not over.is_set():
                    sock.sendall(b"GET /accounts/1 HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
                    if not sock.recv(65536):
                        break

    with in_background(ask, 3, over.set):
        time.sleep(0.3)
        for _ in range(5):
            began = time.monotonic()
            assert served.call("GET", "/healthz")[0] == 200
            assert time.monotonic() - began < 2


def test_a_request_may_take_longer_than_the_idle_timeout(fense):
    change_limits(fense._server.connections, idle=0.2)
    fense.fail(503, delay_ms=1_300)
    assert statuses(talk(port_of(fense), http_request("GET /accounts/1", "Connection: close"))) == [
        503
    ]


def test_a_rejected_client_is_drained_only_for_a_while(served, monkeypatch):
    monkeypatch.setattr(connections, "LINGER", 0.3)
    with connect(served.server.port) as sock:
        sock.sendall(http_request("POST /accounts", "Content-Length: 999999999"))
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 5:
                sock.send(b"x")
                time.sleep(0.02)
        assert time.monotonic() - began < 4


def test_closing_a_connection_in_flight_affects_no_other(file_app):
    with Served(file_app) as served:

        def closed_meanwhile(*_):
            for channel in list(served.server.connections.channels):
                channel.write_soon(b"half of it")
                channel.handle_close()
            return "{}"

        file_app.db.all_usage = closed_meanwhile
        for _ in range(3):
            assert talk(served.server.port, http_request("GET /accounts/usage")) == b""
        assert served.call("GET", "/healthz")[0] == 200
        wait_until(lambda: list(served.server.connections.channels) == [])


@pytest.mark.parametrize("name", ["send", "recv"])
def test_a_network_error_ends_only_its_connection(served, monkeypatch, name):
    def fails(*_):
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    with monkeypatch.context() as broken:
        broken.setattr(connections.Channel, name, fails)
        assert talk(served.server.port, http_request("GET /accounts/1")) == b""
    assert served.call("GET", "/healthz")[0] == 200


def test_urgent_data_ends_a_connection(served, caplog):
    with connect(served.server.port) as sock:
        sock.send(b"x", socket.MSG_OOB)
        assert read_all(sock) == b""
    assert caplog.messages[1:] == []


@pytest.mark.parametrize(
    ("method", "path", "quick"),
    [
        ("GET", "/admin/accounts/1", True),
        ("HEAD", "/admin/accounts/1", True),
        ("GET", "/admin/accounts/usage/1?start_date=2026-10-24&end_date=2026-11-22", True),
        ("GET", "/admin/accounts/usage/1?start_date=2026-11-01&end_date=2027-01-31", True),
        ("GET", "/admin/accounts/usage/1?start_date=2026-11-01&end_date=2027-02-01", False),
        ("GET", "/admin/accounts/usage/1?start_date=2026-11-01&end_date=9999-12-31", False),
        ("GET", "/admin/accounts/usage/1", False),
        ("GET", "/admin/accounts/usage?start_date=2026-11-01&end_date=2026-11-02", False),
        ("GET", "/admin/accounts/1?" + "&".join(map(str, range(100))), False),
        ("GET", "/admin/accounts/" + "9" * 300, False),
        ("POST", "/admin/accounts/1", False),
        ("POST", "/admin/accounts", False),
        ("GET", "/admin/accounts/usage", False),
        ("GET", "/healthz", False),
        ("GET", "/accounts/1", False),
    ],
)
def test_reads_of_one_account_are_quick(method, path, quick):
    with contextlib.closing(create_app(master_key=MASTER_KEY, prefix="/admin")) as app:
        path, _, query = path.partition("?")
        assert app.runs_inline(method, path, query) is quick


def test_accounts_are_read_while_all_workers_are_busy(file_app, serve):
    served = serve(file_app, threads=1)
    served.call("POST", "/accounts", account_fields())
    at_work, go_on = threading.Event(), threading.Event()

    def all_usage(*_):
        at_work.set()
        assert go_on.wait(10)
        return "{}"

    file_app.db.all_usage = all_usage
    with in_background(lambda: served.call("GET", "/accounts/usage"), stop=go_on.set):
        assert at_work.wait(10)
        assert served.call("GET", "/accounts/1")[0] == 200
        month = "start_date=2026-11-01&end_date=2026-11-30"
        assert served.call("GET", f"/accounts/usage/1?{month}")[0] == 200
        assert not go_on.is_set()


def create(served):
    return served.call("POST", "/accounts", account_fields())


def test_a_client_that_sends_too_slowly_is_disconnected(served):
    # What is silent for longer is looked for once a second.
    change_limits(served.server.connections, idle=0.8)
    starts = [b"", b"GET /healthz HT", b"POST /accounts HTTP/1.1\r\nHost: x\r\n"]
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        waiting = {stack.enter_context(served.connect()): sent for sent in starts}
        for sock, sent in waiting.items():
            sock.sendall(sent)
            sock.settimeout(0.03)
        while waiting:
            for sock, sent in list(waiting.items()):
                try:
                    sock.send(b"x" if sent else b"")
                    closed = sock.recv(1000) == b""
                except TimeoutError:
                    continue
                except ConnectionError:
                    closed = True
                if closed:
                    assert time.monotonic() - began > 0.7
                    del waiting[sock]
            assert time.monotonic() - began < 5, list(waiting.values())


@pytest.fixture
def slow(served):
    """Thirty connections."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(served.connect()) for _ in range(30)]


def test_thirty_slow_senders_block_nobody(served, slow):
    stop = threading.Event()

    def drip():
        while not stop.wait(0.1):
            for sock in slow:
                sock.send(b"G")

    with in_background(drip, stop=stop.set):
        for _ in range(10):
            began = time.monotonic()
            assert create(served)[0] == 201
            assert time.monotonic() - began < 0.5


def test_a_connection_beyond_the_limit_of_select_is_closed(port, monkeypatch):
    ask = http_request("GET /accounts/usage", "Connection: close")
    with monkeypatch.context() as few:
        few.setattr(connections.systems, "MAX_DESCRIPTORS", 0)
        with connect(port) as sock, contextlib.suppress(OSError):
            sock.sendall(ask)
            assert read_all(sock) == b""
    assert statuses(talk(port, ask)) == [200]
