"""The command: flags, environment, the ready line, the log, exit codes. Each in a process."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import account_fields

from fense_admin import __version__

COMMAND = Path(sys.executable).with_name("fense-admin")
CHECKOUT = Path(__file__).parent.parent
OURS = ("FENSE_ADMIN_", "DISPUTE_")


class Process:
    """The command in a folder of its own, without the settings of whoever runs the tests."""

    def __init__(self, folder, *arguments, command=(COMMAND,), **environment):
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
        self.errors = folder / "stderr"
        with open(self.errors, "w") as errors:
            self.process = subprocess.Popen(
                [*command, *arguments],
                cwd=folder,
                env=inherited | environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def ready(self):
        """Wait for the ready line; gives its url."""
        self.line = self.process.stdout.readline()
        matched = re.fullmatch(r"fense-admin ready url=(\S+) version=(\S+)\n", self.line)
        assert matched, self.errors.read_text()
        assert matched[2] == __version__
        self.url = matched[1]
        return self.url

    def call(self, path, body=None, key="local-dev-key", **headers):
        headers = {"x-api-key": key, "Content-Type": "application/json"} | headers
        data = json.dumps(body).encode() if body is not None else None
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, data, headers), timeout=10
            ) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def end(self, signum=signal.SIGTERM):
        """Stop it; gives exit code, what else it printed, and its log."""
        if signum is not None:
            self.process.send_signal(signum)
        rest, _ = self.process.communicate(timeout=20)
        return self.process.returncode, rest, self.errors.read_text()


@pytest.fixture
def start(tmp_path):
    started = []

    def start(*arguments, **options):
        started.append(Process(tmp_path, *arguments, **options))
        return started[-1]

    yield start
    for it in started:
        it.process.kill()
        it.process.communicate()


# --- It serves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal_and_keeps_what_was_written(start, tmp_path, signum):
    service = start("--port", "0")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", service.ready())
    status, account = service.call("/accounts", account_fields())
    assert (status, account["fense_account_id"]) == (201, 1)
    code, rest, log = service.end(signum)
    assert (code, rest) == (0, "")
    assert "no DISPUTE_MASTER_KEY is set: the x-api-key is local-dev-key" in log
    assert sorted(os.listdir(tmp_path)) == ["fense-admin.sqlite3", "stderr"]

    again = start("serve", "--port", "0")
    again.ready()
    assert again.call("/accounts/1") == (200, account)
    assert again.end()[0] == 0


def test_a_database_in_memory_leaves_no_file(start, tmp_path):
    service = start("--port=0", "--database=:memory:", "--threads=1")
    service.ready()
    assert service.call("/accounts", account_fields())[0] == 201
    assert service.end()[0] == 0
    assert os.listdir(tmp_path) == ["stderr"]


@pytest.mark.parametrize("prefix", ["/admin", "admin", "/admin/"])
def test_the_prefix_is_in_the_url(start, prefix):
    service = start("--port=0", "--prefix", prefix)
    assert service.ready().endswith("/admin")
    assert service.call("/accounts", account_fields())[0] == 201


def test_settings_come_from_the_environment_and_the_flag_wins(start, tmp_path):
    environment = {
        "FENSE_ADMIN_HOST": "localhost",
        "FENSE_ADMIN_PORT": "99999",
        "FENSE_ADMIN_DATABASE": "from the environment",
        "FENSE_ADMIN_PREFIX": "from/the/environment",
        "FENSE_ADMIN_THREADS": "2",
        "DISPUTE_MASTER_KEY": " the-master-key ",
        "DISPUTE_SERVICE_KEYS": "one, two",
    }
    service = start("--port=0", "--database=by-flag", **environment)
    url = service.ready()
    assert re.fullmatch(r"http://localhost:\d+/from/the/environment", url)
    for key, status in (("the-master-key", 200), ("one", 200), ("two", 200), ("one, two", 401)):
        assert service.call("/accounts/usage", key=key)[0] == status
    assert service.call("/accounts/usage", key="local-dev-key")[0] == 401
    assert "local-dev-key" not in service.end()[2]
    assert (tmp_path / "by-flag").exists()


def test_service_keys_alone_are_keys(start):
    service = start("--port=0", DISPUTE_SERVICE_KEYS="only-service")
    service.ready()
    assert service.call("/accounts/usage", key="only-service")[0] == 200
    assert service.call("/accounts/usage", key="local-dev-key")[0] == 401


@pytest.mark.parametrize(("host", "url"), [("localhost", "localhost"), ("::1", "[::1]")])
def test_it_listens_where_it_is_told(start, host, url):
    service = start("--host", host, "--port=0")
    assert re.fullmatch(rf"http://{re.escape(url)}:\d+", service.ready())
    assert service.call("/healthz") == (200, {"status": "ok"})


def test_it_serves_every_address_when_it_has_a_key(start):
    service = start("--host=0.0.0.0", "--port=0", DISPUTE_MASTER_KEY="a-key")
    service.ready()
    service.url = service.url.replace("0.0.0.0", "127.0.0.1")
    assert service.call("/accounts/usage", key="a-key")[0] == 200


def test_it_runs_from_a_checkout_as_a_script(start):
    service = start("--port=0", command=(sys.executable, CHECKOUT / "fense_admin.py"))
    service.ready()
    assert service.call("/accounts", account_fields())[0] == 201
    assert service.end()[0] == 0


def test_it_tells_its_version(start):
    assert start("--version").end(None)[:2] == (0, f"fense-admin {__version__}\n")
    code, told, _ = start("--help").end(None)
    assert code == 0
    assert "serve" in told
    code, told, _ = start("serve", "--help").end(None)
    assert code == 0
    for name in ("HOST", "PORT", "DATABASE", "PREFIX", "THREADS"):
        assert f"FENSE_ADMIN_{name}" in told.replace("\n", "")


def test_the_contract_holds_over_http(start):
    keys = {"DISPUTE_MASTER_KEY": "a-master-key", "DISPUTE_SERVICE_KEYS": "a-service-key"}
    url = start("--port=0", "--prefix=/admin", **keys).ready()
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*pytest_command, "--fense-url", url, "tests/contract"],
        cwd=CHECKOUT,
        env=os.environ | keys,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    assert re.search(r"\n[5-9]\d\d passed, [1-9]\d skipped in ", result.stdout)


# --- The log -----------------------------------------------------------------------------------

LINE = r"(\S+Z) (\S+) (\S+) (\d{3}) (\d+\.\d)ms (\S+)"


def test_the_log_has_a_line_for_each_request_that_nothing_can_forge(start):
    service = start("--port=0", DISPUTE_MASTER_KEY="secret-master", DISPUTE_SERVICE_KEYS="secret-2")
    service.ready()
    merchant = account_fields(api_key="secret-merchant-key", name="Acme\u2028secret-name")
    assert service.call("/accounts", merchant, key="secret-master")[0] == 201
    for key in ("secret-master", "secret-2", "secret-merchant-key", "secret-wrong"):
        service.call("/accounts/1?api_key=secret-query", key=key)
    forged = "1 200 0.1ms x%0A2026-11-23T00:00:00.000Z GET forged 200 0.1ms x".replace(" ", "%20")
    service.call(f"/accounts/{forged}%C2%85%1B[31m", key="secret-2", **{"X-Request-Id": "mine"})
    address = service.url.rpartition(":")[2]
    with socket.create_connection(("127.0.0.1", int(address))) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nx-api-key: secret\rsecret\r\n\r\n")
        sock.recv(1000)
    log = service.end()[2]
    lines = [re.fullmatch(LINE, line) for line in log.splitlines()]
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
    assert "secret" not in log


# --- It can't start: exit code 1 and a sentence ------------------------------------------------


def sentence(result):
    """The one line that the command left on standard error, under exit code 1."""
    code, out, log = result
    assert (code, out) == (1, ""), log
    lines = [line for line in log.splitlines() if "the x-api-key is" not in line]
    assert len(lines) == 1, log
    assert lines[0].startswith("fense-admin: ")
    return lines[0]


def test_a_busy_port_is_named(start):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        told = sentence(start("--port", port).end(None))
    assert told.endswith("is in use: stop what uses it, or choose another --port")
    assert port in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host=no.such.host.invalid"], "no.such.host.invalid is no address of this machine"),
        (["--host=192.0.2.1"], "can't be had"),
        (["--database=."], ". is a directory: name a file"),
        (["--database=no/such/folder/x"], "name a file in a folder that exists"),
        (["--database=/proc/fense"], "name a file in a folder that exists"),
        (["--database=stderr"], None),
    ],
)
def test_what_stands_in_the_way_is_named(start, tmp_path, arguments, told):
    if told is None:
        (tmp_path / "text").write_text("no database " * 100)
        arguments, told = ["--database=text"], "text is no SQLite database"
    environment = {"DISPUTE_MASTER_KEY": "a-key"}
    assert told in sentence(start("--port=0", *arguments, **environment).end(None))


# --- Wrong usage: exit code 2 ------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--port", port] for port in ("99999", "-1", "x", "", "1.5", "65536", " 1", "\u0661")),
        *(["--threads", threads] for threads in ("0", "-1", "x", "1000", "")),
        *(
            ["--prefix", prefix]
            for prefix in ("/a b", "/a//b", "/../x", "/<x>", "/a?b", "/%41", ".")
        ),
        *(["--host", host] for host in ("", " ", "a b")),
        *([flag] for flag in ("--database=", "--prot=1", "--dat=x", "-x", "--port")),
        *(["serve", "more"], ["nonsense"]),
    ],
)
def test_wrong_usage_is_told(start, tmp_path, arguments):
    code, out, log = start(*arguments).end(None)
    assert (code, out) == (2, "")
    assert "Traceback" not in log
    assert log.startswith("usage: fense-admin")
    assert "error: " in log.splitlines()[-1]
    assert os.listdir(tmp_path) == ["stderr"]


@pytest.mark.parametrize("name", ["PORT", "THREADS", "PREFIX", "HOST", "DATABASE"])
def test_a_wrong_setting_in_the_environment_is_named(start, name):
    value = "a b//" if name != "DATABASE" else ""
    code, _, log = start(
        "--port=0" if name != "PORT" else "--threads=1", **{f"FENSE_ADMIN_{name}": value}
    ).end(None)
    assert code == 2
    assert f"FENSE_ADMIN_{name}" in log.splitlines()[-1]


@pytest.mark.parametrize(
    "environment",
    [
        {"DISPUTE_MASTER_KEY": ""},
        {"DISPUTE_MASTER_KEY": "   "},
        {"DISPUTE_MASTER_KEY": "secret with-blank"},
        {"DISPUTE_MASTER_KEY": "secret\u00e9"},
        {"DISPUTE_MASTER_KEY": "secret" * 50},
        {"DISPUTE_SERVICE_KEYS": ""},
        {"DISPUTE_MASTER_KEY": "secret", "DISPUTE_SERVICE_KEYS": "secret,,secret"},
        {"DISPUTE_MASTER_KEY": "secret", "DISPUTE_SERVICE_KEYS": "secret, "},
    ],
)
def test_a_key_that_is_none_is_wrong_usage_and_not_told(start, tmp_path, environment):
    code, out, log = start("--port=0", **environment).end(None)
    assert (code, out) == (2, "")
    assert list(environment)[-1] in log
    assert "secret" not in log
    assert os.listdir(tmp_path) == ["stderr"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_without_a_key_it_serves_on_loopback_only(start, host):
    code, out, log = start("--host", host, "--port=0").end(None)
    assert (code, out) == (2, "")
    assert "set DISPUTE_MASTER_KEY" in log
