"""Every input is bounded: bodies, headers, keys, errors and histories."""

import contextlib
import http.client
import json
import threading
import time

import pytest
from conftest import (
    KEY_HEADER,
    MASTER_KEY,
    SERVICE_KEY,
    TIMEOUT,
    Served,
    account_fields,
    call_standin,
    connect,
    http_request,
    in_background,
    port_of,
    read_all,
    statuses,
    talk,
)

from fense_admin.settings import Limits


@pytest.mark.parametrize("size", [70_000, 200_000, 5_000_000])
def test_a_client_that_sends_too_large_a_body_gets_the_response(served, size):
    # Closing on a client that still sends would reset the connection, and the answer with it.
    for _ in range(5):
        connection = http.client.HTTPConnection("127.0.0.1", served.server.port, timeout=10)
        headers = {"x-api-key": MASTER_KEY, "Content-Type": "application/json"}
        connection.request("POST", "/accounts", b"x" * size, headers)
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)["error"]["code"]) == (413, "payload_too_large")
        connection.close()


@contextlib.contextmanager
def others_wait(port, path="/healthz"):
    """Yield a list of the seconds that another client waits for responses."""
    waits, over = [], threading.Event()

    def ask():
        while not over.is_set():
            began = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
            with contextlib.closing(connection):
                connection.request("GET", path)
                assert connection.getresponse().status == 200
            waits.append(time.monotonic() - began)
            time.sleep(0.005)

    with in_background(ask, stop=over.set):
        yield waits


@pytest.mark.parametrize("key", ["", KEY_HEADER.decode()], ids=["no key", "a key"])
@pytest.mark.parametrize(
    "endless", [b"1", b"1;a=" + b"b", b"0\r\nX: y"], ids=["size", "extension", "trailer"]
)
def test_an_endless_line_of_a_chunked_body_is_cut(port, key, endless):
    head = f"POST /_standin/usage HTTP/1.1\r\nHost: localhost\r\n{key}Transfer-Encoding: chunked\r\n\r\n"
    with connect(port) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(head.encode() + endless)
        for _ in range(64):  # 1 MiB
            sock.sendall(endless[-1:] * 16_384)
        sock.settimeout(3)
        assert statuses(read_all(sock)) in ([400], [413], [])


@pytest.mark.parametrize(
    "raw",
    [
        b"GET a://" + b"0" * 12_000 + b" X HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\na:" + b" " * 16_000 + b"\x01\r\n\r\n",
        b"GET / HTTP/1.0\r\nTransfer-Encoding: x" + b" " * 16_000 + b"y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x," + b" " * 16_000 + b"y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nx-api-key: "
        + b", ".join(b"k%d" % n for n in range(2_000))
        + b"\r\nConnection: close\r\n\r\n",
    ],
    ids=["target", "spaces", "1.0", "codings", "keys"],
)
def test_every_bad_header_is_rejected_quickly(port, raw):
    began = time.monotonic()
    assert statuses(talk(port, raw))[0] in (400, 401, 404, 501)
    assert time.monotonic() - began < 0.3


def test_a_body_full_of_keys_is_fast(fense):
    keys = ", ".join(f"k{number}" for number in range(2_000))
    body = ("k1 k2 k3 " * 7_000).encode()
    raw = f"POST /accounts HTTP/1.1\r\nHost: localhost\r\nx-api-key: {keys}\r\n"
    raw += f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    began = time.monotonic()
    assert statuses(talk(port_of(fense), raw.encode() + body)) == [401]
    assert time.monotonic() - began < 0.5
    assert fense.requests()[0]["body"] == "…"
    bare = f"GET /accounts/1 HTTP/1.1\r\nHost: localhost\r\nx-api-key: {keys}\r\n"
    talk(port_of(fense), f"{bare}Connection: close\r\n\r\n".encode())
    assert fense.requests()[1]["body"] is None


def test_without_the_master_key_no_body_is_large(fense):
    size = Limits().read_body + 1
    length = f"Content-Length: {size}"
    for key, expected in ((MASTER_KEY, 400), (SERVICE_KEY, 413), ("", 413)):
        head = f"PUT /_standin/state HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\n{length}\r\n\r\n"
        with connect(port_of(fense)) as sock, contextlib.suppress(ConnectionError):
            sock.sendall(head.encode())
            if expected == 400:
                sock.sendall(b" " * size)
            assert statuses(sock.recv(65536)) == [expected]


def test_a_hundred_of_many_errors_are_listed(fense):
    body = b"[" + b"0," * 300_000 + b"0]"
    answer = talk(
        port_of(fense),
        http_request(
            "POST /_standin/usage", f"Content-Length: {len(body)}", "Connection: close", body=body
        ),
    )
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert len(error["details"]) == 100
    assert error["message"].endswith("[99] must be an object; and 299901 more")
    query = "&".join(f"n{number}" for number in range(2_000))
    answer = talk(port_of(fense), http_request(f"GET /accounts/1?{query}", "Connection: close"))
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert len(error["details"]) == 100
    assert error["message"].endswith("n99 is not accepted here; and 1900 more")


def test_a_long_history_blocks_nobody(tmp_path, file_app):
    file_app.db.create_account(account_fields())
    days = [
        f"{year}-{month:02}-{day:02}"
        for year in range(1900, 2000)
        for month in range(1, 13)
        for day in range(1, 29)
    ]
    file_app.db.record_all([(1, date, 1) for date in days])
    worst = []
    with Served(file_app) as served:
        for _ in range(5):  # a busy machine may stall one of them, a fault stalls them all
            with others_wait(served.server.port) as waits:
                answer = talk(
                    served.server.port, http_request("GET /accounts/usage/1", "Connection: close")
                )
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["total_lookups"] == len(days)
            worst.append(max(waits))
    assert min(worst) < 0.1  # the bound is 20 ms; benchmarks/ measures it


@pytest.mark.slow
def test_only_the_control_plane_accepts_bodies_of_megabytes(fense):
    large = {"accounts": [account_fields(name="x" * 255) for _ in range(10_000)]}
    assert call_standin(fense, "PUT", "/_standin/state", large, timeout=30)[0] == 200
    assert call_standin(fense, "POST", "/accounts", large)[0] == 413
    exact = b'{"accounts": []' + b" " * (32 * 1024 * 1024 - 16) + b"}"
    for body, expected in ((exact, 200), (b"x" * (33 * 1024 * 1024), 413)):
        connection = http.client.HTTPConnection(fense.url[7:], timeout=30)
        with contextlib.closing(connection):
            connection.request("PUT", "/_standin/state", body, fense.headers)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == expected
    assert json.loads(content)["error"]["code"] == "payload_too_large"
