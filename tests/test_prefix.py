"""--prefix moves every path of the API, also in responses."""

import contextlib

import pytest
from conftest import MASTER_KEY, Api, account_fields, few, refusal
from webtest import TestApp

from fense_admin import create_app


@pytest.mark.parametrize("prefix", few(["admin", "/admin", "/admin/"]))
def test_the_prefix_is_in_the_url(start, prefix):
    service = start("--port=0", "--prefix", prefix)
    assert service.ready().endswith("/admin")
    assert service.call("/accounts", account_fields())[0] == 201


@pytest.mark.parametrize("prefix", ["/admin", "admin", "/admin/", "admin/"])
def test_a_prefix_moves_every_path_of_the_page(prefix, make_app):
    app = make_app(master_key=MASTER_KEY, prefix=prefix)
    api = Api(app, MASTER_KEY, None, base="/admin")
    created = api.post("/accounts", account_fields())
    assert created.headers["Location"] == "/admin/accounts/1"
    assert api.get("/accounts/1").body == created.body
    assert api.post("/accounts/1", {}).body == created.body
    assert api.get("/accounts/usage").body["accounts"][0]["name"] == "Acme Ltd"
    assert api.get("/accounts/usage/1").status == 200
    assert api.get("/accounts/usage", key=None).status == 401

    outside = Api(app, MASTER_KEY, None)
    for path, advice in (
        ("/accounts/1", "did you mean /admin/accounts/1?"),
        ("/accounts", "did you mean /admin/accounts?"),
        ("/admin/admin/accounts/usage", "did you mean /admin/accounts/usage?"),
        ("/admin", "the API is under /admin"),
        ("/adminaccounts/1", "the API is under /admin"),
        ("/health", "did you mean /healthz?"),
    ):
        message = f"there is no such path; {advice}"
        answer = outside.get(path)
        assert (answer.status, answer.body) == (404, refusal(code="not_found", message=message))
    for its in (outside, api):
        assert its.get("/healthz", key=None).body == {"status": "ok"}
        assert its.get("/openapi.json", key=None).body["servers"] == [
            {"url": "http://localhost:80/admin"}
        ]


def test_a_mounted_application_returns_paths_that_lead_to_it():
    with contextlib.closing(create_app(master_key=MASTER_KEY, prefix="/v1")) as app:
        client = TestApp(app, extra_environ={"SCRIPT_NAME": "/of mine"})
        headers = {"x-api-key": MASTER_KEY}
        answer = client.post_json("/v1/accounts", account_fields(), headers=headers)
        assert answer.headers["Location"] == "/of%20mine/v1/accounts/1"
        assert client.get("/openapi.json").json["servers"] == [
            {"url": "http://localhost:80/of%20mine/v1"}
        ]
