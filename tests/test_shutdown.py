"""A stop answers earlier requests, until its deadline; a signal also ends a start."""

import contextlib
import http.client
import json
import signal
import socket
import time

import pytest
import soak
from conftest import (
    COMMAND,
    KEY_HEADER,
    Served,
    account_fields,
    change_limits,
    connect,
    few,
    http_request,
    in_background,
    locked,
    parse_answer,
    read_all,
    statuses,
    wait_until,
)
from this_system import ENDS, STOP, STOPS, ended_at_once_by, exit_code

from fense_admin import databases, systems


def test_a_stop_answers_every_sent_request(file_app, serve):
    served = serve(file_app, threads=2)
    file_app.db.all_usage = lambda *_: time.sleep(0.05) or "{}"
    get_account = file_app.db.get_account
    file_app.db.get_account = lambda number: time.sleep(0.05) or get_account(number)
    statuses = []
    with contextlib.ExitStack() as stack:
        sockets = []
        for path in (b"/accounts/1", b"/accounts/usage") * 10:
            sockets.append(stack.enter_context(served.connect()))
            sockets[-1].sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n" + KEY_HEADER + b"\r\n")
        served.stop()
        for sock in sockets:
            answer = b""
            while chunk := sock.recv(65536):
                answer += chunk
            statuses.append(parse_answer(answer)[0])
    assert statuses == [404, 200] * 10
    with pytest.raises(ConnectionRefusedError):
        served.talk(b"")


def test_a_stop_answers_requests_queued_beyond_the_limit(served, monkeypatch):
    """On Windows at most 500 connections can be open."""
    monkeypatch.setattr(systems, "MAX_CONNECTIONS", 8)
    change_limits(served.server.connections, connections=8, waiting=4)
    turn, counts = served.server._turn, []
    monkeypatch.setattr(
        served.server,
        "_turn",
        lambda timeout: counts.append(len(served.server.connections.channels)) or turn(timeout),
    )
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(served.connect()) for _ in range(40)]
        for sock in sockets:
            sock.sendall(http_request("GET /accounts/1"))
        served.stop()
        assert [statuses(read_all(sock)) for sock in sockets] == [[200]] * 40
    assert max(counts) == 8


def test_a_stop_answers_the_first_request_of_a_connection_that_it_just_accepted(served):
    """Like a proxy that opens a connection and sends a moment later."""
    with served.connect() as sock:
        served.server.stop()
        time.sleep(0.12)
        sock.sendall(http_request("GET /accounts/1"))
        assert statuses(read_all(sock)) == [200]
    served.stop()


def test_a_silent_new_connection_does_not_delay_a_stop(served):
    with served.connect():
        began = time.monotonic()
        served.stop()
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("path", [b"/accounts/1", b"/accounts/usage"])
def test_a_stop_answers_a_pipeline_that_it_has_not_read_yet(file_app, path, serve):
    served = serve(file_app, threads=1)
    request = (
        b"GET "
        + path
        + b" HTTP/1.1\r\nHost: x\r\nX-Pad: "
        + b"x" * 100
        + b"\r\n"
        + KEY_HEADER
        + b"\r\n"
    )
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=10) as sock:
        sock.sendall(request * 300)  # six times what is read at once
        served.stop()
        answers = b""
        while chunk := sock.recv(65536):
            answers += chunk
    assert answers.count(b"HTTP/1.1 ") == 300


def test_a_busy_client_does_not_delay_a_stop(served):
    answered = []

    def keep_asking():
        connection = http.client.HTTPConnection("127.0.0.1", served.server.port, timeout=10)
        with contextlib.closing(connection):
            while True:
                connection.request("GET", "/healthz")
                answer = connection.getresponse()
                answer.read()
                answered.append(answer.status)
                if answer.headers["Connection"] == "close":
                    return

    with in_background(keep_asking, 4, served.stop):
        time.sleep(0.2)
        began = time.monotonic()
        served.stop()
        assert time.monotonic() - began < 2
    assert set(answered) == {200}


def test_a_client_that_never_reads_does_not_delay_a_stop(file_app):
    file_app.db.all_usage = lambda *_: json.dumps("x" * 4_000_000)
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(Served(file_app, drain=0.5))
        sock = stack.enter_context(connect(served.server.port))
        sock.sendall(http_request("GET /accounts/usage") * 40)
        time.sleep(0.3)
        began = time.monotonic()
        served.stop()
        assert time.monotonic() - began < 2


def test_a_stop_leaves_no_rejected_client_behind(file_app):
    with Served(file_app) as served, connect(served.server.port) as sock:
        sock.sendall(http_request("POST /accounts", "Content-Length: 999999999"))
        assert statuses(sock.recv(65536)) == [413]
        served.stop()
        assert list(served.server.connections.channels) == []
        sock.settimeout(2)
        assert read_all(sock) == b""


@pytest.fixture
def start_soak(tmp_path):
    """Starts a service with these flags. It never outlives the test."""
    started = []

    def start_soak(*arguments):
        started.append(soak.Service(tmp_path, tmp_path / "fense.sqlite3", *arguments))
        started[-1].start()
        return started[-1]

    yield start_soak
    for service in started:
        service.process.kill()
        service.wait()


@pytest.mark.parametrize("signum", few(STOPS))
@pytest.mark.parametrize(
    "frozen",
    [False, pytest.param(True, marks=[pytest.mark.needs("SIGSTOP"), pytest.mark.slow])],
)
def test_a_stop_of_the_process_answers_every_request_that_was_sent(tmp_path, signum, frozen):
    count = 600  # more than are let in at the same time
    with soak.Run(tmp_path, tmp_path / "fense.sqlite3", soak.WRITES) as run:
        run.wait_for_writes(20)
        run.end(signum, count, frozen)
    assert run.wrong == []
    assert run.total("at_stops") >= count
    assert run.total("unanswered") == 0


def send_half_a_request(service):
    sock = soak.connect(service.port)
    sock.sendall(soak.raw_request("POST", "/accounts", soak.new_fields())[:-1])
    return sock


def wait_until_it_listens_no_more(service):
    deadline = time.monotonic() + soak.TIMEOUT
    while time.monotonic() < deadline:
        time.sleep(0.01)
        try:
            soak.connect(service.port).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:  # it was just about to listen no more
            continue
    pytest.fail("it still listens")


@pytest.mark.parametrize("signum", few(STOPS))
def test_a_second_signal_ends_it_at_once(start_soak, signum):
    service = start_soak()
    with send_half_a_request(service):
        service.process.send_signal(signum)
        wait_until_it_listens_no_more(service)
        assert service.process.poll() is None
        service.process.send_signal(signum)
        assert service.wait(5) == ended_at_once_by(signum)


def test_a_stop_waits_for_an_incomplete_request_only_until_its_deadline(start_soak):
    service = start_soak("--drain=0.5")
    with send_half_a_request(service) as sock:
        began = time.monotonic()
        service.process.send_signal(STOP)
        assert service.wait() == 0
        assert 0.4 < time.monotonic() - began < 5
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""


def test_an_incomplete_request_is_answered_if_the_rest_arrives_in_time(start_soak):
    service = start_soak()
    fields = soak.new_fields()
    request = soak.raw_request("POST", "/accounts", fields)
    sock = soak.connect(service.port)
    sock.sendall(request[:-1])
    service.process.send_signal(STOP)
    wait_until_it_listens_no_more(service)
    sock.sendall(request[-1:])
    assert soak.read_answer(sock)[0] == 201
    assert service.wait(5) == 0


@pytest.mark.slow
@pytest.mark.parametrize("signum", ENDS)
def test_a_signal_ends_a_start_that_waits_for_a_locked_database(start, tmp_path, signum):
    databases.open_database(str(tmp_path / "fense.sqlite3")).engine.close_all()
    with locked(tmp_path / "fense.sqlite3"):
        service = start("--port=0", "--database=fense.sqlite3")
        wait_until(lambda: "local-dev-key" in service.errors.read_text("utf-8"))
        time.sleep(0.3)
        began = time.monotonic()
        code, _, errors = service.end(signum)
    assert code == exit_code(signum)
    assert time.monotonic() - began < 2
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_signal_ends_a_start_that_loads_a_seed_and_leaves_nothing_of_it(start, tmp_path):
    usage = {
        f"{year}-{month:02}-{day:02}": 1
        for year in range(1600, 2000)
        for month in range(1, 13)
        for day in range(1, 29)
    }
    account = account_fields(usage=usage)
    (tmp_path / "seed.json").write_text(json.dumps({"accounts": [account]}))
    service = start("--port=0", "--seed=seed.json", "--database=fense.sqlite3")
    wait_until(lambda: (tmp_path / "fense.sqlite3-wal").exists())
    code, output, errors = service.end()
    assert (code, output) == (exit_code(STOP), "")
    assert "Traceback" not in errors
    db = databases.open_database(str(tmp_path / "fense.sqlite3"))
    assert db.count_accounts() == 0
    db.engine.close_all()


@pytest.mark.needs("SIGHUP")
def test_sighup_stops_it_unless_it_is_ignored(start):
    service = start("--port=0")
    service.ready()
    assert service.end(signal.SIGHUP)[0] == 0
    service = start("--port=0", command=("nohup", COMMAND))
    service.ready()
    service.process.send_signal(signal.SIGHUP)
    assert service.call("/accounts/usage")[0] == 200
    assert service.end()[0] == 0
