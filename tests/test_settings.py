"""Settings come from flags, then from the environment, and a wrong one is named."""

import os
import re

import pytest


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
