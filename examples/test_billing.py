"""A test suite of an integration with Fense, against the `fense` fixture: run it with pytest."""

import json
import time
import urllib.error
import urllib.request

import pytest


class Fense:
    """The code under test: a client that tries again where Fense says that it may."""

    def __init__(self, url, key):
        self.url, self.key = url, key

    def call(self, path, body=None, tries=3):
        data = None if body is None else json.dumps(body).encode()
        headers = {"x-api-key": self.key, "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 503 or tries == 1:
                raise
            time.sleep(int(error.headers["Retry-After"]))
            return self.call(path, body, tries - 1)

    def stop_billing(self, account_id):
        return self.call(f"/accounts/{account_id}", {"suppress_billing": True})


@pytest.fixture
def client(fense):
    return Fense(fense.url, fense.master_key)


def test_billing_is_stopped(fense, client):
    account = fense.create_account(name="Acme Ltd")
    assert client.stop_billing(account["fense_account_id"])["suppress_billing"] is True
    (sent,) = fense.requests()
    assert (sent["method"], sent["path"]) == ("POST", "/accounts/1")
    assert json.loads(sent["body"]) == {"suppress_billing": True}


def test_a_fense_that_is_down_for_a_moment_is_asked_again(fense, client):
    account = fense.create_account()
    fense.fail(503, method="POST", path="/accounts/*", times=2, headers={"Retry-After": "0"})
    assert client.stop_billing(account["fense_account_id"])["suppress_billing"] is True
    assert [request["status"] for request in fense.requests()] == [503, 503, 200]


def test_usage_is_read(fense, client):
    account = fense.create_account()
    fense.record_lookups(account["fense_account_id"], 12, "2026-11-01")
    assert client.call("/accounts/usage")["total_lookups"] == 12
