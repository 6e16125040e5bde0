"""States are loaded and returned, lookups recorded, resets go back to the seed; invalid input changes nothing."""

import contextlib
import http.client
import json
import re
import time

import pytest
from conftest import MASTER_KEY, SEED, Api, account_fields, refusal, state_and_faults

from fense_admin.standin import StandIn
from fense_admin.standin.control import ControlPlane


def test_a_state_is_returned_completely_in_id_order(seeded, seeded_api):
    answer = seeded_api.get("/_standin/state")
    first, second = answer.body["accounts"]
    assert len(first.pop("api_key_sha256")) == 64
    account = seeded_api.get("/accounts/1").body
    assert (account["name"], account["suppress_billing"], account["is_active"]) == (
        "Acme Ltd",
        True,
        False,
    )
    usage = {"2026-11-01": 12, "2026-11-02": 7}
    assert list(first.items()) == [*account.items(), ("usage", usage)]
    assert (second["fense_account_id"], second["api_key_last4"], second["usage"]) == (7, None, {})
    assert seeded_api.get("/accounts/usage/1").body["total_lookups"] == 19
    assert seeded_api.get("/accounts/1", key="sk_test_acme_000001").status == 403
    assert seeded.state() == answer.body | {"accounts": [seeded.state()["accounts"][0], second]}


def test_a_returned_state_can_be_put_and_is_then_the_same(seeded_api):
    def get():
        return seeded_api.client.get("/_standin/state", headers={"x-api-key": MASTER_KEY}).body

    first = get()
    answer = seeded_api.call("PUT", "/_standin/state", first)
    assert (answer.status, answer.body) == (200, json.loads(first))
    assert get() == first
    assert seeded_api.new_account()["fense_account_id"] == 8


@pytest.mark.slow
def test_a_state_of_two_thousand_accounts_comes_back_the_same():
    days = {f"2026-11-{day:02}": day for day in range(1, 31)}
    account = {"email": "a@b.example", "usage": days}
    state = {"accounts": [account | {"api_key": f"k{i}", "name": f"n{i}"} for i in range(2_000)]}
    with StandIn(serve=False, master_key=MASTER_KEY) as fense:
        api = Api(fense.app, MASTER_KEY, None)
        began = time.process_time()  # CPU time: other programs may use the processor
        first = api.client.put(
            "/_standin/state",
            json.dumps(state),
            {"x-api-key": MASTER_KEY},
            content_type="application/json",
        ).body
        assert api.call("PUT", "/_standin/state", first).status == 200
        assert api.client.get("/_standin/state", headers={"x-api-key": MASTER_KEY}).body == first
        assert time.process_time() - began < 6
        assert fense.state()["accounts"][-1]["usage"] == days


def kibibytes(pid, name):
    """Return the memory of a process from /proc: VmRSS (now) or VmHWM (peak)."""
    with open(f"/proc/{pid}/status") as status:
        return int(next(line for line in status if line.startswith(name)).split()[1])


@pytest.mark.needs("/proc")
@pytest.mark.slow
def test_a_state_takes_a_few_times_its_size_in_memory(start):
    """However often it is put, in any thread."""
    days = {f"2026-11-{day:02}": 1000 + day for day in range(1, 31)}
    names = [f"merchant-{number}" for number in range(8_000)]
    accounts = [
        {"name": name, "email": f"{name}@x.example", "api_key": name, "usage": days}
        for name in names
    ]
    body = json.dumps({"accounts": accounts}).encode()
    service = start("--port=0", "--database=:memory:")
    address = service.ready().removeprefix("http://")
    idle = kibibytes(service.process.pid, "VmRSS")
    for _ in range(3):
        connection = http.client.HTTPConnection(address, timeout=60)
        with contextlib.closing(connection):
            headers = {"x-api-key": "local-dev-key", "Content-Type": "application/json"}
            connection.request("PUT", "/_standin/state", body, headers)
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.read().count(b'"usage"') == len(names)
    grown = (kibibytes(service.process.pid, "VmHWM") - idle) * 1024
    assert grown < 13 * len(body)  # of a large one 8: the rest is the same for all


@pytest.mark.parametrize(
    "raw",
    [
        b' \n{ "accounts" :\t[ {"api_key":"k1","name":"1","email":"a@b"} ,\r\n{"api_key":"k2",'
        b'"name":"2","email":"a@b","usage":{"2026-11-01":1e3}}\n] } \n',
        b'{"\\u0061ccounts": [{"api_key": "k1", "name": "1", "email": "a@b"}, {"api_key": "k2", '
        b'"name": "2", "email": "a@b", "usage": {"2026-11-01": 1000.0}}]}',
    ],
)
def test_the_formatting_of_a_state_does_not_matter(seeded_api, raw):
    answer = seeded_api.call("PUT", "/_standin/state", raw)
    assert answer.status == 200
    assert [account["name"] for account in answer.body["accounts"]] == ["1", "2"]
    assert [account["usage"] for account in answer.body["accounts"]] == [{}, {"2026-11-01": 1000}]


def test_missing_ids_follow_the_highest_so_far(seeded_api):
    ids = [None, 5, None, 3, None]
    accounts = [
        account_fields() | ({} if number is None else {"fense_account_id": number})
        for number in ids
    ]
    answer = seeded_api.call("PUT", "/_standin/state", {"accounts": accounts})
    assert [account["fense_account_id"] for account in answer.body["accounts"]] == [1, 3, 5, 6, 7]


def test_no_account_of_a_state_gets_an_id_above_the_maximum(seeded, seeded_api):
    state = {"accounts": [account_fields(fense_account_id=2**53 - 1), account_fields()]}
    expected = "is required: the id after 9007199254740991 would exceed the maximum"
    before = state_and_faults(seeded_api)
    answer = seeded_api.call("PUT", "/_standin/state", state)
    assert (answer.status, answer.body) == (
        400,
        refusal(("accounts[1].fense_account_id", expected)),
    )
    answer = seeded_api.post("/_standin/instances", {"seed": state})
    assert answer.body == refusal(("seed.accounts[1].fense_account_id", expected))
    with pytest.raises(ValueError, match=re.escape(f"accounts[1].fense_account_id {expected}")):
        seeded.load(state)
    assert state_and_faults(seeded_api) == before


def test_a_day_of_no_lookups_is_not_kept(seeded_api):
    account = account_fields(usage={"2026-11-01": 0, "2026-11-02": 10**12})
    answer = seeded_api.call("PUT", "/_standin/state", {"accounts": [account]})
    assert answer.body["accounts"][0]["usage"] == {"2026-11-02": 10**12}


def test_a_state_may_set_times(seeded_api):
    times = {"created_at": "2020-02-29T00:00:00Z", "updated_at": "2021-12-31T23:59:59Z"}
    answer = seeded_api.call("PUT", "/_standin/state", {"accounts": [account_fields(**times)]})
    assert answer.body["accounts"][0].items() >= times.items()
    del times["updated_at"]
    answer = seeded_api.call("PUT", "/_standin/state", {"accounts": [account_fields(**times)]})
    assert answer.body["accounts"][0]["updated_at"] == times["created_at"]


NUMBER = "must be a whole number from 1 to 9007199254740991"
LOOKUPS = "must be a whole number of lookups from 0 to 1000000000000"
TIME = "must be a time in UTC, written YYYY-MM-DDThh:mm:ssZ"
SHA256 = "must be a SHA-256 in 64 lower-case hex digits"
KEY_OR_DIGEST = "is required, unless there is an api_key_sha256"
BESIDE = "is not accepted together with api_key"
NO_DAY = "must be a valid date, written YYYY-MM-DD"
BAD_ACCOUNTS = [
    ({"emial": "a@b"}, [("emial", "is not accepted here; did you mean email?")]),
    ({"email": "ab"}, [("email", "must be an address such as name@example.com, at most 254 characters")]),
    ({"is_active": 1}, [("is_active", "must be true or false")]),
    *(({"fense_account_id": n}, [("fense_account_id", NUMBER)]) for n in (0, -1, 1.5, True, "1")),
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
    *(({"usage": {day: 1}}, [(f"usage.{day}", NO_DAY)]) for day in ("7", "-07", "-0", "-1.5", "- 1")),
    *(({"usage": {day: 1}}, [(f"usage.{day}", NO_DAY)]) for day in ("-2..0", " -1", "\u0660")),
    ({"usage": {"-9999999": 1}}, [("usage.-9999999", "is before 0001-01-01, the earliest date")]),
    ({"api_key_sha256": "0" * 64}, [("api_key_sha256", BESIDE)]),
    ({"api_key_last4": "0001"}, [("api_key_last4", BESIDE)]),
    ({"api_key": ...}, [("api_key", KEY_OR_DIGEST)]),
    ({"api_key": ..., "api_key_sha256": "0" * 63}, [("api_key_sha256", SHA256)]),
    ({"api_key": ..., "api_key_sha256": "A" * 64}, [("api_key_sha256", SHA256)]),
    ({"name": ..., "email": ...}, [("name", "is required"), ("email", "is required")]),
]  # fmt: skip


@pytest.mark.parametrize(("change", "faults"), BAD_ACCOUNTS, ids=str)
def test_errors_in_a_state_have_a_path(seeded, seeded_api, change, faults):
    account = {k: v for k, v in (account_fields() | change).items() if v is not ...}
    state = {"accounts": [account_fields(), account_fields(), account, account_fields()]}
    places = [(f"accounts[2].{name}", message) for name, message in faults]
    before = state_and_faults(seeded_api)
    answer = seeded_api.call("PUT", "/_standin/state", state)
    assert (answer.status, answer.body) == (400, refusal(*places))
    with pytest.raises(ValueError, match=re.escape(" ".join(places[0]))):
        seeded.load(state)
    assert state_and_faults(seeded_api) == before


def test_days_before_today_count_from_the_day_of_the_load(seeded, seeded_api):
    seeded.set_clock("2026-03-01T00:00:00Z")
    state = {"accounts": [account_fields(usage={"0": 1, "-1": 2, "-730": 3, "2026-01-31": 4})]}
    (account,) = seeded_api.call("PUT", "/_standin/state", state).body["accounts"]
    assert account["usage"] == {
        "2024-03-01": 3,
        "2026-01-31": 4,
        "2026-02-28": 2,
        "2026-03-01": 1,
    }
    entries = [
        {"fense_account_id": 1, "lookups": 5, "date": date} for date in ("-1", -1, "0", 0, "-59")
    ]
    assert seeded_api.post("/_standin/usage", entries).body == {"recorded": 5}
    usage = seeded_api.get("/_standin/state").body["accounts"][0]["usage"]
    assert (usage["2026-02-28"], usage["2026-03-01"], usage["2026-01-01"]) == (12, 11, 5)


def test_the_second_name_of_a_day_is_reported(seeded, seeded_api):
    seeded.set_clock("2026-03-01T00:00:00Z")
    state = {"accounts": [account_fields(usage={"2026-02-28": 1, "-1": 2})]}
    answer = seeded_api.call("PUT", "/_standin/state", state)
    fault = ("accounts[0].usage.-1", "is the same day as 2026-02-28")
    assert (answer.status, answer.body) == (400, refusal(fault))


def test_the_second_account_with_an_id_or_a_key_is_reported(seeded_api):
    one, two = account_fields(fense_account_id=2), account_fields()
    state = {
        "accounts": [two, one, one | {"fense_account_id": 3}, account_fields(fense_account_id=1)]
    }
    answer = seeded_api.call("PUT", "/_standin/state", state)
    assert answer.body == refusal(
        ("accounts[2].api_key", "duplicates accounts[1]"),
        ("accounts[3].fense_account_id", "duplicates accounts[0]"),
    )
    assert answer.status == 400


@pytest.mark.parametrize(
    ("raw", "message"),
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
def test_an_invalid_state_changes_nothing(seeded_api, raw, message):
    before = state_and_faults(seeded_api)
    answer = seeded_api.call("PUT", "/_standin/state", raw)
    assert answer.status == 400
    if message:
        assert answer.body["error"]["message"].startswith(message)
    assert state_and_faults(seeded_api) == before


def test_lookups_are_recorded_in_a_list(seeded_api):
    entries = [
        {"fense_account_id": 1, "date": "2026-11-02", "lookups": 3},
        {"fense_account_id": 1, "date": "2026-11-02", "lookups": 30},
        {"fense_account_id": 7, "lookups": 5},
        {"fense_account_id": 7, "date": "2026-11-02", "lookups": 0},
    ]
    answer = seeded_api.post("/_standin/usage", entries)
    assert (answer.status, answer.body) == (200, {"recorded": 4})
    assert seeded_api.get("/accounts/usage/1").body["daily"][1] == {
        "date": "2026-11-02",
        "lookups": 40,
    }
    assert [day["lookups"] for day in seeded_api.get("/accounts/usage/7").body["daily"]] == [5]
    assert seeded_api.post("/_standin/usage", []).body == {"recorded": 0}


WHOLE = "must be a whole number from -9223372036854775808 to 9223372036854775807"


@pytest.mark.parametrize(
    ("entry", "status", "faults"),
    [
        ({"fense_account_id": 2}, 404, [("fense_account_id", "is not the id of an account")]),
        ({"fense_account_id": -1}, 404, [("fense_account_id", "is not the id of an account")]),
        ({"fense_account_id": 2**63}, 400, [("fense_account_id", WHOLE)]),
        ({"fense_account_id": "1"}, 400, [("fense_account_id", WHOLE)]),
        ({"lookups": -1}, 400, [("lookups", LOOKUPS)]),
        ({"lookups": True, "date": 1}, 400, [("date", NO_DAY), ("lookups", LOOKUPS)]),
        ({"lookups": 10**12}, 400, [("lookups", "would exceed the daily maximum of 1000000000000 on 2026-11-01")]),
        ({"date": None}, 400, [("date", NO_DAY)]),
        ({"day": 1}, 400, [("day", "is not accepted here")]),
        ({"lookups": ...}, 400, [("lookups", "is required")]),
    ],
    ids=str,
)  # fmt: skip
def test_an_invalid_entry_records_nothing(seeded_api, entry, status, faults):
    good = {"fense_account_id": 1, "date": "2026-11-01", "lookups": 1}
    bad = {k: v for k, v in (good | entry).items() if v is not ...}
    expected = refusal(*((f"[2].{field}", message) for field, message in faults))
    expected["error"]["code"] = "not_found" if status == 404 else "bad_request"
    before = state_and_faults(seeded_api)
    answer = seeded_api.post("/_standin/usage", [good, good, bad, good])
    assert (answer.status, answer.body) == (status, expected)
    assert state_and_faults(seeded_api) == before


@pytest.mark.parametrize("raw", [b"{}", b"[1]", b"[[]]", b"null", b"", b"[{}]", b"x", b"[NaN]"])
def test_an_invalid_list_of_lookups_records_nothing(seeded_api, raw):
    before = state_and_faults(seeded_api)
    assert seeded_api.post("/_standin/usage", raw).status == 400
    assert state_and_faults(seeded_api) == before


@pytest.mark.parametrize("database", [":memory:", "file"])
def test_a_reset_goes_back_to_the_seed(tmp_path, database, make_app):
    from fense_admin.standin.state import Seed

    app = make_app(str(tmp_path / "x") if database == "file" else database, master_key=MASTER_KEY)
    control = ControlPlane(app, MASTER_KEY, seed=Seed(SEED, app.db.now()))
    api = Api(control, MASTER_KEY, None)
    control.reset()
    first = state_and_faults(api)
    api.new_account()
    api.post("/accounts/1", {"name": "Changed"})
    api.post("/_standin/usage", [{"fense_account_id": 1, "lookups": 1}])
    api.post("/_standin/faults", {"status": 500})
    assert state_and_faults(api) != first
    answer = api.call("POST", "/_standin/reset", b"")
    assert (answer.status, answer.body) == (204, None)
    assert state_and_faults(api) == first
    assert api.get("/_standin/requests").body == {"requests": []}
    assert api.new_account()["fense_account_id"] == 8


def test_without_a_seed_a_reset_leaves_nothing():
    with StandIn(serve=False) as fense:
        fense.create_account()
        fense.reset()
        assert fense.state() == {"accounts": []}
        assert fense.create_account()["fense_account_id"] == 1


def test_an_invalid_number_is_reported_before_an_unknown_account(seeded, seeded_api):
    number = seeded.create_account()["fense_account_id"]
    seeded.record_lookups(number, 10**12, "2026-11-01")
    rows = [
        {"fense_account_id": 99, "lookups": 1},
        {"fense_account_id": number, "date": "2026-11-01", "lookups": 1},
    ]
    assert seeded_api.post("/_standin/usage", rows).status == 400


def test_the_last_id_is_put_and_read_back(seeded_api):
    state = {"accounts": [account_fields(fense_account_id=2**53 - 1)]}
    assert seeded_api.call("PUT", "/_standin/state", state).status == 200
    answer = seeded_api.post("/accounts", account_fields())
    assert (answer.status, answer.body["error"]["code"]) == (503, "service_unavailable")
    read = seeded_api.get("/_standin/state").body
    assert seeded_api.call("PUT", "/_standin/state", read).body == read
