"""Starts, stops, requests and broken connections leak no threads, files, connections or memory."""

import contextlib
import os
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from conftest import (
    KEY_HEADER,
    MASTER_KEY,
    Served,
    account_fields,
    call_standin,
    in_threads,
    wait_until,
)

from fense_admin import create_app
from fense_admin.standin import StandIn


@pytest.mark.needs("/proc")
def test_closing_leaves_no_connection_and_no_file_beside_the_database(tmp_path, open_database):
    db = open_database(tmp_path / "fense.sqlite3")
    in_threads(4, lambda: "".join(db.all_usage(None, None)))
    db.engine.close_all()
    assert os.listdir(tmp_path) == ["fense.sqlite3"]
    assert not [name for name in open_files() if name.startswith(str(tmp_path))]


def open_files():
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return [os.readlink(link) for link in links if os.path.lexists(link)]


def test_a_thread_returns_its_connection_when_it_ends(file_app):
    with Served(file_app) as served:
        for _ in range(3):
            with served.server._workers.spare():
                for _ in range(20):
                    served.call("GET", "/accounts/usage")
        wait_until(lambda: len(file_app.db.engine._connections) <= 2 + 4 + 1)
        served.stop()
        assert len(file_app.db.engine._connections) <= 2


@pytest.mark.needs("/proc")
def test_starting_and_stopping_leaves_no_thread_and_no_file(tmp_path):
    def count():
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(10):
        app = create_app(str(tmp_path / "fense.sqlite3"), master_key=MASTER_KEY)
        with contextlib.closing(app), Served(app) as served:
            assert served.call("GET", "/accounts/usage")[0] == 200
    assert count() == before


@pytest.mark.slow
def test_neither_requests_nor_broken_connections_leave_anything_behind(start):
    # Takes seconds, as what one request leaves behind is seen in thousands only.
    service = start("--port=0", DISPUTE_MASTER_KEY=MASTER_KEY)
    port = int(service.ready().rpartition(":")[2])
    service.call("/accounts", account_fields(), key=MASTER_KEY)
    folder = Path(f"/proc/{service.process.pid}")

    def held():
        resident = int((folder / "statm").read_text().split()[1]) * 4096 / 2**20
        return resident, len(os.listdir(folder / "fd")), len(os.listdir(folder / "task"))

    def ask(count):
        one = b"GET /accounts/1 HTTP/1.1\r\nHost: x\r\n" + KEY_HEADER + b"\r\n"
        other = b"GET /accounts/usage HTTP/1.1\r\nHost: x\r\n" + KEY_HEADER + b"\r\n"
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

    ask(1_000)
    break_off(200)
    service.call("/accounts/1", key=MASTER_KEY)
    time.sleep(0.2)
    resident, *before = held()
    ask(6_000)
    break_off(600)
    service.call("/accounts/1", key=MASTER_KEY)
    time.sleep(0.2)
    resident_then, *after = held()
    assert after == before
    assert resident_then < resident + 1
    assert resident_then < 45
    assert service.end()[0] == 0


@pytest.mark.slow
def test_two_hundred_stand_ins_leave_nothing_behind():
    def count():
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before = count()
    for number in range(200):
        with StandIn() as fense:
            if number % 20 == 0:
                assert call_standin(fense, "GET", "/accounts/usage")[0] == 200
    assert count() == before
