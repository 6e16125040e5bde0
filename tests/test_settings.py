"""Settings come from flags, then from the environment; each has its effect, and a wrong one is named."""

import os
import re
import socket
import time
from pathlib import Path

import pytest
from conftest import CHECKOUT, TIMEOUT, account_fields

from fense_admin import cli, create_app


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


@pytest.mark.parametrize("name", ["PORT", "THREADS", "PREFIX", "HOST", "DATABASE", "PUBLIC_URL"])
def test_a_wrong_setting_in_the_environment_is_named(run_command, name):
    value = "a b//" if name != "DATABASE" else ""
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
def test_a_key_that_is_none_is_wrong_usage_and_not_told(run_command, tmp_path, environment):
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
    tasks = Path(f"/proc/{serve('7').process.pid}/task")
    if not tasks.exists():
        pytest.skip("needs Linux's /proc")
    assert len(list(tasks.iterdir())) == 1 + 7


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
    assert " the page for people: https://fense.example/base/_standin/\n" in service.end()[2]


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


@pytest.mark.parametrize("given", ["as a flag", "in the environment"])
@pytest.mark.parametrize("name", cli.SETTINGS)
def test_a_setting_does_what_it_is_for(start, name, given):
    assert name in EFFECTS, f"add to EFFECTS a function that shows what --{name} does"

    def serve(value):
        others = {"port": "0", "database": ":memory:"}
        others.pop(name, None)
        flags = [f"--{other}={default}" for other, default in others.items()]
        if given == "as a flag":
            service = start(*flags, f"--{name}={value}")
        else:
            service = start(*flags, **{cli.variable_of(name): value})
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
        ({}, "give a master_key or service_keys"),
    ],
)
def test_an_application_names_the_argument_that_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_app(**arguments)
