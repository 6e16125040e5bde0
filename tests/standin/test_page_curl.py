"""The curl lines of the page, run as they stand: those that repeat a request, and those by hand."""

import html
import json
import re
import shlex
import subprocess

import pytest
from conftest import MASTER_KEY, SEED, account_fields, call_standin, port_of, talk, tools

from fense_admin.standin import StandIn

LINE = re.compile('<pre class="curl"><code>(.*?)</code></pre>', re.DOTALL)
VIEWS = ["", "page/accounts", "page/accounts/1", "page/faults", "page/service"]
VIEWS += ["page/documentation", "page/documentation/control-plane"]
KEY = f"x-api-key: {MASTER_KEY}"
JSON = "Content-Type: application/json"
SHELLS = ["sh", "bash"]


def lines_of(page):
    return [html.unescape(line) for line in LINE.findall(page)]


def run(line, shell="sh", key=MASTER_KEY):
    """Run it with this FENSE_API_KEY; gives the status and what curl said."""
    ended = subprocess.run(
        [shell, "-c", line + " -sS -o /dev/null -w '%{http_code}'"],
        env={"PATH": "/usr/bin:/bin", "FENSE_API_KEY": key, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=20,
    )
    return ended.stdout, ended.stderr


def sent(fense):
    """The newest request as the journal has it, and its body byte for byte."""
    entry = fense.app.journal[-1]
    told = {name: entry[name] for name in "method path query headers body status".split()}
    return told, entry.sent_body


def request(line, *headers, body=b""):
    head = [line + " HTTP/1.1", *headers, "Connection: close"]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def with_body(body, *headers, line="POST /accounts"):
    return request(
        line, "Host: localhost", KEY, f"Content-Length: {len(body)}", *headers, body=body
    )


REPEATED = {
    "a read": request("GET /accounts/1", "Host: localhost", KEY),
    "no key": request("GET /accounts/1", "Host: localhost"),
    "an empty key": request("GET /accounts/1", "Host: localhost", "x-api-key:"),
    "two keys": request("GET /accounts/1", "Host: localhost", KEY, "X-Api-Key: other"),
    "no host": request("GET /accounts/1", KEY).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "another host": request("GET /accounts/1", "Host: fense.example", KEY),
    "headers": request("GET /accounts/1", "Host: localhost", KEY, "Accept: text/html, */*", "X-Request-Id: it's", "User-Agent: a \"b\" $c `d` !e \\f", "Accept-Language:"),
    "bytes in a header": request("GET /accounts/1", "Host: localhost", KEY, "User-Agent: caf\xe9 \xc3\xa9"),
    "a query": request("GET /accounts/usage?start_date=2026-11-01&end_date=%31&a[]={b}&c='d'", "Host: localhost", KEY),
    "dots": request("GET /accounts/../accounts/./1", "Host: localhost", KEY),
    "slashes": request("GET //accounts//1/", "Host: localhost", KEY),
    "globs": request("GET /accounts/[1-3]{a,b}", "Host: localhost", KEY),
    "bytes in a path": request("GET /accounts/\xff\xc3\xa9", "Host: localhost", KEY),
    "escapes in a path": request("GET /accounts/%00%2F%e9?%zz", "Host: localhost", KEY),
    "HEAD": request("HEAD /accounts/1", "Host: localhost", KEY),
    "DELETE": request("DELETE /accounts/1", "Host: localhost", KEY),
    "a method": request("M-SEARCH /accounts/1", "Host: localhost", KEY),
    "a POST without a body": request("POST /accounts", "Host: localhost", KEY, "Content-Length: 0"),
    "a GET with a body": with_body(b"{}", line="GET /accounts/1"),
    "a body": with_body(b'{"name": "Acme", "suppress_billing": 1.0}', JSON),
    "no content type": with_body(b'{"name": "Acme"}'),
    "quotes": with_body(b"""{"name": "O'Neill & \\"Sons\\" $HOME `id` !! \\\\n"}""", JSON),
    "an at sign": with_body(b"@/etc/passwd", JSON),
    "line breaks": with_body(b'\n{\n"name":\t"A",\r\n"x": 1\n}\n\n', JSON),
    "letters": with_body('{"name": "Дом и сад \u00a0\u202e\u200b"}'.encode(), JSON),
    "no text": with_body(b'\xff\xfe{"name": "\x80\x00\x07%d%%"}', JSON),
    "UTF-16": with_body('{"name": "Acme"}'.encode("utf-16"), JSON),
    "a form": with_body(b"name=A+B&email=%40", "Content-Type: application/x-www-form-urlencoded"),
    "chunked": request("POST /accounts", "Host: localhost", KEY, JSON, "Transfer-Encoding: chunked", body=b"9\r\n{\"a\": 1}\n\r\n0\r\n\r\n"),
}  # fmt: skip


KEYS = {"two keys": f"{MASTER_KEY}, other"}


@pytest.fixture(scope="module")
def fense():
    with StandIn(SEED, master_key=MASTER_KEY) as fense:
        yield fense


def page_of_newest(fense):
    path = f"/_standin/page/requests/{fense.app.journal[-1].number}"
    status, _, page = call_standin(fense, "GET", path)
    assert status == 200
    return page.decode()


@pytest.mark.parametrize("name", REPEATED)
def test_a_line_repeats_a_request_byte_for_byte(fense, name):
    tools("curl")
    talk(port_of(fense), REPEATED[name])
    first = sent(fense)
    (line,) = lines_of(page_of_newest(fense))
    for shell in SHELLS:
        status, said = run(line, shell, KEYS.get(name, MASTER_KEY))
        assert (sent(fense), status) == (first, str(first[0]["status"])), line + said


def test_keys_stay_masked_in_the_line(fense):
    tools("curl")
    secret = "sk_page_curl_000001"
    fields = json.dumps(account_fields(api_key=secret, name="Дом 'и' сад")).encode()
    talk(port_of(fense), with_body(fields, JSON, f"Authorization: Bearer {secret}"))
    page = page_of_newest(fense)
    assert secret not in page
    (line,) = lines_of(page)
    assert "$FENSE_API_KEY stands for the key that it brought: …1a2b" in page
    assert "… stands for a key, which the journal masks: put your own there." in page
    assert run(line)[0] == "400"  # the masked key is none
    assert line.endswith(f"--data-raw {shlex.quote(fields.decode().replace(secret, '…0001'))}")


def test_what_is_no_text_is_repeated_up_to_the_name_of_a_key(fense):
    tools("curl")
    talk(port_of(fense), with_body(b"\xffa\x00b api_key=sk_page_curl_000002", JSON))
    (line,) = lines_of(page_of_newest(fense))
    run(line)
    assert fense.app.journal[-1].sent_body == b"\xffab api_key" + "…".encode()


def test_a_long_body_is_repeated_as_far_as_it_is_kept(fense):
    tools("curl")
    talk(port_of(fense), with_body(b'{"name": "' + b"\xc3\xa9" * 5000 + b'"}', JSON))
    page = page_of_newest(fense)
    assert "The journal keeps the first 8 KiB of a body: the line sends no more." in page
    (line,) = lines_of(page)
    run(line)
    assert fense.app.journal[-1].sent_body == (b'{"name": "' + b"\xc3\xa9" * 5000)[:8192]


def test_the_development_key_stands_in_the_line(start):
    tools("curl")
    process = start("--port", "0")
    process.ready()
    process.call("/accounts/99")
    process.call("/accounts/99", key="another-key")
    first = process.page("page/requests/1")
    assert "-H 'x-api-key: local-dev-key'" in lines_of(first)[0]
    assert "$FENSE_API_KEY" not in first
    assert '-H "x-api-key: $FENSE_API_KEY"' in lines_of(process.page("page/requests/2"))[0]


def test_every_line_by_hand_does_what_it_says(start):
    """Each as a person would run it, after a reset: all of them are taken."""
    tools("curl")
    process = start("--port", "0", "--seed", "demo")
    process.ready()
    reset, clock = f"{process.url}/_standin/reset", f"{process.url}/_standin/clock"
    lines = {line for view in VIEWS for line in lines_of(process.page(view))}
    assert len(lines) > 30
    for line in sorted(lines):
        assert "x-api-key: local-dev-key" in line
        before = f"curl -sX POST {reset} -H 'x-api-key: local-dev-key'; curl -sX PUT {clock} "
        before += "-H 'x-api-key: local-dev-key' -H 'Content-Type: application/json' "
        before += """-d '{"now": "2026-11-30T00:00:00Z"}' -o /dev/null; """
        status, said = run(before + line)
        there_is_none = "DELETE" in line and "/instances/" in line
        assert (status[:1], said) == ("4" if there_is_none else "2", ""), line
