"""The curl lines of the page, run as they stand: those that repeat a request, and those by hand.

Those for PowerShell run in what `powershell.py` makes of its rules, and on Windows in PowerShell too.
"""

import html
import json
import os
import re
import shlex
import socket
import subprocess
import tempfile
import threading
import urllib.request
from pathlib import Path

import powershell
import pytest
from conftest import MASTER_KEY, SEED, account_fields, port_of, talk, tools
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from webtest import TestApp

from fense_admin.masking import KEY_NAME
from fense_admin.standin import StandIn

LINE = '<pre class="curl {}"><code>(.*?)</code></pre>'
VIEWS = ["", "page/accounts", "page/accounts/1", "page/faults", "page/service"]
VIEWS += ["page/documentation", "page/documentation/control-plane"]
KEY = f"x-api-key: {MASTER_KEY}"
JSON = "Content-Type: application/json"


def lines_of(page, shell="sh"):
    return [html.unescape(line) for line in re.findall(LINE.format(shell), page, re.DOTALL)]


def run(line, shell="sh", key=MASTER_KEY):
    """Run it with this FENSE_API_KEY; gives the status and what curl said."""
    line += f" -sS -o {os.devnull} -w '%{{http_code}}'"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a folder").mkdir()
        environment = {"FENSE_API_KEY": key, "TEMP": str(Path(folder, "a folder"))}
        if shell == "powershell":
            words = ["curl", *powershell.arguments(line, environment, Path(folder))]
        elif shell.endswith(".exe"):
            Path(folder, "line.ps1").write_text(line, "utf-8-sig")  # 5.1 takes other files for ANSI
            words = [shell, "-NoProfile", "-ExecutionPolicy", "Bypass", "-File", "line.ps1"]
            environment = os.environ | environment
        else:
            words = [shell, "-c", line]
            environment |= {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
        ended = subprocess.run(
            words,
            env=None if shell == "powershell" else environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=20,
        )
    return ended.stdout, ended.stderr


def sent(fense):
    """The newest request as the journal has it, and its body byte for byte."""
    entry = fense.app.journal[-1]
    noted = {name: entry[name] for name in "method path query headers body status".split()}
    return noted, entry.sent_body


class Recorder:
    """A server that keeps the bytes of the last request, and answers 200."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.raw, self.is_over = b"", False
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.is_over = True
        socket.create_connection(self.listener.getsockname(), timeout=10).close()
        self.thread.join()
        self.listener.close()

    def serve(self):
        while True:
            sock, _ = self.listener.accept()
            with sock:
                if self.is_over:
                    return
                sock.settimeout(10)
                self.answer(sock)

    def answer(self, sock):
        self.raw, said_continue = b"", False
        while b"\r\n\r\n" not in self.raw or len(parsed(self.raw)[2]) < length(self.raw):
            if b"\r\n\r\n" in self.raw and not said_continue:
                sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                said_continue = True
            came = sock.recv(65536)
            if not came:
                return
            self.raw += came
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def parsed(raw):
    """A request's first line, headers as the journal names them, and body, to compare."""
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *rest = head.split(b"\r\n")
    headers = {}
    for header in rest:
        name, _, value = header.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        headers[name] = headers[name] + b", " + value if name in headers else value
    if headers.pop(b"transfer-encoding", None):
        body = b"".join(chunk for chunk in body.split(b"\r\n")[1::2])
        headers[b"content-length"] = b"%d" % len(body)
    return line, headers, body


def length(raw):
    return int(parsed(raw)[1].get(b"content-length", 0))


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


REPEATED |= {
    "the recorder's host": request("GET /accounts/1", "Host: RECORDER", KEY),
    "a host in brackets": request("GET /accounts/1", "Host: [::1]", KEY),
    "a host in brackets with the port": request("GET /accounts/1", "Host: [::1]:PORT", KEY),
    "a loopback name with the port": request("GET /accounts/1", "Host: fense.localhost:PORT", KEY),
    "an empty host": request("GET /accounts/1", "Host:", KEY),
    "HTTP/1.0": request("GET /accounts/1", "Host: localhost", KEY).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.0 and a body": with_body(b"{}", JSON).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "an absolute target": request("GET http://fense.example:80/accounts/1?a=b", "Host: localhost", KEY),
    "an absolute target without a path": request("GET HTTP://[::1]", "Host: localhost", KEY),
    "an absolute target with a body": with_body(b"{}", JSON, line="POST http://localhost//accounts/./?"),
    "an asterisk": request("OPTIONS *", "Host: localhost", KEY),
    "a target of a tunnel": request("CONNECT localhost:80", "Host: localhost", KEY),
    "an empty query": request("GET /accounts?", "Host: localhost", KEY),
    "an empty query and a body": with_body(b"{}", JSON, line="POST /accounts?"),
    "a query of question marks": request("GET /accounts/usage???", "Host: localhost", KEY),
    "a query in a query": request("GET /accounts?a=http://b/../c?d=e&f=%2e%2E/.", "Host: localhost", KEY),
    "an empty content type": with_body(b"{}", "Content-Type:"),
    "an empty content type and no body": request("GET /accounts/1", "Host: localhost", KEY, "Content-Type:"),
    "empty headers": request("GET /accounts/1", "Host: localhost", KEY, "Accept:", "User-Agent: ", "X-Request-Id:"),
    "odd headers": request("GET /accounts/1", "Host: localhost", "-d: ", "Accept: @/etc/passwd; a, -H", "Origin: ;", "Cache-Control: a:b: c  d\td", KEY),
    "names of headers": request("GET /accounts/1", "Host: localhost", KEY, "!#$%&'*+-.^`|~0: ", "--data:"),
    "expectations": with_body(b"{}", JSON, "Expect: 100-continue"),
    "connection": request("GET /accounts/1", "Host: localhost", KEY, "TE: trailers", "Connection: TE"),
    "a method of a shell": request("$`|!'*&-~ /accounts/1", "Host: localhost", KEY),
    "a method that is an option": request("--HEAD /accounts/1", "Host: localhost", KEY),
    "DELETE with a body": with_body(b"{}", JSON, line="DELETE /accounts/1"),
    "quotes in a path": request("GET /a'b\"c$d`e\\f!!'" + "'" * 40, "Host: localhost", KEY),
    "multipart": with_body(b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nAcme\r\n--b--\r\n', "Content-Type: multipart/form-data; boundary=b"),
    "a dash": with_body(b"-", JSON),
    "a dash and a tab": with_body(b"-1\t", JSON),
    "two dashes": with_body(b"--\n\t-", JSON),
    "a dash and a quote": with_body(b"-d '@-'", JSON),
    "formats": with_body(b"\t%s%%d\\n\\055\\0\\x41\\c\\u0041", JSON),
    "octal": with_body(b"\x009\x017\x7f7\xff0", JSON),
    "quotes only": with_body(b"'" * 100, JSON),
    "history": with_body(b"\t!! !$ ^a^b", JSON),
    "invisible letters": with_body("\u3164\u2800\ufe0f\u00ad\U000e0041".encode(), JSON),
    "every byte": with_body(bytes(range(256)) * 2, JSON),
    "lines of JSON": with_body(b'{\n  "name": "O\'Neill",\n\n  "email": ""\n}', JSON),
    "curly quotes": with_body("{\u2018O\u2019Neill\u2019\u2019, \u201ab\u201b: \u201cc\u201d, \u2013}".encode(), JSON),
    "quotes and spaces": request("GET /accounts/1", "Host: localhost", KEY, 'Accept: "a b":1', 'If-Match: "'),
    "backslashes at the end": request("GET /accounts/1", "Host: localhost", KEY, "Accept: a b\\", "Origin: \\\\", 'If-Match: "\\" \\'),
    "a method that ends PowerShell's reading": request("--% /accounts/1", "Host: localhost", KEY),
    "line ends": with_body(b"\r\n\r\n", JSON),
    "a line end": with_body(b"\n", JSON),
}  # fmt: skip
KEYS = {"two keys": f"{MASTER_KEY}, other"}


@pytest.fixture(scope="module")
def fense():
    with StandIn(SEED, master_key=MASTER_KEY) as fense:
        yield fense


@pytest.fixture(scope="module")
def recorder():
    with Recorder() as recorder:
        yield recorder


def page_of_newest(fense, host=None):
    """The view of the newest request, as someone sees it who has opened it at this host."""
    headers = fense.headers | {"Host": host or f"127.0.0.1:{port_of(fense)}"}
    path = f"/_standin/page/requests/{fense.app.journal[-1].number}"
    return TestApp(fense.app).get(path, headers=headers).text


def repeat(fense, recorder, raw, shell="sh", key=MASTER_KEY):
    """Send a request, and run its line against the recorder; gives what this got, and the line."""
    fense.app.journal.clear()
    talk(port_of(fense), raw)
    page = page_of_newest(fense, recorder.host)
    (line,) = lines_of(page, "powershell" if shell == "powershell" else "sh")
    recorder.raw = b""
    said = run(line, shell, key)
    return recorder.raw, f"{line}\n{said}"


SLOW = pytest.mark.slow
POSIX, POWERSHELL = pytest.mark.needs("a POSIX shell"), pytest.mark.needs("PowerShell")
SHELLS = [
    pytest.param("sh", marks=POSIX),
    *(pytest.param(shell, marks=[SLOW, POSIX]) for shell in ("bash", "zsh")),
    pytest.param("powershell", marks=SLOW),
    *(pytest.param(shell, marks=[SLOW, POWERSHELL]) for shell in ("powershell.exe", "pwsh.exe")),
]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", REPEATED)
def test_a_line_repeats_a_request_byte_for_byte(fense, recorder, name, shell):
    tools("curl", *(() if shell.startswith(("powershell", "pwsh")) else (shell,)))
    raw = REPEATED[name].replace(b"RECORDER", recorder.host.encode())
    raw = raw.replace(b"PORT", recorder.host.rpartition(":")[2].encode())
    came, line = repeat(fense, recorder, raw, shell, KEYS.get(name, MASTER_KEY))
    assert parsed(came) == parsed(raw), line


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (request("GET /accounts?", "Host: localhost"), "--request-target '/accounts?'"),
        (request("GET /", "Host: localhost", "User-Agent: \xe9 !x"), r"user-agent: \351 \041x'"),
    ],
    ids=["curl that drops an empty query", "bash 3 that expands a ! there"],
)
def test_a_line_is_right_for_other_versions(fense, raw, part):
    talk(port_of(fense), raw)
    assert part in lines_of(page_of_newest(fense))[0]


FIELD = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_categories=["Cc"]))
VISIBLE = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"))


@pytest.mark.slow
@pytest.mark.parametrize("shell", [SHELLS[0], "powershell"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT"]),
    start=st.sampled_from(["/", "/accounts?", "//", "http://[::1]/"]),
    rest=VISIBLE,
    agent=FIELD,
    kind=FIELD,
    body=st.binary(max_size=200)
    | st.text("-@'\u2019\"\\%!\n $`é\u3164", max_size=50).map(str.encode),
)
def test_a_line_repeats_any_request(fense, recorder, shell, method, start, rest, agent, kind, body):
    tools("curl")
    named = " ".join([rest, agent, kind, body.decode("latin-1")])
    assume(not KEY_NAME.search(named))  # the journal masks what follows the name of a key
    headers = [f"User-Agent: {agent}", f"Content-Type: {kind}"]
    raw = with_body(body, *headers, line=f"{method} {start}{rest}")
    try:
        came, line = repeat(fense, recorder, raw, shell)
    except IndexError:  # the server did not take it: `http://[::1]/` may be followed by anything
        return
    assert parsed(came) == parsed(raw), line


@pytest.mark.needs("a POSIX shell")
def test_a_line_is_answered_as_the_request_was(fense):
    tools("curl")
    for name in ("a read", "no key", "another host", "HEAD", "a body", "multipart"):
        talk(port_of(fense), REPEATED[name])
        first = sent(fense)
        (line,) = lines_of(page_of_newest(fense))
        status, said = run(line)
        assert (sent(fense), status) == (first, str(first[0]["status"])), line + said


@pytest.mark.needs("a POSIX shell")
def test_keys_stay_masked_in_the_line(fense):
    tools("curl")
    secret = "sk_page_curl_000001"
    fields = json.dumps(account_fields(api_key=secret, name="Дом 'и' сад")).encode()
    talk(port_of(fense), with_body(fields, JSON, f"Authorization: Bearer {secret}"))
    page = page_of_newest(fense)
    assert secret not in page
    (line,), (powershell,) = lines_of(page), lines_of(page, "powershell")
    assert "The journal masks the key of the request: …1a2b." in page
    assert "… replaces a key, which the journal masks: insert your own." in page
    assert run(line)[0] == run(powershell, "powershell")[0] == "400"  # the masked key is none
    assert line.endswith(f"--data-raw {shlex.quote(fields.decode().replace(secret, '…0001'))}")


@pytest.mark.needs("a POSIX shell")
def test_what_is_no_text_is_repeated_up_to_the_name_of_a_key(fense):
    tools("curl")
    talk(port_of(fense), with_body(b"\xffa\x00b api_key=sk_page_curl_000002", JSON))
    (line,) = lines_of(page_of_newest(fense))
    run(line)
    assert fense.app.journal[-1].sent_body == b"\xffab api_key" + "…".encode()


@pytest.mark.needs("a POSIX shell")
def test_a_long_body_is_repeated_as_far_as_it_is_kept(fense):
    tools("curl")
    talk(port_of(fense), with_body(b'{"name": "' + b"\xc3\xa9" * 5000 + b'"}', JSON))
    page = page_of_newest(fense)
    assert "The journal keeps the first 8 KiB of a body: add the rest." in page
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
    second = process.page("page/requests/2")
    for shell, variable in (("sh", "$FENSE_API_KEY"), ("powershell", "$env:FENSE_API_KEY")):
        assert "-H 'x-api-key: local-dev-key'" in lines_of(first, shell)[0]
        assert f'-H "x-api-key: {variable}"' in lines_of(second, shell)[0]
    assert "FENSE_API_KEY" not in first


@pytest.mark.slow
@pytest.mark.parametrize(
    "shell", [shell for shell in SHELLS if shell.values[0] not in ("bash", "zsh")]
)
def test_every_line_by_hand_does_what_it_says(start, shell):
    """Each as a person would run it, after a reset: all of them are taken."""
    tools("curl")
    process = start("--port", "0", "--seed", "demo")
    process.ready()
    lines = {line for view in VIEWS for line in lines_of(process.page(view), shell)}
    assert len(lines) > 20
    for line in sorted(lines):
        assert "x-api-key: local-dev-key" in line
        send(process, "POST", "reset", {})
        send(process, "PUT", "clock", {"now": "2026-11-30T00:00:00Z"})
        status, said = run(line, shell)
        there_is_none = "DELETE" in line and "/instances/" in line
        assert (status[:1], said) == ("4" if there_is_none else "2", ""), line


def send(process, method, path, body):
    headers = {"x-api-key": "local-dev-key", "Content-Type": "application/json"}
    url = f"{process.url}/_standin/{path}"
    asked = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    urllib.request.urlopen(asked, timeout=10).close()
