"""standin/openapi.json matches the control plane: routes, requests and responses."""

import json
from typing import get_args
from unittest.mock import Mock

import peewee
import pytest
from conftest import SERVICE_KEY, Api, change_limits
from openapi_document import CONTRACT, nodes
from openapi_document import CONTROL_PLANE as DOCUMENT

import fense_admin
from fense_admin import rules, shapes
from fense_admin.standin import document, instances
from fense_admin.standin.clock import CLOCK_RULES
from fense_admin.standin.faults import DROPS, FAULT_RULES
from fense_admin.standin.state import STATE_ACCOUNT_RULES

KEY = "sk_test_control_0001"
DIGEST = "9" * 64
LINK = "6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11"
ACCOUNT = {"api_key": KEY, "name": "Acme Ltd", "email": "owner@acme.example"}
STATE = {"accounts": [ACCOUNT]}


# --- Routes ------------------------------------------------------------------------------------


def routes(plane):
    return {
        (route.method.lower(), route.rule.removeprefix("/_standin").replace("<id>", "{id}"))
        for route in plane.control.routes
        if route.callback.__name__ not in ("method_not_allowed", "no_such_instance", "answer_page")
    }


def test_it_has_the_paths_and_methods_of_the_control_plane(seeded, seeded_api):
    served = seeded_api.get("/_standin/openapi.json").body
    assert served == DOCUMENT.whole | {"servers": [{"url": "http://localhost:80/_standin"}]}
    assert {(method, path) for method, path, _ in DOCUMENT.operations} == routes(seeded.app)


def test_the_document_of_an_instance_has_its_own_paths(seeded, seeded_api):
    made = seeded_api.post("/_standin/instances", {}).body
    its = Api(seeded.app, made["api_key"], None, base=f"/_standin/instances/{made['id']}")
    document = its.get("/_standin/openapi.json").body
    assert document["servers"] == [{"url": f"http://localhost:80{its.base}/_standin"}]
    plane = seeded.app.instances[made["id"]].plane
    found = {(method, path) for path, item in document["paths"].items() for method in item}
    assert found == routes(plane)


def test_it_contains_the_components_of_the_contract():
    for at, node in nodes(DOCUMENT.whole):
        DOCUMENT.resolved(node)  # whatever it refers to is there
        assert document.FIELDS_OF not in node, at
    schemas = DOCUMENT.components["schemas"]
    account = CONTRACT.components["schemas"]["Account"]
    for schema in ("StateAccount", "StateAccountSent"):
        assert schemas[schema]["properties"].keys() >= account["properties"].keys()
    assert set(schemas["StateAccount"]["required"]) == schemas["StateAccount"]["properties"].keys()


def test_the_kinds_of_drops_are_those_documented():
    """The list in the documents is checked by tests/test_documents.py."""
    assert DOCUMENT.components["schemas"]["FaultSent"]["properties"]["drop"]["enum"] == [*DROPS]
    assert get_args(shapes.FaultDrop) == tuple(DROPS)


# --- Requests ----------------------------------------------------------------------------------

FLAG = [True, False], [None, 0, "true"]
RELATIVE = (
    ["0", "-1", "-7", "-699999", "2026-11-03"],
    ["-0", "-07", "-7\n", "+1", "1", "", "-", "today"],
)
NO_INTEGER = [None, True, 1.5, float("inf"), float("nan"), "1", "1.0", [], {}]
LOOKUPS = (
    [0, 1, 12.0, rules.MAX_LOOKUPS, float(rules.MAX_LOOKUPS)],
    [-1, rules.MAX_LOOKUPS + 1, *NO_INTEGER],
)
TIMES = ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"], [None, 1, "", "2026-11-23", "now"]
# Of each field, values that are taken and values that are not.
FAULT_VALUES = {
    "status": ([400, 599, 503.0], [399, 600, *NO_INTEGER]),
    "method": (["GET", "HEAD", "POST"], ["get", "PUT", "", None, 1]),
    "path": (["/", "*", "/accounts/*", "/" + "x" * 254],
             ["", "x", "/a b", "/é", "/x\n", "/" + "x" * 255, None, 1]),
    "times": ([0, 1, 2.0, 10**12], [-1, 10**12 + 1, *NO_INTEGER]),
    "skip": ([0, 1, 2.0, 10**12], [-1, 10**12 + 1, *NO_INTEGER]),
    "after": ([True, False], [None, 1, "true"]),
    "delay_ms": ([0, 1, 1.0, 600_000, [0, 600_000], [3, 3.0]],
                 [-1, 600_001, [], [1], [1, 2, 3], [1, -1], [0, 600_001], [1, "2"], *[it for it in NO_INTEGER if it != []]]),
    "random_seed": ([0, -rules.MAX_ID, rules.MAX_ID], [rules.MAX_ID + 1, *NO_INTEGER]),
    "drop": ([*DROPS], ["", "Reset", None, True]),
    "headers": ([{}, {"Retry-After": "7"}, {"x-1": " ~"}],
                [None, [], "x", {"": "x"}, {"a b": "x"}, {"x": 1}, {"x": None}, {"x": "é"}, {"x": "\n"}, {"x\n": "x"}]),
    "message": (["", "x", "é" * 9], [None, 1, "x\n", "\x7f", "\x85"]),
    "body": (["", "x\n\0é"], [None, 1, []]),
    "content_type": (["text/html", "a b"], [None, 1, "", " a", "a\n", "é", "x" * 256]),
}  # fmt: skip
ACCOUNT_VALUES = {
    "api_key": ([KEY, "!"], [None, 1, "", "a b", "é", "x" * 256]),
    "api_key_sha256": ([DIGEST, "abcdef" + "0" * 58], [None, 1, "", "9" * 63, "9" * 65, "A" * 64]),
    "api_key_last4": (["9f2c", None], [1, "", "9f2", "9f2cc", "9f2 "]),
    "name": (["x", " x "], [None, 1, "", " ", "x\n", "x" * 256]),
    "email": (["a@b"], [None, 1, "", "a", "a@b@c", "a@b "]),
    **dict.fromkeys(["suppress_notifications", "suppress_billing", "is_active"], FLAG),
    "dispute_account_id": ([LINK, LINK.upper(), None], [1, "", LINK[:-1]]),
    "fense_account_id": ([1, 7.0, rules.MAX_ID, float(rules.MAX_ID)], [0, rules.MAX_ID + 1, *NO_INTEGER]),
    **dict.fromkeys(["created_at", "updated_at"], TIMES),
    "usage": ([{}, *({day: value} for day in RELATIVE[0] for value in LOOKUPS[0])],
              [None, [], 1, *({day: 1} for day in [*RELATIVE[1], "2026-13-01", "0000-01-01"]),
               *({"2026-11-03": value} for value in LOOKUPS[1])]),
}  # fmt: skip
ENTRY_VALUES = {
    "fense_account_id": ([1, 1.0], [-(2**63) - 1, 2**63, *NO_INTEGER]),
    "date": (
        [*RELATIVE[0], 0, -1, -1.0, -0.0, -699_999],
        [*RELATIVE[1], None, 1, True, -1.5, [], "2026-13-01"],
    ),
    "lookups": LOOKUPS,
}
INSTANCE_VALUES = {
    "seed": (["demo", STATE], [None, "x", 1, [], {}, {"accounts": [{}]}]),
    "name": (["x", "é" * 100, None], ["", "x" * 101, "x\n", "\x85", 1, []]),
}
FRACTIONS = [f"2026-11-30T23:59:59.{digits}Z" for digits in ("0", "000", "999999999")]
CLOCK_TIMES = [*TIMES[0], *FRACTIONS], [*TIMES[1], "2026-11-30T23:59:59.Z"]
CLOCK_VALUES = {
    "now": CLOCK_TIMES,
    "advance_seconds": ([0, -1, 1, -1.0], [10**12 + 1, *NO_INTEGER]),
}
TABLES = {  # of each schema: a method and path that take it, the values, the rules
    "FaultSent": ("POST /faults", FAULT_VALUES, FAULT_RULES),
    "StateAccountSent": ("PUT /state", ACCOUNT_VALUES, STATE_ACCOUNT_RULES),
    "LookupsSent": ("POST /usage", ENTRY_VALUES, None),
    "InstanceSent": ("POST /instances", INSTANCE_VALUES, None),
    "ClockSent": ("PUT /clock", CLOCK_VALUES, CLOCK_RULES),
}


def around(schema, name, value):
    """Return a valid object except for this value of a field."""
    fields = {name: value}
    if schema == "FaultSent":
        needed = {
            "status": {"drop": "empty"},
            "random_seed": {"delay_ms": [1, 2]},
            "content_type": {"status": 503, "body": ""},
        }
        return needed.get(name, {"status": 503}) | fields
    if schema == "StateAccountSent":
        without_key = {key: ACCOUNT[key] for key in ACCOUNT if key != "api_key"}
        by_digest = without_key | {"api_key_sha256": DIGEST}
        return (by_digest if name.startswith("api_key_") else ACCOUNT) | fields
    if schema == "LookupsSent":
        return {"fense_account_id": 1, "lookups": 1} | fields
    return fields


def sent_as(schema, value):
    """Return a body that contains an object of this schema."""
    return {"StateAccountSent": {"accounts": [value]}, "LookupsSent": [value]}.get(schema, value)


@pytest.mark.parametrize("schema", TABLES)
def test_the_document_and_the_control_plane_accept_the_same(seeded, seeded_api, schema):
    where, table, its_rules = TABLES[schema]
    method, path = where.split()
    properties = DOCUMENT.components["schemas"][schema]["properties"]
    assert properties.keys() == table.keys() == (its_rules or table).keys()
    seeded.set_clock("2026-11-26T12:00:00Z")

    def check(value, accepted):
        if schema == "LookupsSent":
            seeded.load(STATE)  # no day is full
        answer = seeded_api.call(method, "/_standin" + path, sent_as(schema, value))
        assert (answer.status < 300) is accepted, (value, answer.body)
        assert answer.status in (200, 201, 400)
        assert DOCUMENT.takes(schema, value) is accepted, value

    for name, (accepted, refused) in table.items():
        for value in accepted:
            check(around(schema, name, value), True)
        for value in refused:
            check(around(schema, name, value), False)
    first = next(iter(table))
    whole = around(schema, first, table[first][0][0])
    check(whole | {"colour": "red"}, False)
    for value in ([], "x", 1):
        check(value, False)
    for name in DOCUMENT.components["schemas"][schema].get("required", ()):
        check({key: whole[key] for key in whole if key != name}, False)


def test_a_whole_number_with_a_point_is_kept_as_an_integer(seeded, seeded_api):
    """JSON Schema counts 12.0 as an integer."""
    seeded.set_clock("2026-11-26T12:00:00Z")
    account = ACCOUNT | {"fense_account_id": 7.0, "usage": {"2026-11-26": 12.0, "2026-11-25": 0.0}}
    seeded_api.call("PUT", "/_standin/state", {"accounts": [account]})
    entry = {"fense_account_id": 7.0, "date": -1.0, "lookups": 2.0}
    recorded = seeded_api.post("/_standin/usage", [entry])
    fault = {"status": 503.0, "times": 2.0, "delay_ms": 0.0, "path": "/nowhere"}
    armed = seeded_api.post("/_standin/faults", fault)
    moved = seeded_api.call("PUT", "/_standin/clock", {"advance_seconds": 60.0})
    state = seeded_api.get("/_standin/state")
    assert [it.status for it in (recorded, armed, moved)] == [200, 201, 200]
    assert moved.body["now"] == "2026-11-26T12:01:00Z"
    assert state.body["accounts"][0]["fense_account_id"] == 7
    assert state.body["accounts"][0]["usage"] == {"2026-11-25": 2, "2026-11-26": 12}
    assert ".0" not in json.dumps([state.body, recorded.body, armed.body])
    assert seeded_api.get("/accounts/usage/7").body["total_lookups"] == 14


def test_a_number_too_large_for_a_double_is_refused(seeded_api):
    for number in (b"1e400", b"-1e400"):
        body = b'[{"fense_account_id": 1, "lookups": %b}]' % number
        answer = seeded_api.post("/_standin/usage", body)
        assert (answer.status, answer.body["error"]["details"][0]["field"]) == (400, "[0].lookups")


@pytest.mark.parametrize(
    ("schema", "method", "path"), [("StateSent", "PUT", "state"), ("ClockSent", "PUT", "clock")]
)
def test_an_object_with_missing_or_extra_fields_is_rejected_by_both(
    seeded, seeded_api, schema, method, path
):
    seeded.set_clock("2026-11-26T12:00:00Z")
    for body in (
        {},
        {"accounts": None},
        {"accounts": [1]},
        {"accounts": [], "more": 1},
        {"now": "2026-11-26T12:00:00Z", "advance_seconds": 1},
    ):
        assert seeded_api.call(method, f"/_standin/{path}", body).status == 400
        assert not DOCUMENT.takes(schema, body)


# --- Answers -----------------------------------------------------------------------------------

BODIES = {
    "put /state": STATE,
    "post /usage": [{"fense_account_id": 1, "lookups": 12}],
    "post /faults": {"status": 503, "path": "/accounts/7", "headers": {"Retry-After": "7"}},
    "put /clock": {"now": "2026-11-30T23:59:59Z"},
    "post /instances": {},
}


@pytest.mark.parametrize(("method", "path", "operation"), DOCUMENT.operations)
def test_the_responses_are_the_documented_ones(
    seeded, seeded_api, monkeypatch, method, path, operation
):
    seeded_api.get("/accounts/1?key=1")
    seeded_api.post("/accounts/7", {"suppress_billing": True})
    seeded.fail(delay_ms=1, times=0, path="/accounts/8")
    seeded.fail(503, path="/accounts/9", headers={"Retry-After": "7"}, message="later")
    seeded_api.get("/accounts/8")
    seeded_api.get("/accounts/9")
    seeded_api.post("/_standin/instances", {})
    statuses = set()

    def ask(query="", id=None, **options):
        id = id or next(iter(seeded.app.instances), "none")
        body = BODIES.get(f"{method} {path}")
        url = "/_standin" + path.replace("{id}", id) + query
        answer = seeded_api.call(method.upper(), url, **{"body": body} | options)
        DOCUMENT.assert_documented(answer, operation)
        statuses.add(str(answer.status))

    for app in (seeded.app, seeded.app.control):
        change_limits(app, body=1024, state_body=2048)
    monkeypatch.setattr(instances, "MAX_INSTANCES", 2)
    ask(query="?colour=red")
    if f"{method} {path}" in BODIES:
        ask(body=b" " * 2049)
    if path == "/usage":
        ask(body=[{"fense_account_id": 99, "lookups": 1}])
    for key in (None, SERVICE_KEY):
        ask(key=key)
    ask()
    ask()
    if "{id}" in path:
        ask(id="none")
    if path == "/instances":
        ask()
    for fault in (peewee.OperationalError("database is locked"), RuntimeError("a fault of ours")):
        monkeypatch.setattr(seeded.app.db.engine, "ensure_same_file", Mock(side_effect=fault))
        ask()
    assert statuses == set(operation["responses"])


def test_the_example_of_its_own_header_is_of_this_version():
    header = DOCUMENT.components["headers"]["X-Standin"]
    assert header["example"] == f"fense-admin/{fense_admin.__version__}"
