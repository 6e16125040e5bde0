"""Invalid HTTP/1.1 gets an error body; valid requests get the same response however they are sent."""

import json
import socket
import time

import pytest
from conftest import (
    KEY_HEADER,
    account_fields,
    http_post,
    http_request,
    parse_answer,
    refusal,
    statuses,
    talk,
)

NOT_HTTP = (400, "bad_request", "the request is not valid HTTP/1.1")
LONG_HEADER = "the request line and headers exceed the maximum of 16384 bytes"
TOO_LARGE = (413, "payload_too_large", "the body exceeds the maximum of 131072 bytes")


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
            (501, "not_implemented", "chunked is the only supported transfer coding"),
        ),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 16_384 + b"\r\n\r\n",
            (431, "request_header_fields_too_large", LONG_HEADER),
        ),
    ],
    ids=lambda value: ascii(value[:60]) if isinstance(value, bytes) else "",
)
def test_errors_of_waitress_have_the_error_shape(served, raw, expected):
    status, code, message = expected
    answer = parse_answer(served.talk(raw))
    assert (answer[0], answer[2]) == (status, refusal(code=code, message=message))
    assert answer[1]["Connection"] == "close"


@pytest.mark.parametrize(
    "header", [b"no colon", b"X: " + b"x" * 20_000, b"Transfer-Encoding: gzip"], ids=len
)
def test_a_rejected_head_has_no_body(served, header):
    status, headers, body = parse_answer(
        served.talk(b"HEAD / HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n")
    )
    assert status in (400, 431, 501)
    assert body is None
    assert int(headers["Content-Length"]) > 0


def test_a_rejected_request_keeps_its_id(served):
    raw = b"POST / HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\nContent-Length: 999999\r\n\r\n"
    assert parse_answer(served.talk(raw))[1]["X-Request-Id"] == "mine"


def test_a_chunked_body_is_accepted(served):
    body = json.dumps(account_fields()).encode()
    chunks = b"%x\r\n%s\r\n5\r\n     \r\n0\r\n\r\n" % (len(body), body)
    raw = http_post(b"/accounts", chunks, b"Transfer-Encoding: chunked")
    assert parse_answer(served.talk(raw))[0] == 201
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (65_537, b"x" * 65_537)
    raw = http_post(b"/accounts", chunks, b"Transfer-Encoding: chunked")
    assert parse_answer(served.talk(raw))[0] == 413


def test_data_beyond_the_content_length_is_not_part_of_the_body(served):
    body = json.dumps(account_fields()).encode()
    raw = http_post(b"/accounts", body + b', "more": 1}', b"Content-Length: %d" % len(body))
    assert parse_answer(served.talk(raw))[0] == 201
    keep = raw.replace(b"Connection: close\r\n", b"").replace(b"sk_test_", b"sk_next_")
    answers = served.talk(keep + b"\r\n\r\n")
    assert answers.startswith(b"HTTP/1.1 201")
    assert parse_answer(answers[answers.rindex(b"HTTP/1.0 4") :])[0] == 400


def test_a_body_shorter_than_its_content_length_is_never_handled(served):
    body = json.dumps(account_fields()).encode()
    raw = http_post(b"/accounts", body, b"Content-Length: %d" % (len(body) + 1))
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=10) as sock:
        sock.sendall(raw)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""
    assert len(served.call("GET", "/accounts/usage")[1]["accounts"]) == 1


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
        (b"GET /accounts/\tusage HTTP/1.1", 400),
        (b"GET //accounts/usage HTTP/1.1", 404),
        (b"GET //accounts\xff HTTP/1.1", 400),
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
def test_a_malformed_request_line_gets_an_error_body(served, line, status):
    answer = parse_answer(
        served.talk(line + b"\r\nHost: x\r\nConnection: close\r\n" + KEY_HEADER + b"\r\n")
    )
    assert (answer[0], "error" in answer[2]) == (status, status >= 400)


@pytest.mark.parametrize(
    "key", [b"\xff\xfe", b"\xc3\xa4", b"a, b", b"x" * 10_000, b"\x7f", b"\x00"]
)
def test_a_key_of_arbitrary_bytes_is_unknown(served, key):
    raw = (
        b"GET /accounts/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-api-key: "
        + key
        + b"\r\n\r\n"
    )
    assert parse_answer(served.talk(raw))[0] in (400, 401)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /accounts/1 HTTP/1.1\r\n" + KEY_HEADER,
        b"GET /accounts/1 HTTP/1.1\r\nHost: a\r\nHost: b\r\n" + KEY_HEADER,
        b"GET /accounts/1 HTTP/1.1\r\nHost: a\r\nHost: a\r\n" + KEY_HEADER,
        b"GET /accounts/1 HTTP/1.0\r\nHost: a\r\nHost: a\r\n" + KEY_HEADER,
        *(
            b"GET /accounts/1 HTTP/1.1\r\nHost: " + host + b"\r\n" + KEY_HEADER
            for host in (b"a b", b'a"b', b"<a>", b"a\\b", b"[::1", b"::1", b"a:b", b"a:999999")
        ),
        b"GET /accounts/1 HTTP/1.1\r\nHost: \xe9\r\n" + KEY_HEADER,
        b"GET /accounts/1 HTTP/1.1\r\nHost: a\r\n b\r\n" + KEY_HEADER,
        b"GET /accounts/1 HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n" + KEY_HEADER,
        b"GET /accounts/1 HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n" + KEY_HEADER,
        b"GET /accounts/1 HTTP/2.0\r\nHost: a\r\n" + KEY_HEADER,
        b"GET /accounts/1#x HTTP/1.1\r\nHost: a\r\n" + KEY_HEADER,
        b"POST /accounts HTTP/1.0\r\nTransfer-Encoding: chunked\r\n" + KEY_HEADER,
        b"POST /accounts HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        b"POST /accounts HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"POST /accounts HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n",
        b"POST /accounts HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n",
        b"POST /accounts HTTP/1.1\r\nHost: a\r\n"
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ],
    ids=lambda raw: ascii(raw)[2:80],
)
def test_an_ambiguous_request_is_rejected_and_the_connection_closed(served, raw):
    answer = talk(served.server.port, raw + b"\r\n0\r\n\r\n")
    assert statuses(answer) == [400]
    assert b"Connection: close" in answer


@pytest.mark.parametrize("value", ["close", "close, x", "X , Close", "keep-alive, close"])
def test_a_connection_is_closed_on_request(served, value):
    answer = talk(served.server.port, http_request("GET /accounts/1", f"Connection: {value}"))
    assert statuses(answer) == [200]
    assert answer.count(b"Connection: close") == 1


@pytest.mark.parametrize("host", ["", "a_b.example.", "a:", "a:1", "[::1]:80", "[fe80::1%25en0]"])
def test_a_host_that_a_url_may_have_is_served(served, host):
    raw = b"GET /accounts/1 HTTP/1.1\r\nConnection: close\r\n" + KEY_HEADER
    assert statuses(talk(served.server.port, raw + f"Host: {host}\r\n\r\n".encode())) == [200]


def test_without_a_host_http_1_0_is_served(served):
    assert statuses(
        talk(served.server.port, b"GET /accounts/1 HTTP/1.0\r\n" + KEY_HEADER + b"\r\n")
    ) == [200]


def test_tls_on_the_plain_port_is_closed_at_once(start):
    service = start("--port=0")
    port = int(service.ready().rpartition(":")[2])
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert sock.recv(100) == b""
    assert time.monotonic() - began < 2
    assert "TLS: the URL is http://, not https://" in service.end()[2]
