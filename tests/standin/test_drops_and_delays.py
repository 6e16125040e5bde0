"""Drops cut the connection as they say; delays affect only their own requests."""

import contextlib
import http.client
import json
import re
import socket
import sys
import threading
import time

import pytest
from conftest import (
    CHECKOUT,
    MASTER_KEY,
    TIMEOUT,
    account_fields,
    call_standin,
    connect,
    http_request,
    in_background,
    join,
    port_of,
    run_program,
    statuses,
    talk,
    wait_until,
)

from fense_admin.standin import StandIn
from fense_admin.standin.faults import DROPS


def test_a_delay_alone_changes_nothing_else(seeded_api):
    seeded_api.post("/_standin/faults", {"delay_ms": 150})
    began = time.monotonic()
    assert seeded_api.get("/accounts/1").body["name"] == "Acme Ltd"
    assert 0.15 <= time.monotonic() - began < 1
    began = time.monotonic()
    assert seeded_api.get("/accounts/1").status == 200
    assert time.monotonic() - began < 0.15


@pytest.mark.parametrize("drop", DROPS)
def test_a_dropped_connection_is_reset_in_process(seeded, seeded_api, drop):
    seeded.fail(drop=drop)
    with pytest.raises(ConnectionResetError):
        seeded_api.get("/accounts/1")
    assert seeded_api.get("/accounts/1").status == 200


def test_a_reset_drop_resets_the_connection(fense):
    fense.fail(drop="reset", times=2)
    for method, path in (("GET", "/accounts/1"), ("POST", "/accounts")):
        with pytest.raises(ConnectionResetError):
            call_standin(fense, method, path)
    assert call_standin(fense, "GET", "/accounts/usage")[0] == 200


def test_an_empty_drop_closes_the_connection_without_a_byte(fense):
    fense.fail(drop="empty", status=500)
    with pytest.raises(http.client.RemoteDisconnected):
        call_standin(fense, "GET", "/accounts/usage")
    host, port = fense.url[7:].split(":")
    fense.fail(drop="empty")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        key = fense.master_key.encode()
        sock.sendall(b"GET /accounts/usage HTTP/1.1\r\nHost: x\r\nx-api-key: " + key + b"\r\n\r\n")
        assert sock.recv(100) == b""


def test_a_truncated_response_ends_inside_its_body(fense):
    fense.fail(drop="truncate", status=502, message="cut short")
    with pytest.raises(http.client.IncompleteRead) as caught:
        call_standin(fense, "GET", "/accounts/usage")
    assert caught.value.partial.startswith(b'{"error": {"code": "bad_gateway"')
    assert caught.value.expected > 0
    assert [(e["status"], e["fault"]) for e in fense.requests()] == [(None, 1)]


def test_a_drop_has_no_other_effect(fense):
    fense.fail(drop="reset")
    with pytest.raises(ConnectionResetError):
        call_standin(fense, "POST", "/accounts", account_fields())
    assert fense.state() == {"accounts": []}


def test_delayed_requests_take_no_worker_and_continue_when_disarmed(fense):
    fense.fail(delay_ms=60_000, times=0, path="/accounts/usage")
    threads_before = threading.active_count()
    statuses = []

    def wait():
        statuses.append(call_standin(fense, "GET", "/accounts/usage", timeout=30)[0])

    with in_background(wait, 12, fense.disarm):
        wait_until(lambda: len(fense.requests()) == 12)
        began = time.monotonic()
        assert call_standin(fense, "GET", "/healthz")[0] == 200
        assert call_standin(fense, "GET", "/accounts/1")[0] == 404
        assert statuses == []
        assert call_standin(fense, "DELETE", "/_standin/faults")[0] == 204
    assert time.monotonic() - began < 2
    assert statuses == [200] * 12
    wait_until(lambda: threading.active_count() <= threads_before)


@pytest.mark.parametrize("end", ["disarm", "reset", "stop"])
def test_a_delay_ends_with_its_stand_in(end):
    statuses = []
    with StandIn() as fense:
        fense.fail(503, delay_ms=60_000)
        waiting = threading.Thread(
            target=lambda: statuses.append(call_standin(fense, "GET", "/accounts/1")[0])
        )
        waiting.start()
        wait_until(fense.requests)
        time.sleep(0.05)
        began = time.monotonic()
        if end != "stop":
            getattr(fense, end)()
            join(waiting)
    join(waiting)
    assert time.monotonic() - began < 2
    assert statuses == [503]


def test_a_delayed_request_writes_nothing_after_a_reset(fense):
    fense.fail(delay_ms=60_000)
    statuses = []

    def create():
        statuses.append(call_standin(fense, "POST", "/accounts", account_fields())[0])

    with in_background(create, stop=fense.reset):
        wait_until(fense.requests)
        time.sleep(0.05)
    assert statuses == [503]
    assert fense.state() == {"accounts": []}


@pytest.mark.parametrize("begun", ["GET", "POST"])
def test_nothing_that_was_read_before_a_reset_reaches_the_next_test(fense, monkeypatch, begun):
    go_on = threading.Event()
    for name in ("get_account", "create_account"):
        work = getattr(fense._db, name)
        waiting = lambda *given, work=work: go_on.wait(TIMEOUT) and work(*given)  # noqa: E731
        monkeypatch.setattr(fense._db, name, waiting)
    body = json.dumps(account_fields()).encode()
    head = f"HTTP/1.1\r\nHost: x\r\nx-api-key: {MASTER_KEY}\r\nContent-Type: application/json\r\n"
    post = f"POST /accounts {head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    get = f"GET /accounts/1 {head}\r\n".encode()
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(port_of(fense))) for _ in range(14)]
        for sock in sockets[:4]:
            sock.sendall(get if begun == "GET" else post)
        wait_until(lambda: len(fense.app._begun) == 4)  # the workers are busy
        for sock in sockets[4:]:
            sock.sendall(post * 2)  # the second has been read, too, but not been looked at
        wait_until(lambda: len(fense._server._workers.queue) == 10)
        with in_background(fense.reset):
            wait_until(lambda: fense.app._reset_at)
            go_on.set()
        assert fense.state() == {"accounts": []}
        assert fense.requests() == []
        for sock in sockets[4:]:
            answers = b""
            while len(statuses(answers)) < 2:
                answers += sock.recv(65536)
            assert statuses(answers) == [503, 503]
            assert b"the stand-in was reset while this request was waiting" in answers
    assert fense.state() == {"accounts": []}
    assert fense.requests() == []


FROZEN = """
import functools, time, urllib.error, urllib.request
import freezegun
import peewee  # whose drivers can't be imported while time is frozen

real_time = functools.partial(time.perf_counter)  # which nobody replaces

with freezegun.freeze_time("2026-01-01"):
    from fense_admin.standin import StandIn
from fense_admin.standin.faults import DROPS


def call(fense, path="/accounts/1"):
    request = urllib.request.Request(fense.url + path, headers=dict(fense.headers))
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


with StandIn() as fense:
    fense.create_account()
    assert call(fense) == 200
    for moment in ("2026-01-01", "1999-01-01"):
        with freezegun.freeze_time(moment):
            assert fense.create_account()["created_at"].startswith(moment)
            fense.fail(delay_ms=200)
            began = real_time()
            assert call(fense) == 200
            assert 0.19 < real_time() - began < 5
            for _ in range(20):  # a worker that is woken late would be late here
                assert call(fense) == 200
            assert real_time() - began < 5
    began = real_time()
    with freezegun.freeze_time("2026-01-01"):
        fense.reset()
        with StandIn() as other:
            assert call(other) == 404
assert real_time() - began < 5
"""


def test_delays_and_deadlines_ignore_a_frozen_clock(tmp_path):
    # In a separate process: freezegun replaces the time of all modules.
    run_program(sys.executable, "-W", "error", "-c", FROZEN, cwd=tmp_path, timeout=60)


def test_delays_waits_and_deadlines_use_real_time():
    frozen = re.compile(r"time\.(?:monotonic|perf_counter)")
    files = [*CHECKOUT.glob("*.py"), *(CHECKOUT / "standin").rglob("*.py")]
    found = {file.name for file in files if frozen.search(file.read_text("utf-8"))}
    assert found == {"realtime.py"}


def test_the_control_plane_responds_during_many_delays(fense):
    fense.fail(delay_ms=60_000, times=0, path="/accounts/usage")
    key = fense.master_key.encode()
    request = b"GET /accounts/usage HTTP/1.1\r\nHost: x\r\nx-api-key: " + key + b"\r\n\r\n"
    port = int(fense.url.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(port)) for _ in range(150)]
        for sock in sockets:
            sock.sendall(request)
        wait_until(lambda: len(fense.requests()) == 150)
        assert call_standin(fense, "DELETE", "/_standin/faults")[0] == 204
        for sock in sockets:
            assert sock.recv(100).startswith(b"HTTP/1.1 200")


def test_a_delay_ends_when_its_client_disconnects(fense, monkeypatch):
    monkeypatch.setattr("fense_admin.standin.faults.GONE_CHECK", 0.05)
    fense.fail(503, delay_ms=60_000, times=0)
    for _ in range(20):
        with connect(port_of(fense)) as sock:
            sock.sendall(http_request("GET /accounts/1"))
    wait_until(lambda: len(fense.requests()) == 20)
    wait_until(lambda: all(entry["status"] == 503 for entry in fense.requests()))


def test_a_delay_ends_when_a_client_with_unread_input_disconnects(fense, monkeypatch):
    monkeypatch.setattr("fense_admin.standin.faults.GONE_CHECK", 0.05)
    fense.fail(503, delay_ms=60_000)
    with connect(port_of(fense)) as sock:
        sock.sendall(http_request("GET /accounts/1") + b"\r\n")
    wait_until(lambda: fense.requests() and fense.requests()[0]["status"] == 503)


def test_the_number_of_delayed_requests_is_limited(fense, monkeypatch):
    monkeypatch.setattr(fense.app.faults, "_most", 3)
    monkeypatch.setattr(fense.app.faults, "_slots", threading.BoundedSemaphore(3))
    fense.disarm()  # from here on the limit holds
    fense.fail(delay_ms=60_000, times=0)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(port_of(fense))).sendall(http_request("GET /accounts/1"))
        wait_until(lambda: len(fense.requests()) == 3)
        answer = talk(port_of(fense), http_request("GET /accounts/1", "Connection: close"))
        assert (statuses(answer), b"3 requests are already waiting for a delay" in answer) == (
            [503],
            True,
        )


@pytest.mark.parametrize("drop", ["reset", "empty"])
def test_clients_can_tell_a_reset_from_a_close(fense, drop):
    fense.fail(drop=drop)
    with connect(port_of(fense)) as sock:
        sock.sendall(http_request("GET /accounts/1"))
        if drop == "reset":
            with pytest.raises(ConnectionResetError):
                sock.recv(100)
        else:
            assert sock.recv(100) == b""
