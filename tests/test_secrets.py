"""No key appears in a log, a response or the journal; also checked after every run (conftest)."""

import contextlib
import json
import logging
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import (
    KEYS,
    MASTER_KEY,
    OUTPUT,
    SERVICE_KEY,
    Api,
    account_fields,
    few,
    keys_in_output,
    port_of,
    statuses,
    talk,
)

from fense_admin import create_app, masking
from fense_admin.standin.control import ControlPlane
from fense_admin.standin.journal import MAX_TEXT


@pytest.fixture
def output():
    """The output from here on, which is then discarded."""
    known = len(OUTPUT)
    yield lambda: "\n".join(OUTPUT[known:])
    del OUTPUT[known:]


def test_a_leaked_key_would_be_found(output, api):
    for key in (api.master_key, account_fields()["api_key"]):
        assert key in KEYS
        assert key not in keys_in_output()
        logging.getLogger("fense_admin").warning("opened with %s", key)
        assert key in keys_in_output()


def test_responses_logs_and_tracebacks_are_searched(output, api, inside, start):
    service = start("--port=0")
    service.ready()
    service.call("/accounts/7/heard", **{"X-Request-Id": "heard-in-the-log"})
    service.end()
    inside.db.get_account = None
    api.get("/accounts/1", headers={"X-Request-Id": "heard-in-a-traceback"})
    assert "heard-in-the-log" in output()
    assert "TypeError" in output()
    assert output().count("heard-in-a-traceback") >= 2


@pytest.mark.parametrize("secret", few([MASTER_KEY, "sk_somebody_elses_0001", SERVICE_KEY], 2))
def test_no_key_is_in_the_log_or_an_id_wherever_it_was_sent(start, secret):
    service = start(
        "--port=0", "--standin", DISPUTE_MASTER_KEY=MASTER_KEY, DISPUTE_SERVICE_KEYS=SERVICE_KEY
    )
    port = int(service.ready().rpartition(":")[2])
    answers = b""
    for line in (
        f"GET /accounts/{secret}",
        f"GET /accounts;api_key={secret}",
        f"GET /accounts/1?api_key={secret}",
        f"GET /{secret}/%41",
        f"GET /accounts/1%2E{secret[0]}{secret[1:]}",
        "GET /healthz",
        "GET /_standin/nothing",
        "POST /accounts",
    ):
        for more in ("", "Content-Length: 99999999\r\n", "Content-Length: x\r\n", "no colon\r\n"):
            raw = f"{line} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {secret}\r\n"
            raw += f"X-Request-Id: {secret}\r\nConnection: close\r\n{more}\r\n"
            answers += talk(port, raw.encode())
    entries = service.call("/_standin/requests", key=MASTER_KEY)[1]["requests"]
    log = service.end()[2]
    assert len(log.splitlines()) > 30
    for output in (log, answers.decode(), json.dumps(entries)):
        assert secret not in output


# Each has what a delimiter is elsewhere.
MERCHANT_KEYS = [
    "sk_live_of-a-merchant-0001",
    "beta",
    "a/b+c==",
    "key.with:dots@and%",
    'quo"ted',
    "!-x-!",
]


@pytest.mark.parametrize("key", MERCHANT_KEYS)
@pytest.mark.parametrize("has_plane", [False, True], ids=["service", "stand-in"])
def test_a_merchants_key_is_masked_wherever_it_is_a_whole_token(
    caplog, api, inside, has_plane, key
):
    caplog.set_level("INFO", "fense_admin")
    if has_plane:
        plane = ControlPlane(inside, MASTER_KEY)
        api = Api(plane, MASTER_KEY, SERVICE_KEY)
    api.new_account(api_key=key)
    quoted = quote(key)
    caplog.clear()
    for path in (
        f"/accounts/{quoted}",
        f"/accounts/usage/{quoted}",
        f"/{quote(quoted)}/x",
        f"/accounts/1?key={quoted}",
        f"/accounts/1?a=b&{quoted}",
        f"/accounts/1;{quoted};x",
    ):
        api.get(path)
    assert api.get("/accounts/1", headers={"X-Request-Id": key}).headers["X-Request-Id"] != key
    api.get("/accounts/1", headers={"User-Agent": f"curl ({key})", "Accept": f"a/b;key={key}"})
    api.post("/accounts/1", {"name": key, "note": f"it is {key}!", key: 1})
    api.post("/accounts/1", f"a=1&b={quoted}".encode())
    api.post("/accounts/1", f"<a>{key}</a>".encode())
    shown = caplog.text
    if has_plane:
        shown += json.dumps([entry | {"sent": entry.sent_body.decode()} for entry in plane.journal])
        assert len(plane.journal) >= 11
        assert not plane.journal[-1].sent_body.count(key.encode())
    for form in (key, quoted, json.dumps(key)[1:-1]):
        assert not re.search(rf"(?<![\w]){re.escape(form)}(?![\w])", shown)


@pytest.mark.parametrize(
    ("prefix", "key", "shown"),
    [
        ("", "master-key-0001", "GET /accounts/2026112601 "),
        ("", "2026112601", "GET /accounts/… "),  # like an id
        ("/token", "master-key-0001", "GET /token… "),  # named like a key
        ("", "accounts", "GET /…/2026112601 "),
    ],
)
def test_a_key_in_a_path_of_the_contract_is_masked(caplog, prefix, key, shown):
    caplog.set_level("INFO", "fense_admin")
    with contextlib.closing(create_app(master_key=key, prefix=prefix)) as app:
        Api(app, key, None).get(f"{prefix}/accounts/2026112601")
        Api(app, "not-a-key", None).get(f"{prefix}/accounts/2026112601")
        Api(app, "2026112601", None).get(f"{prefix}/accounts/2026112601")
    own, unknown, sent = caplog.messages
    assert own.startswith(shown)
    assert unknown.startswith(shown)
    assert "2026112601" not in sent


def test_a_key_that_is_no_longer_valid_or_a_part_of_a_word_is_shown(seeded_api):
    seeded_api.new_account(api_key="alpha")
    seeded_api.get("/accounts/alphabet/alpha/1")
    seeded_api.post("/accounts/8", {"api_key": "another-key-0001"})
    seeded_api.get("/accounts/alphabet/alpha/2")
    paths = [entry["path"] for entry in seeded_api.get("/_standin/requests").body["requests"]]
    assert paths[1::2] == ["/accounts/alphabet/…/1", "/accounts/alphabet/alpha/2"]


def test_a_merchants_key_of_one_instance_is_masked_in_all_others(caplog, seeded, seeded_api):
    caplog.set_level("INFO", "fense_admin")
    seeded_api.new_account(api_key="sk_live_of-the-parent")
    one, other = (seeded_api.post("/_standin/instances", {}).body for _ in "12")
    apis = [seeded_api]
    for made in (one, other):
        base = f"/_standin/instances/{made['id']}"
        apis.append(Api(seeded.app, made["api_key"], None, base=base))
    apis[1].new_account(api_key="sk_live_of-one")
    apis[1].post("/accounts/1", {"api_key": "sk_live_of-one-later"})
    keys = ["sk_live_of-the-parent", "sk_live_of-one", "sk_live_of-one-later"]
    for api in apis:
        for key in keys:
            api.get(f"/accounts/{key}")
            api.post("/accounts", f"a {key} b".encode())
        journal = json.dumps(api.get("/_standin/requests").body)
        assert not any(key in journal + caplog.text for key in keys)
    apis[1].call("PUT", "/_standin/state", {"accounts": []})
    seeded_api.call("DELETE", f"/_standin/instances/{other['id']}")
    shared = seeded.app._keys._counts
    # Two keys of the parent, two of the instance that is left, and those of the parent's accounts.
    assert len(shared) == 4 + len(seeded.state()["accounts"])
    seeded_api.get("/accounts/sk_live_of-one")
    assert "sk_live_of-one " in caplog.text


def test_a_merchants_key_in_the_parents_file_is_masked_in_an_instance(caplog, file_app):
    caplog.set_level("INFO", "fense_admin")
    plane = ControlPlane(file_app, MASTER_KEY)
    api = Api(plane, MASTER_KEY, None)
    api.new_account(api_key="sk_live_of-the-parent")
    made = api.post("/_standin/instances", {}).body
    its = Api(plane, made["api_key"], None, base=f"/_standin/instances/{made['id']}")
    its.get("/accounts/sk_live_of-the-parent")
    assert "sk_live" not in json.dumps(its.get("/_standin/requests").body) + caplog.text
    plane.close()


@pytest.mark.needs("removing open files")
def test_possible_keys_are_hidden_while_the_database_is_unavailable(caplog, file_app):
    caplog.set_level("INFO", "fense_admin")
    api = Api(file_app, MASTER_KEY, SERVICE_KEY)
    api.new_account(api_key="sk_live_of-a-merchant-0001")
    path = Path(file_app.db.engine.info.name)
    path.rename(path.with_name("away"))
    answer = api.get(
        "/accounts/sk_live_of-a-merchant-0001",
        headers={"X-Request-Id": "sk_live_of-a-merchant-0001"},
    )
    assert answer.status == 503
    assert api.get("/accounts/1").status == 503
    assert "sk_live" not in f"{caplog.text}{answer.headers}"
    assert "GET /accounts/1 503" in caplog.text


def test_finding_a_key_costs_the_same_among_many_keys(monkeypatch, seeded):
    looked = []
    execute = seeded._db.engine.execute_sql

    def count(query, values=None):
        looked.append(query)
        return execute(query, values)

    monkeypatch.setattr(seeded._db.engine, "execute_sql", count)
    api = Api(seeded.app, MASTER_KEY, SERVICE_KEY)
    costs = []
    for _ in range(2):
        looked.clear()
        api.get("/accounts/somebody/else?x=y")
        costs.append(len(looked))
        state = {"accounts": [account_fields(name=f"Shop {n}") for n in range(200)]}
        seeded.load(state)
        for _ in range(5):
            api.post("/_standin/instances", {})
    assert costs[0] == costs[1] <= 4


@pytest.mark.parametrize("cut_at", [MAX_TEXT, MAX_TEXT + masking.MARGIN])
@pytest.mark.parametrize("shown", [0, 7, 14, 21])
def test_no_part_of_a_key_is_left_where_a_text_is_cut(output, seeded, seeded_api, cut_at, shown):
    merchants = "sk_live_of-a-merchant-0001"
    seeded.create_account(api_key=merchants)
    for key in (merchants, MASTER_KEY):
        many = f"{key} " * 100  # which are short once they are masked
        sent = f"{many}{'x' * (cut_at - len(many) - shown - 1)} {key} {'y' * 9_000}"
        seeded_api.post("/accounts", sent.encode())
        seeded.fail(503, message=sent)
        seeded_api.get("/accounts/1")
        for entry in seeded.requests()[-2:]:
            assert len(entry["response"]) > 100
            for text in (entry["body"], entry["response"]):
                assert key[:6] not in (text or "")


def test_a_key_that_is_sent_anywhere_is_not_in_the_journal(fense):
    secret = "sk-somebody-elses-0001"
    escaped = "".join(f"\\u{ord(c):04x}" for c in secret)
    percent = "".join(f"%{ord(c):02x}" for c in secret)
    part = f'--b\r\nContent-Disposition: form-data; name="{secret}"; filename="{secret}"\r\n\r\n{secret}\r\n--b--'
    for headers, body in (
        (f"api-key: {secret}", ""),
        (f"X-Auth-Token: {secret}", ""),
        (f"{secret}: 1", ""),
        (f"Content-Type: multipart/form-data; boundary={secret}", part),
        ("Content-Type: text/csv", f"name,api_key\nAcme,{secret}"),
        ("Content-Type: text/csv", f"Acme,{secret}"),
        ("Content-Type: application/xml", f"<a>{secret}</a>"),
        ("Content-Type: application/json", json.dumps({"note": f"it is {secret}!"})),
        ("Content-Type: application/json", f'{{"note": "{escaped}"}}'),
        ("Content-Type: application/json", f'{{"{secret}": 1}}'),
        ("Content-Type: application/x-www-form-urlencoded", f"x={percent}"),
    ):
        raw = f"POST /accounts?x={percent} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {secret}\r\n"
        raw += f"{headers}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
        assert statuses(talk(port_of(fense), raw.encode())) == [401]
    kept = json.dumps(fense.requests(), ensure_ascii=False)
    for form in (secret, escaped, percent):
        assert form not in kept
    assert len(fense.requests()) == 11
