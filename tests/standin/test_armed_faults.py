"""Armed faults apply to matching requests, as often as they say; invalid ones are not armed."""

import re

import pytest
from conftest import MASTER_KEY, SEED, Api, account_fields, refusal

from fense_admin import ApiKeyPlugin
from fense_admin.standin import StandIn
from fense_admin.standin.control import ControlPlane
from fense_admin.standin.faults import DROPS, FAULT_RULES


def test_a_fault_comes_back_with_its_id_and_the_times_left(seeded_api):
    sent = {
        "status": 429,
        "method": "POST",
        "path": "/accounts/*",
        "times": 2,
        "delay_ms": 0,
        "headers": {"Retry-After": "7", "X-Any": ""},
        "message": "slow down",
    }
    answer = seeded_api.post("/_standin/faults", sent)
    assert (answer.status, answer.body) == (201, {"id": 1} | sent | {"used": 0})
    assert seeded_api.post("/_standin/faults", {"drop": "reset"}).body == {
        "id": 2,
        "drop": "reset",
        "times": 1,
        "used": 0,
    }
    refused = seeded_api.post("/accounts/1", {})
    assert refused.body == refusal(code="too_many_requests", message="slow down")
    assert (refused.status, refused.headers["Retry-After"]) == (429, "7")
    armed = seeded_api.get("/_standin/faults").body["faults"]
    assert armed == [
        {"id": 1} | sent | {"times": 1, "used": 1},
        {"id": 2, "drop": "reset", "times": 1, "used": 0},
    ]
    assert seeded_api.call("DELETE", "/_standin/faults").status == 204
    assert seeded_api.get("/_standin/faults").body == {"faults": []}


STATUS = "must be a whole number from 400 to 599"
GLOB = "must be a glob of a path, such as /accounts/*"
NOTHING = "the fault does nothing: give it a status, a drop or a delay_ms"
BAD_FAULTS = [
    *(({"status": status}, ("status", STATUS)) for status in (399, 600, "503", 503.5, True)),
    ({"status": 503, "methd": "GET"}, ("methd", "is not accepted here; did you mean method?")),
    ({"status": 503, "method": "get"}, ("method", "must be one of GET, HEAD, POST")),
    ({"status": 503, "method": ["GET"]}, ("method", "must be one of GET, HEAD, POST")),
    *(({"status": 503, "path": path}, ("path", GLOB)) for path in ("", "accounts", "/a b", "/\n")),
    ({"status": 503, "path": 1}, ("path", "must be a string")),
    ({"status": 503, "times": -1}, ("times", "must be a whole number from 0 to 1000000000000")),
    ({"status": 503, "times": 2**63}, ("times", "must be a whole number from 0 to 1000000000000")),
    ({"delay_ms": 600_001}, ("delay_ms", "must be a whole number from 0 to 600000")),
    ({"delay_ms": "5"}, ("delay_ms", "must be a whole number from 0 to 600000")),
    ({"drop": "half"}, ("drop", f"must be one of {', '.join(DROPS)}")),
    ({"status": 503, "headers": []}, ("headers", "must be an object")),
    ({"status": 503, "message": 5}, ("message", "must be a string")),
    ({"delay_ms": 5, "message": "x"}, ("message", "needs a status or a drop")),
    ({"delay_ms": 5, "headers": {}}, ("headers", "needs a status or a drop")),
    (
        {"status": 503, "message": "a\nb"},
        ("message", "must be one line without control characters"),
    ),
    ({"status": 503, "headers": {"a": "1", "A": "2"}}, ("headers", "has a header twice")),
    ({"status": 503, "id": 1}, ("id", "is not accepted here")),
]


@pytest.mark.parametrize(("sent", "fault"), BAD_FAULTS, ids=str)
def test_an_invalid_fault_is_not_armed(seeded, seeded_api, sent, fault):
    answer = seeded_api.post("/_standin/faults", sent)
    assert (answer.status, answer.body) == (400, refusal(fault))
    is_keyword = sent.keys() <= FAULT_RULES.keys()  # else Python itself rejects it
    with pytest.raises(
        ValueError if is_keyword else TypeError,
        match=re.escape(" ".join(fault)) if is_keyword else fault[0],
    ):
        seeded.fail(**sent)
    assert seeded_api.get("/_standin/faults").body == {"faults": []}


@pytest.mark.parametrize("sent", [{}, {"times": 3}, {"delay_ms": 0}, {"method": "GET"}])
def test_a_fault_that_does_nothing_is_not_armed(seeded_api, sent):
    answer = seeded_api.post("/_standin/faults", sent)
    assert (answer.status, answer.body) == (400, refusal(message=NOTHING))


@pytest.mark.parametrize(
    "headers",
    [
        *(
            {name: "x"}
            for name in ("Content-Length", "content-type", "DATE", "Connection", "Server")
        ),
        *({name: "x"} for name in ("Transfer-Encoding", "X-Request-Id", "X-Standin", "Via")),
        *({name: "x"} for name in ("", "a b", "a:", "a\n", "ä", "a_b")),
        *({"X-Any": value} for value in ("a\r\nb: c", "\n", "\0", "ä", "\u2028", 5, None, [])),
    ],
    ids=ascii,
)
def test_a_fault_can_not_set_invalid_or_reserved_headers(seeded_api, headers):
    answer = seeded_api.post("/_standin/faults", {"status": 503, "headers": headers})
    (detail,) = answer.body["error"]["details"]
    assert (answer.status, detail["field"]) == (400, "headers")
    assert seeded_api.get("/_standin/faults").body == {"faults": []}


def test_the_oldest_fault_that_matches_is_used(seeded_api):
    for sent in (
        {"status": 501, "method": "POST"},
        {"status": 502, "path": "/accounts/usage*"},
        {"status": 503, "times": 0},
    ):
        seeded_api.post("/_standin/faults", sent)
    assert [seeded_api.get("/accounts/1").status for _ in range(3)] == [503] * 3
    assert [seeded_api.get("/accounts/usage/1").status for _ in range(2)] == [502, 503]
    assert [seeded_api.post("/accounts/1", {}).status for _ in range(2)] == [501, 503]
    assert seeded_api.call("HEAD", "/accounts/1").status == 503


def test_a_fault_without_after_reads_and_changes_nothing(seeded_api):
    before = seeded_api.get("/_standin/state").body
    seeded_api.post("/_standin/faults", {"status": 500, "times": 3})
    for path, body in (("/accounts", account_fields()), ("/accounts/1", {"name": "x"})):
        assert seeded_api.post(path, body).status == 500
    assert seeded_api.post("/accounts/nonsense?x=1", b"{nonsense").status == 500
    assert seeded_api.get("/_standin/state").body == before


def test_rejected_requests_and_unknown_paths_do_not_consume_faults(seeded_api):
    seeded_api.post("/_standin/faults", {"status": 503})
    for method, path, key, status in (
        ("GET", "/accounts/1", None, 401),
        ("GET", "/accounts/1", "who-knows", 401),
        ("GET", "/accounts/1", "sk_test_acme_000001", 403),
        ("GET", "/nothing", MASTER_KEY, 404),
        ("DELETE", "/accounts/1", MASTER_KEY, 405),
        ("GET", "/healthz", MASTER_KEY, 200),
        ("GET", "/openapi.json", MASTER_KEY, 200),
        ("GET", "/_standin/state", MASTER_KEY, 200),
    ):
        assert seeded_api.call(method, path, key=key).status == status
    assert seeded_api.get("/accounts/1").status == 503
    assert seeded_api.get("/accounts/1").status == 200


def test_the_path_of_a_fault_has_no_prefix():
    with StandIn(SEED, prefix="/admin", serve=False) as fense:
        api = Api(fense.app, fense.master_key, None, base="/admin")
        fense.fail(503, path="/accounts/[0-9]*")
        assert api.get("/accounts/usage").status == 200
        assert api.get("/accounts/1").status == 503


def test_faults_count_from_one_after_a_reset(seeded):
    seeded.fail(503)
    seeded.reset()
    assert seeded.fail(503)["id"] == 1


# --- Every route of the contract ---------------------------------------------------------------


def test_faults_apply_to_a_route_added_to_the_contract(app):
    app.contract("/new", GET=lambda db: {"new": True})
    api = Api(ControlPlane(app, MASTER_KEY), MASTER_KEY, None)
    api.post("/_standin/faults", {"status": 503})
    assert api.get("/new").status == 503
    assert api.get("/new").body == {"new": True}


def test_faults_apply_to_every_route_with_a_key(app):
    """Detects routes not added by `contract`, to which faults would never apply."""
    api = Api(ControlPlane(app, MASTER_KEY), MASTER_KEY, None)
    for route in app.routes:
        if route.callback.__name__ == "method_not_allowed" or ApiKeyPlugin in route.skiplist:
            continue
        api.post("/_standin/faults", {"status": 418})
        path = re.sub("<.*>", "1", route.rule)
        assert api.call(route.method, path).status == 418, f"{route.method} {route.rule}"
