"""/healthz and /openapi.json need no key, and show the current state."""

import socket

import pytest
from conftest import FIELDS, in_background, refusal, sentence

from fense_admin import engines


@pytest.mark.parametrize("key", [None, "who-knows"])
def test_health_and_the_document_need_no_key_and_ignore_a_query(api, inside, key):
    answer = api.get("/healthz?verbose=1", key=key)
    assert (answer.status, answer.body) == (200, {"status": "ok"})
    answer = api.get("/openapi.json?x=%FF", key=key)
    assert (answer.status, answer.body["openapi"]) == (200, "3.1.0")
    assert answer.body["servers"] == [{"url": "http://localhost:80"}]


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json"])
def test_health_and_the_document_accept_only_get(api, inside, path):
    answer = api.call("POST", path, b"", key=None)
    expected = refusal(code="method_not_allowed", message="this path accepts GET, HEAD")
    assert (answer.status, answer.body, answer.headers["Allow"]) == (405, expected, "GET, HEAD")
    head = api.call("HEAD", path, key=None)
    assert (head.status, head.body) == (200, None)


def test_a_health_check_reads_the_file_not_a_cache(tmp_path, open_database):
    path = tmp_path / "fense.sqlite3"
    db = open_database(path)
    db.create_account(FIELDS)
    db.ping()
    db.engine.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(path, "r+b") as file:
        file.write(b"no database" * 9)
    with pytest.raises(engines.DatabaseError):
        db.ping()


def test_health_waits_until_a_service_responds(start, run_command):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    message = f"fense-admin: {url}/healthz does not respond: Connection refused"
    assert sentence(run_command("health", url)) == message
    assert "does not respond" in sentence(run_command("health", "--wait=0.3", url + "/admin"))
    waiting = start("health", "--wait=20", url + "/admin", http_proxy="http://127.0.0.1:9")
    service = start("--port", str(port), "--prefix=/admin")
    service.ready()
    assert waiting.end(None)[:2] == (0, "")
    assert run_command("health", FENSE_ADMIN_PORT=str(port))[:2] == (0, "")
    for bad in (["--wait=x"], ["--wait=-1"]):
        assert run_command("health", *bad)[0] == 2


@pytest.mark.parametrize(
    "url",
    [
        *("", " ", "127.0.0.1", "ftp://x", "file:///etc/passwd", "http://", "http://:80", "http:///x"),
        *("http://a..b/", "http://.a", "http://[", "http://[::1", "http://[x]", "http://a b"),
        *("http://a:99999", "http://a:x", "http://a:-1", "http://a:80:80", "http://u@a", "http://ü.example"),
        *("http://a\n", "http://a/\nb", "http://a\0", "http://\udcff", " http://a", "http://a\\b"),
    ],
)  # fmt: skip
def test_health_rejects_an_invalid_url_in_a_sentence(run_command, url):
    code, out, log = run_command("health", url)
    assert (code, out) == (2, "")
    assert "error: argument url: must be a URL such as http://127.0.0.1:8642" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    "host", ["a" * 64, f"{'a.' * 200}example", "no.such.host.invalid", "1.2.3.4.5"]
)
def test_health_of_an_unknown_host_is_a_sentence(run_command, host):
    assert f"http://{host}/healthz " in sentence(run_command("health", f"http://{host}/x?y"))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "does not respond: Remote end closed connection without response"),
        (b"SSH-2.0-OpenSSH_9.2\x1b[31m\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 abc\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 " + b"x" * 70_000, "does not speak HTTP"),
        (b"HTTP/1.1 503 \xff\r\n\r\n", "returned 503"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n", "returned 302"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "returned 204"),
    ],
)
def test_health_of_another_service_is_a_sentence(run_command, raw, message):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def answer():
            sock, _ = listening.accept()
            with sock:
                sock.recv(65536)
                sock.sendall(raw)

        with in_background(answer):
            line = sentence(run_command("health", f"http://127.0.0.1:{port}"))
    assert line == f"fense-admin: http://127.0.0.1:{port}/healthz {message}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "listens_on"),
    [("[::1]", "[::1]"), ("::1", "[::1]"), ("localhost", "localhost"), ("0.0.0.0", "0.0.0.0"), ("::", "[::]")],
)  # fmt: skip
def test_health_finds_what_serve_starts_with_the_same_variables(
    start, run_command, host, listens_on
):
    service = start(
        "--port=0", "--database=:memory:", FENSE_ADMIN_HOST=host, DISPUTE_MASTER_KEY="key"
    )
    origin, _, port = service.ready().rpartition(":")
    assert origin == f"http://{listens_on}"
    result = run_command("health", FENSE_ADMIN_HOST=host, FENSE_ADMIN_PORT=port)
    assert result == (0, "", "")
    service.end()
    asked = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(listens_on, listens_on)
    message = sentence(run_command("health", FENSE_ADMIN_HOST=host, FENSE_ADMIN_PORT=port))
    assert message.startswith(f"fense-admin: http://{asked}:{port}/healthz does not respond: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("HOST", value) for value in ("", " ", "[::1", "a/b", "a..b", "u@a", "[]")),
        *(("PORT", value) for value in ("", "x", "99999", "-1", "http://a:80")),
    ],
)
def test_health_names_an_invalid_variable(run_command, name, value):
    code, out, log = run_command("health", **{f"FENSE_ADMIN_{name}": value})
    assert (code, out) == (2, "")
    assert f" error: FENSE_ADMIN_{name} must be " in log
    url = ["http://127.0.0.1:1"]  # then they don't matter
    assert "Connection refused" in sentence(run_command("health", *url, FENSE_ADMIN_HOST="[::1"))
