"""Invalid requests are rejected with all their errors, and nothing is written."""

import json

import pytest
from conftest import account_fields, refusal

NOT_ACCEPTED, REQUIRED = "is not accepted here", "is required"
STRING, FLAG = "must be a string", "must be true or false"
KEY = "must be 1 to 255 visible ASCII characters"
NAME = "must be 1 to 255 characters, not counting white space around it"
CONTROL = "must not have control characters or line breaks"
EMAIL = "must be an address such as name@example.com, at most 254 characters"
UUID = "must be a UUID of 8-4-4-4-12 hex digits, or null"
SURROGATE = "must be valid Unicode: it has half of a surrogate pair"
LINK = "6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11"
NO_STRINGS = [None, True, 0, 1.5, [], {}, ["x"], {"x": "y"}]

# One field that breaks its rule, and what is said of it. They hold for create and for update.
BAD_VALUES = [
    *[("api_key", value, STRING) for value in NO_STRINGS],
    *[("api_key", value, KEY) for value in ("", " ", "a b", "key\n", "k\x7f", "k\xe9y", "x" * 256)],
    ("api_key", "k\ud800", SURROGATE),
    *[("name", value, STRING) for value in NO_STRINGS],
    *[("name", value, NAME) for value in ("", "  ", "\xa0\u3000", "x" * 256, f" {'x' * 256} ")],
    *[("name", f"Ac{c}me", CONTROL) for c in "\0\t\n\r\x1f\x7f\x85\x9f"],
    *[("name", value, CONTROL) for value in ("Acme\n", "\tAcme", "\x85Acme", "Acme\x1c", "\0")],
    *[("name", value, SURROGATE) for value in ("\ud800", "Acme\udfff")],
    *[("suppress_notifications", value, FLAG) for value in (None, 0, 1, "true", "", [], {}, 0.0)],
    *[("suppress_billing", value, FLAG) for value in (None, 0, 1, "false", "", [True], {})],
    *[("dispute_account_id", value, STRING) for value in NO_STRINGS if value is not None],
    *[
        ("dispute_account_id", value, UUID)
        for value in (
            "", LINK[:-1], LINK + "0", LINK.replace("-", ""), "{" + LINK + "}", LINK + "\n",
            "urn:uuid:" + LINK, LINK.replace("6", "g"), LINK.replace("6", "\u0666"),
        )
    ],
    ("dispute_account_id", "\udfff", SURROGATE),
]  # fmt: skip
BAD_IN_CREATE = [
    *[("email", value, STRING) for value in NO_STRINGS],
    *[
        ("email", value, EMAIL)
        for value in (
            "", "@", "a@", "@b", "ab", "a@b@c", "a b@c", "a@b c", "a@b\n", " a@b", "a@b\u3000",
            "a\0@b", "a@b\x9f", "a@\u2028b", "x" * 253 + "@b",
        )
    ],
    ("email", "a@\udc80", SURROGATE),
    *[("is_active", value, NOT_ACCEPTED) for value in (True, False, None, "x")],
]  # fmt: skip
BAD_IN_UPDATE = [
    *[("email", value, "can't be changed") for value in ("owner@acme.example", None, "")],
    *[("is_active", value, FLAG) for value in (None, 0, 1, "true", [])],
]
# Names that no table lists: misspelt, in another case, of the account, or strange.
UNKNOWN_NAMES = [
    "supress_billing", "suppressBilling", "Name", "name ", "fense_account_id", "api_key_last4",
    "fense_acount_id", "created_at", "updated_at", "__proto__", "x" * 1_000,
]  # fmt: skip
NO_JSON = [
    b"", b" ", b"{", b"}", b"nonsense", b"{'name': 1}", b'{"name": }', b'{"name": "x",}',
    b'{"name": "a\nb"}', b'{"name": NaN}', b'{"name": Infinity}', b'{"name": -Infinity}',
    b'{"name": 01}', b'{"name": "x"} {}', b'{"name": "\\x41"}', b"// no\n{}", b"\x00", b"{}\x00",
    b"[" * 50_000, b'{"name":' * 8_000,  # too deep for a Python before 3.14
    b'{"name": ' + b"[" * 20_000 + b"]" * 20_000,
    b'{"suppress_billing": ' + b"9" * 5_000 + b"}",
    b"\xef\xbb\xbf{}", b'{"name": "\xff"}', b'{"name": "\xed\xa0\x80"}', b"\xc3", b'"\xc0\xaf"',
    json.dumps({"name": "Acme"}).encode("utf-16"), b"name=Acme",
]  # fmt: skip
NO_OBJECT = [b"null", b"true", b"0", b"1.5", b'""', b'"name"', b"[]", b"[{}]", b'[["name", "x"]]']


def check_refused(api, body, status, expected, headers=()):
    """Check that a creation and an update with this body are rejected, and nothing is written."""
    number = api.new_account()["fense_account_id"]
    before = api.everything()
    for path, error in zip(("/accounts", f"/accounts/{number}"), expected, strict=True):
        if error is not None:
            answer = api.post(path, body, headers=headers)
            assert (answer.status, answer.body) == (status, error)
    assert api.everything() == before


def shown(value):
    return ascii(value)[:40]


@pytest.mark.parametrize(("field", "value", "fault"), BAD_VALUES + BAD_IN_CREATE, ids=shown)
def test_a_creation_with_an_invalid_field_is_rejected(api, field, value, fault):
    body = account_fields(**{field: value})
    check_refused(api, body, 400, (refusal((field, fault)), None))


@pytest.mark.parametrize(("field", "value", "fault"), BAD_VALUES + BAD_IN_UPDATE, ids=shown)
def test_an_update_with_an_invalid_field_is_rejected(api, field, value, fault):
    body = {"name": "Changed", "suppress_billing": True} | {field: value}
    check_refused(api, body, 400, (None, refusal((field, fault))))


MEANT = {
    "supress_billing": "suppress_billing",
    "suppressBilling": "suppress_billing",
    "Name": "name",
    "name ": "name",
    "api_key_last4": "api_key",
}


@pytest.mark.parametrize("name", UNKNOWN_NAMES, ids=shown)
def test_an_undocumented_field_is_rejected_by_name(api, name):
    advice = f"; did you mean {MEANT[name]}?" if name in MEANT else ""
    fault = refusal((name, NOT_ACCEPTED + advice))
    check_refused(api, account_fields(**{name: True}), 400, (fault, None))
    check_refused(api, {"name": "Changed", name: True}, 400, (None, fault))


@pytest.mark.parametrize("missing", ["api_key", "name", "email"])
def test_a_missing_required_field_is_named(api, missing):
    body = account_fields()
    del body[missing]
    check_refused(api, body, 400, (refusal((missing, REQUIRED)), None))


def test_all_errors_are_reported_at_once(api):
    body = {
        "zip": 1,
        "is_active": 1,
        "suppress_billing": "yes",
        "dispute_account_id": "x",
        "name": "",
        "email": "nobody",
    }
    # In the order of the contract's table, then what is not accepted, as sent.
    shared = {"name": NAME, "suppress_billing": FLAG, "dispute_account_id": UUID}
    create = {"api_key": REQUIRED, "name": NAME, "email": EMAIL} | shared
    create |= {"zip": NOT_ACCEPTED, "is_active": NOT_ACCEPTED}
    update = {"name": NAME, "suppress_billing": FLAG, "is_active": FLAG} | shared
    update |= {"zip": NOT_ACCEPTED, "email": "can't be changed"}
    check_refused(api, body, 400, (refusal(*create.items()), refusal(*update.items())))


def test_errors_of_path_query_and_body_are_reported_together(api):
    answer = api.post("/accounts/x?y=1", {"z": 1})
    assert (answer.status, answer.body) == (
        400,
        refusal(
            ("fense_account_id", "must be an integer"),
            ("y", NOT_ACCEPTED),
            ("z", NOT_ACCEPTED),
        ),
    )
    answer = api.post("/accounts?y=1", b"[]")
    expected = refusal(("y", NOT_ACCEPTED))
    expected["error"]["message"] += "; the body must be a JSON object"
    assert (answer.status, answer.body) == (400, expected)


@pytest.mark.parametrize("raw", NO_JSON, ids=lambda raw: ascii(raw[:40]))
def test_a_body_that_is_not_json_is_rejected(api, raw):
    number = api.new_account()["fense_account_id"]
    before = api.everything()
    for path in ("/accounts", f"/accounts/{number}"):
        answer = api.post(path, raw)
        error = answer.body["error"]
        assert (answer.status, error["code"], error["details"]) == (400, "bad_request", [])
        assert error["message"].startswith("the body is n")
        assert len(error["message"]) < 200
    assert api.everything() == before


@pytest.mark.parametrize("raw", NO_OBJECT, ids=ascii)
def test_a_body_that_is_not_an_object_is_rejected(api, raw):
    error = refusal(message="the body must be a JSON object")
    check_refused(api, raw, 400, (error, error))


def test_a_field_given_twice_is_rejected_by_name(api):
    raw = json.dumps(account_fields())[:-1].encode() + b', "name": "Other", "email": "a@b"}'
    fault = refusal(("email", "is given twice"), ("name", "is given twice"))
    check_refused(api, raw, 400, (fault, None))
    raw = b'{"is_active": false, "is_active": false, "is_active": false}'
    check_refused(api, raw, 400, (None, refusal(("is_active", "is given twice"))))


def test_an_unprintable_name_is_readable_in_the_message_and_exact_in_the_details(api):
    names = ["a\nb", "\x1b[31m", "\ud800", "", "\u202e"]
    answer = api.post("/accounts/1", dict.fromkeys(names, 1))
    error = answer.body["error"]
    message = "a\ufffdb is not accepted here; \ufffd[31m is not accepted here; "
    message += '\ufffd is not accepted here; "" is not accepted here; \ufffd is not accepted here'
    assert (answer.status, error["message"]) == (400, message)
    assert error["details"] == [{"field": name, "message": NOT_ACCEPTED} for name in names]


@pytest.mark.parametrize(
    "sent", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
def test_a_body_not_sent_as_json_is_rejected(api, sent):
    error = refusal(message="the body must be sent with Content-Type: application/json")
    headers = {"Content-Type": sent}
    check_refused(api, account_fields(), 400, (error, None), headers)
    check_refused(api, {"name": "Changed"}, 400, (None, error), headers)


@pytest.mark.parametrize(
    "sent", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/json ;x=y"]
)
def test_the_parameters_of_a_content_type_are_ignored(api, sent):
    assert api.post("/accounts", account_fields(), headers={"Content-Type": sent}).status == 201


def test_a_body_may_have_at_most_64_kib(api):
    body = json.dumps(account_fields()).encode()
    fits = body[:-1] + b" " * (64 * 1024 - len(body)) + b"}"
    assert api.post("/accounts", fits).status == 201
    error = refusal(message="the body exceeds the maximum of 65536 bytes", code="payload_too_large")
    check_refused(api, fits + b" ", 413, (error, error))


def test_a_body_that_is_too_large_is_413_whatever_else_is_wrong(api):
    answer = api.post("/accounts?y=1", b" " * (64 * 1024 + 1))
    assert (answer.status, answer.body["error"]["code"]) == (413, "payload_too_large")
