"""Accounts: creating, reading and updating them."""

import re
import threading
from datetime import datetime, timedelta, timezone

import pytest
from conftest import TIMEOUT, account_fields, in_background, refusal

NOT_FOUND = refusal(code="not_found", message="no account has this fense_account_id")
TAKEN = refusal(("api_key", "belongs to another account"))
LINK = "6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11"


def is_now(text):
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text, re.ASCII)
    passed = datetime.now(timezone.utc) - datetime.fromisoformat(text.replace("Z", "+00:00"))
    return timedelta(seconds=-1) < passed < timedelta(seconds=60)


def test_an_account_is_created_with_required_fields_only(api):
    fields = account_fields(api_key="sk_test_" + account_fields()["api_key"][-8:] + "9f2c")
    answer = api.post("/accounts", fields)
    account = answer.body
    assert answer.status == 201
    assert list(account.items()) == [
        ("fense_account_id", account["fense_account_id"]),
        ("name", "Acme Ltd"),
        ("email", "owner@acme.example"),
        ("api_key_last4", "9f2c"),
        ("suppress_notifications", False),
        ("suppress_billing", False),
        ("is_active", True),
        ("dispute_account_id", None),
        ("created_at", account["created_at"]),
        ("updated_at", account["created_at"]),
    ]
    assert is_now(account["created_at"])
    assert answer.headers["Location"] == f"{api.base}/accounts/{account['fense_account_id']}"


def test_an_account_is_created_with_all_fields(api):
    options = {
        "suppress_notifications": True,
        "suppress_billing": True,
        "dispute_account_id": LINK.upper(),
    }
    account = api.new_account(**options)
    assert {name: account[name] for name in options} == options | {"dispute_account_id": LINK}


def test_an_account_is_read_as_created(api):
    account = api.new_account()
    answer = api.get(f"/accounts/{account['fense_account_id']}")
    assert (answer.status, answer.body) == (200, account)
    assert list(answer.body) == list(account)


def test_ids_count_from_one(api, inside):
    assert [api.new_account()["fense_account_id"] for _ in range(3)] == [1, 2, 3]
    assert api.post("/accounts", {}).status == 400
    assert api.new_account()["fense_account_id"] == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Acme GmbH & Söhne \N{SNOWMAN}"),
        ("suppress_notifications", True),
        ("suppress_billing", True),
        ("is_active", False),
        ("dispute_account_id", LINK),
        ("dispute_account_id", None),
    ],
)
def test_an_update_changes_only_the_field_sent(api, field, value):
    account = api.new_account()
    path = f"/accounts/{account['fense_account_id']}"
    answer = api.post(path, {field: value})
    updated = answer.body | {"updated_at": account["updated_at"]}
    assert (answer.status, updated) == (200, account | {field: value})
    assert is_now(answer.body["updated_at"])
    assert api.get(path).body == answer.body


def test_an_update_changes_several_fields_at_once_and_back(api):
    account = api.new_account(dispute_account_id=LINK)
    path = f"/accounts/{account['fense_account_id']}"
    changes = {
        "name": "Other",
        "suppress_notifications": True,
        "suppress_billing": True,
        "is_active": False,
        "dispute_account_id": None,
    }
    assert api.post(path, changes).body.items() >= changes.items()
    back = {name: account[name] for name in changes}
    assert api.post(path, back).body.items() >= back.items()


def test_a_new_key_shows_its_last_four(api):
    account = api.new_account()
    key = account_fields()["api_key"]
    answer = api.post(f"/accounts/{account['fense_account_id']}", {"api_key": key})
    assert answer.body["api_key_last4"] == key[-4:]


def test_an_empty_update_changes_nothing_at_all(api, inside):
    account = api.new_account()
    inside.db.engine.execute_sql("UPDATE account SET updated_at = '2020-02-29T12:00:00Z'")
    answer = api.post(f"/accounts/{account['fense_account_id']}", {})
    assert (answer.status, answer.body) == (200, account | {"updated_at": "2020-02-29T12:00:00Z"})


def test_an_update_changes_updated_at_but_not_created_at(api, inside):
    account = api.new_account()
    inside.db.engine.execute_sql("UPDATE account SET created_at = '2020-02-29T12:00:00Z'")
    inside.db.engine.execute_sql("UPDATE account SET updated_at = created_at")
    answer = api.post(f"/accounts/{account['fense_account_id']}", {"name": "Acme Ltd"})
    assert answer.body["created_at"] == "2020-02-29T12:00:00Z"
    assert is_now(answer.body["updated_at"])


def test_white_space_around_a_name_is_removed(api):
    account = api.new_account(name=" \N{NO-BREAK SPACE}" + "x" * 255 + "\N{IDEOGRAPHIC SPACE} ")
    assert account["name"] == "x" * 255


@pytest.mark.parametrize(
    ("key", "shown"), [("x1234567890", None), ("xy1234567890", "7890"), ("~", None)]
)
def test_only_keys_of_twelve_characters_show_their_last_four(api, inside, key, shown):
    assert api.new_account(api_key=key)["api_key_last4"] == shown


@pytest.mark.parametrize("email", ["a@b", "x" * 252 + "@b", "ü@ö.example", "a+b.c@[127.0.0.1]"])
def test_an_email_has_text_on_both_sides_of_the_at_sign(api, email):
    assert api.new_account(email=email)["email"] == email


def test_the_longest_key_is_accepted(api):
    key = (account_fields()["api_key"] + "!" * 255)[:250] + "~tail"
    assert api.new_account(api_key=key)["api_key_last4"] == "tail"


# --- One key, one account ----------------------------------------------------------------------


def test_an_api_key_is_unique(api):
    fields = account_fields()
    api.post("/accounts", fields)
    before = api.everything()
    answer = api.post("/accounts", account_fields(api_key=fields["api_key"]))
    assert (answer.status, answer.body) == (400, TAKEN)
    other = api.new_account()
    path = f"/accounts/{other['fense_account_id']}"
    answer = api.post(path, {"api_key": fields["api_key"], "name": "Changed"})
    assert (answer.status, answer.body) == (400, TAKEN)
    assert api.get(path).body == other
    assert len(api.everything()[0]) == len(before[0]) + 1


def test_an_account_may_get_its_own_key_again(api):
    fields = account_fields()
    account = api.post("/accounts", fields).body
    answer = api.post(f"/accounts/{account['fense_account_id']}", {"api_key": fields["api_key"]})
    assert answer.status == 200


def test_a_duplicate_api_key_is_reported_last(api):
    fields = account_fields()
    api.post("/accounts", fields)
    answer = api.post("/accounts", fields | {"name": ""})
    assert [detail["field"] for detail in answer.body["error"]["details"]] == ["name"]


def test_one_of_several_concurrent_creations_gets_the_key(api):
    fields = account_fields()
    before = len(api.everything()[0])
    answers = []
    go = threading.Barrier(16)

    def create():
        go.wait(TIMEOUT)
        answers.append(api.post("/accounts", fields))

    with in_background(create, 16):
        pass
    assert sorted(answer.status for answer in answers) == [201] + [400] * 15
    assert all(answer.body == TAKEN for answer in answers if answer.status == 400)
    assert len(api.everything()[0]) == before + 1


# --- Ids ---------------------------------------------------------------------------------------

NOBODY = ["0", "-0", "-1", "999999999999", str(2**63 - 1), str(2**63), "-" + "9" * 40, "9" * 5_000]


@pytest.mark.parametrize("number", NOBODY, ids=lambda number: number[:20])
def test_an_unknown_id_is_not_found(api, number):
    for path in (f"/accounts/{number}", f"/accounts/usage/{number}"):
        answer = api.get(path)
        assert (answer.status, answer.body) == (404, NOT_FOUND)
    answer = api.get(f"/accounts/usage?fense_account_id={number}")
    assert (answer.status, answer.body) == (404, NOT_FOUND)
    answer = api.post(f"/accounts/{number}", {"name": "Acme"})
    assert (answer.status, answer.body) == (404, NOT_FOUND)


@pytest.mark.parametrize("zeros", [1, 2, 18, 19, 30, 5_000, 15_000])
def test_leading_zeros_of_an_id_are_ignored(api, zeros):
    account = api.new_account()
    number = account["fense_account_id"]
    padded = "0" * zeros + str(number)
    assert api.get(f"/accounts/{padded}").body == account
    assert api.post(f"/accounts/{padded}", {}).body == account
    for path in (
        f"/accounts/usage/{padded}",
        f"/accounts/usage?fense_account_id={padded}",
        f"/accounts/usage/{number}?fense_account_id={padded[-10_000:]}",
    ):
        answer = api.get(path)
        assert (answer.status, answer.body["fense_account_id"]) == (200, number)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "abc",
            "1.0",
            "1e3",
            "+1",
            "--1",
            "-",
            "0x1",
            "1,2",
            "1;x",
            "%00",
            "1%20",
            "1%0A",
            "%0A1",
        ),
        *("%D9%A3", "%C2%B2", "1%FF", "%FF", "usage%0A"),  # other digits, no UTF-8, a near path
    ],
)
def test_an_id_other_than_ascii_digits_is_rejected(api, text):
    api.new_account()
    expected = refusal(("fense_account_id", "must be an integer"))
    for path in (f"/accounts/{text}", f"/accounts/usage/{text}"):
        answer = api.get(path)
        assert (answer.status, answer.body) == (400, expected), path
    before = api.everything()
    answer = api.post(f"/accounts/{text}", {"name": "Changed"})
    assert (answer.status, answer.body) == (400, expected)
    assert api.everything() == before


def test_an_unknown_account_with_a_bad_body_is_a_bad_request(api):
    answer = api.post("/accounts/999999999999", {"email": "a@b"})
    assert (answer.status, answer.body) == (400, refusal(("email", "can't be changed")))
