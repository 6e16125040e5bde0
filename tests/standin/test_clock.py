"""The clock decides times and today of one stand-in, and nothing else."""

import datetime
import re

import pytest
from conftest import MASTER_KEY, Api, account_fields, in_background, refusal

from fense_admin import models
from fense_admin.standin import StandIn

NOON = "2026-11-30T12:00:00Z"
TIME = "must be a time in UTC, written YYYY-MM-DDThh:mm:ssZ"
SECONDS = "must be a whole number from -1000000000000 to 1000000000000"
EITHER = "send either now or advance_seconds"
CLOCK = "/_standin/clock"


def is_now(text):
    passed = models.utc_now() - datetime.datetime.fromisoformat(text.rstrip("Z"))
    return datetime.timedelta(seconds=-1) < passed < datetime.timedelta(seconds=60)


def put(api, body):
    answer = api.call("PUT", CLOCK, body)
    return answer.status, answer.body


def test_it_is_the_systems_unless_it_is_stopped(seeded_api):
    running = seeded_api.get(CLOCK).body
    assert running == {"now": running["now"], "stopped": False}
    assert is_now(running["now"])
    assert put(seeded_api, {"now": NOON}) == (200, {"now": NOON, "stopped": True})
    assert seeded_api.get(CLOCK).body == {"now": NOON, "stopped": True}
    for seconds, now in ((86_400, "2026-12-01T12:00:00Z"), (-1, "2026-12-01T11:59:59Z")):
        assert put(seeded_api, {"advance_seconds": seconds}) == (
            200,
            {"now": now, "stopped": True},
        )
    assert seeded_api.call("DELETE", CLOCK).status == 204
    assert is_now(seeded_api.get(CLOCK).body["now"])


def test_it_decides_created_at_updated_at_and_today(seeded_api):
    put(seeded_api, {"now": "2026-11-30T23:59:59Z"})
    account = seeded_api.new_account()
    assert account["created_at"] == account["updated_at"] == "2026-11-30T23:59:59Z"
    number = account["fense_account_id"]
    for lookups, date in ((3, "2026-11-30"), (4, "2026-12-01")):
        entry = {"fense_account_id": number, "lookups": lookups}
        assert seeded_api.post("/_standin/usage", [entry, entry | {"date": "-7"}]).status == 200
        daily = seeded_api.get(f"/accounts/usage/{number}").body["daily"]
        assert {"date": date, "lookups": lookups} in daily
        put(seeded_api, {"advance_seconds": 1})
    assert [day["date"] for day in daily] == [
        "2026-11-23",
        "2026-11-24",
        "2026-11-30",
        "2026-12-01",
    ]
    assert seeded_api.post(f"/accounts/{number}", {"name": "New"}).body["updated_at"] == (
        "2026-12-01T00:00:01Z"
    )


def test_the_journal_uses_the_systems(seeded_api):
    put(seeded_api, {"now": "2001-01-01T00:00:00Z"})
    seeded_api.get("/accounts/1")
    (entry,) = seeded_api.get("/_standin/requests").body["requests"]
    assert is_now(entry["at"])


def test_a_loaded_state_counts_from_it_and_a_reset_releases_it():
    seed = {"accounts": [account_fields(usage={"-1": 5, "0": 6})]}
    with StandIn(seed, serve=False, master_key=MASTER_KEY) as fense:
        fense.set_clock(NOON)
        fense.load(fense.state() | seed)
        (account,) = fense.state()["accounts"]
        assert account["usage"] == {"2026-11-29": 5, "2026-11-30": 6}
        assert account["created_at"] == NOON
        fense.reset()
        today = models.utc_now().date()
        days = {str(today - datetime.timedelta(1)): 5, str(today): 6}
        assert fense.state()["accounts"][0]["usage"] == days
        assert not Api(fense.app, MASTER_KEY, None).get(CLOCK).body["stopped"]


def test_a_reset_counts_the_seeds_days_from_the_day_of_the_reset(monkeypatch):
    seed = {"accounts": [account_fields(usage={"-1": 5, "2026-11-01": 1})]}
    day = datetime.datetime(2026, 11, 30, 23, 59)
    monkeypatch.setattr(models, "utc_now", lambda: day)
    with StandIn(seed, serve=False) as fense:
        assert fense.state()["accounts"][0]["usage"] == {"2026-11-01": 1, "2026-11-29": 5}
        monkeypatch.setattr(models, "utc_now", lambda: day + datetime.timedelta(minutes=1))
        fense.reset()
        assert fense.state()["accounts"][0]["usage"] == {"2026-11-01": 1, "2026-11-30": 5}
        # Now both names are one day: there is no state to go back to.
        monkeypatch.setattr(models, "utc_now", lambda: datetime.datetime(2026, 11, 2))
        with pytest.raises(ValueError, match=re.escape("usage.2026-11-01 is the same day as -1")):
            fense.reset()
        assert fense.state()["accounts"][0]["usage"] == {"2026-11-01": 1, "2026-11-30": 5}


def test_concurrent_advances_all_count(seeded):
    seeded.set_clock("2026-11-30T00:00:00Z")
    with in_background(lambda: [seeded.advance(1) for _ in range(500)], count=4):
        pass
    assert seeded.app.clock.now() == datetime.datetime(2026, 11, 30, 0, 33, 20)


def test_an_account_without_created_at_has_the_time_of_its_stand_in():
    seed = {"accounts": [account_fields(usage={"2026-11-01": 1}), account_fields(usage={"-1": 1})]}
    with StandIn(seed, serve=False, master_key=MASTER_KEY) as fense:
        api = Api(fense.app, MASTER_KEY, None)
        before = [account["created_at"] for account in fense.state()["accounts"]]
        put(api, {"now": "2031-01-01T00:00:00Z"})
        made = api.call("POST", "/_standin/instances").body
        its = Api(api.client.app, made["api_key"], None, base=f"/_standin/instances/{made['id']}")
        accounts = its.get("/_standin/state").body["accounts"]
        assert [account["created_at"] for account in accounts] == ["2031-01-01T00:00:00Z"] * 2
        assert accounts[1]["usage"] == {"2030-12-31": 1}
        fense.reset()
        assert [account["created_at"] for account in fense.state()["accounts"]] == before


def test_an_instance_has_one_that_starts_at_its_parents_time(seeded_api):
    put(seeded_api, {"now": NOON})
    made = seeded_api.call("POST", "/_standin/instances").body
    its = Api(
        seeded_api.client.app,
        made["api_key"],
        None,
        base=f"/_standin/instances/{made['id']}",
    )
    assert its.get(CLOCK).body == {"now": NOON, "stopped": True}
    put(its, {"advance_seconds": 60})
    assert seeded_api.get(CLOCK).body["now"] == NOON
    seeded_api.call("DELETE", CLOCK)
    assert its.get(CLOCK).body == {"now": "2026-11-30T12:01:00Z", "stopped": True}


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"now": "2026-11-31T00:00:00Z"}, ("now", TIME)),
        ({"now": "2026-11-30"}, ("now", TIME)),
        ({"now": None}, ("now", "must be a string")),
        ({"advance_seconds": 1.5}, ("advance_seconds", SECONDS)),
        ({"advance_seconds": True}, ("advance_seconds", SECONDS)),
        ({"advance_seconds": 10**12 + 1}, ("advance_seconds", SECONDS)),
        (
            {"advance_seconds": 10**12},
            ("advance_seconds", "would leave the years 1 to 9999"),
        ),
        ({"advance": 1}, ("advance", "is not accepted here")),
    ],
)
def test_an_invalid_time_changes_nothing(seeded_api, body, fault):
    put(seeded_api, {"now": NOON})
    assert put(seeded_api, body) == (400, refusal(fault))
    assert seeded_api.get(CLOCK).body == {"now": NOON, "stopped": True}


@pytest.mark.parametrize("body", [{}, {"now": NOON, "advance_seconds": 1}])
def test_either_now_or_advance_seconds_is_required(seeded_api, body):
    assert put(seeded_api, body) == (400, refusal(message=EITHER))
    assert not seeded_api.get(CLOCK).body["stopped"]


EAST = datetime.timezone(datetime.timedelta(hours=2))


@pytest.mark.parametrize(
    "now",
    [
        "2026-11-30T12:00:00.000Z",
        "2026-11-30T12:00:00.999999999Z",
        datetime.datetime(2026, 11, 30, 12),
        datetime.datetime(2026, 11, 30, 12, 0, 0, 999_999, tzinfo=datetime.timezone.utc),
        datetime.datetime(2026, 11, 30, 14, tzinfo=EAST),
    ],
    ids=str,
)
def test_it_takes_datetimes_and_what_javascript_writes(seeded, seeded_api, now):
    seeded.set_clock(now)
    assert seeded_api.get(CLOCK).body == {"now": NOON, "stopped": True}
    seeded.reset()
    if isinstance(now, str):
        assert put(seeded_api, {"now": now}) == (200, {"now": NOON, "stopped": True})


def test_only_a_clock_that_a_test_sets_lets_updated_at_precede_created_at(seeded, seeded_api):
    seeded.set_clock("2031-01-01T00:00:00Z")
    number = seeded_api.new_account()["fense_account_id"]
    for now in ("2031-01-01T00:00:05Z", "2026-11-30T12:00:00Z", "2028-01-01T00:00:00Z"):
        seeded.set_clock(now)
        assert seeded_api.post(f"/accounts/{number}", {"name": now}).body["updated_at"] == now
    seeded.release_clock()
    assert is_now(seeded_api.post(f"/accounts/{number}", {"name": "x"}).body["updated_at"])
    seeded.reset()
    assert seeded.app.clock.was_set is False


def test_a_running_clock_can_not_be_moved(seeded, seeded_api):
    message = "needs a stopped clock, and this one is running: send now first"
    assert put(seeded_api, {"advance_seconds": 1}) == (
        400,
        refusal(("advance_seconds", message)),
    )
    with pytest.raises(ValueError, match=message):
        seeded.advance(1)


def test_python_stops_moves_and_releases_it(seeded):
    seeded.set_clock("0001-01-01T00:00:00Z")
    assert seeded.create_account()["created_at"] == "0001-01-01T00:00:00Z"
    seeded.advance(59)
    account = seeded.create_account()
    assert account["created_at"] == "0001-01-01T00:00:59Z"
    for wrong in ("now", "2026-11-30", None, datetime.date(2026, 11, 30), f"{NOON[:-1]}.Z"):
        with pytest.raises(ValueError, match="must be a"):
            seeded.set_clock(wrong)
    with pytest.raises(ValueError, match="would leave the years 1 to 9999"):
        seeded.advance(-60)
    for wrong in ("1", None, 1.5, True, float("nan")):
        with pytest.raises(ValueError, match="must be a whole number"):
            seeded.advance(wrong)
    seeded.release_clock()
    assert is_now(seeded.create_account()["created_at"])
