"""Unknown paths are 404 with a suggestion, wrong methods 405 with the allowed ones."""

import pytest
from conftest import refusal


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        *((path, None) for path in ("/", "/nothing", "/accounts/1/2", "/accounts/usage/1/2")),
        *((path, None) for path in ("/%00", "/nothing/1", "/1", "/accounts" + "/" * 200)),
        *((path, "/accounts") for path in ("/account", "/Accounts", "/accounts/", "/api/accounts")),
        *((path, "/accounts") for path in ("/accounts%0A", "/acc%FFounts")),
        *((path, "/accounts/1") for path in ("/accounts/1/", "/account/1", "/v1/accounts/1")),
        *((path, "/accounts/usage") for path in ("/accounts/usage/", "/usage")),
        *((path, "/accounts/usage/1") for path in ("/accounts/1/usage", "/usage/1")),
    ],
)
def test_an_unknown_path_is_not_found_with_or_without_a_key(api, path, meant):
    advice = f"; the API is under {api.base}" if api.base else ""
    if meant:
        advice = f"; did you mean {api.base}{meant}?"
    expected = refusal(code="not_found", message="there is no such path" + advice)
    for method in ("GET", "POST", "DELETE", "TRACE"):
        for key in (api.master_key, None):
            answer = api.call(method, path, key=key)
            assert (answer.status, answer.body) == (404, expected), method


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/accounts", "POST"),
        ("/accounts/1", "GET, HEAD, POST"),
        ("/accounts/usage", "GET, HEAD"),
        ("/accounts/usage/1", "GET, HEAD"),
    ],
)
@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
)
def test_a_wrong_method_is_405_with_the_allowed_ones(api, method, path, allow):
    before = api.everything()
    answer = api.call(method, path, b'{"name": "Changed"}')
    if method in allow.split(", "):
        assert answer.status != 405
        return
    message = f"this path accepts {allow}"
    if (method, path) == ("GET", "/accounts"):
        message += f"; GET {api.base}/accounts/usage lists all accounts"
    expected = refusal(code="method_not_allowed", message=message)
    assert (answer.status, answer.body) == (405, None if method == "HEAD" else expected)
    assert answer.headers["Allow"] == allow
    assert api.everything() == before
