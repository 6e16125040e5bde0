"""Faults with `after`: the request is handled, and its response is lost, late or replaced."""

import http.client
import json
import time

import pytest
from conftest import account_fields, call_standin, connect, port_of, talk

from fense_admin.standin import StandIn

NEW = {"method": "POST", "path": "/accounts"}


def create(api, **fields):
    return api.post("/accounts", account_fields(**fields))


def get(fense, path, version="1.1"):
    """The bytes of a request."""
    head = f"GET {path} HTTP/{version}\r\nHost: localhost\r\nx-api-key: {fense.master_key}"
    return f"{head}\r\n\r\n".encode()


def read_on(sock, received):
    while part := sock.recv(9999):
        received += part


def journal(standin):
    return [(it["method"], it["status"], it["fault"], it["handled"]) for it in standin.requests()]


# --- After the request was handled -----------------------------------------------------------------


def test_the_account_is_created_but_its_response_is_replaced(seeded, seeded_api):
    seeded.fail(504, after=True, message="gone", headers={"Retry-After": "1"}, **NEW)
    before = seeded_api.get("/accounts/usage").body["accounts"]
    key = "key-that-is-used-twice"
    lost = create(seeded_api, api_key=key)
    assert (lost.status, lost.body["error"]["message"]) == (504, "gone")
    assert lost.body["error"]["code"] == "gateway_timeout"
    assert lost.headers["Retry-After"] == "1"
    assert "Location" not in lost.headers
    after = seeded_api.get("/accounts/usage").body["accounts"]
    assert len(after) == len(before) + 1
    again = create(seeded_api, api_key=key)  # what a client that retries finds
    assert (again.status, again.body["error"]["details"][0]["field"]) == (400, "api_key")
    assert journal(seeded)[1:2] == [("POST", 504, 1, 201)]
    assert journal(seeded)[-1] == ("POST", 400, None, None)


def test_a_rejected_request_has_no_effect_before_its_response_is_replaced(seeded, seeded_api):
    seeded.fail(503, after=True, times=3)
    assert seeded_api.post("/accounts/1", {"email": "x"}).status == 503
    assert seeded_api.get("/accounts/999").status == 503
    assert seeded_api.call("HEAD", "/accounts/999").body is None
    assert [entry[3] for entry in journal(seeded)] == [400, 404, 404]
    seeded.fail(503, after=True)
    assert seeded_api.get("/accounts/1", key="wrong").status == 401
    assert seeded_api.get("/nonsense").status == 404
    assert seeded.faults()[0]["used"] == 0


@pytest.mark.parametrize("drop", ["reset", "empty", "truncate"])
def test_a_write_is_saved_when_its_response_is_dropped(seeded, seeded_api, drop):
    seeded.fail(drop=drop, after=True, method="POST")
    with pytest.raises(ConnectionResetError):
        seeded_api.post("/accounts/1", {"name": "Renamed"})
    assert seeded_api.get("/accounts/1").body["name"] == "Renamed"
    assert journal(seeded)[0] == ("POST", None, 1, 200)


def test_truncate_cuts_the_real_response(fense):
    fense.create_account(name="Acme Ltd")
    whole = call_standin(fense, "GET", "/accounts/1")[2]
    fense.fail(drop="truncate", after=True)
    raw = talk(port_of(fense), get(fense, "/accounts/1"))
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == whole[: len(whole) // 2]


@pytest.mark.parametrize(("method", "body"), [("HEAD", {}), ("GET", {"body": ""})])
def test_a_response_without_a_body_is_not_sent_at_all_instead_of_cut(fense, method, body):
    fense.fail(500, drop="truncate", after=True, **body)
    raw = talk(port_of(fense), get(fense, "/accounts/1").replace(b"GET", method.encode()))
    assert raw == b""


@pytest.fixture
def in_pieces(fense, monkeypatch):
    """A stand-in whose usage of all accounts is sent in several pieces."""
    from fense_admin import models

    monkeypatch.setattr(models, "AT_ONCE", 1)
    models.totals.cache_clear()
    for _ in range(3):
        fense.create_account()
    yield fense
    models.totals.cache_clear()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_truncate_cuts_a_streamed_response(in_pieces, version):
    fense = in_pieces
    fense.fail(drop="truncate", after=True, path="/accounts/usage")
    received = bytearray()
    with connect(port_of(fense)) as sock:
        sock.sendall(get(fense, "/accounts/usage", version))
        with pytest.raises(ConnectionResetError):
            read_on(sock, received)
    assert not received.endswith(b"0\r\n\r\n")
    assert call_standin(fense, "GET", "/accounts/usage")[0] == 200
    fense.create_account()  # no reader keeps a writer out


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_response_in_pieces_is_dropped_as_any_other(in_pieces, version):
    in_pieces.fail(drop="empty", after=True)
    with connect(port_of(in_pieces)) as sock:
        sock.sendall(get(in_pieces, "/accounts/usage", version))
        assert sock.recv(1) == b""  # and no reset
    in_pieces.fail(drop="reset", after=True)
    with connect(port_of(in_pieces)) as sock:
        sock.sendall(get(in_pieces, "/accounts/usage", version))
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_write_is_saved_before_its_delay(seeded, seeded_api):
    seeded.fail(delay_ms=300, after=True, method="POST")
    began = time.monotonic()
    answer = seeded_api.post("/accounts/1", {"name": "Late"})
    assert (answer.status, answer.body["name"]) == (200, "Late")
    assert time.monotonic() - began >= 0.3
    assert journal(seeded)[0] == ("POST", 200, 1, 200)


def test_a_write_is_saved_although_its_client_gave_up(fense):
    fense.create_account(name="Acme Ltd")
    fense.fail(delay_ms=600_000, after=True, method="POST")
    with pytest.raises(TimeoutError):
        call_standin(fense, "POST", "/accounts/1", {"name": "Late"}, timeout=0.5)
    assert json.loads(call_standin(fense, "GET", "/accounts/1")[2])["name"] == "Late"


# --- Bodies and headers ----------------------------------------------------------------------------

HTML = "<h1>502 Bad Gateway · nginx</h1>"


@pytest.mark.parametrize("after", [False, True])
def test_a_gateways_error_page_is_sent_unchanged(fense, after):
    fense.fail(502, body=HTML, content_type="text/html; charset=utf-8", after=after, times=2)
    for method in ("GET", "HEAD"):
        status, headers, body = call_standin(fense, method, "/accounts/usage")
        assert (status, body) == (502, HTML.encode() if method == "GET" else b"")
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert headers["Content-Length"] == str(len(HTML.encode()))
    assert fense.requests()[0]["response"] == HTML


def test_a_body_may_be_empty_and_is_plain_text_by_default(fense):
    fense.fail(504, body="")
    status, headers, body = call_standin(fense, "GET", "/accounts/1")
    assert (status, body) == (504, b"")
    assert headers["Content-Type"] == "text/plain; charset=utf-8"


def test_a_key_in_a_body_is_masked_in_the_journal(seeded, seeded_api):
    seeded.fail(500, body=f"{seeded.master_key} is yours")
    seeded_api.client.get("/accounts/1", headers=dict(seeded.headers), expect_errors=True)
    assert seeded.master_key not in json.dumps(seeded.requests())


def test_a_fault_may_replace_headers_of_the_service(fense):
    wanted = {
        "Cache-Control": "max-age=60",
        "Keep-Alive": "timeout=1",
        "Proxy-Authenticate": "Basic",
    }
    wanted |= {"Set-Cookie": "a=b", "Upgrade": "h2c", "TE": "trailers"}
    for after in (False, True):
        fense.fail(407, headers=wanted, after=after)
        headers = call_standin(fense, "GET", "/accounts/1")[1]
        assert {name: headers.get_all(name) for name in wanted} == {
            name: [value] for name, value in wanted.items()
        }
    assert call_standin(fense, "GET", "/accounts/usage")[1]["Cache-Control"] == "no-store"


# --- Which requests, and how long ------------------------------------------------------------------


def test_the_third_page_fails(seeded, seeded_api):
    seeded.fail(503, skip=2, path="/accounts/*", times=1)
    assert [seeded_api.get("/accounts/1").status for _ in range(4)] == [200, 200, 503, 200]


def test_a_newer_fault_applies_to_a_skipped_request(seeded, seeded_api):
    seeded.fail(503, skip=1, times=0)
    seeded.fail(500, times=2)
    assert [seeded_api.get("/accounts/1").status for _ in range(3)] == [500, 503, 503]
    first, second = seeded.faults()
    assert (first["skip"], first["used"], second["used"]) == (1, 2, 1)


def test_delays_are_drawn_and_can_be_repeated():
    def delays(seed):
        with StandIn(serve=False) as standin:
            standin.fail(delay_ms=[50, 5_000], times=0, random_seed=seed)
            return [standin.app.faults.take("GET", "/accounts/1").delay for _ in range(20)]

    one, two = delays(7), delays(7)
    assert one == two
    assert one != delays(8)
    assert all(0.05 <= delay <= 5 for delay in one)
    assert len(set(one)) > 10


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"after": True}, "after"),
        ({"after": True, "delay_ms": 0}, "after"),
        ({"delay_ms": [0, 0]}, None),
        ({"after": "yes", "status": 503}, "after"),
        ({"after": True, "drop": "reset", "message": "x"}, "message"),
        ({"after": True, "drop": "reset", "headers": {}}, "headers"),
        ({"body": "x", "delay_ms": 1}, "body"),
        ({"body": "x", "drop": "truncate"}, "body"),
        ({"body": 5, "status": 503}, "body"),
        ({"body": "x" * 65_537, "status": 503}, "body"),
        ({"body": "ä" * 32_769, "status": 503}, "body"),
        ({"body": "x", "message": "y", "status": 503}, "message"),
        ({"content_type": "text/html", "status": 503}, "content_type"),
        ({"content_type": "", "body": "", "status": 503}, "content_type"),
        ({"content_type": "a\nb", "body": "", "status": 503}, "content_type"),
        ({"skip": -1, "status": 503}, "skip"),
        ({"skip": 1.5, "status": 503}, "skip"),
        ({"delay_ms": [2, 1]}, "delay_ms"),
        ({"delay_ms": [1]}, "delay_ms"),
        ({"delay_ms": [1, 2, 3]}, "delay_ms"),
        ({"delay_ms": [1, "2"]}, "delay_ms"),
        ({"delay_ms": [0, 600_001]}, "delay_ms"),
        ({"delay_ms": 5, "random_seed": 1}, "random_seed"),
        ({"delay_ms": [1, 5], "random_seed": "x"}, "random_seed"),
    ],
    ids=ascii,
)
def test_an_invalid_fault_is_rejected_and_not_armed(seeded_api, sent, field):
    answer = seeded_api.post("/_standin/faults", sent)
    assert answer.status == 400
    assert [it["field"] for it in answer.body["error"]["details"]] == ([field] if field else [])
    assert seeded_api.get("/_standin/faults").body == {"faults": []}


def test_an_armed_fault_is_returned_as_sent(seeded_api):
    sent = {
        "status": 502,
        "after": True,
        "skip": 2,
        "delay_ms": [1, 2],
        "random_seed": -3,
        "body": "",
        "content_type": "text/html",
    }
    answer = seeded_api.post("/_standin/faults", sent)
    assert (answer.status, answer.body) == (201, {"id": 1, **sent, "times": 1, "used": 0})


def test_an_account_exists_after_an_empty_drop(fense):
    fense.fail(drop="empty", after=True, method="POST")
    with pytest.raises(http.client.RemoteDisconnected):
        call_standin(fense, "POST", "/accounts", account_fields())
    assert len(fense.state()["accounts"]) == 1
