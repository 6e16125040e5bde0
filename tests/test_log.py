"""The log has one line per request; nothing can forge or block it, and lost lines are counted."""

import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
import zipimport
from importlib.util import module_from_spec

import pytest
from conftest import COMMAND, TIMEOUT, account_fields, connect, read_all, statuses, talk
from this_system import APART, STOP

from fense_admin import __version__
from fense_admin.masking import Masker
from fense_admin.serving.log import LogFormatter

LINE = r"(\S+Z) (\S+) (\S+) (\d{3}) (\d+\.\d)ms ([^: ]+)(?:: (.*))?"


def test_the_log_has_one_unforgeable_line_per_request(start, tmp_path):
    service = start("--port=0", DISPUTE_MASTER_KEY="secret-master", DISPUTE_SERVICE_KEYS="secret-2")
    service.ready()
    merchant = account_fields(api_key="secret-merchant-key", name="Acme\u2028secret-name")
    assert service.call("/accounts", merchant, key="secret-master")[0] == 201
    for key in ("secret-master", "secret-2", "secret-merchant-key", "secret-wrong"):
        service.call("/accounts/1?api_key=secret-query", key=key)
    forged = "1 200 0.1ms x%0A2026-11-23T00:00:00.000Z GET forged 200 0.1ms x".replace(" ", "%20")
    service.call(f"/accounts/{forged}%C2%85%1B[31m", key="secret-2", **{"X-Request-Id": "mine"})
    address = service.url.rpartition(":")[2]
    with socket.create_connection(("127.0.0.1", int(address)), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nx-api-key: secret\rsecret\r\n\r\n")
        sock.recv(1000)
    log = service.end()[2]
    first, second, *rest = log.splitlines()
    assert re.fullmatch(rf"\S+Z fense-admin {__version__} with SQLite [0-9.]+", first)
    assert second.endswith(f" the database is {tmp_path / 'fense-admin.sqlite3'}, with 0 accounts")
    lines = [re.fullmatch(LINE, line) for line in rest]
    assert all(lines), log
    assert [line.group(2, 3, 4) for line in lines] == [
        ("POST", "/accounts", "201"),
        ("GET", "/accounts/1", "400"),
        ("GET", "/accounts/1", "400"),
        ("GET", "/accounts/1", "403"),
        ("GET", "/accounts/1", "401"),
        ("GET", f"/accounts/{forged.replace(':', '%3A')}%C2%85%1B%5B31m", "400"),
        ("-", "-", "400"),
    ]
    assert lines[-2][6] == "mine"
    assert [line[7] for line in lines] == [
        None,
        *["api_key is not accepted here"] * 2,
        "a merchant's key gives no access to these endpoints",
        "x-api-key is not a known key",
        "fense_account_id must be an integer",
        "the request is not valid HTTP/1.1",
    ]
    assert "secret" not in log


def test_the_reason_in_the_log_has_no_key(start):
    service = start("--port=0", DISPUTE_MASTER_KEY="secret")
    service.ready()
    for body in ({"secret": 1, "nmae": 2}, {"sk_secret_12345": 1, "email secret": 2}):
        assert service.call("/accounts/1", body, key="secret")[0] == 400
    service.call("/accounts/1", key="a")
    log = service.end()[2]
    assert ": x-api-key is not a known key\n" in log
    assert "secret" not in log
    assert ": … is not accepted here; nmae is not accepted here; did you mean name?\n" in log
    assert ": … is not accepted here; … is not accepted here\n" in log


def test_a_start_logs_the_database_and_the_page(start, tmp_path):
    path = tmp_path / "fense-admin.sqlite3"
    service = start("--port=0")
    service.ready()
    service.call("/accounts", account_fields())
    log = service.end()[2]
    assert f" web page: {service.url}/_standin/\n" in log
    assert f" the database is {path}, with 0 accounts\n" in log
    assert "from before" not in log
    again = start("--port=0", "--prefix=/admin", "--no-standin")
    again.ready()
    log = again.end()[2]
    assert "web page:" not in log
    assert f" the database is {path}, with 1 account\n" in log
    assert " accounts of earlier runs are kept: to start empty, choose another --database" in log
    memory = start("--port=0", "--database=:memory:")
    memory.ready()
    assert "the database is in memory, with 0 accounts: it is lost" in memory.end()[2]


@pytest.mark.needs("a POSIX shell")
def test_it_serves_without_a_standard_error(start):
    service = start("-c", f"exec {COMMAND} --port=0 2>&-", command=("sh",))
    service.ready()
    assert service.call("/accounts/usage")[0] == 200
    assert service.end()[0] == 0


@pytest.mark.slow
def test_a_blocked_log_stops_nothing_and_counts_dropped_lines(start, tmp_path):
    command = [sys.executable, "-m", "fense_admin", "--port=0", "--database=:memory:"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes, **APART) as process:
        try:
            port = int(re.search(r":(\d+) ", process.stdout.readline())[1])
            raw = b"GET /accounts/1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
            with connect(port) as sock:
                sock.sendall(
                    raw * 2_000 + raw.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
                )
                assert len(statuses(read_all(sock))) == 2_001
            first_line = process.stderr.readline()
            lines = []
            reader = threading.Thread(target=lambda: lines.extend(process.stderr))
            reader.start()
            time.sleep(0.2)
            assert statuses(
                talk(port, raw.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            ) == [401]
            process.send_signal(STOP)
            assert process.wait(TIMEOUT) == 0
            reader.join(TIMEOUT)
        finally:
            process.kill()
    assert "local-dev-key" in first_line
    (dropped,) = (line for line in lines if "log lines were dropped" in line)
    answered = sum(" GET /accounts/1 401 " in line for line in lines)
    assert answered + int(re.search(r" (\d+) log lines", dropped)[1]) == 2_002


def test_a_quiet_service_logs_only_warnings(start):
    service = start("--port=0", "--quiet")
    service.ready()
    assert service.call("/accounts/usage")[0] == 200
    (line,) = service.end()[2].splitlines()
    assert "no DISPUTE_MASTER_KEY is set" in line


def test_a_logged_path_is_at_most_300_characters():
    for path in ("/" + "x" * 5_000, "/" + "%" * 5_000):
        assert len(Masker([]).loggable("GET", path, "", "")) == len("GET ") + 300


def test_a_traceback_is_logged_although_its_source_was_replaced(tmp_path):
    """As if an update had replaced the zip file of a running service."""
    archive = tmp_path / "app.pyz"

    def write(source):
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("replaced_module.py", source)

    source = b"def fail():\n    raise RuntimeError('of ours')\n"
    write(source)
    loader = zipimport.zipimporter(str(archive))
    module = module_from_spec(loader.find_spec("replaced_module"))
    loader.exec_module(module)
    write(b"\xff" * len(source))
    try:
        module.fail()
    except RuntimeError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "a fault", (), sys.exc_info())
    text = LogFormatter().format(record)
    assert text.startswith("a fault\n    ")
    assert f"{archive}{os.sep}replaced_module.py:2 fail\n    RuntimeError: of ours" in text
