"""Requests in the journal are found by filters, and waited for without a sleep."""

import http.client
import json
import math
import threading
import time
import urllib.parse

import pytest
from conftest import (
    MASTER_KEY,
    TIMEOUT,
    Api,
    account_fields,
    call_standin,
    connect,
    in_background,
    port_of,
    read_all,
    statuses,
    wait_until,
)

from fense_admin.serving.workers import Workers
from fense_admin.settings import Limits
from fense_admin.standin import StandIn, waits
from fense_admin.standin.journal import JOURNAL_LENGTH, Entry
from fense_admin.standin.waits import Journal

LIST = "/_standin/requests"


@pytest.fixture(scope="module")
def asked():
    """A client of a stand-in under the prefix /admin, which was sent five requests."""
    with StandIn(master_key=MASTER_KEY, serve=False, prefix="/admin") as standin:
        standin.create_account()
        api = Api(standin.app, MASTER_KEY, None)
        api.get("/admin/accounts/1")
        api.get("/admin/accounts/999")
        api.post("/admin/accounts/1", {"name": ""})
        api.post("/admin/accounts/1", {"name": "New"})
        api.call("DELETE", "/admin/accounts/1")
        yield api


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["GET 200", "GET 404", "POST 400", "POST 200", "DELETE 405"]),
        ("?method=POST", ["POST 400", "POST 200"]),
        ("?method=post", ["POST 400", "POST 200"]),
        ("?method=PUT", []),
        ("?path=/accounts/9*", ["GET 404"]),
        ("?path=/accounts/1", ["GET 200", "POST 400", "POST 200", "DELETE 405"]),
        ("?path=*", ["GET 200", "GET 404", "POST 400", "POST 200", "DELETE 405"]),
        ("?status=4xx", ["GET 404", "POST 400", "DELETE 405"]),
        ("?status=200&method=GET", ["GET 200"]),
        ("?count=2", ["POST 200", "DELETE 405"]),
        ("?count=1&status=2xx", ["POST 200"]),
        ("?wait_ms=0&status=2xx&count=2", ["GET 200", "POST 200"]),
        ("?wait_ms=0", ["DELETE 405"]),
    ],
)
def test_requests_are_found(asked, query, expected):
    answer = asked.get(f"{LIST}{query}")
    assert [f"{it['method']} {it['status']}" for it in answer.body["requests"]] == expected


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *((f"?{name}=", name) for name in waits.FILTER_RULES),
        *((f"?method={text}", "method") for text in ("a%20b", "1", "x" * 21)),
        *((f"?path={text}", "path") for text in ("accounts", "%20", "/" + "x" * 255)),
        *((f"?status={text}", "status") for text in ("x", "4", "40x", "600", "4XX", "0xx", "-1")),
        *((f"?count={text}", "count") for text in ("0", "1001", "-1", "1.5", "x")),
        *((f"?wait_ms={text}", "wait_ms") for text in ("-1", "60001", "1.5", "x", "9" * 30)),
        ("?colour=red", "colour"),
        ("?count=1&count=2", "count"),
    ],
)
def test_an_invalid_query_is_rejected(seeded_api, query, field):
    answer = seeded_api.get(LIST + query)
    assert answer.status == 400
    assert [it["field"] for it in answer.body["error"]["details"]] == [field]
    assert seeded_api.call("DELETE", f"{LIST}?count=1").status == 400


def wait_for(fense, query, timeout=TIMEOUT):
    """Wait in a thread. Return a function that returns the requests and the time it took."""
    outcome = []

    def wait():
        began = time.monotonic()
        status, _, raw = call_standin(fense, "GET", f"{LIST}?{query}", timeout=timeout)
        outcome.extend([status, json.loads(raw), time.monotonic() - began])

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    wait_until(lambda: fense.app.journal._waits or outcome)

    def result():
        thread.join(TIMEOUT)
        assert outcome
        return outcome

    return result


def test_a_wait_ends_when_the_requests_are_answered(fense):
    result = wait_for(fense, "method=POST&path=/accounts&count=2&wait_ms=60000")
    call_standin(fense, "GET", "/accounts/usage")
    for _ in range(2):
        assert call_standin(fense, "POST", "/accounts", account_fields())[0] == 201
    status, body, took = result()
    assert status == 200
    assert [(it["method"], it["status"]) for it in body["requests"]] == [("POST", 201)] * 2
    assert took < 10


def test_a_dropped_request_counts(fense):
    fense.fail(drop="empty", method="POST", after=True)
    result = wait_for(fense, "method=POST&wait_ms=60000")
    with pytest.raises(ConnectionError):
        call_standin(fense, "POST", "/accounts", account_fields())
    assert result()[1]["requests"][0]["handled"] == 201


def test_a_wait_ends_after_its_time_with_the_requests_so_far(fense):
    call_standin(fense, "GET", "/accounts/usage")
    began = time.monotonic()
    status, _, raw = call_standin(fense, "GET", f"{LIST}?count=2&wait_ms=300")
    assert (status, len(json.loads(raw)["requests"])) == (200, 1)
    assert time.monotonic() - began >= 0.3


def test_a_wait_counts_from_zero_after_the_journal_is_cleared(fense):
    call_standin(fense, "GET", "/accounts/1")
    result = wait_for(fense, "count=2&wait_ms=60000")
    call_standin(fense, "DELETE", LIST)
    call_standin(fense, "GET", "/accounts/2")
    call_standin(fense, "GET", "/accounts/3")
    assert [it["path"] for it in result()[1]["requests"]] == ["/accounts/2", "/accounts/3"]


@pytest.mark.parametrize("how", ["reset", "stop"])
def test_a_reset_and_a_stop_end_a_wait(how):
    with StandIn() as fense:
        result = wait_for(fense, "wait_ms=60000")
        if how == "reset":
            fense.reset()
            status, body, took = result()
            assert (status, body) == (200, {"requests": []})
            assert took < 10
    assert result()[0] == 200


def test_a_wait_that_begins_during_a_stop_ends_at_once():
    with StandIn() as fense:
        one = f"GET {LIST}?wait_ms=60000 HTTP/1.1\r\nHost: localhost\r\nx-api-key: {fense.master_key}\r\n\r\n"
        with connect(port_of(fense)) as sock:
            sock.sendall(2 * one.encode())
            wait_until(lambda: fense.app.journal._waits)
            fense.__exit__()
            assert statuses(read_all(sock)) == [200, 200]


def test_a_stop_ends_a_wait_in_process():
    with StandIn(serve=False) as fense:

        def end():
            wait_until(lambda: fense.app.journal._waits)
            fense.__exit__()

        began = time.monotonic()
        with in_background(end), pytest.raises(TimeoutError):
            fense.wait_for_requests(timeout=10)
        assert time.monotonic() - began < 5


def test_a_request_that_the_journal_has_dropped_since_counts(fense, monkeypatch):
    journal = Journal()
    monkeypatch.setattr(fense.app, "journal", journal)
    result = wait_for(fense, "method=POST&count=2&wait_ms=10000")
    call_standin(fense, "POST", "/accounts/1", {})
    journal.extend([Entry(path="/", method="GET") for _ in range(JOURNAL_LENGTH)])
    call_standin(fense, "POST", "/accounts/2", {})
    assert [it["path"] for it in result()[1]["requests"]] == ["/accounts/1", "/accounts/2"]


def test_the_end_of_an_instance_ends_its_waits(fense):
    made = json.loads(call_standin(fense, "POST", "/_standin/instances")[2])
    path = f"/_standin/instances/{made['id']}"
    outcome = []

    def wait():
        fense_headers = fense.headers | {"x-api-key": made["api_key"]}
        connection = http.client.HTTPConnection(fense.standin_url.split("/")[2], timeout=TIMEOUT)
        connection.request("GET", f"{path}{LIST}?wait_ms=60000", headers=fense_headers)
        outcome.append(connection.getresponse().status)
        connection.close()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    plane = fense.app.instances[made["id"]].plane
    wait_until(lambda: plane.journal._waits)
    assert call_standin(fense, "DELETE", path)[0] == 204
    thread.join(TIMEOUT)
    assert outcome == [200]


def test_the_path_is_that_within_an_instance(seeded_api):
    made = seeded_api.post("/_standin/instances", {}).body
    root = urllib.parse.urlsplit(made["base_url"]).path
    its = Api(seeded_api.client.app, made["api_key"], None, base=root)
    its.get("/accounts/1")
    (entry,) = its.get(f"{LIST}?path=/accounts/*&wait_ms=0").body["requests"]
    assert entry["path"] == f"{root}/accounts/1"


def test_a_path_is_compared_as_that_of_a_fault():
    with StandIn(prefix="/admin") as fense:
        fense.fail(500, path="/accounts/1")
        assert call_standin(fense, "GET", "/%61dmin/accounts/%31")[0] == 500
        (entry,) = fense.wait_for_requests(path="/accounts/1", timeout=0)
        assert entry["path"] == "/%61dmin/accounts/%31"


def test_a_request_cleared_in_flight_is_not_counted(fense):
    fense.fail(delay_ms=600_000)
    with in_background(lambda: call_standin(fense, "GET", "/accounts/1"), stop=fense.disarm):
        wait_until(lambda: len(fense.app.journal) == 1)
        result = wait_for(fense, "wait_ms=60000")
        call_standin(fense, "DELETE", LIST)
    call_standin(fense, "GET", "/accounts/2")
    assert [it["path"] for it in result()[1]["requests"]] == ["/accounts/2"]


def test_a_wait_ends_when_its_client_disconnects(fense):
    with connect(port_of(fense)) as sock:
        key = fense.master_key
        sock.sendall(
            f"GET {LIST}?wait_ms=60000 HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\n\r\n".encode()
        )
        wait_until(lambda: fense.app.journal._waits)
    wait_until(lambda: not fense.app.journal._waits)


def test_a_hundred_waits_block_nobody_and_one_more_is_rejected(fense):
    results = [wait_for(fense, "status=500&wait_ms=60000") for _ in range(waits.MAX_WAITS)]
    wait_until(lambda: len(fense.app.journal._waits) == waits.MAX_WAITS)
    began = time.monotonic()
    assert call_standin(fense, "GET", f"{LIST}?wait_ms=60000")[0] == 503
    assert call_standin(fense, "GET", "/accounts/usage")[0] == 200
    assert time.monotonic() - began < 5
    fense.fail(delay_ms=1)  # delays have places of their own
    assert call_standin(fense, "GET", "/accounts/usage")[0] == 200
    fense.fail(500)
    call_standin(fense, "GET", "/accounts/usage")
    assert {result()[0] for result in results} == {200}
    assert fense.app.journal._waits == []


def test_however_much_waits_connections_are_left_for_the_control_plane():
    limits = Limits()
    assert limits.waiting + waits.MAX_WAITS + waits.MAX_PAGES <= limits.connections - 20


def test_a_request_that_waits_slows_no_other_down(fense, monkeypatch):
    waiting = wait_for(fense, "method=POST&wait_ms=60000")
    wait_until(lambda: fense.app.journal._waits)
    # What helps after a moment where all workers are busy: this one is not.
    monkeypatch.setattr(Workers, "wake_another", lambda workers: None)
    for _ in range(3):
        assert call_standin(fense, "GET", "/accounts/usage")[0] == 200
    fense.reset()
    assert waiting()[0] == 200


# --- In Python -------------------------------------------------------------------------------------


def test_python_waits_for_requests(fense):
    def create():
        for _ in range(2):
            call_standin(fense, "POST", "/accounts", account_fields())

    with in_background(create):
        first, second = fense.wait_for_requests("POST", "/accounts", count=2, timeout=TIMEOUT)
    assert (first["status"], second["status"]) == (201, 201)
    first["headers"].clear()
    assert fense.requests()[0]["headers"]
    assert fense.wait_for_requests(status="2xx", timeout=0)[0]["status"] == 201


def test_a_timeout_lists_the_requests_received(fense):
    call_standin(fense, "GET", "/accounts/7")
    with pytest.raises(TimeoutError) as raised:
        fense.wait_for_requests("POST", "/accounts/*", count=2, timeout=0.1)
    assert str(raised.value) == (
        "0 of 2 arrived in 0.1 s (POST /accounts/*); received:\n"
        "GET /accounts/7 404: no account has this fense_account_id"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        *({"method": it} for it in ("", 5, b"GET")),
        *({"path": it} for it in ("x", b"/x")),
        *({"status": it} for it in (99, True, 404.0)),
        *({"count": it} for it in (0, 1.5, None, True)),
        *({"timeout": it} for it in (None, -1, True, "1", math.nan, math.inf, 10**400)),
    ],
    ids=lambda it: str(it)[:40],
)
def test_an_invalid_argument_is_a_value_error(fense, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        fense.wait_for_requests(**{"timeout": 0} | arguments)


def test_a_timeout_names_the_status_and_the_time_waited(fense):
    with (
        in_background(lambda: wait_until(lambda: fense.app.journal._waits) or fense.reset()),
        pytest.raises(TimeoutError, match=r"^0 of 1 arrived in \S+ s \(POST 2xx\)") as raised,
    ):
        fense.wait_for_requests("POST", status="2xx", timeout=60)
    assert "in 60 s" not in str(raised.value)  # the reset ended it before
