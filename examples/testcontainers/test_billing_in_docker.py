"""The stand-in in a container: pip install pytest testcontainers, then run this with pytest."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage
from testcontainers.core.wait_strategies import HttpWaitStrategy

KEY = "key-for-tests"
SETTINGS = {"DISPUTE_MASTER_KEY": KEY, "FENSE_ADMIN_STANDIN": "1", "FENSE_ADMIN_SEED": "demo"}


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    with DockerImage(".", clean_up=False) as image:  # the folder of the Dockerfile
        container = DockerContainer(str(image)).with_envs(**SETTINGS).with_exposed_ports(8642)
        with container.waiting_for(HttpWaitStrategy(8642, "/healthz")):
            yield f"http://{container.get_container_host_ip()}:{container.get_exposed_port(8642)}"


def call(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"x-api-key": KEY, "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as response:
        return json.load(response)


def test_billing_is_stopped_at_the_second_attempt(url: str) -> None:
    call(f"{url}/_standin/faults", {"status": 503, "path": "/accounts/1"})
    with pytest.raises(urllib.error.HTTPError, match="503"):
        call(f"{url}/accounts/1", {"suppress_billing": True})
    assert call(f"{url}/accounts/1", {"suppress_billing": True})["suppress_billing"] is True
