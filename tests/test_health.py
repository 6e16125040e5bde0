"""/healthz and /openapi.json are open to all, and say how it is now."""

import socket

import pytest
from conftest import FIELDS, refusal, sentence

from fense_admin import engines


@pytest.mark.parametrize("key", [None, "who-knows"])
def test_health_and_the_document_need_no_key_and_ignore_a_query(api, inside, key):
    answer = api.get("/healthz?verbose=1", key=key)
    assert (answer.status, answer.body) == (200, {"status": "ok"})
    answer = api.get("/openapi.json?x=%FF", key=key)
    assert (answer.status, answer.body["openapi"]) == (200, "3.1.0")
    assert answer.body["servers"] == [{"url": "/"}]


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json"])
def test_health_and_the_document_take_get_alone(api, inside, path):
    answer = api.call("POST", path, b"", key=None)
    expected = refusal(code="method_not_allowed", message="this path takes GET, HEAD")
    assert (answer.status, answer.body, answer.headers["Allow"]) == (405, expected, "GET, HEAD")
    head = api.call("HEAD", path, key=None)
    assert (head.status, head.body) == (200, None)


def test_a_check_reads_the_file_and_not_what_is_remembered_of_it(tmp_path, open_database):
    path = tmp_path / "fense.sqlite3"
    db = open_database(path)
    db.create_account(FIELDS)
    db.ping()
    db.engine.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(path, "r+b") as file:
        file.write(b"no database" * 9)
    with pytest.raises(engines.DatabaseError):
        db.ping()


def test_health_waits_until_a_service_answers(start, run_command):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    message = f"fense-admin: {url}/healthz does not answer: Connection refused"
    assert sentence(run_command("health", url)) == message
    assert "does not answer" in sentence(run_command("health", "--wait=0.3", url + "/admin"))
    waiting = start("health", "--wait=20", url + "/admin", http_proxy="http://127.0.0.1:9")
    service = start("--port", str(port), "--prefix=/admin")
    service.ready()
    assert waiting.end(None)[:2] == (0, "")
    assert run_command("health", FENSE_ADMIN_PORT=str(port))[:2] == (0, "")
    for bad in (["--wait=x"], ["--wait=-1"], ["127.0.0.1"], ["ftp://x"], ["http://"]):
        assert run_command("health", *bad)[0] == 2
