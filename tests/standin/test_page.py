"""The page for people shows what there is, runs nothing, and opens without asking under the development key only."""

import re

from conftest import MASTER_KEY, Api, account_fields

from fense_admin.standin.control import ControlPlane


def test_under_the_development_key_the_page_opens_without_asking(make_app):
    app = make_app(master_key="local-dev-key")
    api = Api(ControlPlane(app, "local-dev-key"), "local-dev-key", None)
    page = api.client.get("/_standin/")
    assert "stand-in" in page.text
    assert api.get("/").body["error"]["message"].endswith(", a page for people is at /_standin/")
    assert api.get("/_standin/state", key=None).status == 401
    assert api.call("POST", "/_standin/", b"", key=None).status == 401


def test_the_page_shows_what_there_is_and_runs_nothing(seeded, seeded_api):
    seeded_api.post(
        "/accounts", account_fields(name="<script>alert(1)</script>", api_key="sk_secret_12345")
    )
    seeded.fail(503, message="<b>")
    page = seeded_api.client.get("/_standin/", headers={"x-api-key": MASTER_KEY})
    assert page.content_type == "text/html"
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "&lt;script&gt;alert(1)" in page.text
    assert "Acme Ltd" in page.text
    assert not re.search("<script|<b>|sk_secret_12345", page.text)


def test_the_page_shows_the_newest_hundred_of_each(seeded, seeded_api):
    for number in range(8, 130):
        seeded.create_account(name=f"Merchant no. {number}")
    text = seeded_api.client.get("/_standin/", headers={"x-api-key": MASTER_KEY}).text
    assert "<h2>Accounts: 124</h2>" in text
    assert "Merchant no. 129" in text
    assert "Merchant no. 30<" in text
    assert "Merchant no. 29<" not in text


def test_the_page_has_its_style_and_is_allowed_it(seeded_api):
    answer = seeded_api.client.get("/_standin/", headers={"x-api-key": seeded_api.master_key})
    assert "<style>" in answer.text
    assert "style-src 'unsafe-inline'" in answer.headers["Content-Security-Policy"]
