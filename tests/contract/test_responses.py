"""All responses have the same headers and the same error shape; internal errors show no details."""

import re

import pytest
from conftest import refusal

EVERY_ANSWER = [
    ("GET", "/accounts/usage", 200),
    ("GET", "/accounts/0", 404),
    ("GET", "/accounts/x", 400),
    ("GET", "/nothing", 404),
    ("PUT", "/accounts", 405),
]


@pytest.mark.parametrize(("method", "path", "status"), EVERY_ANSWER)
def test_every_response_has_the_same_headers(api, method, path, status):
    for key in (api.master_key, None):
        answer = api.call(method, path, key=key)
        assert answer.status == (status if key or path == "/nothing" else 401)
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Cache-Control"] == "no-store"
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["X-Request-Id"])


@pytest.mark.parametrize("key", [True, False])
def test_any_web_page_may_read_only_the_openapi_document(api, key):
    options = {"headers": {"Origin": "https://editor.example"}} | ({} if key else {"key": None})
    allow = "Access-Control-Allow-Origin"
    for path in ("/openapi.json", "/openapi.json?a=1"):
        for method in ("GET", "HEAD"):
            assert api.call(method, path, **options).headers[allow] == "*"
    assert not [
        (method, path)
        for method, path, _ in [*EVERY_ANSWER, ("GET", "/healthz", 200)]
        if [name for name in api.call(method, path, **options).headers if "access" in name.lower()]
    ]


@pytest.mark.parametrize(
    ("path", "status"), [("/accounts", 401), ("/nothing", 404), ("/openapi.json", 405)]
)
def test_a_preflight_is_named_as_one(api, path, status):
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    answer = api.call("OPTIONS", path, key=None, headers=asked)
    assert answer.status == status
    assert answer.body["error"]["message"].startswith("a CORS preflight: ")
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    for name in asked:  # without one of them it is a request as any other
        answer = api.call("OPTIONS", path, key=None, headers=asked | {name: None})
        assert (answer.status, "preflight" in str(answer.body)) == (status, False)


def test_a_preflight_is_logged_as_one(api, inside, caplog):
    caplog.set_level("INFO", "fense_admin")
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    api.call("OPTIONS", "/accounts", key=None, headers=asked)
    assert ": a CORS preflight: " in caplog.text
    assert "x-api-key is missing" not in caplog.text


@pytest.mark.parametrize("valid", ["a", "!~", "0d6f-" * 25, "x" * 128])
def test_a_valid_request_id_is_returned(api, valid):
    for path in ("/accounts/usage", "/nothing"):
        assert api.get(path, headers={"X-Request-Id": valid}).headers["X-Request-Id"] == valid


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", "\xe9", "a\x7f"])
def test_an_invalid_request_id_is_replaced(api, sent):
    answer = api.get("/accounts/usage", headers={"X-Request-Id": sent})
    assert re.fullmatch("[0-9a-f]{16}", answer.headers["X-Request-Id"])


def test_new_request_ids_differ(api):
    assert len({api.get("/nothing").headers["X-Request-Id"] for _ in range(50)}) == 50


@pytest.mark.parametrize("path", [path for method, path, _ in EVERY_ANSWER if method == "GET"])
@pytest.mark.parametrize("key", [True, False])
def test_head_is_get_without_a_body(api, path, key):
    options = {} if key else {"key": None}
    get, head = api.get(path, **options), api.call("HEAD", path, **options)
    assert (head.status, head.body) == (get.status, None)
    varying = ("X-Request-Id", "Date")
    assert [item for item in sorted(head.headers.items()) if item[0] not in varying] == [
        item for item in sorted(get.headers.items()) if item[0] not in varying
    ]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_internal_error_is_logged_but_not_shown(api, inside, caplog, monkeypatch, method):
    def break_down(number):
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(inside.db, "get_account", break_down)
    answer = api.call(method, "/accounts/1", headers={"X-Request-Id": "mine"})
    message = "internal error; see the log for request id mine"
    expected = refusal(code="internal_server_error", message=message)
    assert (answer.status, answer.body) == (500, None if method == "HEAD" else expected)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Request-Id"] == "mine"
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage() == f"internal server error: {method} /accounts/1 id=mine"
    assert "a secret of the inside" in caplog.text


def test_an_error_while_reporting_an_error_is_reported(api, inside, monkeypatch):
    def break_down(*_):
        raise RuntimeError

    monkeypatch.setattr(inside, "default_error_handler", break_down, raising=False)
    assert api.get("/nothing").status == 500


def test_a_database_that_fails_is_unavailable(api, inside, caplog):
    account = api.new_account()
    inside.db.engine.execute_sql("ALTER TABLE account RENAME TO elsewhere")
    for method, path in (("GET", "/accounts/1"), ("POST", "/accounts/1"), ("GET", "/healthz")):
        answer = api.call(method, path, {} if method == "POST" else None)
        message = "the database is temporarily unavailable; nothing was changed"
        expected = refusal(code="service_unavailable", message=message)
        assert (answer.status, answer.body) == (503, expected)
        assert answer.headers["Retry-After"] == "1"
    assert "no such table" in caplog.text or "does not exist" in caplog.text
    inside.db.engine.execute_sql("ALTER TABLE elsewhere RENAME TO account")
    assert api.get("/accounts/1").body == account
