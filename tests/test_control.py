"""The control plane: who may, what it does, what it refuses, and that a refusal changes nothing."""

import base64
import json
import re
import time

import pytest
from conftest import Api, account_fields, refusal

from fense_admin import __version__
from fense_admin.standin import StandIn
from fense_admin.standin.control import ControlPlane

KEY, SERVICE = "master-of-tests-1a2b", "service-of-tests-3c4d"
SEED = {
    "accounts": [
        {
            "api_key": "sk_test_acme_000001",
            "name": "Acme Ltd",
            "email": "owner@acme.example",
            "suppress_billing": True,
            "is_active": False,
            "usage": {"2026-11-01": 12, "2026-11-02": 7},
        },
        {"api_key": "beta", "name": "Beta", "email": "b@beta.example", "fense_account_id": 7},
    ]
}


@pytest.fixture
def fense():
    with StandIn(SEED, master_key=KEY, service_key=SERVICE, serve=False) as fense:
        yield fense


@pytest.fixture
def api(fense):
    return Api(fense.app, KEY, SERVICE)


def everything(api):
    """All that the control plane can show, but the journal."""
    return [api.get(f"/_standin/{what}").body for what in ("state", "faults")]


# --- Who may -----------------------------------------------------------------------------------

ENDPOINTS = [
    ("GET", "/_standin/"),
    ("POST", "/_standin/reset"),
    ("GET", "/_standin/state"),
    ("PUT", "/_standin/state"),
    ("POST", "/_standin/usage"),
    ("GET", "/_standin/faults"),
    ("POST", "/_standin/faults"),
    ("DELETE", "/_standin/faults"),
    ("GET", "/_standin/requests"),
    ("DELETE", "/_standin/requests"),
]
FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": ""},
    *(
        {"Host": host}
        for host in ("evil.example", "127.0.0.1.evil.example", "192.0.2.1:80", "[::2]")
    ),
    *({"Host": host} for host in ("localhost.evil.example", "0.0.0.0", "", "localhost:80:80")),
]
OWN = [
    {"Origin": "http://localhost:80"},
    {"Origin": "https://127.0.0.1:8642", "Host": "127.0.0.1:8642"},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    *({"Host": host} for host in ("localhost", "LocalHost:1", "127.9.9.9", "[::1]", "[::1]:8642")),
]


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_only_the_master_key_opens_it(fense, api, method, path):
    merchant = fense.create_account(api_key="sk_merchant_0001")
    api.post("/_standin/faults", {"status": 503, "times": 0})
    before = everything(api)
    for key, status in (
        (None, 401),
        ("", 401),
        ("who-knows", 401),
        (SERVICE, 403),
        ("sk_merchant_0001", 403),
    ):
        answer = api.call(method, path, b"{nonsense", key=key)
        assert (answer.status, list(answer.body)) == (status, ["error"])
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)
        basic_key = basic("x", key or "")
        assert api.call(method, path, b"{nonsense", key=None, headers=basic_key).status == status
    for header in ("Basic", "Basic !", "Basic " + "=" * 9, "Bearer " + KEY, "Basic w6Q6w6Q="):
        answer = api.call(method, path, key=None, headers={"Authorization": header})
        assert answer.status == 401
    assert everything(api) == before
    assert merchant["fense_account_id"] in [a["fense_account_id"] for a in before[0]["accounts"]]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_no_page_from_elsewhere_reaches_it(api, method, path, headers):
    before = everything(api)
    answer = api.call(method, path, {"status": 503}, headers=headers)
    assert (answer.status, answer.body["error"]["code"]) == (403, "forbidden")
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert everything(api) == before


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_its_own_page_reaches_it(api, headers):
    assert api.get("/_standin/state", headers=headers).status == 200
    headers |= basic("anyone", KEY)
    assert api.get("/_standin/state", key=None, headers=headers).status == 200


def test_where_other_machines_reach_it_any_host_will_do(make_app):
    app = make_app(master_key=KEY)
    api = Api(ControlPlane(app, KEY, on_loopback=False), KEY, None)
    assert api.get("/_standin/state", headers={"Host": "fense.example"}).status == 200
    assert api.get("/_standin/state", headers={"Origin": "http://evil.example"}).status == 403


def test_under_the_development_key_the_page_opens_without_asking(make_app):
    app = make_app(master_key="local-dev-key")
    api = Api(ControlPlane(app, "local-dev-key"), "local-dev-key", None)
    page = api.client.get("/_standin/")
    assert "stand-in" in page.text
    assert api.get("/").body["error"]["message"].endswith(", a page for people is at /_standin/")
    assert api.get("/_standin/state", key=None).status == 401
    assert api.call("POST", "/_standin/", b"", key=None).status == 401


def test_the_page_shows_what_there_is_and_runs_nothing(fense, api):
    api.post(
        "/accounts", account_fields(name="<script>alert(1)</script>", api_key="sk_secret_12345")
    )
    fense.fail(503, message="<b>")
    page = api.client.get("/_standin/", headers={"x-api-key": KEY})
    assert page.content_type == "text/html"
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "&lt;script&gt;alert(1)" in page.text
    assert "Acme Ltd" in page.text
    assert not re.search("<script|<b>|sk_secret_12345", page.text)


def test_the_page_shows_the_newest_hundred_of_each(fense, api):
    for number in range(8, 130):
        fense.create_account(name=f"Merchant no. {number}")
    text = api.client.get("/_standin/", headers={"x-api-key": KEY}).text
    assert "<h2>Accounts: 124</h2>" in text
    assert "Merchant no. 129" in text
    assert "Merchant no. 30<" in text
    assert "Merchant no. 29<" not in text


def test_every_answer_says_that_it_is_none_of_fenses(api):
    for method, path, key in (
        ("GET", "/accounts/1", KEY),
        ("GET", "/accounts/1", None),
        ("GET", "/nothing", KEY),
        ("GET", "/healthz", None),
        ("GET", "/openapi.json", None),
        ("GET", "/_standin/state", KEY),
        ("GET", "/_standin/nothing", None),
        ("POST", "/_standin/reset", KEY),
    ):
        answer = api.call(method, path, b"" if method == "POST" else None, key=key)
        assert answer.headers["X-Standin"] == f"fense-admin/{__version__}"


def test_off_its_paths_are_unknown(make_app):
    app = make_app(master_key=KEY)
    api = Api(app, KEY, None)
    for method, path in ENDPOINTS:
        answer = api.call(method, path, b"")
        assert (answer.status, answer.body["error"]["code"]) == (404, "not_found")
        assert "X-Standin" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/_standin", "/_standin/nothing", "/_standin/state/", "/_standinx"]
)
def test_its_unknown_paths_are_not_found(api, path):
    answer = api.get(path)
    assert (answer.status, answer.body["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_it_takes_no_parameter(api, method, path):
    before = everything(api)
    answer = api.call(method, path + "?all=1", b"{}")
    assert (answer.status, answer.body) == (400, refusal(("all", "is not accepted here")))
    assert everything(api) == before


@pytest.mark.parametrize("prefix", ["/_standin", "/_standin/x"])
def test_a_prefix_is_not_in_its_way(prefix):
    with pytest.raises(ValueError, match="must not be under /_standin"):
        StandIn(prefix=prefix, serve=False)


# --- State -------------------------------------------------------------------------------------


def test_a_state_is_read_back_whole_in_order_of_id(fense, api):
    answer = api.get("/_standin/state")
    created_at = answer.body["accounts"][0]["created_at"]
    digest = "8b0e2b0a5a5cf1a7a6d14d1bb7a4d4b7"  # only its shape is known here
    first, second = answer.body["accounts"]
    assert len(first.pop("api_key_sha256")) == 2 * len(digest)
    assert list(first.items()) == [
        ("fense_account_id", 1),
        ("name", "Acme Ltd"),
        ("email", "owner@acme.example"),
        ("api_key_last4", "0001"),
        ("suppress_notifications", False),
        ("suppress_billing", True),
        ("is_active", False),
        ("dispute_account_id", None),
        ("created_at", created_at),
        ("updated_at", created_at),
        ("usage", {"2026-11-01": 12, "2026-11-02": 7}),
    ]
    assert (second["fense_account_id"], second["api_key_last4"], second["usage"]) == (7, None, {})
    assert api.get("/accounts/usage/1").body["total_lookups"] == 19
    assert api.get("/accounts/1", key="sk_test_acme_000001").status == 403
    assert fense.state() == answer.body | {"accounts": [fense.state()["accounts"][0], second]}


def test_what_is_read_may_be_put_and_is_the_same_then(api):
    def get():
        return api.client.get("/_standin/state", headers={"x-api-key": KEY}).body

    first = get()
    answer = api.call("PUT", "/_standin/state", first)
    assert (answer.status, answer.body) == (200, json.loads(first))
    assert get() == first
    assert api.new_account()["fense_account_id"] == 8


def test_a_state_of_ten_thousand_accounts_comes_back_the_same():
    days = {f"2026-11-{day:02}": day for day in range(1, 31)}
    account = {"email": "a@b.example", "usage": days}
    state = {"accounts": [account | {"api_key": f"k{i}", "name": f"n{i}"} for i in range(10_000)]}
    with StandIn(serve=False, master_key=KEY) as fense:
        api = Api(fense.app, KEY, None)
        began = time.monotonic()
        first = api.client.put(
            "/_standin/state",
            json.dumps(state),
            {"x-api-key": KEY},
            content_type="application/json",
        ).body
        assert api.call("PUT", "/_standin/state", first).status == 200
        assert api.client.get("/_standin/state", headers={"x-api-key": KEY}).body == first
        assert time.monotonic() - began < 30
        assert fense.state()["accounts"][-1]["usage"] == days


def test_ids_that_are_left_out_follow_the_highest_so_far(api):
    ids = [None, 5, None, 3, None]
    accounts = [
        account_fields() | ({} if number is None else {"fense_account_id": number})
        for number in ids
    ]
    answer = api.call("PUT", "/_standin/state", {"accounts": accounts})
    assert [account["fense_account_id"] for account in answer.body["accounts"]] == [1, 3, 5, 6, 7]


def test_a_day_of_no_lookups_is_not_kept(api):
    account = account_fields(usage={"2026-11-01": 0, "2026-11-02": 10**12})
    answer = api.call("PUT", "/_standin/state", {"accounts": [account]})
    assert answer.body["accounts"][0]["usage"] == {"2026-11-02": 10**12}


def test_times_may_be_told(api):
    told = {"created_at": "2020-02-29T00:00:00Z", "updated_at": "2021-12-31T23:59:59Z"}
    answer = api.call("PUT", "/_standin/state", {"accounts": [account_fields(**told)]})
    assert answer.body["accounts"][0].items() >= told.items()
    del told["updated_at"]
    answer = api.call("PUT", "/_standin/state", {"accounts": [account_fields(**told)]})
    assert answer.body["accounts"][0]["updated_at"] == told["created_at"]


NUMBER = "must be a whole number from 1 to 9007199254740991"
LOOKUPS = "must be a whole number of lookups from 0 to 1000000000000"
TIME = "must be a time in UTC, written YYYY-MM-DDThh:mm:ssZ"
SHA256 = "must be a SHA-256 in 64 lower-case hex digits"
KEY_OR_DIGEST = "is required, or else api_key_sha256"
BESIDE = "is not accepted beside api_key"
NO_DAY = "must be a day of the calendar, written YYYY-MM-DD"
BAD_ACCOUNTS = [
    ({"emial": "a@b"}, [("emial", "is not accepted here")]),
    ({"email": "ab"}, [("email", "must be an address as local@domain, at most 254 characters")]),
    ({"is_active": 1}, [("is_active", "must be true or false")]),
    *(({"fense_account_id": n}, [("fense_account_id", NUMBER)]) for n in (0, -1, 1.0, True, "1")),
    *(({"fense_account_id": n}, [("fense_account_id", NUMBER)]) for n in (None, 2**53, 2**63)),
    *(({"created_at": t}, [("created_at", TIME)]) for t in ("now", "2026-02-30T00:00:00Z", "")),
    *(({"created_at": t}, [("created_at", TIME)]) for t in ("2026-11-01T00:00:00", "2026-1-1T0:0:0Z")),
    ({"updated_at": "2026-11-01T24:00:00Z"}, [("updated_at", TIME)]),
    ({"updated_at": "2026-11-01T00:00:60Z"}, [("updated_at", TIME)]),
    ({"updated_at": None}, [("updated_at", "must be a string")]),
    ({"usage": []}, [("usage", "must be an object")]),
    ({"usage": {"2026-11-31": 1}}, [("usage.2026-11-31", NO_DAY)]),
    ({"usage": {"2026-11-01": -1}}, [("usage.2026-11-01", LOOKUPS)]),
    ({"usage": {"2026-11-01": 1.5, "x": 1}}, [("usage.2026-11-01", LOOKUPS), ("usage.x", NO_DAY)]),
    ({"usage": {"2026-11-01": 10**12 + 1}}, [("usage.2026-11-01", LOOKUPS)]),
    ({"api_key_sha256": "0" * 64}, [("api_key_sha256", BESIDE)]),
    ({"api_key_last4": "0001"}, [("api_key_last4", BESIDE)]),
    ({"api_key": ...}, [("api_key", KEY_OR_DIGEST)]),
    ({"api_key": ..., "api_key_sha256": "0" * 63}, [("api_key_sha256", SHA256)]),
    ({"api_key": ..., "api_key_sha256": "A" * 64}, [("api_key_sha256", SHA256)]),
    ({"name": ..., "email": ...}, [("name", "is required"), ("email", "is required")]),
]  # fmt: skip


@pytest.mark.parametrize(("change", "faults"), BAD_ACCOUNTS, ids=str)
def test_a_bad_account_in_a_state_is_named_by_its_place(fense, api, change, faults):
    account = {k: v for k, v in (account_fields() | change).items() if v is not ...}
    state = {"accounts": [account_fields(), account_fields(), account, account_fields()]}
    places = [(f"accounts[2].{name}", told) for name, told in faults]
    before = everything(api)
    answer = api.call("PUT", "/_standin/state", state)
    assert (answer.status, answer.body) == (400, refusal(*places))
    with pytest.raises(ValueError, match=re.escape(" ".join(places[0]))):
        fense.load(state)
    assert everything(api) == before


def test_two_accounts_with_one_id_or_one_key_are_told_at_the_second(api):
    one, two = account_fields(fense_account_id=2), account_fields()
    state = {
        "accounts": [two, one, one | {"fense_account_id": 3}, account_fields(fense_account_id=1)]
    }
    answer = api.call("PUT", "/_standin/state", state)
    assert answer.body == refusal(
        ("accounts[2].api_key", "is that of accounts[1] too"),
        ("accounts[3].fense_account_id", "is that of accounts[0] too"),
    )
    assert answer.status == 400


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"[]", "the body must be a JSON object"),
        (b"{}", "accounts is required"),
        (b'{"accounts": {}}', "accounts must be an array"),
        (b'{"accounts": [1]}', "accounts[0] must be an object"),
        (b'{"accounts": [], "faults": []}', "faults is not accepted here"),
        (b'{"accounts": [], "accounts": []}', "accounts is given twice"),
        (b'{"accounts": [{"name": "a", "name": "b", "api_key": "k", "email": "a@b"}]}', None),
        (b"[" * 50_000, "the body is n"),  # nested too deeply, or no JSON from Python 3.14 on
        (b'{"accounts": [{"usage": {"2026-11-01": 1, "2026-11-01": 2}}]}', None),
        (b'{"accounts": [{"fense_account_id": ' + b"9" * 5_000 + b"}]}", None),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_is_no_state_changes_nothing(api, raw, told):
    before = everything(api)
    answer = api.call("PUT", "/_standin/state", raw)
    assert answer.status == 400
    if told:
        assert answer.body["error"]["message"].startswith(told)
    assert everything(api) == before


# --- Usage -------------------------------------------------------------------------------------


def test_lookups_are_recorded_in_a_list(api):
    entries = [
        {"fense_account_id": 1, "date": "2026-11-02", "lookups": 3},
        {"fense_account_id": 1, "date": "2026-11-02", "lookups": 30},
        {"fense_account_id": 7, "lookups": 5},
        {"fense_account_id": 7, "date": "2026-11-02", "lookups": 0},
    ]
    answer = api.post("/_standin/usage", entries)
    assert (answer.status, answer.body) == (200, {"recorded": 4})
    assert api.get("/accounts/usage/1").body["daily"][1] == {"date": "2026-11-02", "lookups": 40}
    assert [day["lookups"] for day in api.get("/accounts/usage/7").body["daily"]] == [5]
    assert api.post("/_standin/usage", []).body == {"recorded": 0}


WHOLE = "must be a whole number from -9223372036854775808 to 9223372036854775807"


@pytest.mark.parametrize(
    ("entry", "status", "faults"),
    [
        ({"fense_account_id": 2}, 404, [("fense_account_id", "names no account")]),
        ({"fense_account_id": -1}, 404, [("fense_account_id", "names no account")]),
        ({"fense_account_id": 2**63}, 400, [("fense_account_id", WHOLE)]),
        ({"fense_account_id": "1"}, 400, [("fense_account_id", WHOLE)]),
        ({"lookups": -1}, 400, [("lookups", LOOKUPS)]),
        ({"lookups": True, "date": 1}, 400, [("date", NO_DAY), ("lookups", LOOKUPS)]),
        ({"lookups": 10**12}, 400, [("lookups", "would take 2026-11-01 past 1000000000000, a day's most")]),
        ({"date": None}, 400, [("date", NO_DAY)]),
        ({"day": 1}, 400, [("day", "is not accepted here")]),
        ({"lookups": ...}, 400, [("lookups", "is required")]),
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_entry_anywhere_records_none(api, entry, status, faults):
    good = {"fense_account_id": 1, "date": "2026-11-01", "lookups": 1}
    bad = {k: v for k, v in (good | entry).items() if v is not ...}
    expected = refusal(*((f"[2].{field}", told) for field, told in faults))
    expected["error"]["code"] = "not_found" if status == 404 else "bad_request"
    before = everything(api)
    answer = api.post("/_standin/usage", [good, good, bad, good])
    assert (answer.status, answer.body) == (status, expected)
    assert everything(api) == before


@pytest.mark.parametrize("raw", [b"{}", b"[1]", b"[[]]", b"null", b"", b"[{}]", b"x", b"[NaN]"])
def test_what_is_no_list_of_lookups_records_none(api, raw):
    before = everything(api)
    assert api.post("/_standin/usage", raw).status == 400
    assert everything(api) == before


# --- Reset -------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", [":memory:", "file"])
def test_a_reset_goes_back_to_the_seed(tmp_path, database, make_app):
    from fense_admin.standin.state import read_state

    app = make_app(str(tmp_path / "x") if database == "file" else database, master_key=KEY)
    control = ControlPlane(app, KEY, seed=read_state(SEED))
    api = Api(control, KEY, None)
    control.reset()
    first = everything(api)
    api.new_account()
    api.post("/accounts/1", {"name": "Changed"})
    api.post("/_standin/usage", [{"fense_account_id": 1, "lookups": 1}])
    api.post("/_standin/faults", {"status": 500})
    assert everything(api) != first
    answer = api.call("POST", "/_standin/reset", b"")
    assert (answer.status, answer.body) == (204, None)
    assert everything(api) == first
    assert api.get("/_standin/requests").body == {"requests": []}
    assert api.new_account()["fense_account_id"] == 8


def test_without_a_seed_a_reset_leaves_nothing():
    with StandIn(serve=False) as fense:
        fense.create_account()
        fense.reset()
        assert fense.state() == {"accounts": []}
        assert fense.create_account()["fense_account_id"] == 1


# --- Faults: what can be armed -----------------------------------------------------------------


def test_a_fault_comes_back_with_its_id_and_the_times_left(api):
    sent = {
        "status": 429,
        "method": "POST",
        "path": "/accounts/*",
        "times": 2,
        "delay_ms": 0,
        "headers": {"Retry-After": "7", "X-Any": ""},
        "message": "slow down",
    }
    answer = api.post("/_standin/faults", sent)
    assert (answer.status, answer.body) == (201, {"id": 1} | sent)
    assert api.post("/_standin/faults", {"drop": "reset"}).body == {
        "id": 2,
        "drop": "reset",
        "times": 1,
    }
    refused = api.post("/accounts/1", {})
    assert refused.body == refusal(code="too_many_requests", message="slow down")
    assert (refused.status, refused.headers["Retry-After"]) == (429, "7")
    armed = api.get("/_standin/faults").body["faults"]
    assert armed == [{"id": 1} | sent | {"times": 1}, {"id": 2, "drop": "reset", "times": 1}]
    assert api.call("DELETE", "/_standin/faults").status == 204
    assert api.get("/_standin/faults").body == {"faults": []}


STATUS = "must be a whole number from 400 to 599"
GLOB = "must be a glob of a path, such as /accounts/*"
NOTHING = "the fault does nothing: give it a status, a drop or a delay_ms"
BAD_FAULTS = [
    *(({"status": status}, ("status", STATUS)) for status in (399, 600, "503", 503.0, True)),
    ({"status": 503, "methd": "GET"}, ("methd", "is not accepted here")),
    ({"status": 503, "method": "get"}, ("method", "must be one of GET, HEAD, POST")),
    ({"status": 503, "method": ["GET"]}, ("method", "must be one of GET, HEAD, POST")),
    *(({"status": 503, "path": path}, ("path", GLOB)) for path in ("", "accounts", "/a b", "/\n")),
    ({"status": 503, "path": 1}, ("path", "must be a string")),
    ({"status": 503, "times": -1}, ("times", "must be a whole number from 0 to 1000000000000")),
    ({"status": 503, "times": 2**63}, ("times", "must be a whole number from 0 to 1000000000000")),
    ({"delay_ms": 600_001}, ("delay_ms", "must be a whole number from 0 to 600000")),
    ({"delay_ms": "5"}, ("delay_ms", "must be a whole number from 0 to 600000")),
    ({"drop": "half"}, ("drop", "must be one of reset, empty, truncate")),
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
def test_a_bad_fault_is_not_armed(fense, api, sent, fault):
    answer = api.post("/_standin/faults", sent)
    assert (answer.status, answer.body) == (400, refusal(fault))
    with pytest.raises(ValueError, match=re.escape(" ".join(fault))):
        fense.fail(**sent)
    assert api.get("/_standin/faults").body == {"faults": []}


@pytest.mark.parametrize("sent", [{}, {"times": 3}, {"delay_ms": 0}, {"method": "GET"}])
def test_a_fault_that_does_nothing_is_not_armed(api, sent):
    answer = api.post("/_standin/faults", sent)
    assert (answer.status, answer.body) == (400, refusal(message=NOTHING))


@pytest.mark.parametrize(
    "headers",
    [
        *(
            {name: "x"}
            for name in ("Content-Length", "content-type", "DATE", "Connection", "Server")
        ),
        *({name: "x"} for name in ("Transfer-Encoding", "X-Request-Id", "X-Standin", "Upgrade")),
        *({name: "x"} for name in ("", "a b", "a:", "a\n", "ä", "a_b")),
        *({"X-Any": value} for value in ("a\r\nb: c", "\n", "\0", "ä", "\u2028", 5, None, [])),
    ],
    ids=ascii,
)
def test_a_fault_sets_no_header_that_is_none_or_the_servers(api, headers):
    answer = api.post("/_standin/faults", {"status": 503, "headers": headers})
    (detail,) = answer.body["error"]["details"]
    assert (answer.status, detail["field"]) == (400, "headers")
    assert api.get("/_standin/faults").body == {"faults": []}


# --- Faults: whom they meet --------------------------------------------------------------------


def test_the_oldest_fault_that_matches_is_used(api):
    for sent in (
        {"status": 501, "method": "POST"},
        {"status": 502, "path": "/accounts/usage*"},
        {"status": 503, "times": 0},
    ):
        api.post("/_standin/faults", sent)
    assert [api.get("/accounts/1").status for _ in range(3)] == [503] * 3
    assert [api.get("/accounts/usage/1").status for _ in range(2)] == [502, 503]
    assert [api.post("/accounts/1", {}).status for _ in range(2)] == [501, 503]
    assert api.call("HEAD", "/accounts/1").status == 503


def test_a_fault_changes_nothing_and_looks_at_nothing(api):
    before = api.get("/_standin/state").body
    api.post("/_standin/faults", {"status": 500, "times": 3})
    for path, body in (("/accounts", account_fields()), ("/accounts/1", {"name": "x"})):
        assert api.post(path, body).status == 500
    assert api.post("/accounts/nonsense?x=1", b"{nonsense").status == 500
    assert api.get("/_standin/state").body == before


def test_a_refused_request_and_an_unknown_path_use_no_fault_up(api):
    api.post("/_standin/faults", {"status": 503})
    for method, path, key, status in (
        ("GET", "/accounts/1", None, 401),
        ("GET", "/accounts/1", "who-knows", 401),
        ("GET", "/accounts/1", "sk_test_acme_000001", 403),
        ("GET", "/nothing", KEY, 404),
        ("DELETE", "/accounts/1", KEY, 405),
        ("GET", "/healthz", KEY, 200),
        ("GET", "/openapi.json", KEY, 200),
        ("GET", "/_standin/state", KEY, 200),
    ):
        assert api.call(method, path, key=key).status == status
    assert api.get("/accounts/1").status == 503
    assert api.get("/accounts/1").status == 200


def test_a_faults_path_is_without_the_prefix():
    with StandIn(SEED, prefix="/admin", serve=False) as fense:
        api = Api(fense.app, fense.master_key, None, base="/admin")
        fense.fail(503, path="/accounts/[0-9]*")
        assert api.get("/accounts/usage").status == 200
        assert api.get("/accounts/1").status == 503


def test_a_delay_alone_only_waits(api):
    api.post("/_standin/faults", {"delay_ms": 150})
    began = time.monotonic()
    assert api.get("/accounts/1").body["name"] == "Acme Ltd"
    assert 0.15 <= time.monotonic() - began < 1
    began = time.monotonic()
    assert api.get("/accounts/1").status == 200
    assert time.monotonic() - began < 0.15


@pytest.mark.parametrize("drop", ["reset", "empty", "truncate"])
def test_a_dropped_connection_is_reset_in_process(fense, api, drop):
    fense.fail(drop=drop)
    with pytest.raises(ConnectionResetError):
        api.get("/accounts/1")
    assert api.get("/accounts/1").status == 200


def test_faults_count_from_one_after_a_reset(fense):
    fense.fail(503)
    fense.reset()
    assert fense.fail(503)["id"] == 1


def test_a_bad_number_goes_before_an_unknown_account(fense, api):
    number = fense.create_account()["fense_account_id"]
    fense.record_lookups(number, 10**12, "2026-11-01")
    rows = [
        {"fense_account_id": 99, "lookups": 1},
        {"fense_account_id": number, "date": "2026-11-01", "lookups": 1},
    ]
    assert api.post("/_standin/usage", rows).status == 400


def test_the_last_id_is_put_and_read_back(api):
    state = {"accounts": [account_fields(fense_account_id=2**53 - 1)]}
    assert api.call("PUT", "/_standin/state", state).status == 200
    answer = api.post("/accounts", account_fields())
    assert (answer.status, answer.body["error"]["code"]) == (503, "service_unavailable")
    read = api.get("/_standin/state").body
    assert api.call("PUT", "/_standin/state", read).body == read


def test_the_page_has_its_style_and_is_allowed_it(api):
    answer = api.client.get("/_standin/", headers={"x-api-key": api.master_key})
    assert "<style>" in answer.text
    assert "style-src 'unsafe-inline'" in answer.headers["Content-Security-Policy"]


def test_a_content_encoding_is_refused_by_name(api):
    for method, path in (("POST", "/accounts"), ("PUT", "/_standin/state")):
        answer = api.call(method, path, {"accounts": []}, headers={"Content-Encoding": "gzip"})
        assert answer.status == 400
        assert "Content-Encoding" in answer.body["error"]["message"]
        answer = api.call(method, path, {"accounts": []}, headers={"Content-Encoding": "identity"})
        assert "Content-Encoding" not in str(answer.body)
