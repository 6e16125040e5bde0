"""Requests on one connection are answered once and in order, also with Expect: 100-continue."""

import json
import socket

import pytest
from conftest import (
    KEY_HEADER,
    account_fields,
    connect,
    http_post,
    http_request,
    ids,
    read_all,
    statuses,
)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["GET /accounts/1", "GET /accounts/usage", "POST /accounts/1"])
def test_a_pipeline_with_expect_is_answered_in_order(port, first):
    length = ("Content-Length: 2",) if first.startswith("POST") else ()
    body = b"{}" if length else b""
    for number in range(200):
        raw = http_request(first, f"X-Request-Id: A{number}", *length, body=body)
        raw += http_request(
            "POST /accounts/1",
            f"X-Request-Id: B{number}",
            "Expect: 100-continue",
            "Content-Length: 2",
            "Connection: close",
        )
        with connect(port) as sock:
            sock.sendall(raw)
            got = b""
            while b" 100 Continue\r\n\r\n" not in got:
                chunk = sock.recv(65536)
                assert chunk, got
                got += chunk
            sock.sendall(b"{}")
            got += read_all(sock)
        assert statuses(got) == [200, 100, 200]
        assert ids(got) == [f"A{number}".encode(), f"B{number}".encode()]


@pytest.mark.parametrize(
    ("line", "headers", "expected"),
    [
        ("GET /accounts/1", (), [200]),
        ("DELETE /accounts/1", (), [405]),
        ("POST /accounts/1", ("Content-Length: 0",), [400]),
        ("POST /accounts/1", ("Content-Length: x",), [400]),
        ("POST /accounts/1", ("Content-Length: 99999999",), [413]),
    ],
)
def test_expect_without_a_body_is_answered_at_once(port, line, headers, expected):
    with connect(port, timeout=3) as sock:
        sock.sendall(http_request(line, *headers, "Expect: 100-continue"))
        answer = sock.recv(65536)
        assert statuses(answer) == expected
        if b"Connection: close" not in answer:
            sock.sendall(http_request("GET /accounts/1", "X-Request-Id: next", "Connection: close"))
            following = read_all(sock)
            assert (statuses(following), ids(following)) == ([200], [b"next"])


def test_a_client_that_waits_for_100_continue_gets_it(served):
    body = json.dumps(account_fields()).encode()
    raw = http_post(b"/accounts", b"", b"Content-Length: %d" % len(body), b"Expect: 100-continue")
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=10) as sock:
        sock.sendall(raw)
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert sock.recv(100).startswith(b"HTTP/1.1 201")


def test_requests_on_one_connection_are_answered_in_order(served):
    raw = b"".join(
        b"GET /accounts/%d HTTP/1.1\r\nHost: x\r\nX-Request-Id: %d\r\n%s\r\n"
        % (number, number, KEY_HEADER)
        for number in range(1, 30)
    )
    answer = served.talk(
        raw + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    ).decode()
    ids = [line[14:] for line in answer.split("\r\n") if line.startswith("X-Request-Id: ")]
    assert ids[:-1] == [str(number) for number in range(1, 30)]


def test_a_pipeline_of_quick_and_other_requests_is_answered_in_order(served):
    paths = ["/accounts/1", "/accounts/usage", "/accounts/usage/1", "/healthz", "/nothing"] * 8
    raw = b"".join(
        b"GET %s HTTP/1.1\r\nHost: x\r\nX-Request-Id: %d\r\n%s\r\n"
        % (path.encode(), number, KEY_HEADER)
        for number, path in enumerate(paths)
    )
    answer = served.talk(
        raw + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    ).decode()
    ids = [line[14:] for line in answer.split("\r\n") if line.startswith("X-Request-Id: ")]
    assert ids[:-1] == [str(number) for number in range(len(paths))]
