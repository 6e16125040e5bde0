"""The demo state is realistic, and always the same for the same day."""

import datetime
import json

import pytest
from conftest import MASTER_KEY, Api

from fense_admin.standin import StandIn, demo

DAY = "2026-11-26"


@pytest.fixture
def fense():
    with StandIn("demo", serve=False, master_key=MASTER_KEY) as fense:
        yield fense


def test_it_is_the_same_for_one_day_every_time(fense):
    fense.set_clock(f"{DAY}T00:00:01Z")
    fense.load("demo")
    first = Api(fense.app, MASTER_KEY, None).client
    headers = {"x-api-key": MASTER_KEY}
    before = first.get("/_standin/state", headers=headers).body
    fense.set_clock(f"{DAY}T23:59:59Z")
    fense.load("demo")
    assert first.get("/_standin/state", headers=headers).body == before
    fense.advance(1)
    fense.load("demo")
    assert first.get("/_standin/state", headers=headers).body != before


@pytest.mark.parametrize(
    "day", ["0001-01-01", "0001-12-31", "0002-06-01", "0004-02-29", "2026-03-31", "9999-12-31"]
)
def test_it_works_on_every_date(fense, day):
    fense.set_clock(f"{day}T00:00:00Z")
    fense.load("demo")
    assert len(fense.state()["accounts"]) == 12


def test_a_reset_goes_back_to_it(fense):
    before = fense.state()
    fense.load({"accounts": []})
    fense.reset()
    assert fense.state() == before


def test_it_has_accounts_of_every_kind():
    accounts = demo.document(DAY)["accounts"]
    assert len(accounts) == 12
    assert [account["fense_account_id"] for account in accounts] == list(range(1, 13))
    for flag, usual in (("is_active", True), ("suppress_billing", False),
                        ("suppress_notifications", False), ("dispute_account_id", None)):  # fmt: skip
        unusual = [a for a in accounts if a.get(flag, usual) != usual]
        assert 2 <= len(unusual) <= 6, flag
    scripts = {ord(max(account["name"])) // 0x100 for account in accounts}
    assert len(scripts) >= 5


@pytest.mark.parametrize("day", [DAY, "2026-03-31", "2024-02-29", "2026-01-01"])
def test_its_usage_covers_thirteen_months_up_to_today(day):
    accounts = demo.document(day)["accounts"]
    today = datetime.date.fromisoformat(day)
    days = {date for account in accounts for date in account["usage"]}
    first = datetime.date.fromisoformat(min(days))
    assert 390 <= (today - first).days <= 397
    assert max(days) <= day
    for account in accounts:
        assert min(account["usage"]) >= account["created_at"][:10]


def test_its_usage_has_weekdays_growth_and_quiet_days():
    usage = demo.document(DAY)["accounts"][0]["usage"]
    by_day = {datetime.date.fromisoformat(date): lookups for date, lookups in usage.items()}

    def mean(chosen):
        return sum(chosen) / len(chosen)

    weekend = mean([n for day, n in by_day.items() if day.weekday() > 4])
    assert weekend < 0.6 * mean([n for day, n in by_day.items() if day.weekday() < 5])
    days = sorted(by_day)
    assert mean([by_day[day] for day in days[-90:]]) > 1.2 * mean([by_day[d] for d in days[:90]])
    assert 5 < (days[-1] - days[0]).days + 1 - len(days) < 40
    assert datetime.date(2025, 12, 25) not in by_day


def test_a_state_document_may_be_sent_back(fense):
    api = Api(fense.app, MASTER_KEY, None)
    state = api.get("/_standin/state").body
    assert api.call("PUT", "/_standin/state", state).body == state
    assert json.dumps(state).count('"usage": {"20') == 12
