"""Two nodes with one PostgreSQL, behind nginx, as in deploy/README.md."""

import collections
import contextlib
import http.client
import json
import re
import signal
import socket
import sys
import threading
import time

import pytest
import test_deploy
from conftest import (
    FIELDS,
    MASTER_KEY,
    TIMEOUT,
    account_fields,
    in_background,
    in_threads,
    run_program,
    tools,
    wait_until,
)
from postgresql_server import start_server
from test_addresses import start_on

from fense_admin import models

pytestmark = pytest.mark.slow

certificate = test_deploy.certificate
HEADERS = {"x-api-key": MASTER_KEY, "Content-Type": "application/json"}


class Nodes:
    """Two nodes, each on a socket that stays open during its restart, and nginx in front."""

    def __init__(self, database, start, folder, certificate):
        self._settings = {"FENSE_ADMIN_DATABASE": database, "DISPUTE_MASTER_KEY": MASTER_KEY}
        self._start, self._folder, self._certificate = start, folder, certificate
        self.sockets = [socket.create_server(("127.0.0.1", 0), backlog=200) for _ in range(2)]
        self.services = [None, None]
        self.log = ""

    def __enter__(self):
        ports = [sock.getsockname()[1] for sock in self.sockets]
        for number in range(2):
            self.start(number)
        self.nginx = test_deploy.Nginx(self._folder, self._certificate, *ports)
        self.nginx.__enter__()
        return self

    def __exit__(self, *error):
        self.nginx.__exit__(*error)
        for number, service in enumerate(self.services):
            if service is not None:
                self.stop(number)
        for sock in self.sockets:
            sock.close()

    def start(self, number):
        self.services[number] = start_on(
            self.sockets[number], self._start, name=f"log{number}", **self._settings
        )

    def stop(self, number, signum=signal.SIGTERM):
        code, _, log = self.services[number].end(signum)
        self.services[number] = None
        self.log += log
        assert "Traceback" not in log
        assert code == (0 if signum == signal.SIGTERM else -signum)

    def client(self):
        """A connection to nginx, which stays open."""
        return Client(self.nginx.port, self._certificate.context)


class Client:
    def __init__(self, port, context):
        self._make = lambda: http.client.HTTPSConnection(
            "localhost", port, context=context, timeout=TIMEOUT
        )
        self.connection = self._make()

    def call(self, method, path, body=None):
        raw = None if body is None else json.dumps(body)
        self.connection.request(method, path, raw, HEADERS)
        answer = self.connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())

    def close(self):
        self.connection.close()


class Load:
    """Creates accounts until it is stopped, and keeps the responses."""

    def __init__(self, nodes, threads=4):
        self._nodes, self._stop, self._threads = nodes, threading.Event(), threads
        self.responses = []  # (when, status, message, Retry-After, digest of the key)
        self.waits = []  # seconds, one for each

    def __enter__(self):
        self._background = in_background(self._work, self._threads, self._stop.set)
        self._background.__enter__()
        return self

    def __exit__(self, *error):
        self._background.__exit__(*error)

    def _work(self):
        with contextlib.closing(self._nodes.client()) as client:
            while not self._stop.is_set():
                fields = account_fields()
                began = time.monotonic()
                status, headers, body = client.call("POST", "/accounts", fields)
                self.waits.append(time.monotonic() - began)
                message = body.get("error", {}).get("message")
                key_digest = models.digest(fields["api_key"])
                self.responses.append(
                    (time.monotonic(), status, message, headers["Retry-After"], key_digest)
                )

    def wait_for(self, count):
        """Wait until this many more were created."""
        wanted = self.created() + count
        wait_until(lambda: self.created() >= wanted)

    def created(self):
        return sum(status == 201 for _, status, *_ in list(self.responses))

    def check(self, server):
        """Check that everything acknowledged is there, and nothing reported as unchanged."""
        there = {row[0] for row in server.execute("SELECT api_key_sha256 FROM account")}
        lost = [one for one in self.responses if one[1] == 201 and one[-1] not in there]
        denied = [
            one
            for one in self.responses
            if "nothing was changed" in str(one[2]) and one[-1] in there
        ]
        assert (lost, denied) == ([], [])
        assert all(retry_after for _, status, _, retry_after, _ in self.responses if status == 503)
        assert {status for _, status, *_ in self.responses} <= {201, 503}


@pytest.fixture(scope="module")
def server():
    tools("pg_ctl", "nginx", "openssl")
    with contextlib.closing(start_server()) as server:
        yield server


@pytest.fixture
def nodes(server, start, tmp_path, certificate):
    with Nodes(server.empty(), start, tmp_path, certificate) as nodes:
        yield nodes


def test_one_of_16_concurrent_creations_gets_the_key(nodes, server):
    go, answers = threading.Barrier(16), collections.defaultdict(list)

    def race():
        with contextlib.closing(nodes.client()) as client:
            for number in range(25):
                go.wait(TIMEOUT)
                status, _, body = client.call(
                    "POST", "/accounts", FIELDS | {"api_key": f"key-{number}"}
                )
                answers[number].append((status, body.get("error", {}).get("message")))

    with in_background(race, 16):
        pass
    taken = (400, "api_key belongs to another account")
    assert [collections.Counter(answers[number]) for number in range(25)] == [
        {(201, None): 1, taken: 15}
    ] * 25
    ids = [row[0] for row in server.execute("SELECT fense_account_id FROM account ORDER BY 1")]
    assert ids == list(range(1, 26))  # refusals take no id
    assert all(re.search(r"POST /accounts 201", open_log) for open_log in stop_both(nodes))


def stop_both(nodes):
    logs = []
    for number in range(2):
        nodes.log = ""
        nodes.stop(number)
        logs.append(nodes.log)
    return logs


INCREMENTS = """
import sys
from fense_admin import databases
db = databases.open_database(sys.argv[1])
for _ in range(2000):
    db.record_lookups(1, 1, "2026-11-03")
db.engine.close_all()
"""


def test_none_of_2_times_2000_increments_is_lost(server, open_database, tmp_path):
    db = open_database(server.empty())
    db.create_account(FIELDS)
    command = [sys.executable, "-c", INCREMENTS, server.url]
    programs = in_threads(2, lambda: run_program(*command, cwd=tmp_path, timeout=TIMEOUT))
    assert programs == ["", ""]
    for table in ("usage", "usage_month"):
        assert server.execute(f"SELECT lookups FROM {table}") == [(4000,)]


def test_killing_a_node_loses_nothing(nodes, server):
    with Load(nodes) as load:
        load.wait_for(100)
        nodes.stop(0, signal.SIGKILL)
        nodes.sockets[0].close()  # as the machine is gone
        load.wait_for(100)
        settled = len(load.responses)
        load.wait_for(100)
    load.check(server)
    # Each client has at most one in-flight request, whose outcome is unknown.
    refused = [one for one in load.responses if one[1] != 201]
    assert len(refused) <= 4
    assert all("it is unknown whether the change was saved" in one[2] for one in refused)
    assert {one[1] for one in load.responses[settled:]} == {201}


def test_clients_wait_5_s_at_most_for_a_frozen_node_and_then_use_the_other(nodes, server):
    with Load(nodes, threads=12) as load:
        load.wait_for(100)
        frozen_at = time.monotonic()
        nodes.services[0].process.send_signal(signal.SIGSTOP)
        time.sleep(6)
        after = len(load.responses)
        load.wait_for(100)
    nodes.services[0].process.send_signal(signal.SIGCONT)
    nodes.stop(0)  # once it has done what it had received
    nodes.stop(1)
    load.check(server)
    late = [one for one in load.responses if one[1] != 201]
    assert 1 <= len(late) <= 12  # each client once at most
    assert max(one[0] for one in late) < frozen_at + 5
    assert {one[1] for one in load.responses[after:]} == {201}
    assert max(load.waits) < 5
    # A creation that arrived twice would be rejected the second time, as its key is taken.
    arrived = re.findall(r"POST /accounts (\d+)", nodes.log)
    assert set(arrived) == {"201"}
    assert len(arrived) <= len(load.responses)


@contextlib.contextmanager
def unreachable(sock):
    """Make this listening socket ignore new connections, as if its machine were off."""
    sock.listen(0)
    with contextlib.ExitStack() as stack, contextlib.suppress(TimeoutError):
        while True:
            stack.enter_context(socket.create_connection(sock.getsockname(), timeout=0.2))
    with stack:
        yield


@pytest.fixture
def without_a_machine(nodes):
    """Two nodes; the first one's machine is off."""
    nodes.stop(0, signal.SIGKILL)
    with unreachable(nodes.sockets[0]):
        yield nodes


def test_a_machine_that_is_off_costs_no_request(without_a_machine, server):
    with Load(without_a_machine) as load:
        load.wait_for(100)
    load.check(server)
    assert {one[1] for one in load.responses} == {201}
    assert 0.2 < max(load.waits) < 2


def test_clients_wait_5_s_at_most_with_one_machine_gone_and_the_other_frozen(without_a_machine):
    without_a_machine.services[1].process.send_signal(signal.SIGSTOP)

    def ask():
        began = time.monotonic()
        with contextlib.closing(without_a_machine.client()) as client:
            status, _, _ = client.call("POST", "/accounts", account_fields())
        return status, time.monotonic() - began

    results = in_threads(4, ask)
    without_a_machine.services[1].process.send_signal(signal.SIGCONT)
    assert {status for status, _ in results} == {503}
    assert max(wait for _, wait in results) < 5


def test_a_rolling_restart_rejects_no_request(nodes, server):
    slowest = 0
    with Load(nodes) as load:
        for number in (0, 1, 0, 1):
            load.wait_for(50)
            began = time.monotonic()
            nodes.stop(number)
            nodes.start(number)
            slowest = max(slowest, time.monotonic() - began)
        load.wait_for(50)
    load.check(server)
    # On a machine that is so busy that a restart takes 4 s, nginx gives up first.
    assert [one for one in load.responses if one[1] != 201] == [] or slowest > 4


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_is_restarted_under_load_loses_nothing(nodes, server, mode):
    with Load(nodes) as load:
        load.wait_for(100)
        away = time.monotonic()
        server.stop(mode)
        time.sleep(0.5)
        server.start()
        back = time.monotonic()
        load.wait_for(100)
    load.check(server)
    refused = [when for when, status, *_ in load.responses if status == 503]
    assert len(refused) > 10
    assert away <= min(refused)
    assert max(refused) <= back + 0.5


def test_a_failover_to_a_synchronous_standby_loses_nothing(start, tmp_path, certificate):
    tools("pg_ctl")
    waits = ["synchronous_standby_names=*", "synchronous_commit=remote_apply"]
    with (
        contextlib.closing(start_server(*waits)) as primary,
        contextlib.closing(start_server(primary=primary)) as standby,
    ):
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        url = f"postgresql://fense@{hosts}/postgres"
        synchronous = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_until(lambda: primary.execute(synchronous))
        with Nodes(url, start, tmp_path, certificate) as nodes, Load(nodes) as load:
            load.wait_for(200)
            primary.kill()
            standby.promote()
            load.wait_for(200)
        load.check(standby)
