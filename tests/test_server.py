"""A real socket: what only waitress decides, what happens under load, and how it stops."""

import contextlib
import http.client
import json
import os
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from conftest import MASTER_KEY, Served, account_fields, in_background, locked, refusal

from fense_admin import create_app

KEY = f"x-api-key: {MASTER_KEY}\r\n".encode()


@pytest.fixture
def app(tmp_path, make_app):
    return make_app(str(tmp_path / "fense.sqlite3"), master_key=MASTER_KEY)


@pytest.fixture
def served(app):
    with Served(app) as served:
        yield served


@pytest.fixture
def serve():
    """Serves an application, until the end of the test at the latest."""
    with contextlib.ExitStack() as stack:
        yield lambda app, **options: stack.enter_context(Served(app, **options))


def parse(answer):
    """Status, headers and JSON of one raw answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in headers)
    assert "Server" not in headers
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Request-Id"]
    return int(status.split()[1]), headers, json.loads(body) if body else None


# --- waitress's own errors ---------------------------------------------------------------------

NOT_HTTP = (400, "bad_request", "the request is not valid HTTP/1.1")
LONG_HEADER = "the request line and headers are over 16384 bytes"
TOO_LARGE = (413, "payload_too_large", "the body is over 131072 bytes")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"nonsense\r\n\r\n", NOT_HTTP),
        (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", NOT_HTTP),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", NOT_HTTP),
        (b"GET / HTTP/1.1\r\nHost: x\r\nx-api-key: se\rcret\r\n\r\n", NOT_HTTP),
        (b"GET / HTTP/1.1\r\nHost: x\r\n leading: space\r\n\r\n", NOT_HTTP),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\nA: b\r\n c\n\r\n\r\n", NOT_HTTP),
        (b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n", NOT_HTTP),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", NOT_HTTP),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", NOT_HTTP),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", NOT_HTTP),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", NOT_HTTP),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 131073\r\n\r\n", TOO_LARGE),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 100 + b"\r\n\r\n", TOO_LARGE),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
            (501, "not_implemented", "of the transfer codings only chunked is known here"),
        ),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 16_384 + b"\r\n\r\n",
            (431, "request_header_fields_too_large", LONG_HEADER),
        ),
    ],
    ids=lambda value: ascii(value[:60]) if isinstance(value, bytes) else "",
)
def test_what_waitress_refuses_is_refused_in_the_error_shape(served, raw, expected):
    status, code, message = expected
    answer = parse(served.talk(raw))
    assert (answer[0], answer[2]) == (status, refusal(code=code, message=message))
    assert answer[1]["Connection"] == "close"


@pytest.mark.parametrize(
    "header", [b"no colon", b"X: " + b"x" * 20_000, b"Transfer-Encoding: gzip"], ids=len
)
def test_a_refused_head_has_no_body(served, header):
    status, headers, body = parse(
        served.talk(b"HEAD / HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n")
    )
    assert status in (400, 431, 501)
    assert body is None
    assert int(headers["Content-Length"]) > 0


def test_a_refused_request_keeps_its_id(served):
    raw = b"POST / HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\nContent-Length: 999999\r\n\r\n"
    assert parse(served.talk(raw))[1]["X-Request-Id"] == "mine"


@pytest.mark.parametrize("size", [70_000, 200_000, 5_000_000])
def test_a_client_that_sends_too_large_a_body_reads_its_answer(served, size):
    # Closing on a client that still sends would reset the connection, and the answer with it.
    for _ in range(5):
        connection = http.client.HTTPConnection("127.0.0.1", served.server.port, timeout=10)
        headers = {"x-api-key": MASTER_KEY, "Content-Type": "application/json"}
        connection.request("POST", "/accounts", b"x" * size, headers)
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)["error"]["code"]) == (413, "payload_too_large")
        connection.close()


# --- Bodies and paths as a socket brings them --------------------------------------------------


def post(path, body, *headers):
    head = (
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        % path
    )
    return head + KEY + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body


def test_a_chunked_body_is_a_body(served):
    body = json.dumps(account_fields()).encode()
    chunks = b"%x\r\n%s\r\n5\r\n     \r\n0\r\n\r\n" % (len(body), body)
    raw = post(b"/accounts", chunks, b"Transfer-Encoding: chunked")
    assert parse(served.talk(raw))[0] == 201
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (65_537, b"x" * 65_537)
    raw = post(b"/accounts", chunks, b"Transfer-Encoding: chunked")
    assert parse(served.talk(raw))[0] == 413


def test_of_a_body_longer_than_it_says_the_rest_is_no_part_of_it(served):
    body = json.dumps(account_fields()).encode()
    raw = post(b"/accounts", body + b', "more": 1}', b"Content-Length: %d" % len(body))
    assert parse(served.talk(raw))[0] == 201
    keep = raw.replace(b"Connection: close\r\n", b"").replace(b"sk_test_", b"sk_next_")
    answers = served.talk(keep + b"\r\n\r\n")
    assert answers.startswith(b"HTTP/1.1 201")
    assert parse(answers[answers.rindex(b"HTTP/1.0 4") :])[0] == 400


def test_a_body_shorter_than_it_says_is_never_acted_on(served):
    body = json.dumps(account_fields()).encode()
    raw = post(b"/accounts", body, b"Content-Length: %d" % (len(body) + 1))
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=10) as sock:
        sock.sendall(raw)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""
    assert served.call("GET", "/accounts/usage")[1]["accounts"] == []


def test_a_client_that_waits_for_100_continue_is_told_to(served):
    body = json.dumps(account_fields()).encode()
    raw = post(b"/accounts", b"", b"Content-Length: %d" % len(body), b"Expect: 100-continue")
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=10) as sock:
        sock.sendall(raw)
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert sock.recv(100).startswith(b"HTTP/1.1 201")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /accounts/1%FF HTTP/1.1", 400),
        (b"GET /accounts/1\xff HTTP/1.1", 400),
        (b"GET /accounts/1%0A HTTP/1.1", 400),
        (b"GET /accounts/%D9%A1 HTTP/1.1", 400),
        (b"GET /accounts/1%00 HTTP/1.1", 400),
        (b"GET /accounts/1?x=\xff HTTP/1.1", 400),
        (b"GET /accounts/999999 HTTP/1.1", 404),
        (b"GET //accounts/usage HTTP/1.1", 404),
        (b"GET /accounts/usage#top HTTP/1.1", 400),
        (b"GET http://elsewhere/accounts/999999 HTTP/1.1", 404),
        (b"GET /accounts%FF HTTP/1.1", 404),
        (b"OPTIONS * HTTP/1.1", 404),
        (b"PRI * HTTP/2.0", 400),
        (b"BREW /accounts/1 HTTP/1.1", 405),
        (b"BREW /brew HTTP/1.1", 404),
        (b"GET /accounts/usage", 200),
    ],
)
def test_a_strange_request_line_is_answered_in_words(served, line, status):
    answer = parse(served.talk(line + b"\r\nHost: x\r\nConnection: close\r\n" + KEY + b"\r\n"))
    assert (answer[0], "error" in answer[2]) == (status, status >= 400)


@pytest.mark.parametrize(
    "key", [b"\xff\xfe", b"\xc3\xa4", b"a, b", b"x" * 10_000, b"\x7f", b"\x00"]
)
def test_a_key_of_strange_bytes_is_unknown(served, key):
    raw = (
        b"GET /accounts/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-api-key: "
        + key
        + b"\r\n\r\n"
    )
    assert parse(served.talk(raw))[0] in (400, 401)


def test_requests_on_one_connection_are_answered_in_order(served):
    raw = b"".join(
        b"GET /accounts/%d HTTP/1.1\r\nHost: x\r\nX-Request-Id: %d\r\n%s\r\n"
        % (number, number, KEY)
        for number in range(1, 30)
    )
    answer = served.talk(
        raw + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    ).decode()
    ids = [line[14:] for line in answer.split("\r\n") if line.startswith("X-Request-Id: ")]
    assert ids[:-1] == [str(number) for number in range(1, 30)]


def test_a_pipeline_of_quick_and_other_requests_is_answered_in_order(served):
    served.call("POST", "/accounts", account_fields())
    paths = ["/accounts/1", "/accounts/usage", "/accounts/usage/1", "/healthz", "/nothing"] * 8
    raw = b"".join(
        b"GET %s HTTP/1.1\r\nHost: x\r\nX-Request-Id: %d\r\n%s\r\n" % (path.encode(), number, KEY)
        for number, path in enumerate(paths)
    )
    answer = served.talk(
        raw + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    ).decode()
    ids = [line[14:] for line in answer.split("\r\n") if line.startswith("X-Request-Id: ")]
    assert ids[:-1] == [str(number) for number in range(len(paths))]


@pytest.mark.parametrize(
    ("method", "path", "quick"),
    [
        ("GET", "/admin/accounts/1", True),
        ("HEAD", "/admin/accounts/1", True),
        ("GET", "/admin/accounts/usage/1?start_date=2026-10-24&end_date=2026-11-22", True),
        ("GET", "/admin/accounts/usage/1?start_date=2026-11-01&end_date=2027-01-31", True),
        ("GET", "/admin/accounts/usage/1?start_date=2026-11-01&end_date=2027-02-01", False),
        ("GET", "/admin/accounts/usage/1?start_date=2026-11-01&end_date=9999-12-31", False),
        ("GET", "/admin/accounts/usage/1", False),
        ("GET", "/admin/accounts/usage?start_date=2026-11-01&end_date=2026-11-02", False),
        ("GET", "/admin/accounts/1?" + "&".join(map(str, range(100))), False),
        ("GET", "/admin/accounts/" + "9" * 300, False),
        ("POST", "/admin/accounts/1", False),
        ("POST", "/admin/accounts", False),
        ("GET", "/admin/accounts/usage", False),
        ("GET", "/healthz", False),
        ("GET", "/accounts/1", False),
    ],
)
def test_reads_of_one_account_are_quick(method, path, quick):
    with contextlib.closing(create_app(master_key=MASTER_KEY, prefix="/admin")) as app:
        path, _, query = path.partition("?")
        assert app.runs_inline(method, path, query) is quick


def test_one_account_is_read_while_every_worker_is_at_work(app, serve):
    served = serve(app, threads=1)
    served.call("POST", "/accounts", account_fields())
    at_work, go_on = threading.Event(), threading.Event()

    def all_usage(*_):
        at_work.set()
        assert go_on.wait(10)
        return "{}"

    app.db.all_usage = all_usage
    with in_background(lambda: served.call("GET", "/accounts/usage"), stop=go_on.set):
        assert at_work.wait(10)
        assert served.call("GET", "/accounts/1")[0] == 200
        month = "start_date=2026-11-01&end_date=2026-11-30"
        assert served.call("GET", f"/accounts/usage/1?{month}")[0] == 200
        assert not go_on.is_set()


# --- While the database is locked elsewhere --------------------------------------------------


def test_writers_that_wait_hold_up_nobody_else(served, tmp_path):
    served.call("POST", "/accounts", account_fields())
    took, statuses = [], []

    def write():
        began = time.monotonic()
        statuses.append(served.call("POST", "/accounts", account_fields())[0])
        took.append(time.monotonic() - began)

    with locked(tmp_path / "fense.sqlite3"), in_background(write, 12):
        time.sleep(0.5)
        for path in ("/healthz", "/accounts/1", "/accounts/usage"):
            began = time.monotonic()
            assert served.call("GET", path)[0] == 200
            assert time.monotonic() - began < 0.5
    assert statuses == [503] * 12
    assert max(took) < 4
    assert served.call("POST", "/accounts", account_fields())[0] == 201
    assert len(served.call("GET", "/accounts/usage")[1]["accounts"]) == 2


# --- Stop --------------------------------------------------------------------------------------


def test_a_stop_answers_every_request_that_was_sent(app, serve):
    served = serve(app, threads=2)
    app.db.all_usage = lambda *_: time.sleep(0.05) or "{}"
    get_account = app.db.get_account
    app.db.get_account = lambda number: time.sleep(0.05) or get_account(number)
    statuses = []
    with contextlib.ExitStack() as stack:
        sockets = []
        for path in (b"/accounts/1", b"/accounts/usage") * 10:
            sockets.append(stack.enter_context(served.connect()))
            sockets[-1].sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n" + KEY + b"\r\n")
        served.stop()
        for sock in sockets:
            answer = b""
            while chunk := sock.recv(65536):
                answer += chunk
            statuses.append(parse(answer)[0])
    assert statuses == [404, 200] * 10
    with pytest.raises(ConnectionRefusedError):
        served.talk(b"")


@pytest.mark.parametrize("path", [b"/accounts/1", b"/accounts/usage"])
def test_a_stop_answers_a_pipeline_that_it_has_not_read_yet(app, path, serve):
    served = serve(app, threads=1)
    request = (
        b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nX-Pad: " + b"x" * 100 + b"\r\n" + KEY + b"\r\n"
    )
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=10) as sock:
        sock.sendall(request * 300)  # six times what is read at once
        served.stop()
        answers = b""
        while chunk := sock.recv(65536):
            answers += chunk
    assert answers.count(b"HTTP/1.1 ") == 300


def test_a_busy_client_does_not_hold_up_a_stop(served):
    answered = []

    def keep_asking():
        connection = http.client.HTTPConnection("127.0.0.1", served.server.port, timeout=10)
        with contextlib.closing(connection):
            while True:
                connection.request("GET", "/healthz")
                answer = connection.getresponse()
                answer.read()
                answered.append(answer.status)
                if answer.headers["Connection"] == "close":
                    return

    with in_background(keep_asking, 4, served.stop):
        time.sleep(0.2)
        began = time.monotonic()
        served.stop()
        assert time.monotonic() - began < 2
    assert set(answered) == {200}


def test_starting_and_stopping_leaves_no_thread_and_no_file(tmp_path):
    def count():
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(10):
        app = create_app(str(tmp_path / "fense.sqlite3"), master_key=MASTER_KEY)
        with contextlib.closing(app), Served(app) as served:
            assert served.call("GET", "/accounts/usage")[0] == 200
    assert count() == before


# --- Months of it ------------------------------------------------------------------------------


def test_neither_requests_nor_broken_connections_leave_anything_behind(start):
    service = start("--port=0", DISPUTE_MASTER_KEY=MASTER_KEY)
    port = int(service.ready().rpartition(":")[2])
    service.call("/accounts", account_fields(), key=MASTER_KEY)
    folder = Path(f"/proc/{service.process.pid}")

    def held():
        resident = int((folder / "statm").read_text().split()[1]) * 4096 / 2**20
        return resident, len(os.listdir(folder / "fd")), len(os.listdir(folder / "task"))

    def ask(count):
        one = b"GET /accounts/1 HTTP/1.1\r\nHost: x\r\n" + KEY + b"\r\n"
        other = b"GET /accounts/usage HTTP/1.1\r\nHost: x\r\n" + KEY + b"\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            for _ in range(count // 100):
                sock.sendall(one * 95 + other * 5)
                answers = b""
                while answers.count(b"HTTP/1.1 200 OK\r\n") < 100 or not answers.endswith(b"}"):
                    answers += sock.recv(1 << 20)

    halves = [b"", b"GET / HT", b"POST /accounts HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"]

    def break_off(count):
        for number in range(count):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
                sock.sendall(halves[number % 3])
                if number % 2:  # a reset in place of an end
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    ask(2_000)
    break_off(200)
    service.call("/accounts/1", key=MASTER_KEY)
    time.sleep(0.2)
    resident, *before = held()
    ask(20_000)
    break_off(2_000)
    service.call("/accounts/1", key=MASTER_KEY)
    time.sleep(0.2)
    resident_then, *after = held()
    assert after == before
    assert resident_then < resident + 2
    assert resident_then < 45
    assert service.end()[0] == 0
