"""The journal keeps requests and responses in order, limited in size, with masked keys."""

import json
import time

import pytest
from conftest import MASTER_KEY, Api, account_fields, http_request, port_of, talk

from fense_admin import models
from fense_admin.masking import mask_body
from fense_admin.standin import StandIn
from fense_admin.standin.faults import DROPS

SECRET = "sk_live_5e1f6a7b8c9d"


@pytest.fixture
def mounted():
    with StandIn(master_key=MASTER_KEY, serve=False, prefix="/admin") as mounted:
        yield mounted


@pytest.fixture
def mounted_api(mounted):
    return Api(mounted.app, MASTER_KEY, None, base="/admin")


def test_an_entry_has_the_request_and_the_response(mounted, mounted_api):
    before = models.as_text(models.utc_now())
    body = account_fields(api_key=SECRET, name="Acme")
    answer = mounted_api.post(
        "/accounts?x=1", body, headers={"X-Request-Id": "mine", "X-Mine": "yes"}
    )
    (entry,) = mounted.requests()
    assert list(entry) == (
        "id at method path query headers body status response duration_ms fault handled".split()
    )
    assert 0 <= entry.pop("duration_ms") < 1000
    assert entry.pop("at")[:17] in (before[:17], models.as_text(models.utc_now())[:17])
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
        "handled": None,
    }
    assert answer.status == 400


def test_all_requests_of_the_contract_are_kept_in_order_of_arrival(mounted, mounted_api):
    mounted.fail(503, path="/accounts/7")
    calls = [
        ("GET", "/accounts/1", MASTER_KEY, 404),
        ("GET", "/accounts/1", None, 401),
        ("HEAD", "/accounts/usage", MASTER_KEY, 200),
        ("GET", "/accounts/7", MASTER_KEY, 503),
        ("DELETE", "/accounts/1", MASTER_KEY, 405),
        ("GET", "/no%20thing/%FF/%C3%BC", MASTER_KEY, 404),
    ]
    for method, path, key, status in calls:
        assert mounted_api.call(method, path, key=key).status == status
    outside = Api(mounted.app, MASTER_KEY, None)
    for path in (
        "/healthz",
        "/openapi.json",
        "/admin/healthz",
        "/admin/openapi.json",
        "/_standin/requests",
        "/_standin/nothing",
    ):
        outside.get(path)
    assert outside.get("/nothing").status == 404
    kept = [(entry["method"], entry["path"], entry["status"]) for entry in mounted.requests()]
    assert kept == [
        *((method, "/admin" + path, status) for method, path, _, status in calls),
        ("GET", "/nothing", 404),
    ]
    assert [entry["fault"] for entry in mounted.requests()] == [
        None,
        None,
        None,
        1,
        None,
        None,
        None,
    ]
    assert [entry["response"] is None for entry in mounted.requests()][:3] == [False, False, True]
    assert {len(entry["id"]) for entry in mounted.requests()} == {16}


def test_a_dropped_request_has_no_status(mounted, mounted_api):
    for drop in DROPS:
        mounted.fail(drop=drop)
        with pytest.raises(ConnectionResetError):
            mounted_api.get("/accounts/1")
    assert [(e["status"], e["response"], e["fault"]) for e in mounted.requests()] == [
        (None, None, 1),
        (None, None, 2),
        (None, None, 3),
    ]


def test_it_can_be_cleared(mounted, mounted_api):
    control = Api(mounted.app, MASTER_KEY, None)
    mounted_api.get("/accounts/1")
    assert len(control.get("/_standin/requests").body["requests"]) == 1
    assert control.call("DELETE", "/_standin/requests").status == 204
    assert control.get("/_standin/requests").body == {"requests": []}


def test_it_keeps_the_newest_thousand_and_8_kib_of_each(mounted, mounted_api):
    long = "x" * 60_000
    for number in range(1_005):
        mounted_api.post(f"/accounts/{number}", {long: 1} if number % 100 == 4 else b"")
    entries = mounted.requests()
    assert [entry["path"] for entry in entries] == [f"/admin/accounts/{n}" for n in range(5, 1_005)]
    assert {len(entry["body"] or "") for entry in entries} == {0, 8192}
    mounted_api.post("/accounts", "\N{SNOWMAN}".encode() * 10_000)
    assert len(mounted.requests()[-1]["body"].encode()) == 8190
    assert max(len(entry["response"]) for entry in entries) == 8192


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
def test_keys_in_bodies_are_masked(mounted, mounted_api, template):
    text = template.replace("%s", SECRET).replace("%%", "%")
    for body in (text.encode(), b" " * 8_150 + text.encode(), text.encode("utf-16")):
        mounted_api.post("/accounts", body)
    kept = json.dumps(mounted.requests(), ensure_ascii=False)
    assert SECRET not in kept
    assert "…" in kept


def test_text_after_a_masked_key_is_kept(mounted, mounted_api):
    mounted_api.post(
        "/accounts", b'{"api_key": ["x", {"y": 1}], "name": "Acme", "api_key": 5, "z": 1}'
    )
    mounted_api.post("/accounts", b'{"api_key": "%s", "name": "Acme"' % SECRET.encode())
    assert [entry["body"] for entry in mounted.requests()] == [
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
def test_text_without_keys_is_unchanged(mounted, mounted_api, text):
    mounted_api.post("/accounts", text.encode())
    assert mounted.requests()[0]["body"] == text


def test_a_short_key_is_hidden_completely(mounted, mounted_api):
    mounted_api.post("/accounts", {"api_key": "short"}, key="shorter")
    (entry,) = mounted.requests()
    assert entry["body"] == '{"api_key": "…"}'
    assert entry["headers"]["x-api-key"] == "…"


def test_credentials_are_masked_in_headers_query_and_everywhere_else(mounted, mounted_api):
    headers = dict.fromkeys(("authorization", "cookie", "proxy-authorization"), SECRET)
    for query in ("api_key=%s", "x=1&API-KEY=%s&y", "%61pi_key=%s", "x-api-key=%s"):
        mounted_api.call(
            "GET", "/accounts/usage?" + query.replace("%s", SECRET), key=SECRET, headers=headers
        )
        mounted_api.call("POST", "/accounts", {"note": f"the key {SECRET} of mine"}, key=SECRET)
    kept = json.dumps(mounted.requests(), ensure_ascii=False)
    assert SECRET not in kept
    assert kept.count("…8c9d") == 4 * (4 + 1)


def test_masking_a_long_hostile_body_is_fast():
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
        mask_body(text)
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
def test_a_text_is_cut_after_the_name_of_a_key(mounted, mounted_api, text, kept):
    mounted_api.post("/accounts", text.replace("%s", SECRET).replace("%%", "%").encode())
    assert mounted.requests()[0]["body"] == kept


def test_a_body_is_read_only_up_to_its_limit(mounted):
    class Endless:
        taken = 0

        def read(self, size):
            self.taken += size
            return b"x" * size

    sent = Endless()
    environ = {
        "REQUEST_METHOD": "POST", "PATH_INFO": "/admin/accounts", "HTTP_X_API_KEY": MASTER_KEY,
        "wsgi.input": sent, "wsgi.input_terminated": True,
    }  # fmt: skip
    message = []
    b"".join(mounted.app(environ, lambda *answer: message.append(answer[0])))
    assert [line[:4] for line in message] == ["413 "]
    assert sent.taken == 64 * 1024 + 1


def test_no_key_is_shown_when_masking_shortens_the_text(mounted, mounted_api):
    keys = [f"sk_live_{number:027}" for number in range(200)]
    mounted_api.post("/accounts", {"list": [{"api_key": key} for key in keys]})
    kept = mounted.requests()[0]["body"]
    assert len(kept.encode()) > 4_000
    assert not any(key in kept for key in keys)


def test_the_path_is_kept_as_it_was_sent(fense):
    talk(port_of(fense), http_request("GET /accounts/%31", "Connection: close"))
    assert fense.requests()[0]["path"] == "/accounts/%31"
