"""The stand-in over a socket, from Python, and as pytest's fixture."""

import contextlib
import http.client
import json
import os
import socket
import threading
import time

import pytest
from conftest import account_fields, in_background, join, run_pytest, wait_until

from fense_admin import __version__
from fense_admin.standin import StandIn


@pytest.fixture
def fense():
    with StandIn() as fense:
        yield fense


def call(fense, method, path, body=None, timeout=10):
    """One request on a connection of its own; status, headers and the whole body."""
    host = fense.standin_url.split("/")[2]
    connection = http.client.HTTPConnection(host, timeout=timeout)
    try:
        connection.request(method, path, json.dumps(body) if body else None, fense.headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=10)


# --- Dropped connections -----------------------------------------------------------------------


def test_a_reset_is_a_reset(fense):
    fense.fail(drop="reset", times=2)
    for method, path in (("GET", "/accounts/1"), ("POST", "/accounts")):
        with pytest.raises(ConnectionResetError):
            call(fense, method, path)
    assert call(fense, "GET", "/accounts/usage")[0] == 200


def test_an_empty_drop_is_an_end_without_a_byte(fense):
    fense.fail(drop="empty", status=500)
    with pytest.raises(http.client.RemoteDisconnected):
        call(fense, "GET", "/accounts/usage")
    host, port = fense.url[7:].split(":")
    fense.fail(drop="empty")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        key = fense.master_key.encode()
        sock.sendall(b"GET /accounts/usage HTTP/1.1\r\nHost: x\r\nx-api-key: " + key + b"\r\n\r\n")
        assert sock.recv(100) == b""


def test_a_truncated_answer_ends_inside_its_body(fense):
    fense.fail(drop="truncate", status=502, message="cut short")
    with pytest.raises(http.client.IncompleteRead) as caught:
        call(fense, "GET", "/accounts/usage")
    assert caught.value.partial.startswith(b'{"error": {"code": "bad_gateway"')
    assert caught.value.expected > 0
    assert [(e["status"], e["fault"]) for e in fense.requests()] == [(None, 1)]


def test_a_drop_does_nothing_else(fense):
    fense.fail(drop="reset")
    with pytest.raises(ConnectionResetError):
        call(fense, "POST", "/accounts", account_fields())
    assert fense.state() == {"accounts": []}


# --- Delays ------------------------------------------------------------------------------------


def test_requests_that_wait_take_no_worker_and_go_on_when_disarmed(fense):
    fense.fail(delay_ms=60_000, times=0, path="/accounts/usage")
    threads_before = threading.active_count()
    statuses = []

    def wait():
        statuses.append(call(fense, "GET", "/accounts/usage", timeout=30)[0])

    with in_background(wait, 12, fense.disarm):
        wait_until(lambda: len(fense.requests()) == 12)
        began = time.monotonic()
        assert call(fense, "GET", "/healthz")[0] == 200
        assert call(fense, "GET", "/accounts/1")[0] == 404
        assert statuses == []
        assert call(fense, "DELETE", "/_standin/faults")[0] == 204
    assert time.monotonic() - began < 2
    assert statuses == [200] * 12
    wait_until(lambda: threading.active_count() <= threads_before)


@pytest.mark.parametrize("end", ["disarm", "reset", "stop"])
def test_a_wait_ends_with_what_armed_it(end):
    statuses = []
    with StandIn() as fense:
        fense.fail(503, delay_ms=60_000)
        waiting = threading.Thread(
            target=lambda: statuses.append(call(fense, "GET", "/accounts/1")[0])
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


def test_a_request_that_waits_writes_nothing_after_a_reset(fense):
    fense.fail(delay_ms=60_000)
    statuses = []

    def create():
        statuses.append(call(fense, "POST", "/accounts", account_fields())[0])

    with in_background(create, stop=fense.reset):
        wait_until(fense.requests)
        time.sleep(0.05)
    assert statuses == [503]
    assert fense.state() == {"accounts": []}


def test_many_may_wait_and_the_control_plane_still_answers(fense):
    fense.fail(delay_ms=60_000, times=0, path="/accounts/usage")
    key = fense.master_key.encode()
    request = b"GET /accounts/usage HTTP/1.1\r\nHost: x\r\nx-api-key: " + key + b"\r\n\r\n"
    port = int(fense.url.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(port)) for _ in range(150)]
        for sock in sockets:
            sock.sendall(request)
        wait_until(lambda: len(fense.requests()) == 150)
        assert call(fense, "DELETE", "/_standin/faults")[0] == 204
        for sock in sockets:
            assert sock.recv(100).startswith(b"HTTP/1.1 200")


def test_a_half_sent_request_and_an_unread_answer_do_not_hold_up_the_end():
    with contextlib.ExitStack() as stack, StandIn() as fense:
        fense.load({"accounts": [account_fields(name="x" * 255) for _ in range(3_000)]})
        port = int(fense.url.rpartition(":")[2])
        half, unread = (stack.enter_context(connect(port)) for _ in range(2))
        half.sendall(b"POST /acc")
        key = fense.master_key.encode()
        unread.sendall(
            b"GET /_standin/state HTTP/1.1\r\nHost: x\r\nx-api-key: " + key + b"\r\n\r\n"
        )
        time.sleep(0.3)
        began = time.monotonic()
    assert time.monotonic() - began < 3


# --- What waitress refuses, and the large bodies of the control plane -----------------------------


def test_what_waitress_itself_refuses_bears_the_mark_too(fense):
    host, port = fense.url[7:].split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"nonsense\r\n\r\n")
        assert f"X-Standin: fense-admin/{__version__}".encode() in sock.recv(10_000)


def test_a_body_of_megabytes_is_for_the_control_plane_alone(fense):
    large = {"accounts": [account_fields(name="x" * 255) for _ in range(10_000)]}
    assert call(fense, "PUT", "/_standin/state", large, timeout=30)[0] == 200
    assert call(fense, "POST", "/accounts", large)[0] == 413
    exact = b'{"accounts": []' + b" " * (32 * 1024 * 1024 - 16) + b"}"
    for body, expected in ((exact, 200), (b"x" * (33 * 1024 * 1024), 413)):
        connection = http.client.HTTPConnection(fense.url[7:], timeout=30)
        with contextlib.closing(connection):
            connection.request("PUT", "/_standin/state", body, fense.headers)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == expected
    assert json.loads(content)["error"]["code"] == "payload_too_large"


# --- From Python -------------------------------------------------------------------------------


def test_it_tells_where_it_is_and_how_to_get_in():
    keys = {"master_key": "a-master-key", "service_key": "a-service-key"}
    with StandIn(prefix="admin", **keys) as fense:
        assert fense.url == f"http://127.0.0.1:{fense.url.split(':')[2].split('/')[0]}/admin"
        assert fense.standin_url == fense.url.replace("/admin", "/_standin")
        assert (fense.master_key, fense.service_key) == ("a-master-key", "a-service-key")
        assert fense.headers == {"x-api-key": "a-master-key", "Content-Type": "application/json"}
        assert call(fense, "GET", "/admin/accounts/usage")[0] == 200
    with StandIn(serve=False, prefix="/admin") as fense:
        assert fense.url == "http://localhost/admin"


def test_an_account_is_made_of_what_is_given_and_made_up_for_the_rest():
    with StandIn(serve=False) as fense:
        one = fense.create_account()
        two = fense.create_account(name=" Acme ", is_active=False, suppress_billing=True)
        assert one.keys() == two.keys()
        assert (two["name"], two["is_active"], two["suppress_billing"]) == ("Acme", False, True)
        assert one["email"] != two["email"]
        fense.create_account(api_key="taken-by-this-one")
        before = fense.state()
        for fields, told in (
            ({"name": ""}, "name must be 1 to 255 characters"),
            ({"nmae": "x"}, "nmae is not accepted here"),
            ({"api_key": "taken-by-this-one"}, "api_key belongs to another account"),
            (
                {"email": None, "is_active": 1},
                "email must be a string; is_active must be true or false",
            ),
            ({"name": object()}, "is no JSON"),
            ({"fense_account_id": 9}, "fense_account_id is not accepted here"),
        ):
            with pytest.raises(ValueError, match=told):
                fense.create_account(**fields)
        assert fense.state() == before
        assert fense.requests() == []


def test_lookups_are_recorded_past_faults_and_journal():
    with StandIn(serve=False) as fense:
        fense.fail(503, times=0)
        number = fense.create_account()["fense_account_id"]
        fense.record_lookups(number, 12, "2026-11-01")
        assert fense.state()["accounts"][0]["usage"] == {"2026-11-01": 12}
        for arguments, told in (
            ((number, -1), "must be a whole number of lookups"),
            ((number, 10**12, "2026-11-01"), "a day's most"),
            ((number, 1, "2026-11-31"), "day of the calendar"),
            ((99, 1), "no account has the fense_account_id 99"),
            (("1", 1), "fense_account_id must be an integer"),
            ((1.0, 1), "fense_account_id must be an integer"),
        ):
            with pytest.raises(ValueError, match=told):
                fense.record_lookups(*arguments)
        assert fense.requests() == []


def test_a_state_is_loaded_and_given_back(tmp_path):
    state = {"accounts": [account_fields(usage={"2026-11-01": 5})]}
    file = tmp_path / "state.json"
    file.write_text(json.dumps(state))
    with StandIn(serve=False) as fense:
        for source in (state, str(file), file):
            fense.load(source)
            assert fense.state()["accounts"][0]["usage"] == {"2026-11-01": 5}
            first = fense.state()
            fense.load(first)
            assert fense.state() == first
        fense.reset()
        assert fense.state() == {"accounts": []}
    with StandIn(seed=file, serve=False) as fense:
        fense.create_account()
        fense.reset()
        assert [account["usage"] for account in fense.state()["accounts"]] == [{"2026-11-01": 5}]


def test_a_bad_seed_key_or_prefix_is_refused(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    for arguments, told in (
        ({"seed": {"accounts": [{"name": 1}]}}, r"accounts\[0\]\.name must be a string"),
        ({"seed": {"accounts": [], "x": 1}}, "x is not accepted here"),
        ({"seed": {1, 2}}, "a state is a dict, or the path of a file"),
        ({"seed": 1}, "a state is a dict, or the path of a file"),
        ({"seed": tmp_path / "broken.json"}, "is not valid JSON"),
        ({"master_key": "a b"}, "visible ASCII"),
        ({"master_key": ""}, "visible ASCII"),
        ({"service_key": "\n"}, "visible ASCII"),
        ({"prefix": "/a b"}, "must be a path"),
    ):
        with pytest.raises(ValueError, match=told):
            StandIn(**arguments)
    with pytest.raises(FileNotFoundError):
        StandIn(seed=tmp_path / "nowhere.json")


def test_two_of_them_never_see_each_others_data():
    with StandIn() as one, StandIn() as two:
        one.create_account(name="One")
        one.fail(503)
        assert call(two, "GET", "/accounts/usage")[2].endswith(b'"accounts": []}')
        assert call(one, "GET", "/accounts/usage")[0] == 503
        assert (len(one.requests()), len(two.requests())) == (1, 1)


def test_two_hundred_of_them_leave_nothing_behind():
    def count():
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before = count()
    for number in range(200):
        with StandIn() as fense:
            if number % 20 == 0:
                assert call(fense, "GET", "/accounts/usage")[0] == 200
    assert count() == before


# --- pytest's fixture --------------------------------------------------------------------------

SUITE = """
    import urllib.error, urllib.request
    import pytest

    def get(fense, path):
        request = urllib.request.Request(fense.url + path, headers=fense.headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status

    @pytest.mark.parametrize("number", range(6))
    def test_each_begins_clean(fense, number):
        assert [account["name"] for account in fense.state()["accounts"]] == ["Of the seed"]
        assert fense.requests() == []
        assert fense.create_account()["fense_account_id"] == 2
        assert get(fense, "/accounts/2") == 200
        fense.fail(503)
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(fense, "/accounts/2")
        caught.value.close()

    def test_the_server_is_the_sessions(fense, fense_server):
        assert fense is fense_server
        assert fense.url.endswith("/admin")
"""
OPTIONS = """
    import pytest

    @pytest.fixture(scope="session")
    def fense_options():
        account = {"api_key": "seed", "name": "Of the seed", "email": "a@b.example"}
        return {"seed": {"accounts": [account]}, "prefix": "/admin"}
"""
OVERRIDDEN = """
    import pytest

    @pytest.fixture(scope="session")
    def fense_options():
        return {"prefix": "/elsewhere"}

    def test_it_is_elsewhere(fense):
        assert fense.url.endswith("/elsewhere")
"""
UNUSED = """
    import sys

    def test_nothing_of_the_service_is_loaded():
        names = ("bottle", "peewee", "waitress", "fense_admin")
        assert not [name for name in sys.modules if name.partition(".")[0] in names]
"""


@pytest.mark.parametrize(
    ("arguments", "plugins"),
    [((), None), (("-n", "2"), ("pytest_fense_admin", "xdist"))],
    ids=["alone", "xdist"],
)
def test_the_fixture_is_clean_before_each_test(tmp_path, arguments, plugins):
    (tmp_path / "conftest.py").write_text(OPTIONS.replace("\n    ", "\n"))
    (tmp_path / "test_suite.py").write_text(SUITE.replace("\n    ", "\n"))
    assert "7 passed" in run_pytest(tmp_path, *arguments, plugins=plugins)


def test_options_may_differ_from_folder_to_folder(tmp_path):
    (tmp_path / "conftest.py").write_text(OPTIONS.replace("\n    ", "\n"))
    (tmp_path / "test_suite.py").write_text(SUITE.replace("\n    ", "\n"))
    for name in ("a", "z"):
        (tmp_path / f"test_{name}.py").write_text(OVERRIDDEN.replace("\n    ", "\n"))
    assert "9 passed" in run_pytest(tmp_path)


def test_a_run_without_the_fixture_loads_nothing(tmp_path):
    (tmp_path / "test_suite.py").write_text(UNUSED.replace("\n    ", "\n"))
    assert "1 passed" in run_pytest(tmp_path)
