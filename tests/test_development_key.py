"""The public development key works only on this machine, and not for pages of other sites."""

import pytest
from conftest import SERVICE_KEY, Api, refusal


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_without_a_key_it_serves_on_loopback_only(run_command, host):
    code, out, log = run_command("--host", host, "--port=0")
    assert (code, out) == (2, "")
    assert "set DISPUTE_MASTER_KEY" in log


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "fense.localhost"}, 200),
        ({"Host": "[::1]:8642"}, 200),
        ({"Host": "127.1.2.3"}, 200),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_the_development_key_rejects_pages_of_other_sites(make_app, headers, status):
    api = Api(
        make_app(master_key="local-dev-key", service_keys=[SERVICE_KEY]), "local-dev-key", None
    )
    answer = api.get("/accounts/usage", headers=headers)
    assert answer.status == status
    if status == 403:
        assert "set DISPUTE_MASTER_KEY to a key of your own" in answer.body["error"]["message"]
    assert api.get("/accounts/usage", headers=headers, key=SERVICE_KEY).status == 200
    assert api.get("/accounts/usage", headers=headers, key="x").status == 401


def test_in_development_mode_a_404_says_where_things_are(make_app):
    api = Api(make_app(master_key="local-dev-key", prefix="/admin"), "local-dev-key", None)
    message = "the API is at /admin/accounts, its description is at /openapi.json"
    for path in ("/", "/admin/"):
        expected = refusal(code="not_found", message=f"there is no such path; {message}")
        assert api.get(path).body == expected
    hint = "; the development key is local-dev-key"
    for key, message in (
        (None, "the header x-api-key is missing"),
        ("x", "x-api-key is not a known key"),
    ):
        answer = api.get("/admin/accounts/1", key=key)
        assert (answer.status, answer.body) == (
            401,
            refusal(code="unauthorized", message=message + hint),
        )
