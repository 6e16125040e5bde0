"""Keys: 401 for an unknown one, 403 for a merchant's, before anything else is checked."""

import hmac

import pytest
from conftest import MASTER_KEY, SERVICE_KEY, Api, account_fields, refusal

MISSING = refusal(code="unauthorized", message="the header x-api-key is missing")
UNKNOWN = refusal(code="unauthorized", message="x-api-key is not a known key")
MERCHANT = refusal(code="forbidden", message="a merchant's key gives no access to these endpoints")
ENDPOINTS = [
    ("POST", "/accounts"),
    ("GET", "/accounts/1"),
    ("HEAD", "/accounts/1"),
    ("POST", "/accounts/1"),
    ("GET", "/accounts/usage"),
    ("GET", "/accounts/usage/1"),
]
# A known path, and an error that must not be shown without a key.
BEHIND_THE_KEY = [
    ("DELETE", "/accounts/1"),
    ("PATCH", "/accounts"),
    ("POST", "/accounts/usage"),
    ("OPTIONS", "/accounts/usage/1"),
    ("GET", "/accounts/nonsense"),
    ("GET", "/accounts/999999999"),
    ("GET", "/accounts/usage?start_date=nonsense"),
]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS + BEHIND_THE_KEY)
@pytest.mark.parametrize("body", [b"", b"{nonsense", b"x" * 70_000])
def test_every_path_requires_a_known_key(api, method, path, body):
    before = api.everything()
    head = method == "HEAD"
    for key, expected in ((None, MISSING), ("", MISSING), ("who-knows", UNKNOWN)):
        answer = api.call(method, path, body, key=key)
        assert (answer.status, answer.body) == (401, None if head else expected)
        assert answer.headers["WWW-Authenticate"] == 'ApiKey header="x-api-key"'
    assert api.everything() == before


@pytest.mark.parametrize(("method", "path"), ENDPOINTS + BEHIND_THE_KEY)
def test_a_merchants_key_is_forbidden(api, method, path):
    fields = account_fields()
    assert api.post("/accounts", fields).status == 201
    answer = api.call(method, path, b"{nonsense", key=fields["api_key"])
    assert (answer.status, answer.body) == (403, None if method == "HEAD" else MERCHANT)


def test_a_merchants_new_key_replaces_the_old_one(api):
    old, new = account_fields()["api_key"], account_fields()["api_key"]
    account = api.new_account(api_key=old)
    api.post(f"/accounts/{account['fense_account_id']}", {"api_key": new, "is_active": False})
    assert api.get("/accounts/1", key=old).status == 401
    assert api.get("/accounts/1", key=new).status == 403


def test_a_service_key_gives_access_to_every_endpoint(api):
    if api.service_key is None:
        pytest.skip("needs a service key in DISPUTE_SERVICE_KEYS")
    account = api.post("/accounts", account_fields(), key=api.service_key)
    assert account.status == 201
    number = account.body["fense_account_id"]
    assert api.get(f"/accounts/{number}", key=api.service_key).body == account.body
    assert api.post(f"/accounts/{number}", {}, key=api.service_key).body == account.body
    for path in ("/accounts/usage", f"/accounts/usage/{number}"):
        assert api.get(path, key=api.service_key).status == 200


@pytest.mark.parametrize(
    "key", ["{} ", " {}", "{}\t"], ids=["space after", "space before", "tab after"]
)
def test_a_key_with_other_text_around_it_is_unknown(api, inside, key):
    # In-process only: over HTTP the white space around a header's value is not part of it.
    assert api.get("/accounts/usage", key=key.format(api.master_key)).status == 401


@pytest.mark.parametrize("key", ["\xe4\xf6\xfc", "sk_test_\xff", "x" * 5_000, "a,b", '"'])
def test_a_malformed_key_is_unknown(api, key):
    answer = api.get("/accounts/usage", key=key)
    assert (answer.status, answer.body) == (401, UNKNOWN)


def test_a_key_sent_twice_is_reported(api):
    twice = f"{api.master_key}, {api.master_key}"  # as a server joins two headers
    answer = api.get("/accounts/usage", key=twice)
    message = "the header x-api-key came twice: send it once"
    assert (answer.status, answer.body) == (401, refusal(code="unauthorized", message=message))


def test_every_key_is_always_compared(inside, monkeypatch):
    compare, compared = hmac.compare_digest, []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(b) or compare(a, b))
    api = Api(inside, MASTER_KEY, SERVICE_KEY)
    for key in (MASTER_KEY, SERVICE_KEY, "neither"):
        compared.clear()
        api.get("/accounts/usage", key=key)
        assert len(compared) == 2
