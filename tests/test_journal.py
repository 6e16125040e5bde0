"""The journal: what came and what went, in order, bounded, and with no key whole in it."""

import json
import time

import pytest
from conftest import Api, account_fields

from fense_admin import models
from fense_admin.standin import StandIn
from fense_admin.standin.journal import masked

KEY = "master-of-tests-1a2b"
SECRET = "sk_live_5e1f6a7b8c9d"


@pytest.fixture
def fense():
    with StandIn(master_key=KEY, serve=False, prefix="/admin") as fense:
        yield fense


@pytest.fixture
def api(fense):
    return Api(fense.app, KEY, None, base="/admin")


def test_an_entry_tells_what_came_and_what_went(fense, api):
    before = models.now()
    body = account_fields(api_key=SECRET, name="Acme")
    answer = api.post("/accounts?x=1", body, headers={"X-Request-Id": "mine", "X-Mine": "yes"})
    (entry,) = fense.requests()
    assert list(entry) == (
        "id at method path query headers body status response duration_ms fault".split()
    )
    assert 0 <= entry.pop("duration_ms") < 1000
    assert entry.pop("at")[:17] in (before[:17], models.now()[:17])
    assert entry == {
        "id": "mine",
        "method": "POST",
        "path": "/admin/accounts",
        "query": "x=1",
        "headers": {
            "content-type": "application/json",
            "content-length": str(len(json.dumps(body))),
            "host": "localhost:80",
            "x-api-key": "…1a2b",
            "x-mine": "…",
            "x-request-id": "mine",
        },
        "body": json.dumps(body).replace(SECRET, "…8c9d"),
        "status": 400,
        "response": json.dumps(answer.body),
        "fault": None,
    }
    assert answer.status == 400


def test_all_requests_are_kept_in_order_of_arrival_but_those_beside_the_contract(fense, api):
    fense.fail(503, path="/accounts/7")
    calls = [
        ("GET", "/accounts/1", KEY, 404),
        ("GET", "/accounts/1", None, 401),
        ("HEAD", "/accounts/usage", KEY, 200),
        ("GET", "/accounts/7", KEY, 503),
        ("DELETE", "/accounts/1", KEY, 405),
        ("GET", "/no%20thing/%FF/%C3%BC", KEY, 404),
    ]
    for method, path, key, status in calls:
        assert api.call(method, path, key=key).status == status
    outside = Api(fense.app, KEY, None)
    for path in (
        "/healthz",
        "/openapi.json",
        "/_standin/requests",
        "/_standin/nothing",
        "/_standin",
    ):
        outside.get(path)
    assert outside.get("/nothing").status == 404
    kept = [(entry["method"], entry["path"], entry["status"]) for entry in fense.requests()]
    assert kept == [
        *((method, "/admin" + path, status) for method, path, _, status in calls),
        ("GET", "/nothing", 404),
    ]
    assert [entry["fault"] for entry in fense.requests()] == [None, None, None, 1, None, None, None]
    assert [entry["response"] is None for entry in fense.requests()][:3] == [False, False, True]
    assert {len(entry["id"]) for entry in fense.requests()} == {16}


def test_a_dropped_request_has_no_status(fense, api):
    for drop in ("reset", "empty", "truncate"):
        fense.fail(drop=drop)
        with pytest.raises(ConnectionResetError):
            api.get("/accounts/1")
    assert [(e["status"], e["response"], e["fault"]) for e in fense.requests()] == [
        (None, None, 1),
        (None, None, 2),
        (None, None, 3),
    ]


def test_it_is_forgotten_when_told(fense, api):
    control = Api(fense.app, KEY, None)
    api.get("/accounts/1")
    assert len(control.get("/_standin/requests").body["requests"]) == 1
    assert control.call("DELETE", "/_standin/requests").status == 204
    assert control.get("/_standin/requests").body == {"requests": []}


def test_it_keeps_the_newest_thousand_and_8_kib_of_each(fense, api):
    long = "x" * 60_000
    for number in range(1_005):
        api.post(f"/accounts/{number}", {long: 1} if number % 100 == 4 else b"")
    entries = fense.requests()
    assert [entry["path"] for entry in entries] == [f"/admin/accounts/{n}" for n in range(5, 1_005)]
    assert {len(entry["body"] or "") for entry in entries} == {0, 8192}
    api.post("/accounts", "\N{SNOWMAN}".encode() * 10_000)
    assert len(fense.requests()[-1]["body"].encode()) == 8190
    assert max(len(entry["response"]) for entry in entries) == 8192


# --- Credentials -------------------------------------------------------------------------------

BODIES = [
    '{"api_key": "%s"}',
    '{ "a" : [ { "b" : { "api_key" :"%s" } } ] }',
    '{"api_key":"%s","api_key":"%s"}',
    '{"API_KEY": "%s", "apiKey": "%s", "x-api-key": "%s"}',
    '{"api\\u005fkey": "%s"}',
    '{"\\u0061pi_key": "%s"}',
    '{"api_key": ["%s", {"x": "%s"}]}',
    '{"api_key": {"x": "%s"}}',
    '{"api_key": "%s',
    '{"name": "x" "api_key": "%s"',
    '{"api_key": %s}',
    "{'api_key': '%s'}",
    "{api_key: '%s'}",
    '{"api_key" = "%s"}',
    '{"api_key": "quote \\" %s"}',
    "api_key=%s&name=Acme",
    "name=Acme&api%%5Fkey=%s",
    "api_key: %s\nname: x",
    '--b\r\nContent-Disposition: form-data; name="api_key"\r\n\r\n%s\r\n--b--',
    "<account><api_key>%s</api_key></account>",
    '["api_key", "%s"',
    '{"api_key" "%s"}',
    '{"api_key"/**/:/* it is */"%s"}',
    "{“api_key”:“%s”}",
    '{"body": "{\\"api_key\\": \\"%s\\"}"}',
    '{"api_keys": ["%s", "%s"]}',
    '{"api_key":\n\n\t"%s"}',
]


@pytest.mark.parametrize("template", BODIES)
def test_no_key_is_whole_in_a_body(fense, api, template):
    text = template.replace("%s", SECRET).replace("%%", "%")
    for body in (text.encode(), b" " * 8_150 + text.encode(), text.encode("utf-16")):
        api.post("/accounts", body)
    kept = json.dumps(fense.requests(), ensure_ascii=False)
    assert SECRET not in kept
    assert "…" in kept


def test_what_follows_a_key_is_kept(fense, api):
    api.post("/accounts", b'{"api_key": ["x", {"y": 1}], "name": "Acme", "api_key": 5, "z": 1}')
    api.post("/accounts", b'{"api_key": "%s", "name": "Acme"' % SECRET.encode())
    assert [entry["body"] for entry in fense.requests()] == [
        '{"api_key": …, "name": "Acme", "api_key": …, "z": 1}',
        '{"api_key…',
    ]


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Acme", "email": "a@b", "api_key": null}',
        "nothing of the sort",
        '{"api_key_last4": "9f2c"}',
    ],
)
def test_what_has_no_key_is_kept_as_it_was(fense, api, text):
    api.post("/accounts", text.encode())
    assert fense.requests()[0]["body"] == text


def test_a_short_key_shows_nothing_of_itself(fense, api):
    api.post("/accounts", {"api_key": "short"}, key="shorter")
    (entry,) = fense.requests()
    assert entry["body"] == '{"api_key": "…"}'
    assert entry["headers"]["x-api-key"] == "…"


def test_no_credential_is_whole_in_headers_query_or_anywhere_else(fense, api):
    headers = dict.fromkeys(("authorization", "cookie", "proxy-authorization"), SECRET)
    for query in ("api_key=%s", "x=1&API-KEY=%s&y", "%61pi_key=%s", "x-api-key=%s"):
        api.call(
            "GET", "/accounts/usage?" + query.replace("%s", SECRET), key=SECRET, headers=headers
        )
        api.call("POST", "/accounts", {"note": f"the key {SECRET} of mine"}, key=SECRET)
    kept = json.dumps(fense.requests(), ensure_ascii=False)
    assert SECRET not in kept
    assert kept.count("…8c9d") == 4 * (4 + 1)


def test_masking_a_long_hostile_body_takes_no_time():
    for text in (
        "api_key" * 9_000,
        "api_key/*" * 7_000,
        "api_key" + "/" * 60_000,
        '{"a": "' + "api_key" * 9_000 + '"}',
        "[" * 60_000,
        '"' * 60_000,
        "\\" * 60_000,
        'api_key:"' * 7_000,
        "api" * 20_000,
    ):
        began = time.monotonic()
        masked(text)
        assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"name": "my api_key: hello", "email": "a@b"}', '{"name": …'),
        ('[{"name": "api_key", "value": "%s"}]', '[{"name": …'),
        ('{"a": 1, "key": "%s", "b": 2}', '{"a": 1, "key": "…8c9d", "b": 2}'),
        ('{"a": "{\\"api_key\\": \\"%s\\"}"}', '{"a": …'),
        ("%%61pi_key=%s&api_key=x", "…"),
        ("a=1&api_key=%s&b=2", "a=1&api_key…"),
        ('{"api_key": "\\ud800%s"}', '{"api_key": "…8c9d"}'),
    ],
)
def test_a_text_with_the_name_of_a_key_in_it_is_shown_up_to_there(fense, api, text, kept):
    api.post("/accounts", text.replace("%s", SECRET).replace("%%", "%").encode())
    assert fense.requests()[0]["body"] == kept


def test_a_body_is_read_no_further_than_it_may_be_long(fense):
    class Endless:
        taken = 0

        def read(self, size):
            self.taken += size
            return b"x" * size

    sent = Endless()
    environ = {
        "REQUEST_METHOD": "POST", "PATH_INFO": "/admin/accounts", "HTTP_X_API_KEY": KEY,
        "wsgi.input": sent, "wsgi.input_terminated": True,
    }  # fmt: skip
    told = []
    b"".join(fense.app(environ, lambda *answer: told.append(answer[0])))
    assert told == ["413 Request Entity Too Large"]
    assert sent.taken == 64 * 1024 + 1


def test_no_key_of_many_is_shown_where_masking_shortens_the_text(fense, api):
    keys = [f"sk_live_{number:027}" for number in range(200)]
    api.post("/accounts", {"list": [{"api_key": key} for key in keys]})
    kept = fense.requests()[0]["body"]
    assert len(kept.encode()) > 4_000
    assert not any(key in kept for key in keys)
