"""Kills, stops and signals, each of a real process. The long form of it is soak.py."""

import contextlib
import signal
import time

import pytest
import soak


@pytest.fixture
def start(tmp_path):
    """Starts a service with these flags. Whatever becomes of the test, it is gone after it."""
    started = []

    def start(*arguments):
        started.append(soak.Service(tmp_path, tmp_path / "fense.sqlite3", *arguments))
        started[-1].start()
        return started[-1]

    yield start
    for service in started:
        service.process.kill()
        service.wait()


# --- kill -9 -----------------------------------------------------------------------------------


def test_no_acknowledged_write_is_lost_to_kill_9(tmp_path):
    with soak.Run(tmp_path, tmp_path / "fense.sqlite3", soak.WRITES) as run:
        for _ in range(4):
            run.wait_for_writes(300)
            run.kill()  # starts it again, and audits what it finds
    assert run.wrong == []
    assert run.total("acknowledged") >= 1200


# --- A stop ------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_stop_answers_every_request_that_was_sent(tmp_path, signum, frozen):
    count = 600  # more than are let in at the same time
    with soak.Run(tmp_path, tmp_path / "fense.sqlite3", soak.WRITES) as run:
        run.wait_for_writes(20)
        run.end(signum, count, frozen)
    assert run.wrong == []
    assert run.total("at_stops") >= count
    assert run.total("unanswered") == 0


def send_half_a_request(service):
    sock = soak.connect(service.port)
    sock.sendall(soak.raw_request("POST", "/accounts", soak.new_fields())[:-1])
    return sock


def wait_until_it_listens_no_more(service):
    deadline = time.monotonic() + soak.TIMEOUT
    while time.monotonic() < deadline:
        time.sleep(0.01)
        try:
            soak.connect(service.port).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:  # it was just about to listen no more
            continue
    pytest.fail("it still listens")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(start, signum):
    service = start()
    with send_half_a_request(service):
        service.process.send_signal(signum)
        wait_until_it_listens_no_more(service)
        assert service.process.poll() is None
        service.process.send_signal(signum)
        assert service.wait(5) == -signum


def test_a_stop_waits_for_half_a_request_no_longer_than_told(start):
    service = start("--drain=0.5")
    with send_half_a_request(service) as sock:
        began = time.monotonic()
        service.process.terminate()
        assert service.wait() == 0
        assert 0.4 < time.monotonic() - began < 5
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""


def test_half_a_request_is_answered_if_the_rest_comes_in_time(start):
    service = start()
    fields = soak.new_fields()
    request = soak.raw_request("POST", "/accounts", fields)
    sock = soak.connect(service.port)
    sock.sendall(request[:-1])
    service.process.terminate()
    wait_until_it_listens_no_more(service)
    sock.sendall(request[-1:])
    assert soak.read_answer(sock)[0] == 201
    assert service.wait(5) == 0
