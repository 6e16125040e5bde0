"""No key is in a log, an answer or the journal: looked for here, and at the end of every run (conftest)."""

import json
import logging

import pytest
from conftest import (
    KEYS,
    MASTER_KEY,
    OUTPUT,
    SERVICE_KEY,
    account_fields,
    keys_in_output,
    port_of,
    statuses,
    talk,
)


@pytest.fixture
def output():
    """What is told from here on, and forgotten."""
    known = len(OUTPUT)
    yield lambda: "\n".join(OUTPUT[known:])
    del OUTPUT[known:]


def test_a_key_that_was_told_would_be_found(output, api):
    for key in (api.master_key, account_fields()["api_key"]):
        assert key in KEYS
        assert key not in keys_in_output()
        logging.getLogger("fense_admin").warning("opened with %s", key)
        assert key in keys_in_output()


def test_answers_logs_and_tracebacks_are_heard(output, api, inside, start):
    service = start("--port=0")
    service.ready()
    service.call("/accounts/7/heard", **{"X-Request-Id": "heard-in-the-log"})
    service.end()
    inside.db.get_account = None
    api.get("/accounts/1", headers={"X-Request-Id": "heard-in-a-traceback"})
    assert "heard-in-the-log" in output()
    assert "TypeError" in output()
    assert output().count("heard-in-a-traceback") >= 2


@pytest.mark.parametrize("secret", [MASTER_KEY, SERVICE_KEY, "sk_somebody_elses_0001"])
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
