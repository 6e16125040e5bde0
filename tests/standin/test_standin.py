"""A StandIn in Python marks every response as its own, and doesn't affect its surroundings."""

import contextlib
import datetime
import json
import os
import socket
import subprocess
import sys
import time

import pytest
from conftest import (
    MASTER_KEY,
    SEED_FILE,
    TIMEOUT,
    WITHOUT_DRIVER,
    account_fields,
    call_standin,
    connect,
)

from fense_admin import __version__, standin
from fense_admin.standin import StandIn


def test_every_response_has_the_stand_ins_header(seeded_api):
    for method, path, key in (
        ("GET", "/accounts/1", MASTER_KEY),
        ("GET", "/accounts/1", None),
        ("GET", "/nothing", MASTER_KEY),
        ("GET", "/healthz", None),
        ("GET", "/openapi.json", None),
        ("GET", "/_standin/state", MASTER_KEY),
        ("GET", "/_standin/nothing", None),
        ("POST", "/_standin/reset", MASTER_KEY),
    ):
        answer = seeded_api.call(method, path, b"" if method == "POST" else None, key=key)
        assert answer.headers["X-Standin"] == f"fense-admin/{__version__}"


def test_incomplete_requests_and_unread_responses_do_not_delay_the_end(monkeypatch):
    monkeypatch.setattr(standin, "STOP_TIMEOUT", 0.2)
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
    assert time.monotonic() - began < 2


def test_errors_of_the_server_have_the_stand_ins_header(fense):
    host, port = fense.url[7:].split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"nonsense\r\n\r\n")
        assert f"X-Standin: fense-admin/{__version__}".encode() in sock.recv(10_000)


def test_it_has_its_url_and_keys():
    keys = {"master_key": "a-master-key", "service_key": "a-service-key"}
    with StandIn(prefix="admin", **keys) as fense:
        assert fense.url == f"http://127.0.0.1:{fense.url.split(':')[2].split('/')[0]}/admin"
        assert fense.standin_url == fense.url.replace("/admin", "/_standin")
        assert (fense.master_key, fense.service_key) == ("a-master-key", "a-service-key")
        assert fense.headers == {"x-api-key": "a-master-key", "Content-Type": "application/json"}
        assert call_standin(fense, "GET", "/admin/accounts/usage")[0] == 200
    with StandIn(serve=False, prefix="/admin") as fense:
        assert fense.url == "http://localhost/admin"


def test_missing_fields_of_an_account_are_generated():
    with StandIn(serve=False) as fense:
        one = fense.create_account()
        two = fense.create_account(name=" Acme ", is_active=False, suppress_billing=True)
        assert one.keys() == two.keys()
        assert (two["name"], two["is_active"], two["suppress_billing"]) == ("Acme", False, True)
        assert one["email"] != two["email"]
        fense.create_account(api_key="taken-by-this-one")
        before = fense.state()
        for fields, message in (
            ({"name": ""}, "name must be 1 to 255 characters"),
            ({"nmae": "x"}, "nmae is not accepted here"),
            ({"api_key": "taken-by-this-one"}, "api_key belongs to another account"),
            (
                {"email": None, "is_active": 1},
                "email must be a string; is_active must be true or false",
            ),
            ({"name": object()}, "can't be encoded as JSON"),
            ({"fense_account_id": 9}, "fense_account_id is not accepted here"),
        ):
            with pytest.raises(ValueError, match=message):
                fense.create_account(**fields)
        assert fense.state() == before
        assert fense.requests() == []


def test_record_lookups_bypasses_faults_and_journal():
    with StandIn(serve=False) as fense:
        fense.fail(503, times=0)
        number = fense.create_account()["fense_account_id"]
        fense.record_lookups(number, 12, "2026-11-01")
        assert fense.state()["accounts"][0]["usage"] == {"2026-11-01": 12}
        for arguments, message in (
            ((number, -1), "must be a whole number of lookups"),
            ((number, 10**12, "2026-11-01"), "the daily maximum"),
            ((number, 1, "2026-11-31"), "must be a valid date"),
            ((99, 1), "no account has the fense_account_id 99"),
            (("1", 1), "fense_account_id must be an integer"),
            ((1.0, 1), "fense_account_id must be an integer"),
        ):
            with pytest.raises(ValueError, match=message):
                fense.record_lookups(*arguments)
        assert fense.requests() == []


def test_lookups_are_recorded_for_a_day_or_a_range(seeded):
    seeded.set_clock("2026-03-02T12:00:00Z")
    day = datetime.date
    for date, days in (
        (day(2026, 2, 1), ["2026-02-01"]),
        (-1, ["2026-03-01"]),
        ("-1", ["2026-03-01"]),
        (0, ["2026-03-02"]),
        (None, ["2026-03-02"]),
        ("2026-02-27..2026-03-01", ["2026-02-27", "2026-02-28", "2026-03-01"]),
        ("-2..0", ["2026-02-28", "2026-03-01", "2026-03-02"]),
        (("2026-03-01", day(2026, 3, 2)), ["2026-03-01", "2026-03-02"]),
        ((day(2026, 3, 1), -1), ["2026-03-01"]),
    ):
        seeded.reset()
        seeded.set_clock("2026-03-02T12:00:00Z")
        seeded.record_lookups(7, 3, date)
        assert seeded.state()["accounts"][1]["usage"] == dict.fromkeys(days, 3), date


TOO_LONG = "must be a range of at most 3660 days"
BACKWARDS = "must be a range: its first day must not be after its last"


@pytest.mark.parametrize(
    ("date", "message"),
    [
        ("0..-1", BACKWARDS),
        (("2026-03-02", "2026-03-01"), BACKWARDS),
        ("0001-01-01..9999-12-31", TOO_LONG),
        ("2026-03-01..", "must be a valid date"),
        ("..", "must be a valid date"),
        ("2026-03-01..2026-03-02..2026-03-03", "must be a valid date"),
        (1, "must be a valid date"),
        (True, "must be a valid date"),
        (("2026-03-01",), "must be a valid date"),
        (("2026-03-01", None), "must be a valid date"),
        (datetime.datetime(2026, 3, 1), "must be a valid date"),
        (-(10**6), "before 0001-01-01"),
    ],
    ids=str,
)
def test_an_invalid_day_or_range_records_nothing(seeded, date, message):
    with pytest.raises(ValueError, match=message):
        seeded.record_lookups(7, 3, date)
    assert seeded.state()["accounts"][1]["usage"] == {}


def test_a_number_of_days_too_large_to_print_is_rejected(seeded):
    with pytest.raises(ValueError, match="must be a valid date"):
        seeded.record_lookups(7, 3, -(10**5000))


def test_a_range_is_recorded_completely_or_not_at_all(seeded):
    seeded.record_lookups(7, 10**12, "2026-03-02")
    with pytest.raises(
        ValueError, match="would exceed the daily maximum of 1000000000000 on 2026-03-02"
    ):
        seeded.record_lookups(7, 1, "2026-03-01..2026-03-03")
    assert seeded.state()["accounts"][1]["usage"] == {"2026-03-02": 10**12}


def test_requests_and_faults_are_copies(seeded, seeded_api):
    seeded_api.get("/accounts/1")
    seeded.fail(503, path="/nowhere")
    for entry in seeded.requests():
        entry["headers"].clear()
        entry["status"] = 0
    seeded.requests().clear()
    seeded.faults()[0]["times"] = 9
    (entry,) = seeded.requests()
    assert (entry["status"], "x-api-key" in entry["headers"]) == (200, True)
    assert seeded.faults() == [{"id": 1, "status": 503, "path": "/nowhere", "times": 1, "used": 0}]


def test_a_reset_undoes_every_change_of_a_test(seeded, seeded_api):
    with pytest.raises(TypeError):
        seeded.headers["x-api-key"] = "wrong"
    assert seeded.headers | {"x-api-key": "wrong"} != seeded.headers
    assert dict(seeded.headers)["x-api-key"] == MASTER_KEY
    mine = {"Retry-After": "1"}
    armed = seeded.fail(503, headers=mine, times=2)
    for headers in (mine, armed["headers"], seeded.faults()[0]["headers"]):
        headers["Retry-After"] = "changed"
        assert seeded.faults()[0]["headers"] == {"Retry-After": "1"}
    assert seeded_api.get("/accounts/1").headers["Retry-After"] == "1"


def test_a_state_is_loaded_and_returned(tmp_path):
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


def test_an_invalid_seed_key_or_prefix_is_rejected(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    for arguments, message in (
        ({"seed": {"accounts": [{"name": 1}]}}, r"accounts\[0\]\.name must be a string"),
        ({"seed": {"accounts": [], "x": 1}}, "x is not accepted here"),
        ({"seed": {1, 2}}, "a state must be a dict or the path of a file"),
        ({"seed": 1}, "a state must be a dict or the path of a file"),
        ({"seed": tmp_path / "broken.json"}, "is not valid JSON"),
        ({"master_key": "a b"}, "visible ASCII"),
        ({"master_key": ""}, "visible ASCII"),
        ({"service_key": "\n"}, "visible ASCII"),
        ({"prefix": "/a b"}, "must be a path"),
        *(({"prefix": prefix}, "prefix must be a string") for prefix in (None, 5, b"/x")),
        *(({"master_key": key}, "master_key must be a string") for key in (5, b"x")),
        ({"service_key": ["x"]}, "service_key must be a string"),
        ({"master_key": 5, "service_key": 5}, "master_key must be .*; service_key must be"),
    ):
        with pytest.raises(ValueError, match=message):
            StandIn(**arguments)
    with pytest.raises(FileNotFoundError):
        StandIn(seed=tmp_path / "nowhere.json")


def test_a_seed_may_begin_with_a_byte_order_mark(tmp_path):
    seed = tmp_path / "seed.json"
    seed.write_bytes(b"\xef\xbb\xbf" + SEED_FILE.read_bytes().replace(b"\n", b"\r\n"))
    with StandIn(seed=seed, serve=False) as fense, StandIn(seed=SEED_FILE, serve=False) as other:
        assert fense.state()["accounts"][0]["usage"] == other.state()["accounts"][0]["usage"] != {}


def test_two_stand_ins_never_see_each_others_data():
    with StandIn() as one, StandIn() as two:
        one.create_account(name="One")
        one.fail(503)
        assert call_standin(two, "GET", "/accounts/usage")[2].endswith(b'"accounts": []}')
        assert call_standin(one, "GET", "/accounts/usage")[0] == 503
        assert (len(one.requests()), len(two.requests())) == (1, 1)


FORK = """
import os, socket, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12's, of a fork beside threads
from fense_admin.standin import StandIn

with StandIn() as fense:
    port = int(fense.url.rpartition(":")[2])
    sock = socket.create_connection(("127.0.0.1", port), timeout=5)
    sock.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    assert sock.recv(1000)
    child = os.fork()
    if not child:
        time.sleep(30)
        os._exit(0)
    fense.fail(drop="empty")
    key = fense.master_key
    sock.sendall(f"GET /accounts/1 HTTP/1.1\\r\\nHost: localhost\\r\\nx-api-key: {key}\\r\\n\\r\\n".encode())
    assert sock.recv(1000) == b"", "the drop was not seen"
try:
    socket.create_connection(("127.0.0.1", port), timeout=5)
    print("it still listens")
except ConnectionRefusedError:
    print("fine")
os.kill(child, 9)
"""

NEVER_LEFT = "from fense_admin.standin import StandIn; StandIn().__enter__(); print('fine')"
NESTED = """
import io
import bottle
from fense_admin.standin import StandIn

inner, outer = StandIn(serve=False), bottle.Bottle()

def call(app, path):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "wsgi.input": io.BytesIO()}
    started = []
    body = b"".join(app(environ, lambda *answer: started.extend(answer)))
    return body, started

@outer.get("/mine")
def mine():
    bottle.response.set_header("X-Mine", "1")
    call(inner.app, "/accounts/99")
    return bottle.request.path

with inner:
    body, (status, headers, _) = call(outer, "/mine")
    assert (body, status, dict(headers)["X-Mine"]) == (b"/mine", "200 OK", "1")
print("fine")
"""

RANDOM = """
import random
from fense_admin.standin import StandIn

random.seed(1)
expected = random.random()
random.seed(1)
with StandIn(serve=False) as fense:
    fense.create_account()
    from webtest import TestApp
    TestApp(fense.app).get("/accounts/1", headers=fense.headers)
assert random.random() == expected
print("fine")
"""


@pytest.mark.parametrize(
    "script",
    [pytest.param(FORK, marks=pytest.mark.needs("fork")), NEVER_LEFT, NESTED, RANDOM],
    ids=["fork", "left", "nested", "random"],
)
def test_a_stand_in_does_not_affect_an_application_that_calls_it(script):
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": WITHOUT_DRIVER},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("fine\n", "", 0)


def test_leaving_a_stand_in_twice_touches_no_other_file(tmp_path):
    fense = StandIn().__enter__()
    fense.__exit__()
    with open(tmp_path / "mine", "wb"), open(tmp_path / "more", "wb"):
        fense._server.stop()
        fense.__exit__()
    assert (tmp_path / "mine").read_bytes() + (tmp_path / "more").read_bytes() == b""


def test_a_stand_in_can_be_entered_only_once():
    with StandIn(serve=False) as fense, pytest.raises(RuntimeError, match="create another one"):
        fense.__enter__()
