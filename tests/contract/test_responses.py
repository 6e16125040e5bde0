"""What all responses share, unknown paths, wrong methods, and what stands beside the contract."""

import re

import pytest
from conftest import MASTER_KEY, Api, account_fields, refusal

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


@pytest.mark.parametrize("sane", ["a", "!~", "0d6f-" * 25, "x" * 128])
def test_a_sane_request_id_comes_back(api, sane):
    for path in ("/accounts/usage", "/nothing"):
        assert api.get(path, headers={"X-Request-Id": sane}).headers["X-Request-Id"] == sane


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", "\xe9", "a\x7f"])
def test_another_request_id_is_replaced(api, sent):
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
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "TRACE"])
def test_an_unknown_path_is_not_found_with_or_without_a_key(api, method, path, meant):
    advice = f"; the API is under {api.base}" if api.base else ""
    if meant:
        advice = f"; did you mean {api.base}{meant}?"
    expected = refusal(code="not_found", message="there is no such path" + advice)
    for key in (api.master_key, None):
        answer = api.call(method, path, key=key)
        assert (answer.status, answer.body) == (404, expected)


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
def test_a_method_that_a_path_does_not_take_is_named(api, method, path, allow):
    before = api.everything()
    answer = api.call(method, path, b'{"name": "Changed"}')
    if method in allow.split(", "):
        assert answer.status != 405
        return
    told = f"this path takes {allow}"
    if (method, path) == ("GET", "/accounts"):
        told += f"; GET {api.base}/accounts/usage lists all accounts"
    expected = refusal(code="method_not_allowed", message=told)
    assert (answer.status, answer.body) == (405, None if method == "HEAD" else expected)
    assert answer.headers["Allow"] == allow
    assert api.everything() == before


# --- A prefix ----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["/admin", "admin", "/admin/", "admin/"])
def test_a_prefix_moves_every_path_of_the_page(prefix, make_app):
    app = make_app(master_key=MASTER_KEY, prefix=prefix)
    api = Api(app, MASTER_KEY, None, base="/admin")
    created = api.post("/accounts", account_fields())
    assert created.headers["Location"] == "/admin/accounts/1"
    assert api.get("/accounts/1").body == created.body
    assert api.post("/accounts/1", {}).body == created.body
    assert api.get("/accounts/usage").body["accounts"][0]["name"] == "Acme Ltd"
    assert api.get("/accounts/usage/1").status == 200
    assert api.get("/accounts/usage", key=None).status == 401

    outside = Api(app, MASTER_KEY, None)
    for path, advice in (
        ("/accounts/1", "did you mean /admin/accounts/1?"),
        ("/accounts", "did you mean /admin/accounts?"),
        ("/admin/admin/accounts/usage", "did you mean /admin/accounts/usage?"),
        ("/admin", "the API is under /admin"),
        ("/adminaccounts/1", "the API is under /admin"),
        ("/health", "did you mean /healthz?"),
    ):
        told = f"there is no such path; {advice}"
        answer = outside.get(path)
        assert (answer.status, answer.body) == (404, refusal(code="not_found", message=told))
    assert outside.get("/healthz", key=None).body == {"status": "ok"}
    assert outside.get("/openapi.json", key=None).body["servers"] == [{"url": "/admin"}]


def test_in_development_mode_a_lost_client_is_told_where_things_are(make_app):
    api = Api(make_app(master_key="local-dev-key", prefix="/admin"), "local-dev-key", None)
    told = "the API is at /admin/accounts, its description is at /openapi.json"
    for path in ("/", "/admin/"):
        expected = refusal(code="not_found", message=f"there is no such path; {told}")
        assert api.get(path).body == expected
    hint = "; the development key is local-dev-key"
    for key, told in (
        (None, "the header x-api-key is missing"),
        ("x", "x-api-key is not a known key"),
    ):
        answer = api.get("/admin/accounts/1", key=key)
        assert (answer.status, answer.body) == (
            401,
            refusal(code="unauthorized", message=told + hint),
        )


# --- Beside the contract: in-process, as a deployment of Fense need not have it ------------------


@pytest.mark.parametrize("key", [None, "who-knows"])
def test_health_and_the_document_need_no_key_and_ignore_a_query(api, inside, key):
    answer = api.get("/healthz?verbose=1", key=key)
    assert (answer.status, answer.body) == (200, {"status": "ok"})
    answer = api.get("/openapi.json?x=%FF", key=key)
    assert (answer.status, answer.body["openapi"]) == (200, "3.1.0")
    assert answer.body["servers"] == [{"url": "/"}]


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json"])
def test_health_and_the_document_take_get_alone(api, inside, path):
    answer = api.call("POST", path, b"", key=None)
    expected = refusal(code="method_not_allowed", message="this path takes GET, HEAD")
    assert (answer.status, answer.body, answer.headers["Allow"]) == (405, expected, "GET, HEAD")
    head = api.call("HEAD", path, key=None)
    assert (head.status, head.body) == (200, None)


# --- Faults of ours ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_fault_of_ours_is_logged_and_not_told(api, inside, caplog, monkeypatch, method):
    def break_down(number):
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(inside.db, "get_account", break_down)
    answer = api.call(method, "/accounts/1", headers={"X-Request-Id": "mine"})
    told = "a fault of this service, logged with the id mine"
    expected = refusal(code="internal_server_error", message=told)
    assert (answer.status, answer.body) == (500, None if method == "HEAD" else expected)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Request-Id"] == "mine"
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage() == f"internal server error: {method} /accounts/1 id=mine"
    assert "a secret of the inside" in caplog.text


def test_a_fault_in_telling_a_fault_is_told_all_the_same(api, inside, monkeypatch):
    def break_down(*_):
        raise RuntimeError

    monkeypatch.setattr(inside, "default_error_handler", break_down, raising=False)
    assert api.get("/nothing").status == 500


def test_a_database_that_fails_is_unavailable(api, inside, caplog):
    account = api.new_account()
    inside.db.execute_sql("ALTER TABLE account RENAME TO elsewhere")
    for method, path in (("GET", "/accounts/1"), ("POST", "/accounts/1"), ("GET", "/healthz")):
        answer = api.call(method, path, {} if method == "POST" else None)
        told = "the database can't be used just now; nothing was changed"
        expected = refusal(code="service_unavailable", message=told)
        assert (answer.status, answer.body) == (503, expected)
        assert answer.headers["Retry-After"] == "1"
    assert "no such table" in caplog.text
    inside.db.execute_sql("ALTER TABLE elsewhere RENAME TO account")
    assert api.get("/accounts/1").body == account
