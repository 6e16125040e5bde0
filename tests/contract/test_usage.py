"""Usage: of one account by day, of all accounts in totals."""

import pytest
from conftest import refusal

NO_DAY = "must be a valid date, written YYYY-MM-DD"
DAYS = {"2026-10-31": 1, "2026-11-01": 20, "2026-11-03": 300, "2026-11-30": 4000, "2026-12-01": 5}


@pytest.fixture
def acme(api, inside):
    """An account with lookups on five days, between two that have none."""
    api.new_account(name="Before")
    account = api.new_account()
    api.new_account(name="After", dispute_account_id="6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11")
    for date, lookups in DAYS.items():
        inside.db.record_lookups(account["fense_account_id"], lookups, date)
    api.post("/accounts/3", {"is_active": False})
    return account


def usage(account, start, end, days):
    return {
        "fense_account_id": account["fense_account_id"],
        "name": account["name"],
        "dispute_account_id": account["dispute_account_id"],
        "start_date": start,
        "end_date": end,
        "total_lookups": sum(DAYS[date] for date in days),
        "daily": [{"date": date, "lookups": DAYS[date]} for date in days],
    }


@pytest.mark.parametrize(
    ("start", "end", "days"),
    [
        (None, None, list(DAYS)),
        ("2026-11-01", "2026-11-30", ["2026-11-01", "2026-11-03", "2026-11-30"]),
        ("2026-11-02", "2026-11-29", ["2026-11-03"]),
        ("2026-11-03", "2026-11-03", ["2026-11-03"]),
        ("2026-11-04", "2026-11-29", []),
        (None, "2026-11-01", ["2026-10-31", "2026-11-01"]),
        ("0001-01-01", "9999-12-31", list(DAYS)),
    ],
)
def test_usage_of_one_account_is_its_days_in_the_range(api, acme, start, end, days):
    query = "&".join(f"{k}={v}" for k, v in (("start_date", start), ("end_date", end)) if v)
    expected = usage(acme, start, end, days)
    for path in ("/accounts/usage/2?", "/accounts/usage?fense_account_id=2&"):
        answer = api.get(path + query)
        assert (answer.status, answer.body) == (200, expected)
        assert list(answer.body) == list(expected)
    everyone = api.get("/accounts/usage?" + query)
    link = "6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11"
    total = expected["total_lookups"]
    rows = [(1, "Before", None, 0), (2, "Acme Ltd", None, total), (3, "After", link, 0)]
    keys = ("fense_account_id", "name", "dispute_account_id", "total_lookups")
    assert (everyone.status, list(everyone.body.items())) == (
        200,
        [
            ("start_date", start),
            ("end_date", end),
            ("total_lookups", total),
            ("accounts", [dict(zip(keys, row, strict=True)) for row in rows]),
        ],
    )


def test_usage_without_accounts_is_empty(api, inside):
    body = {"start_date": None, "end_date": None, "total_lookups": 0, "accounts": []}
    assert api.get("/accounts/usage").body == body


def test_a_new_account_has_no_usage_and_is_listed(api):
    account = api.new_account(name="Nobody looked")
    number = account["fense_account_id"]
    assert api.get(f"/accounts/usage/{number}").body == usage(account, None, None, [])
    listed = api.get("/accounts/usage").body["accounts"]
    assert listed[-1] == {
        "fense_account_id": number,
        "name": "Nobody looked",
        "dispute_account_id": None,
        "total_lookups": 0,
    }
    ids = [entry["fense_account_id"] for entry in listed]
    assert ids == sorted(ids)


@pytest.mark.parametrize("name", ['"quoted" \\ back', "%d %s {}", "Łódź \u2028 😀", "</script>"])
def test_any_name_is_listed_unchanged(api, name):
    number = api.new_account(name=name)["fense_account_id"]
    assert api.get(f"/accounts/usage/{number}").body["name"] == name
    assert api.get("/accounts/usage").body["accounts"][-1]["name"] == name


def test_totals_may_exceed_the_daily_maximum(api, inside):
    number = api.new_account()["fense_account_id"]
    for day in range(1, 29):
        inside.db.record_lookups(number, 10**12, f"2026-02-{day:02}")
    assert api.get(f"/accounts/usage/{number}").body["total_lookups"] == 28 * 10**12
    assert api.get("/accounts/usage").body["total_lookups"] == 28 * 10**12


def test_the_same_id_in_path_and_query_is_accepted(api):
    number = api.new_account()["fense_account_id"]
    answer = api.get(f"/accounts/usage/{number}?fense_account_id=00{number}")
    assert (answer.status, answer.body["fense_account_id"]) == (200, number)


# --- Refusals: each of them on every path that takes the parameter --------------------------------

BAD_QUERIES = [
    ("start_date=2026-11-01", [("end_date", "is required with start_date")]),
    ("start_date=&end_date=", [("start_date", "is empty"), ("end_date", "is empty")]),
    ("start_date&end_date=2026-11-01", [("start_date", "is empty")]),
    ("start_date=2026-11-02&end_date=2026-11-01", [("start_date", "must not be after end_date")]),
    (
        "start_date=2026-11-01&start_date=2026-11-01&end_date=2026-11-02",
        [("start_date", "is given twice")],
    ),
    ("end_date=2026-11-01&end_date=&end_date=2026-11-01", [("end_date", "is given twice")]),
    ("page=1", [("page", "is not accepted here")]),
    ("page=1&page=2", [("page", "is not accepted here")]),
    ("END_DATE=2026-11-01", [("END_DATE", "is not accepted here")]),
    (
        "limit=5&start_date=x",
        [
            ("limit", "is not accepted here"),
            ("start_date", NO_DAY),
            ("end_date", "is required with start_date"),
        ],
    ),
    *[
        (f"end_date={text}", [("end_date", NO_DAY)])
        for text in (
            "2026-02-29", "2026-13-01", "2026-00-10", "2026-11-31", "0000-01-01", "10000-01-01",
            "2026-1-1", "20261101", "2026-W45-1", "2026-11-01T00:00:00Z", "2026/11/01", "today",
            "%202026-11-01", "2026-11-01%0A", "+2026-11-01", "-2026-11-01", "2026-11-%D9%A3%D9%A1",
            "2026-11-01%00", "%FF", "2026-11-0%EF%BC%91",
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize(("query", "faults"), BAD_QUERIES, ids=[row[0] for row in BAD_QUERIES])
def test_a_bad_query_is_rejected_with_all_its_errors(api, query, faults):
    number = api.new_account()["fense_account_id"]
    for path in (
        f"/accounts/usage?{query}",
        f"/accounts/usage/{number}?{query}",
        f"/accounts/usage?fense_account_id={number}&{query}",
    ):
        answer = api.get(path)
        assert (answer.status, answer.body) == (400, refusal(*faults))


@pytest.mark.parametrize(
    ("path", "faults"),
    [
        ("?fense_account_id=", [("fense_account_id", "is empty")]),
        ("?fense_account_id=abc", [("fense_account_id", "must be an integer")]),
        ("?fense_account_id=%2B1", [("fense_account_id", "must be an integer")]),
        ("?fense_account_id=%D9%A1", [("fense_account_id", "must be an integer")]),
        ("?fense_account_id=1&fense_account_id=1", [("fense_account_id", "is given twice")]),
        (
            "/1?fense_account_id=2",
            [("fense_account_id", "differs between path and query: give it once")],
        ),
        (
            f"/{'9' * 5000}?fense_account_id={'9' * 4999}8",
            [("fense_account_id", "differs between path and query: give it once")],
        ),
        (
            "/x?fense_account_id=y&end_date=z&q=",
            [
                ("q", "is not accepted here"),
                ("fense_account_id", "must be an integer"),
                ("fense_account_id", "must be an integer"),
                ("end_date", NO_DAY),
            ],
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_an_id_that_is_malformed_or_given_twice_is_rejected(api, path, faults):
    answer = api.get("/accounts/usage" + path)
    assert (answer.status, answer.body) == (400, refusal(*faults))


@pytest.mark.parametrize("query", ["verbose=1", "start_date=2026-11-01", "=", "%FF=1", "a%00b"])
def test_other_endpoints_accept_no_parameters(api, query):
    number = api.new_account()["fense_account_id"]
    before = api.everything()
    for method, path, body in (
        ("GET", f"/accounts/{number}", None),
        ("POST", f"/accounts/{number}", {"name": "Changed"}),
        ("POST", "/accounts", {"name": "Acme"}),
    ):
        answer = api.call(method, f"{path}?{query}", body)
        assert answer.status == 400
        assert answer.body["error"]["details"][0]["message"] == "is not accepted here"
    assert api.everything() == before


def test_an_invalid_id_is_not_compared(api):
    answer = api.get("/accounts/usage/1?fense_account_id=x")
    assert answer.body == refusal(("fense_account_id", "must be an integer"))


def test_an_id_may_have_any_number_of_digits(api):
    for digits in (5_000, 15_000):
        for path in ("/accounts/", "/accounts/usage/", "/accounts/usage?fense_account_id="):
            assert api.get(path + "9" * digits).status == 404
    answer = api.get(f"/accounts/usage/{'9' * 6_000}?fense_account_id={'9' * 5_999}8")
    assert answer.status == 400
