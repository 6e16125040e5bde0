"""The service listens on the given address, or on sockets from systemd."""

import errno
import os
import re
import socket
import sys
import threading

import pytest
from conftest import COMMAND, account_fields, in_background, sentence, wait_until

from fense_admin.serving import addresses


@pytest.mark.parametrize(("host", "url"), [("localhost", "localhost"), ("::1", "[::1]")])
def test_it_listens_on_the_given_address(start, host, url):
    try:
        socket.create_server(
            (host, 0), family=[socket.AF_INET, socket.AF_INET6][":" in host]
        ).close()
    except OSError as error:
        pytest.skip(f"needs {host}, which this machine has not ({error.strerror})")
    service = start("--host", host, "--port=0")
    assert re.fullmatch(rf"http://{re.escape(url)}:\d+", service.ready())
    assert service.call("/healthz") == (200, {"status": "ok"})


def test_it_serves_every_address_when_it_has_a_key(start):
    service = start("--host=0.0.0.0", "--port=0", DISPUTE_MASTER_KEY="a-key")
    service.ready()
    service.url = service.url.replace("0.0.0.0", "127.0.0.1")
    assert service.call("/accounts/usage", key="a-key")[0] == 200


def test_a_port_in_use_is_reported(start):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        message = sentence(start("--port", port).end(None))
    assert message.endswith("is in use: stop the other program or choose another --port")
    assert port in message


HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def start_on(listening, start, **environment):
    """Start it like systemd, on an open socket."""
    os.set_inheritable(listening.fileno(), True)
    command = [sys.executable, "-c", HAND_OVER, str(listening.fileno()), str(COMMAND)]
    service = start(command=command, close_fds=False, **environment)
    os.set_inheritable(listening.fileno(), False)  # by no other process
    service.ready()
    return service


@pytest.mark.needs("systemd")
def test_keys_are_rotated_without_rejecting_anyone(start):
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        service = start_on(listening, start, DISPUTE_SERVICE_KEYS="the-old-key")
        assert service.url == url
        key, stop, answers = ["the-old-key"], threading.Event(), []

        def keep_asking():
            while not stop.is_set():
                answers.append(service.call("/accounts", account_fields(), key=key[0])[0])

        def wait_for_answers(count):
            wanted = len(answers) + count
            wait_until(lambda: len(answers) >= wanted)

        with in_background(keep_asking, 4, stop.set):
            for keys, used in (("the-old-key,the-new-key", "the-new-key"), ("the-new-key",) * 2):
                wait_for_answers(40)
                assert service.end()[0] == 0
                service = start_on(listening, start, DISPUTE_SERVICE_KEYS=keys)
                wait_for_answers(20)
                key[0] = used
            wait_for_answers(40)
        assert set(answers) == {201}
        assert service.call("/accounts/usage", key="the-old-key")[0] == 401
        assert len(service.call("/accounts/usage", key="the-new-key")[1]["accounts"]) == len(
            answers
        )


def test_a_machine_without_ipv6_listens_on_ipv4(monkeypatch):
    bind = socket.socket.bind

    class Socket(socket.socket):
        def bind(self, address):
            if self.family == socket.AF_INET6:
                raise OSError(errno.EADDRNOTAVAIL, "no IPv6 here")
            bind(self, address)

    monkeypatch.setattr(addresses.socket, "socket", Socket)
    four = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))
    six = (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", 0, 0, 0))
    for both in ([four, six], [six, four]):  # macOS's localhost is ::1 first
        sockets = addresses.listen(both)
        assert [sock.family for sock in sockets] == [socket.AF_INET]
        for sock in sockets:
            sock.close()
    for none in ([six], [six, six]):
        with pytest.raises(addresses.CannotListen, match="no IPv6 here"):
            addresses.listen(none)
