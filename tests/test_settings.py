"""Settings come from flags, then the environment; each has an effect, and invalid ones are named."""

import json
import os
import re
import socket
import time

import pytest
from conftest import CHECKOUT, MASTER_KEY, TIMEOUT, Api, Served, account_fields, few
from this_system import NEEDS

from fense_admin import create_app, settings
from fense_admin.settings import Limits
from fense_admin.standin.control import ControlPlane


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


@pytest.mark.parametrize(
    "name", ["PORT", "THREADS", "PREFIX", "HOST", "DATABASE", "PUBLIC_URL", "STANDIN", "QUIET"]
)
def test_an_invalid_setting_in_the_environment_is_named(run_command, name):
    value = "a b//" if name not in ("DATABASE", "QUIET") else ""
    code, _, log = run_command(
        "--port=0" if name != "PORT" else "--threads=1", **{f"FENSE_ADMIN_{name}": value}
    )
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
def test_an_invalid_key_is_wrong_usage_and_not_shown(run_command, tmp_path, environment):
    code, out, log = run_command("--port=0", **environment)
    assert (code, out) == (2, "")
    assert list(environment)[-1] in log
    assert "secret" not in log
    assert os.listdir(tmp_path) == []


# --- Each setting, by its effect ---------------------------------------------------------------
#
# Each takes `serve`, which starts a service with the setting at a value and returns it, ready.


def listens_on_its_address(serve):
    assert serve("127.0.0.2").url.startswith("http://127.0.0.2:")


def listens_on_its_port(serve):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert serve(str(port)).url == f"http://127.0.0.1:{port}"


def keeps_accounts_in_its_file(serve):
    service = serve("by-setting.sqlite3")
    assert service.call("/accounts", account_fields())[0] == 201
    assert (service.errors.parent / "by-setting.sqlite3").stat().st_size > 0


def serves_under_its_prefix(serve):
    service = serve("/by/setting")
    assert service.url.endswith("/by/setting")
    assert service.call("/accounts/usage")[0] == 200


def has_so_many_threads(serve):
    process = serve("7").process
    if NEEDS["/proc"]:  # elsewhere it serves, at least
        assert len(os.listdir(f"/proc/{process.pid}/task")) == 1 + 7


def loads_its_seed(serve):
    service = serve(str(CHECKOUT / "examples" / "seed.json"))
    assert service.call("/accounts/1")[0] == 200


def waits_so_long_at_a_stop(serve):
    service = serve("0.5")
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as half_sent:
        half_sent.sendall(b"GET /accounts/1 HTTP/1.1\r\n")
        assert service.call("/accounts/usage")[0] == 200  # so the half is there, too
        began = time.monotonic()
        assert service.end()[0] == 0
    assert 0.4 < time.monotonic() - began < 5


def names_its_public_url(serve):
    service = serve("https://fense.example/base/")
    assert service.call("/openapi.json")[1]["servers"] == [{"url": "https://fense.example/base"}]
    assert service.url.startswith("http://127.0.0.1:")
    assert " web page: https://fense.example/base/_standin/\n" in service.end()[2]


EFFECTS = {
    "host": listens_on_its_address,
    "port": listens_on_its_port,
    "database": keeps_accounts_in_its_file,
    "prefix": serves_under_its_prefix,
    "public-url": names_its_public_url,
    "threads": has_so_many_threads,
    "seed": loads_its_seed,
    "drain": waits_so_long_at_a_stop,
}


@pytest.mark.parametrize("given", few(["in the environment", "as a flag"]))
@pytest.mark.parametrize("name", settings.SETTINGS)
def test_a_setting_does_what_it_is_for(start, name, given):
    assert name in EFFECTS, f"add to EFFECTS a function that shows what --{name} does"

    def serve(value):
        others = {"port": "0", "database": ":memory:"}
        others.pop(name, None)
        flags = [f"--{other}={default}" for other, default in others.items()]
        if given == "as a flag":
            service = start(*flags, f"--{name}={value}")
        else:
            service = start(*flags, **{settings.variable_of(name): value})
        service.ready()
        return service

    EFFECTS[name](serve)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"service_keys": "abc"}, "service_keys must be a list of keys"),
        ({"service_keys": 5}, "service_keys must be a list of keys"),
        ({"service_keys": ["a", None]}, "service_keys must be a string"),
        ({"master_key": "a b"}, "master_key must be 1 to 255 visible ASCII characters"),
        ({"master_key": "a", "prefix": None}, "prefix must be a string"),
        ({"master_key": "a", "database": None}, "database must be a string"),
        ({}, "master_key or service_keys is required"),
    ],
)
def test_an_application_names_the_argument_that_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_app(**arguments)


# --- Limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "low", "high"),
    [
        ({"connections": 300}, "waiting", "connections"),
        ({"waiting": 500}, "waiting", "connections"),
        ({"body": 32 * 1024 * 1024}, "body", "state_body"),
        ({"state_body": 64 * 1024}, "body", "state_body"),
    ],
)
def test_contradictory_limits_are_rejected(limits, low, high):
    with pytest.raises(ValueError, match=f"^the limit {low} must be below the limit {high}$"):
        Limits(**limits)


def test_the_limit_of_a_body_reaches_the_server_and_the_application(make_app):
    """The application rejects bodies above the limit, the server those far above it."""
    app = make_app(master_key=MASTER_KEY, limits=Limits(body=1_000))
    with Served(app) as served:
        head = f"POST /accounts HTTP/1.1\r\nHost: localhost\r\nx-api-key: {MASTER_KEY}\r\n"
        for size, limit in ((1_001, 1_000), (3_000, 2_000)):
            sent = f"{head}Connection: close\r\nContent-Length: {size}\r\n\r\n{'x' * size}"
            answer = served.talk(sent.encode())
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert f'"the body exceeds the maximum of {limit} bytes"'.encode() in answer


def test_the_limit_of_a_body_reaches_the_stand_in(make_app):
    """The journal keeps the beginning of a body, and the handler gets all of it."""
    app = make_app(master_key=MASTER_KEY, limits=Limits(body=100_000))
    api = Api(ControlPlane(app, MASTER_KEY), MASTER_KEY, None)
    long = json.dumps(account_fields()).encode().ljust(100_000)
    assert api.post("/accounts", long).status == 201
    assert api.post("/accounts", long + b" ").status == 413


# --- Switches ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "environment", "has_control_plane", "is_quiet"),
    few(
        [
            ([], {"FENSE_ADMIN_STANDIN": "1", "FENSE_ADMIN_QUIET": "1"}, True, True),
            (
                ["--no-standin", "--quiet"],
                {"FENSE_ADMIN_STANDIN": "x", "FENSE_ADMIN_QUIET": "x"},
                False,
                True,
            ),
            (
                ["--standin", "--quiet"],
                {"FENSE_ADMIN_STANDIN": "0", "FENSE_ADMIN_QUIET": "0"},
                True,
                True,
            ),
            ([], {"FENSE_ADMIN_STANDIN": "0", "FENSE_ADMIN_QUIET": "0"}, False, False),
            (["--no-standin"], {"FENSE_ADMIN_STANDIN": "1"}, False, False),
            ([], {}, False, False),
        ],
        3,
    ),
)
def test_a_switch_may_be_a_variable_and_the_flag_wins(
    start, flags, environment, has_control_plane, is_quiet
):
    keys = {"DISPUTE_MASTER_KEY": "the-master-key"}
    service = start("--port=0", "--database=:memory:", *flags, **keys, **environment)
    service.ready()
    status = service.call("/_standin/state", key="the-master-key")[0]
    assert status == (200 if has_control_plane else 404)
    assert (service.end()[2] == "") is is_quiet


# --- Variables that are none of ours -----------------------------------------------------------

OF_KUBERNETES = {  # beside a Service called fense-admin, and one called fense-admin-db
    "FENSE_ADMIN_SERVICE_HOST": "10.96.3.7",
    "FENSE_ADMIN_SERVICE_PORT": "8642",
    "FENSE_ADMIN_SERVICE_PORT_HTTP": "8642",
    "FENSE_ADMIN_PORT": "tcp://10.96.3.7:8642",
    "FENSE_ADMIN_PORT_8642_TCP": "tcp://10.96.3.7:8642",
    "FENSE_ADMIN_PORT_8642_TCP_PROTO": "tcp",
    "FENSE_ADMIN_PORT_8642_TCP_PORT": "8642",
    "FENSE_ADMIN_PORT_8642_TCP_ADDR": "10.96.3.7",
    "FENSE_ADMIN_PORT_53_UDP": "udp://10.96.3.7:53",
    "FENSE_ADMIN_DB_SERVICE_HOST": "10.96.3.8",
    "FENSE_ADMIN_DB_PORT": "tcp://10.96.3.8:5432",
}
OF_DOCKER = {  # of a link called fense-admin
    "FENSE_ADMIN_NAME": "/web/fense-admin",
    "FENSE_ADMIN_PORT": "udp://172.17.0.5:53",
    "FENSE_ADMIN_PORT_53_UDP_ADDR": "172.17.0.5",
    "FENSE_ADMIN_ENV_SECRET": "of-another-container",
}


@pytest.mark.parametrize("injected", few([OF_KUBERNETES, OF_DOCKER]), ids=["Kubernetes", "Docker"])
def test_what_kubernetes_and_docker_set_is_ignored_and_logged_once(start, injected):
    service = start("--port=0", "--database=:memory:", "--quiet", **injected)
    service.ready()
    first, *rest = service.end()[2].splitlines()
    assert f" are ignored: FENSE_ADMIN_PORT and {len(injected) - 1} more;" in first
    assert not [line for line in rest if "FENSE_ADMIN" in line]
    assert not [value for value in injected.values() if value in first]


@pytest.mark.parametrize("injected", [OF_KUBERNETES, OF_DOCKER], ids=["Kubernetes", "Docker"])
def test_every_command_ignores_what_kubernetes_and_docker_set(run_command, tmp_path, injected):
    code, _, log = run_command("--host=192.0.2.1", DISPUTE_MASTER_KEY="key", **injected)
    assert code == 1
    assert "fense-admin: port 8642 of 192.0.2.1 can't be used" in log
    code, _, log = run_command("health", **injected)
    assert (code, "http://127.0.0.1:8642/healthz" in log) in ((0, False), (1, True))
    assert run_command("exec", "--", "true", **injected) == (0, "", "")
    (tmp_path / "fense-admin.sqlite3").touch()
    for command in (["record", "1", "1"], ["backup", "copy"]):
        assert "FENSE_ADMIN" not in run_command(*command, **injected)[2]


UNKNOWN = {
    "FENSE_ADMIN_PROT": "did you mean FENSE_ADMIN_PORT?",
    "FENSE_ADMIN_DATABSE": "did you mean FENSE_ADMIN_DATABASE?",
    "FENSE_ADMIN_STAND_IN": "did you mean FENSE_ADMIN_STANDIN?",
    "FENSE_ADMIN_PUBLICURL": "did you mean FENSE_ADMIN_PUBLIC_URL?",
    "FENSE_ADMIN_MASTER_KEY": "did you mean DISPUTE_MASTER_KEY?",
    "DISPUTE_SERVICE_KEY": "did you mean DISPUTE_SERVICE_KEYS?",
    "FENSE_ADMIN_COLOUR": "fense-admin serve --help lists all",
    "FENSE_ADMIN_PORTS_TCP": "did you mean FENSE_ADMIN_PORT?",
    "FENSE_ADMIN_DATABASE_NAME": "did you mean FENSE_ADMIN_DATABASE?",
}


@pytest.mark.parametrize("flags", few([["--quiet"], []]), ids=["quiet", ""])
def test_unknown_variables_are_logged_before_anything_else(start, flags):
    """With the most similar known name, and without the value, which may be secret."""
    others = {"DISPUTE_HOST": "of-another-program", "FENSE_URL": "x"}
    secret = "secret://of-mine"
    service = start(
        "--port=0", "--database=:memory:", *flags, **dict.fromkeys(UNKNOWN, secret), **others
    )
    service.ready()
    lines = service.errors.read_text("utf-8").splitlines()
    reported = sorted(
        f" unknown variable {name} is ignored: {advice}" for name, advice in UNKNOWN.items()
    )
    assert [line[24:] for line in lines[: len(UNKNOWN)]] == reported
    log = service.end()[2]
    assert log.count("unknown variable") == len(UNKNOWN)
    assert "secret" not in log


@pytest.mark.parametrize(
    "command",
    [["health", "http://127.0.0.1:1"], ["record", "1", "1"], ["backup", "x"], ["move", "x", "y"], ["exec", "--", "true"]],
    ids=lambda command: command[0],
)  # fmt: skip
def test_every_command_names_unknown_variables(run_command, command):
    """`record` would else add lookups to another database than the one that was meant."""
    code, _, log = run_command(*command, FENSE_ADMIN_DATABSE="secret")
    message = "unknown variable FENSE_ADMIN_DATABSE is ignored: did you mean FENSE_ADMIN_DATABASE?"
    assert log.splitlines()[0] == f"fense-admin: {message}"
    assert code == (command[0] != "exec")
    assert "secret" not in log
