"""A test suite of an integration with Fense, against the `fense` fixture: run it with pytest."""

import json
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from fense_admin.standin import StandIn


class Fense:
    """The code under test: a client that tries again when Fense is down for a moment."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key

    def call(self, path: str, body: object = None, tries: int = 3) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"x-api-key": self.key, "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 503 or tries == 1:
                raise
            time.sleep(int(error.headers["Retry-After"]))
            return self.call(path, body, tries - 1)

    def create_account(self, api_key: str, name: str, email: str) -> Any:
        return self.call("/accounts", {"api_key": api_key, "name": name, "email": email})

    def stop_billing(self, account_id: int) -> Any:
        return self.call(f"/accounts/{account_id}", {"suppress_billing": True})


@pytest.fixture
def client(fense: StandIn) -> Fense:
    return Fense(fense.url, fense.master_key)


def test_billing_is_stopped(fense: StandIn, client: Fense) -> None:
    account = fense.create_account(name="Acme Ltd")
    assert client.stop_billing(account["fense_account_id"])["suppress_billing"] is True
    (sent,) = fense.requests()
    assert (sent["method"], sent["path"]) == ("POST", "/accounts/1")
    assert sent["body"] == '{"suppress_billing": true}'


def test_retries_while_fense_is_down(fense: StandIn, client: Fense) -> None:
    account = fense.create_account()
    fense.fail(503, method="POST", path="/accounts/*", times=2, headers={"Retry-After": "0"})
    assert client.stop_billing(account["fense_account_id"])["suppress_billing"] is True
    assert [request["status"] for request in fense.requests()] == [503, 503, 200]


def test_an_account_is_not_created_again_when_the_response_is_lost(
    fense: StandIn, client: Fense
) -> None:
    fense.fail(path="/accounts", drop="reset", after=True)
    with pytest.raises(ConnectionError):
        client.create_account("sk_test_gamma_0003", "Gamma", "owner@gamma.example")
    assert [request["handled"] for request in fense.requests()] == [201]


def test_billing_is_stopped_in_the_background(fense: StandIn, client: Fense) -> None:
    account = fense.create_account()
    threading.Thread(target=client.stop_billing, args=[account["fense_account_id"]]).start()
    (sent,) = fense.wait_for_requests("POST", "/accounts/*", timeout=2)
    assert sent["status"] == 200


def test_usage_is_read(fense: StandIn, client: Fense) -> None:
    account = fense.create_account()
    fense.record_lookups(account["fense_account_id"], 12, "2026-11-01")
    assert client.call("/accounts/usage")["total_lookups"] == 12
