"""The command: flags, environment, the ready line, the log, exit codes. Each in a process."""

import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from conftest import (
    CHECKOUT,
    COMMAND,
    account_fields,
    in_background,
    locked,
    run_pytest,
    tools,
    wait_until,
)
from peewee import sqlite3  # the library that the service itself uses

from fense_admin import __version__
from fense_admin.models import Database

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
        "FENSE_ADMIN_HOST": "127.0.0.2",
        "FENSE_ADMIN_PORT": "99999",
        "FENSE_ADMIN_DATABASE": "from the environment",
        "FENSE_ADMIN_PREFIX": "from/the/environment",
        "FENSE_ADMIN_THREADS": "2",
        "DISPUTE_MASTER_KEY": " the-master-key ",
        "DISPUTE_SERVICE_KEYS": "one, two",
    }
    service = start("--port=0", "--database=by-flag", **environment)
    url = service.ready()
    assert re.fullmatch(r"http://127\.0\.0\.2:\d+/from/the/environment", url)
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
    assert "--database" in told
    code, told, _ = start("serve", "--help").end(None)
    assert code == 0
    for name in ("HOST", "PORT", "DATABASE", "PREFIX", "THREADS"):
        assert f"FENSE_ADMIN_{name}" in told.replace("\n", "")


def test_the_contract_holds_over_http(start):
    keys = {"DISPUTE_MASTER_KEY": "a-master-key", "DISPUTE_SERVICE_KEYS": "a-service-key"}
    url = start("--port=0", "--prefix=/admin", **keys).ready()
    told = run_pytest(CHECKOUT, "tests/contract", "--fense-url", url, **keys)
    assert re.search(r"\n[5-9]\d\d passed, [1-9]\d skipped in ", told), told


# --- The log -----------------------------------------------------------------------------------

LINE = r"(\S+Z) (\S+) (\S+) (\d{3}) (\d+\.\d)ms ([^: ]+)(?:: (.*))?"


def test_the_log_has_a_line_for_each_request_that_nothing_can_forge(start, tmp_path):
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
    assert second.endswith(f" the database is {tmp_path}/fense-admin.sqlite3, with 0 accounts")
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
        "a merchant's key does not open these endpoints",
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
    assert ": … is not accepted here; nmae is not accepted here\n" in log
    assert ": … is not accepted here; … is not accepted here\n" in log


def test_a_start_tells_where_the_accounts_are_and_where_the_page_is(start, tmp_path):
    service = start("--port=0")
    service.ready()
    service.call("/accounts", account_fields())
    log = service.end()[2]
    assert f" the page for people: {service.url}/_standin/\n" in log
    assert f" the database is {tmp_path}/fense-admin.sqlite3, with 0 accounts\n" in log
    assert "from before" not in log
    again = start("--port=0", "--prefix=/admin", "--no-standin")
    again.ready()
    log = again.end()[2]
    assert "page" not in log
    assert f" the database is {tmp_path}/fense-admin.sqlite3, with 1 account\n" in log
    assert " accounts of earlier runs are kept: to start empty, name another --database" in log
    memory = start("--port=0", "--database=:memory:")
    memory.ready()
    assert "the database is in memory, with 0 accounts: it goes with" in memory.end()[2]


def test_tls_on_the_plain_port_is_closed_at_once(start):
    service = start("--port=0")
    port = int(service.ready().rpartition(":")[2])
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert sock.recv(100) == b""
    assert time.monotonic() - began < 2
    assert "TLS: the URL is http://, not https://" in service.end()[2]


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


AS_SOMEBODY_ELSE = """
import encodings.idna, os, sys  # all that is needed, as Python's own files may be out of reach then
from fense_admin import cli, server
if os.geteuid() == 0:  # whom no mode of a file holds back
    os.setuid(65534)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture
def open_folder():
    """A folder that others may look into, as `tmp_path` is not."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        os.chmod(folder, 0o755)


@pytest.mark.parametrize("folder_mode", [0o777, 0o555])
def test_a_database_that_can_not_be_written_is_named(start, open_folder, folder_mode):
    folder = open_folder
    file = folder / "fense.sqlite3"
    Database(str(file)).close_all()
    before = file.read_bytes()
    file.chmod(0o444)
    folder.chmod(folder_mode)
    command = (sys.executable, "-c", AS_SOMEBODY_ELSE)
    told = sentence(start("--port=0", "--database", str(file), command=command).end(None))
    assert told.startswith(f"fense-admin: can't open {file} (")
    assert file.read_bytes() == before


# --- Signals before there is anything to stop --------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_start_that_waits_for_a_locked_database(start, tmp_path, signum):
    Database(str(tmp_path / "fense.sqlite3")).close_all()
    with locked(tmp_path / "fense.sqlite3"):
        service = start("--port=0", "--database=fense.sqlite3")
        wait_until(lambda: "local-dev-key" in service.errors.read_text())
        time.sleep(0.3)
        began = time.monotonic()
        code, _, errors = service.end(signum)
    assert code == 128 + signum
    assert time.monotonic() - began < 2
    assert "Traceback" not in errors


def test_a_signal_ends_a_start_that_loads_a_seed_and_leaves_nothing_of_it(start, tmp_path):
    usage = {
        f"{year}-{month:02}-{day:02}": 1
        for year in range(1000, 2000)
        for month in range(1, 13)
        for day in range(1, 29)
    }
    account = account_fields(usage=usage)
    (tmp_path / "seed.json").write_text(json.dumps({"accounts": [account]}))
    service = start("--port=0", "--seed=seed.json", "--database=fense.sqlite3")
    wait_until(lambda: (tmp_path / "fense.sqlite3-wal").exists())
    code, told, errors = service.end()
    assert (code, told) == (128 + signal.SIGTERM, "")
    assert "Traceback" not in errors
    db = Database(str(tmp_path / "fense.sqlite3"))
    assert db.count_accounts() == 0
    db.close_all()


def test_it_serves_without_a_standard_error(start):
    service = start("-c", f"exec {COMMAND} --port=0 2>&-", command=("sh",))
    service.ready()
    assert service.call("/accounts/usage")[0] == 200
    assert service.end()[0] == 0


def test_sighup_stops_it_unless_it_is_ignored(start):
    service = start("--port=0")
    service.ready()
    assert service.end(signal.SIGHUP)[0] == 0
    service = start("--port=0", command=("nohup", COMMAND))
    service.ready()
    service.process.send_signal(signal.SIGHUP)
    assert service.call("/accounts/usage")[0] == 200
    assert service.end()[0] == 0


def test_of_several_faults_of_a_start_the_first_is_told(start, tmp_path):
    """The address, then the keys, then the seed, then the database."""
    (tmp_path / "bad.json").write_text("{")
    arguments = ["--port=0", "--seed=bad.json", "--database=."]
    told = start("--host=192.0.2.1.invalid", *arguments, DISPUTE_MASTER_KEY=" ").end(None)[2]
    assert "is no address" in told
    told = start(*arguments, DISPUTE_MASTER_KEY=" ").end(None)[2]
    assert "DISPUTE_MASTER_KEY" in told
    told = start(*arguments, DISPUTE_MASTER_KEY="key").end(None)[2]
    assert "the seed bad.json" in told
    told = start("--database=.", "--port=0", DISPUTE_MASTER_KEY="key").end(None)[2]
    assert ". is a directory" in told


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


# --- The seed ----------------------------------------------------------------------------------

SEED = CHECKOUT / "examples" / "seed.json"


def test_a_seed_fills_an_empty_database_before_the_ready_line(start):
    service = start("--port=0", "--seed", SEED)
    service.ready()
    assert service.call("/accounts/usage/1")[1]["total_lookups"] == 19
    service.call("/accounts/1", {"name": "Changed"})
    assert service.end()[0] == 0
    again = start("--port=0", FENSE_ADMIN_SEED=str(SEED))
    again.ready()
    assert again.call("/accounts/1")[1]["name"] == "Changed"
    assert f"the database has accounts already: {SEED} is not loaded" in again.end()[2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"accounts": [{"name": 1, "api_key": "k", "email": "a@b"}]}', "accounts[0].name must be"),
        ("{", "is not valid JSON"),
        ("[" * 50_000, "is n"),  # nested too deeply, or no JSON from Python 3.14 on
        ("[]", "must be an object"),
        (None, "No such file or directory"),
    ],
)
@pytest.mark.parametrize("command", [["--port=0"], ["exec", "--", "true"]])
def test_a_bad_seed_is_named_by_file_and_place(start, tmp_path, command, text, told):
    if text is not None:
        (tmp_path / "bad.json").write_text(text)
    at = -2 if "--" in command else len(command)
    arguments = [*command[:at], "--seed=bad.json", *command[at:]]
    line = sentence(start(*arguments).end(None))
    assert "bad.json" in line
    assert told in line
    assert "fense-admin.sqlite3" not in os.listdir(tmp_path)


# --- The control plane -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environment", "status"),
    [
        ([], {}, 200),
        (["--no-standin"], {}, 404),
        ([], {"DISPUTE_MASTER_KEY": "local-dev-key"}, 404),
        (["--standin"], {"DISPUTE_MASTER_KEY": "local-dev-key"}, 200),
        (["--standin", "--host=0.0.0.0"], {"DISPUTE_MASTER_KEY": "local-dev-key"}, 200),
    ],
)
def test_the_control_plane_is_on_under_the_development_key_or_when_told(
    start, arguments, environment, status
):
    service = start("--port=0", *arguments, **environment)
    service.ready()
    service.url = service.url.replace("0.0.0.0", "127.0.0.1")
    assert service.call("/_standin/state")[0] == status
    if "--host=0.0.0.0" in arguments:
        assert service.call("/_standin/state", Host="fense.example")[0] == status


def test_the_control_plane_needs_a_master_key(start):
    code, _, log = start("--standin", "--port=0", DISPUTE_SERVICE_KEYS="only").end(None)
    assert code == 2
    assert "set DISPUTE_MASTER_KEY" in log


# --- exec --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_exec_ends_as_the_command_does(start, tmp_path, script, code):
    assert start("exec", "--", "sh", "-c", f"echo out; {script}").end(None) == (code, "out\n", "")
    assert os.listdir(tmp_path) == ["stderr"]


def test_exec_tells_the_command_where_the_service_is(start):
    tools("curl")
    script = (
        'curl -s $FENSE_BASE_URL/accounts/usage -H "x-api-key: $FENSE_API_KEY";'
        'curl -s $FENSE_STANDIN_URL/faults -H "x-api-key: $FENSE_API_KEY"; echo $FENSE_BASE_URL'
    )
    code, out, _ = start("exec", "--prefix=/admin", "--seed", SEED, "--", "sh", "-c", script).end(
        None
    )
    assert code == 0
    assert '"total_lookups": 19' in out
    assert '{"faults": []}' in out
    assert out.endswith("/admin\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--prot", "1"], "unrecognized arguments: --prot 1; did you mean --port?"),
        (["record", "1", "1", "--dta=x"], "; did you mean --date?"),
        (["exec", "--sed=x", "--", "true"], "; did you mean --seed?"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["exec", "true"], "put -- before the command, as in: fense-admin exec -- npm test"),
        (["exec"], "put -- before the command, as in: fense-admin exec -- npm test"),
    ],
)
def test_wrong_usage_is_told_with_what_was_meant(start, arguments, told):
    code, out, log = start(*arguments).end(None)
    assert (code, out) == (2, "")
    assert log.endswith(told + "\n")


def test_exec_of_no_command_and_of_none_that_runs(start, tmp_path):
    (tmp_path / "text").write_text("no program")
    for command, code in (("no-such-command", 127), ("./text", 126), (".", 126)):
        result = start("exec", "--", command, "--flag").end(None)
        assert result[:2] == (code, "")
        assert result[2].startswith(f"fense-admin: {command}: ")
        assert result[2].count("\n") == 1
    assert start("exec").end(None)[0] == 2


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_exec_passes_a_signal_on(start, signum):
    script = "import signal, time; print('up', flush=True); time.sleep(30)"
    trap = f"import signal; signal.signal({int(signum)}, lambda *_: exit(9)); " + script
    for code, source in ((9, trap), (128 + signum, script)):
        if signum == signal.SIGINT and source == script:
            continue  # Python makes it a KeyboardInterrupt
        service = start("exec", "--", sys.executable, "-c", source)
        assert service.process.stdout.readline() == "up\n"
        assert service.end(signum)[0] == code


EARLY = """
import os, signal, subprocess, sys
from fense_admin import cli
popen = subprocess.Popen
def signalled(*arguments, **options):  # as the command is being started
    os.kill(os.getpid(), signal.SIGTERM)
    return popen(*arguments, **options)
subprocess.Popen = signalled
sys.exit(cli.main(sys.argv[1:]))
"""


def test_exec_passes_a_signal_on_that_comes_as_its_command_starts(start):
    command = (sys.executable, "-c", EARLY)
    service = start("exec", "--", "sleep", "60", command=command)
    assert service.end(None)[::2] == (128 + signal.SIGTERM, "")


def test_exec_reads_a_seed_once(start):
    script = "fense-admin exec --seed <(echo '{\"accounts\": []}') -- true"
    command = ["bash", "-c", f"PATH={COMMAND.parent}:$PATH; {script}"]
    assert start(command=command).end(None) == (0, "", "")


# --- health and record -------------------------------------------------------------------------


def test_health_waits_until_a_service_answers(start):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    told = f"fense-admin: {url}/healthz does not answer: Connection refused"
    assert sentence(start("health", url).end(None)) == told
    assert "does not answer" in sentence(start("health", "--wait=0.3", url + "/admin").end(None))
    waiting = start("health", "--wait=20", url + "/admin", http_proxy="http://127.0.0.1:9")
    service = start("--port", str(port), "--prefix=/admin")
    service.ready()
    assert waiting.end(None)[:2] == (0, "")
    assert start("health", FENSE_ADMIN_PORT=str(port)).end(None)[:2] == (0, "")
    for bad in (["--wait=x"], ["--wait=-1"], ["127.0.0.1"], ["ftp://x"], ["http://"]):
        assert start("health", *bad).end(None)[0] == 2


def test_lookups_are_recorded_in_a_database_file_while_it_is_served_or_not(start):
    service = start("--port=0")
    service.ready()
    service.call("/accounts", account_fields())
    assert start("record", "1", "12", "--date=2026-11-01").end(None) == (0, "", "")
    assert service.call("/accounts/usage/1")[1]["total_lookups"] == 12
    service.end()
    assert start("record", "1", "5").end(None) == (0, "", "")
    assert "no account has the fense_account_id 2" in sentence(start("record", "2", "5").end(None))
    full = start("record", "1", "1000000000000", "--date=2026-11-01").end(None)
    assert "a day's most" in sentence(full)
    nowhere = start("record", "1", "5", "--database=nowhere").end(None)
    assert "there is no database file nowhere" in sentence(nowhere)
    assert "there is no database" in sentence(
        start("record", "1", "5", "--database=:memory:").end(None)
    )
    for bad in (["x", "1"], ["1", "-1"], ["1", "1.5"], ["1", "1", "--date=2026-02-30"], ["1"]):
        assert start("record", *bad).end(None)[0] == 2
    again = start("--port=0")
    again.ready()
    assert again.call("/accounts/usage/1")[1]["total_lookups"] == 17


# --- backup ------------------------------------------------------------------------------------


def test_a_backup_taken_while_it_is_served_has_all_that_was_acknowledged(start, tmp_path):
    service = start("--port=0")
    service.ready()
    stop, acknowledged = threading.Event(), []

    def write():
        while not stop.is_set():
            acknowledged.append(service.call("/accounts", account_fields())[1])

    counts = []
    with in_background(write, stop=stop.set):
        for number in range(3):
            time.sleep(0.1)
            counts.append(len(acknowledged))
            result = start("backup", f"copy-{number}", name="errors").end(None)
            assert result == (0, "", "")
    for number, count in enumerate(counts):
        copy = start("--port=0", f"--database=copy-{number}", name="errors")
        copy.ready()
        for account in acknowledged[:count]:
            assert copy.call(f"/accounts/{account['fense_account_id']}") == (200, account)
        assert copy.end()[0] == 0
    assert counts[0]
    assert (tmp_path / "copy-0").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["there"], "can't write there: File exists"),
        (["no/folder/copy"], "can't write no/folder/copy: No such file or directory"),
        ([":memory:"], "a backup goes into a file"),
        (["copy", "--database=missing"], "there is no database file missing"),
        (["copy", "--database=:memory:"], "there is no database file :memory:"),
        (["copy", "--database=there"], "there is no database of fense-admin: name it with"),
    ],
)
def test_a_backup_that_can_not_be_made_changes_nothing(start, tmp_path, arguments, told):
    service = start("--port=0")
    service.ready()
    service.end()
    other = sqlite3.connect(tmp_path / "there")
    other.execute("CREATE TABLE mine (id)")
    other.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code, _, errors = start("backup", *arguments).end(None)
    assert code == 1
    assert errors.startswith("fense-admin: ")
    assert told in errors
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name: after[name] for name in before if name != "stderr"} == {
        name: content for name, content in before.items() if name != "stderr"
    }
    assert "copy" not in after


# --- Sockets that outlive the process, and keys that change ------------------------------------


HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def start_on(listening, start, **environment):
    """Start it as systemd does, on a socket that is open already."""
    os.set_inheritable(listening.fileno(), True)
    command = [sys.executable, "-c", HAND_OVER, str(listening.fileno()), str(COMMAND)]
    service = start(command=command, close_fds=False, **environment)
    service.ready()
    return service


def test_keys_are_rotated_and_nobody_is_refused(start):
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        service = start_on(listening, start, DISPUTE_SERVICE_KEYS="the-old-key")
        assert service.url == url
        key, stop, answers = ["the-old-key"], threading.Event(), []

        def keep_asking():
            while not stop.is_set():
                answers.append(service.call("/accounts", account_fields(), key=key[0])[0])

        with in_background(keep_asking, 4, stop.set):
            for keys, used in (("the-old-key,the-new-key", "the-new-key"), ("the-new-key",) * 2):
                time.sleep(0.3)
                assert service.end()[0] == 0
                service = start_on(listening, start, DISPUTE_SERVICE_KEYS=keys)
                time.sleep(0.2)
                key[0] = used
            time.sleep(0.3)
        assert set(answers) == {201}
        assert len(answers) > 100
        assert service.call("/accounts/usage", key="the-old-key")[0] == 401
        assert len(service.call("/accounts/usage", key="the-new-key")[1]["accounts"]) == len(
            answers
        )
