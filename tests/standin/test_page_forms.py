"""The forms of the page: what each does, what it refuses beside which field, and whom it takes."""

import base64
import http.client
import json
import re
import threading
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from conftest import MASTER_KEY, SEED, SERVICE_KEY, TIMEOUT, Api, account_fields, few
from test_control import FOREIGN, OWN
from webtest.forms import Checkbox

from fense_admin import rules
from fense_admin.standin import StandIn, demo
from fense_admin.standin.control import ControlPlane
from fense_admin.standin.faults import FAULT_RULES
from fense_admin.standin.page.forms import FORMS

DEVELOPMENT_KEY = "local-dev-key"
HTML = {"Accept": "text/html"}


class Page:
    """A stand-in with the development key, whose page is open, and a browser that looks at it."""

    def __init__(self, fense, root="/_standin", key=DEVELOPMENT_KEY):
        self.fense, self.root = fense, root
        self.api = Api(fense.app, key, None)
        self.browser = self.api.client

    def open(self, path, **options):
        return self.browser.get(f"{self.root}/{path}", headers=HTML, **options)

    def form(self, view, path, button=None):
        """The form of a view that is sent to this path, and has this button."""
        forms = dict(self.open(view).forms).values()
        found = [form for form in forms if form.action == f"{self.root}/page/{path}"]
        return next(form for form in found if button in (None, form.html.button.text))

    def send(self, view, path, button=None, /, **values):
        """Fill in and send a form. Gives the view that it leads to, or the form if it is refused."""
        form = self.form(view, path, button)
        for name, value in values.items():
            form[name] = value
        return self.follow(form.submit(headers=HTML, expect_errors=True))

    def follow(self, answer):
        if answer.status_int != 303:
            return answer
        assert answer.headers["Location"].startswith(f"{self.root}/")
        return answer.follow(headers=HTML)


@pytest.fixture
def page():
    with StandIn(SEED, master_key=DEVELOPMENT_KEY, serve=False) as fense:
        yield Page(fense)


def text_of(element):
    return " ".join(element.get_text(" ").split())


def done(answer):
    return text_of(answer.html.select_one(".done"))


def beside(answer):
    """The message beside each field, and the one above them."""
    labels = answer.html.select("form.act label")
    found = {
        label.select_one("[aria-invalid=true]")["name"]: text_of(label.select_one(".blame"))
        for label in labels
        if label.select(".blame")
    }
    assert len(answer.html.select("[aria-invalid]")) == len(found)
    return found, text_of(answer.html.select_one("[role=alert]"))


def everything(page):
    """All that a form may change."""
    app = page.fense.app
    return (
        page.fense.state(),
        page.fense.faults(),
        [entry["id"] for entry in page.fense.requests()],
        app.clock.stopped_at,
        list(app.instances),
    )


# --- What each form does -------------------------------------------------------------------------


def test_an_account_is_created(page):
    key = page.form("page/accounts", "accounts/create")["api_key"].value
    assert re.fullmatch("sk_test-[0-9a-f]{16}", key)
    answer = page.send("page/accounts", "accounts/create", name="Acme", email="a@b", api_key="k" * 12,
                       suppress_billing=True)  # fmt: skip
    assert done(answer) == "The account was created."
    assert answer.request.path == "/_standin/page/accounts/8"
    account = page.api.get("/accounts/8").body
    assert (account["name"], account["api_key_last4"]) == ("Acme", "kkkk")
    assert (account["suppress_billing"], account["dispute_account_id"]) == (True, None)


def test_of_an_account_what_was_changed_is_sent_alone(page):
    uuid = "6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11"
    path = "accounts/1/change"
    stale = page.form("page/accounts/1", path)
    answer = page.send("page/accounts/1", path, is_active=True, suppress_billing=False,
                       dispute_account_id=uuid)  # fmt: skip
    assert done(answer) == "The changes were saved."
    account = page.api.get("/accounts/1").body
    assert (account["is_active"], account["suppress_billing"]) == (True, False)
    assert (account["dispute_account_id"], account["name"]) == (uuid, "Acme Ltd")
    stale["name"] = "Acme Holdings"  # in a tab that was opened before
    assert done(page.follow(stale.submit())) == "The changes were saved."
    new = page.api.get("/accounts/1").body
    assert new == account | {"name": "Acme Holdings", "updated_at": new["updated_at"]}
    page.send("page/accounts/1", path, dispute_account_id="", api_key="sk_changed_0001")
    new = page.api.get("/accounts/1").body
    assert (new["dispute_account_id"], new["api_key_last4"]) == (None, "0001")


def test_a_form_without_changes_changes_nothing(page):
    account = page.api.get("/accounts/1").body
    page.fense.set_clock("2030-01-01T00:00:00Z")
    assert done(page.send("page/accounts/1", "accounts/1/change")) == "The changes were saved."
    assert page.api.get("/accounts/1").body == account


def test_lookups_are_added_to_a_day_and_to_each_day_of_a_range(page):
    page.fense.set_clock("2026-11-30T12:00:00Z")
    path = "accounts/7/lookups"
    assert done(page.send("page/accounts/7", path, lookups="5")) == "The lookups were added."
    page.send("page/accounts/7", path, date="2026-11-23", last="2026-11-25", lookups="2")
    page.send("page/accounts/7", path, date="", lookups="1")
    (account,) = [a for a in page.fense.state()["accounts"] if a["fense_account_id"] == 7]
    days = {"2026-11-23": 2, "2026-11-24": 2, "2026-11-25": 2, "2026-11-30": 6}
    assert account["usage"] == days


PRESETS = {
    "The next creation fails with 503": {"status": 503, "method": "POST", "path": "/accounts"},
    "The next response is lost after the write": {"drop": "reset", "after": True, "method": "POST"},
    "Every read takes 2 s": {"delay_ms": 2000, "method": "GET", "times": 0},
}


@pytest.mark.parametrize("button", PRESETS)
def test_a_common_fault_is_armed_with_one_click(page, button):
    assert done(page.send("page/faults", "faults/arm", button)) == "The fault is armed."
    assert page.fense.faults() == [{"id": 1, "times": 1, "used": 0} | PRESETS[button]]


def test_a_common_fault_is_armed_for_several_requests(page):
    page.send("page/faults", "faults/arm", next(iter(PRESETS)), times="2")
    for status in (503, 503, 201):
        assert page.api.post("/accounts", account_fields()).status == status


def test_a_fault_is_armed_with_all_its_keys(page):
    form = page.form("page/faults", "faults/arm", "Arm a fault")
    assert [name for name in form.fields if name not in ("token", None)] == list(FAULT_RULES)
    fault = {
        "status": 502, "method": "POST", "path": "/accounts/*", "times": 3, "skip": 1,
        "after": True, "delay_ms": [1, 20], "random_seed": -7, "drop": "truncate",
        "headers": {"Retry-After": "1"}, "body": "<h1>\nBad</h1>", "content_type": "text/html",
    }  # fmt: skip
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in fault.items()
    }
    answer = page.send(
        "page/faults",
        "faults/arm",
        "Arm a fault",
        **texts | {"after": True, "body": fault["body"].replace("\n", "\r\n")},
    )
    assert done(answer) == "The fault is armed."
    assert page.fense.faults() == [{"id": 1, "used": 0} | fault]
    page.fense.disarm()
    page.send("page/faults", "faults/arm", "Arm a fault", status="429", message="slow down")
    assert page.api.get("/accounts/1").body["error"]["message"] == "slow down"


def test_faults_are_disarmed_one_by_one_and_all_at_once(page):
    for status in (500, 502, 503):
        page.fense.fail(status)
    stale = page.form("page/faults", "faults/2/disarm")
    assert done(page.follow(stale.submit())) == "The fault was disarmed."
    assert [fault["id"] for fault in page.fense.faults()] == [1, 3]
    again = page.follow(stale.submit(headers=HTML, expect_errors=True))
    assert (again.status_int, beside(again)) == (404, ({}, "this fault is not armed any more"))
    assert done(page.send("page/faults", "faults/disarm-all")) == "All faults were disarmed."
    assert page.fense.faults() == []


def test_the_journal_is_cleared_once_that_was_confirmed(page):
    page.api.get("/accounts/1")
    question = page.open("").click("Clear the journal")
    assert len(page.fense.requests()) == 1
    assert done(page.follow(question.form.submit())) == "The journal was cleared."
    assert page.fense.requests() == []


def test_the_clock_is_stopped_moved_and_released(page):
    service = "page/service"
    page.send(service, "clock/stop", "Stop at this time", now="2028-02-10T12:00:00Z")
    assert page.api.get("/_standin/clock").body == {"now": "2028-02-10T12:00:00Z", "stopped": True}
    page.send(service, "clock/stop", "Stop at the end of this month")
    assert page.api.get("/_standin/clock").body["now"] == "2028-02-29T23:59:59Z"
    page.send(service, "clock/move", "+1 day")
    assert page.api.get("/_standin/clock").body["now"] == "2028-03-01T23:59:59Z"
    page.send(service, "clock/move", "Move it on", advance_seconds="-59")
    assert page.api.get("/_standin/clock").body["now"] == "2028-03-01T23:59:00Z"
    assert done(page.send(service, "clock/release")) == "The clock runs again."
    assert page.api.get("/_standin/clock").body["stopped"] is False


def test_a_reset_and_a_state_are_asked_once(page):
    for link, line in (
        ("Reset", "The stand-in was reset."),
        ("Load the demo", "The demo was loaded."),
    ):
        page.fense.create_account()
        before = page.fense.state()
        question = page.open("page/service").click(link)
        assert "be undone." in text_of(question.html.main)
        assert page.fense.state() == before
        assert done(page.follow(question.form.submit())) == line
        expected = demo.document(page.fense.state()["accounts"][0]["created_at"][:10])
        if link == "Reset":
            assert [a["name"] for a in page.fense.state()["accounts"]] == ["Acme Ltd", "Beta"]
        else:
            names = [a["name"] for a in page.fense.state()["accounts"]]
            assert names == [a["name"] for a in expected["accounts"]]


def test_a_state_is_saved_as_a_file_and_loaded_from_it(page):
    saved = page.open("page/service").click("Save it as a file")
    assert saved.headers["Content-Disposition"] == "attachment; filename=fense-state.json"
    assert saved.json == page.fense.state()
    page.fense.load({"accounts": []})
    form = page.open("page/service").click("Load a file").form
    for mark in (b"", b"\xef\xbb\xbf"):  # the mark is Windows's
        page.fense.load({"accounts": []})
        form["file"] = ("fense-state.json", mark + saved.body)
        assert done(page.follow(form.submit())) == "The state was loaded."
        assert page.fense.state() == saved.json


def test_an_instance_is_created_opened_and_ended(page):
    answer = page.send(
        "page/service", "instances/create", name="billing <b>.test.ts", seed='"demo"'
    )
    assert done(answer) == "The instance was created."
    (instance,) = page.fense.app.instances.all()
    inside = answer.click("billing")
    assert "billing <b>.test.ts" in text_of(inside.html.select_one(".notice"))
    assert f"key {instance.master_key}" in text_of(answer.html.main)
    there = Page(page.fense, f"/_standin/instances/{instance.id}/_standin", instance.master_key)
    answer = there.send("page/accounts", "accounts/create", name="Inside", email="a@b")
    assert done(answer) == "The account was created."
    assert "Inside" not in str(page.fense.state())
    assert "Inside" in str(instance.plane.db.dump())
    answer = there.send("page/service", "clock/stop", now="2026-01-01T00:00:00Z")
    assert "stopped at 2026-01-01T00:00:00Z" in text_of(answer.html.main)
    question = page.open("page/service").click("End")
    assert done(page.follow(question.form.submit())) == "The instance has ended."
    assert page.fense.app.instances.all() == []


def test_what_a_form_does_meets_no_fault_and_is_not_in_the_journal(page):
    page.fense.fail(503, times=0)
    page.send("page/accounts", "accounts/create", name="Acme", email="a@b")
    page.send("page/accounts/8", "accounts/8/change", name="Acme Holdings")
    assert page.fense.requests() == []
    assert [fault["used"] for fault in page.fense.faults()] == [0]
    assert page.fense.state()["accounts"][-1]["name"] == "Acme Holdings"


def test_to_disarm_a_fault_ends_the_waits_for_it_alone(page):
    waits = {}
    for id, path in ((1, "/accounts/1"), (2, "/accounts/7")):
        page.fense.fail(delay_ms=60_000, path=path)
        waits[id] = threading.Thread(
            target=Api(page.fense.app, DEVELOPMENT_KEY, None).get, args=(path,)
        )
        page.fense.fail(503, path="/another")  # so that a used up one is not the last
        waits[id].start()
    page.fense.fail(delay_ms=60_000, path="/accounts/1", times=0)  # 5
    waits[5] = threading.Thread(
        target=Api(page.fense.app, DEVELOPMENT_KEY, None).get, args=("/accounts/1",)
    )
    deadline = time.monotonic() + TIMEOUT
    while len(page.fense.requests()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    waits[5].start()
    while sum(fault["used"] for fault in page.fense.faults()) < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert done(page.send("page/faults", "faults/5/disarm")) == "The fault was disarmed."
    waits[5].join(TIMEOUT)
    assert [waits[id].is_alive() for id in (1, 2, 5)] == [True, True, False]
    assert done(page.send("page/faults", "faults/disarm-all")) == "All faults were disarmed."
    for wait in waits.values():  # of the faults that are used up, too
        wait.join(TIMEOUT)
        assert not wait.is_alive()


def test_the_forms_have_each_field_of_an_account_in_its_kind(page):
    for view, path, names in (
        ("page/accounts", "accounts/create", rules.CREATE_RULES),
        ("page/accounts/1", "accounts/1/change", rules.UPDATE_RULES),
    ):
        form = page.form(view, path)
        for name, rule in names.items():
            is_switch = rule is rules.check_flag
            assert isinstance(form[name], Checkbox) == is_switch, name


@pytest.mark.slow
def test_forms_write_to_a_database_server_too(postgresql, make_app):
    plane = ControlPlane(make_app(postgresql.empty(), master_key=DEVELOPMENT_KEY), DEVELOPMENT_KEY)
    page = Page(SimpleNamespace(app=plane))
    page.send("page/accounts", "accounts/create", name="Acme", email="a@b")
    page.send("page/accounts/1", "accounts/1/change", suppress_billing=True)
    page.send(
        "page/accounts/1", "accounts/1/lookups", date="2026-11-01", last="2026-11-03", lookups="2"
    )
    (account,) = page.open("page/service").click("Save it as a file").json["accounts"]
    assert (account["suppress_billing"], sum(account["usage"].values())) == (True, 6)
    refused = page.send("page/accounts/1", "accounts/1/change", name="")
    assert "name" in beside(refused)[0]
    question = page.open("page/service").click("Reset")
    assert done(page.follow(question.form.submit())) == "The stand-in was reset."
    assert page.open("page/state.json").json == {"accounts": []}


# --- What a form refuses -------------------------------------------------------------------------

REFUSALS = [
    ("accounts/create", {"api_key": "", "email": "a@b"}, "POST /accounts", {"email": "a@b"}),
    ("accounts/create", {"api_key": "ключ", "name": " ", "email": "x", "dispute_account_id": "1"},
     "POST /accounts", {"api_key": "ключ", "name": " ", "email": "x", "dispute_account_id": "1"}),
    ("accounts/create", {"api_key": "beta", "name": "x", "email": "a@b"},
     "POST /accounts", {"api_key": "beta", "name": "x", "email": "a@b"}),
    ("accounts/1/change", {"name": "", "dispute_account_id": "x"},
     "POST /accounts/1", {"name": "", "dispute_account_id": "x"}),
    ("accounts/1/change", {"api_key": "beta"}, "POST /accounts/1", {"api_key": "beta"}),
    ("accounts/1/lookups", {"date": "2026-02-30", "lookups": "a lot"}, "POST /_standin/usage",
     [{"fense_account_id": 1, "date": "2026-02-30", "lookups": "a lot"}]),
    ("accounts/1/lookups", {}, "POST /_standin/usage", [{"fense_account_id": 1}]),
    ("accounts/1/lookups", {"date": "2026-11-01", "last": "2026-11-03", "lookups": "-1"},
     "POST /_standin/usage", [{"fense_account_id": 1, "lookups": -1}]),
    ("accounts/1/lookups", {"date": "2026-11-01", "lookups": "1000000000000"}, "POST /_standin/usage",
     [{"fense_account_id": 1, "date": "2026-11-01", "lookups": 10**12}]),
    ("faults/arm", {}, "POST /_standin/faults", {}),
    ("faults/arm", {"status": "600", "times": "-1", "skip": "1.5", "delay_ms": "[2, 1]", "headers": "Retry-After: 1",
                    "path": "x", "message": "m", "body": "b", "content_type": "é"},
     "POST /_standin/faults", {"status": 600, "times": -1, "skip": "1.5", "delay_ms": [2, 1],
     "headers": "Retry-After: 1", "path": "x", "message": "m", "body": "b", "content_type": "é"}),
    ("faults/arm", {"status": "503", "random_seed": "1"}, "POST /_standin/faults", {"status": 503, "random_seed": 1}),
    ("faults/arm", {"status": "9" * 5_000, "delay_ms": "{"}, "POST /_standin/faults", {"status": "9", "delay_ms": "{"}),
    ("clock/stop", {"now": "tomorrow"}, "PUT /_standin/clock", {"now": "tomorrow"}),
    ("clock/stop", {"now": ""}, "PUT /_standin/clock", {}),
    ("clock/move", {"advance_seconds": "60"}, "PUT /_standin/clock", {"advance_seconds": 60}),
    ("clock/move", {"advance_seconds": "1 day"}, "PUT /_standin/clock", {"advance_seconds": "1 day"}),
    ("instances/create", {"name": "n" * 101, "seed": "dmeo"}, "POST /_standin/instances",
     {"name": "n" * 101, "seed": "dmeo"}),
]  # fmt: skip


def refused(page, path, values):
    """The form that refuses these values, has kept them, and has changed nothing."""
    before = everything(page)
    answer = page.send(f"page/{path}", path, **values)
    assert answer.status_int == 400
    for name, value in values.items():
        assert answer.form[name].value == value
    assert answer.form.submit(headers=HTML, expect_errors=True).status_int == 400
    assert everything(page) == before
    return answer


@pytest.mark.parametrize(("path", "values", "sent", "body"), REFUSALS)
def test_what_the_api_refuses_stands_beside_its_field_and_what_was_typed_is_kept(
    page, path, values, sent, body
):
    error = page.api.call(*sent.split(), body).body["error"]
    messages = {one["field"].rpartition(".")[2]: one["message"] for one in error["details"]}
    above = "Nothing was changed." if messages else error["message"]
    assert beside(refused(page, path, values)) == (messages, above)


@pytest.mark.parametrize(
    ("path", "values", "message"),
    [
        ("accounts/1/lookups", {"date": "2026-11-02", "last": "2026-11-01", "lookups": "1"},
         "must be a range: its first day must not be after its last"),
        ("accounts/1/lookups", {"date": "2026-11-02", "last": "2126-11-01", "lookups": "1"},
         "must be a range of at most 3660 days"),
        ("state/load", {}, "is required"),
    ],
)  # fmt: skip
def test_what_the_form_itself_refuses_stands_beside_its_field(page, path, values, message):
    field = "last" if values else "file"
    assert beside(refused(page, path, values)) == ({field: message}, "Nothing was changed.")


def test_a_refused_form_is_sent_again_once_it_is_right(page):
    answer = page.send("page/accounts/1", "accounts/1/change", suppress_billing=False, name="")
    assert answer.form["suppress_billing"].checked is False
    answer.form["name"] = "Acme Holdings"
    assert done(page.follow(answer.form.submit())) == "The changes were saved."
    account = page.api.get("/accounts/1").body
    assert (account["name"], account["suppress_billing"]) == ("Acme Holdings", False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "the body is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"[]", "the body must be a JSON object"),
        (b'{"accounts": [{"name": 1}]}', "accounts[0].name must be a string; accounts[0].email is required; accounts[0].api_key is required, unless there is an api_key_sha256"),
        (b"\xff\xfe{", "file is UTF-16, as PowerShell 5 writes files: save it as UTF-8"),
        (b"\x80", "the body is not UTF-8"),
        (b'{"a": "' + b"b" * 70_000 + b'"}', "accounts is required; a is not accepted here"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_state_is_refused(page, content, message):
    before = page.fense.state()
    form = page.open("page/state/load").form
    form["file"] = ("state.json", content)
    answer = form.submit(headers=HTML, expect_errors=True)
    assert answer.status_int == 400
    messages_shown = beside(answer)
    assert message in (messages_shown[1], f"file {messages_shown[0].get('file')}")
    assert page.fense.state() == before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("accounts/99/change", "no account has this fense_account_id"),
        ("accounts/99/lookups", "no account has this fense_account_id"),
        ("accounts/9999999999999999999/change", "no account has this fense_account_id"),
        ("faults/9/disarm", "this fault is not armed any more"),
        ("instances/0123456789abcdef/end", "no instance has this id, or it has ended"),
        ("instances/nothing/end", "there is no such view"),
        ("nothing", "there is no such view"),
        ("accounts", "there is no such view"),
        ("page.css", "there is no such view"),
    ],
)
def test_a_form_of_what_is_not_there_is_not_found(page, path, message):
    token = page.fense.app.guard.token
    answer = page.browser.post(f"/_standin/page/{path}", {"token": token}, HTML, status=404)
    assert message in text_of(answer.html.main)


# --- Whom a form takes ---------------------------------------------------------------------------


def filled(page):
    """What each form sends that does something, by its path."""
    instance = page.api.post("/_standin/instances", {}).body["id"]
    page.fense.fail(503, times=0)
    page.fense.set_clock("2026-11-30T12:00:00Z")
    page.api.get("/accounts/1")
    values = {
        "accounts/create": {"api_key": "sk_forms_000001", "name": "A", "email": "a@b"},
        "accounts/1/change": {"name": "Changed"},
        "accounts/1/lookups": {"date": "2026-11-01", "lookups": "1"},
        "faults/arm": {"status": "500"},
        "faults/1/disarm": {},
        "faults/disarm-all": {},
        "requests/clear": {},
        "clock/stop": {"now": "2027-01-01T00:00:00Z"},
        "clock/move": {"advance_seconds": "1"},
        "clock/release": {},
        "reset": {},
        "state/load": {"file": '{"accounts": []}'},
        "state/demo": {},
        "instances/create": {"name": "x"},
        f"instances/{instance}/end": {},
        f"requests/again/{page.fense.app.journal[-1].number}/send": {},
        "documentation/api/updateAccount/try": {
            "path fense_account_id": "1",
            "body name": "Changed",
            "x-api-key": DEVELOPMENT_KEY,
        },
        "documentation/control-plane/reset/try": {},
    }
    assert all(any(re.fullmatch(pattern, path) for path in values) for pattern in FORMS)
    return values


@pytest.mark.parametrize("pattern", FORMS)
def test_with_the_token_each_of_these_forms_changes_something(page, pattern):
    forms = filled(page)
    path = next(path for path in forms if re.fullmatch(pattern, path))
    before = everything(page)
    values = forms[path] | {"token": page.fense.app.guard.token}
    page.browser.post(f"/_standin/page/{path}", values, status=303)
    assert everything(page) != before


@pytest.mark.parametrize("headers", few(OWN, 2), ids=str)
def test_its_own_page_sends_forms(page, headers):
    token = page.fense.app.guard.token
    before = everything(page)
    page.browser.post("/_standin/page/clock/stop", {"token": token, "now": "2027-01-01T00:00:00Z"}, headers, status=303)  # fmt: skip
    assert everything(page) != before


@pytest.mark.parametrize("headers", few([{}, *FOREIGN], 2), ids=str)
def test_no_page_from_elsewhere_sends_a_form_or_learns_whether_it_would_work(page, headers):
    """The first sends no sign of where it is: then the token decides."""
    tokens = [page.fense.app.guard.token] if headers else []
    forms = filled(page)
    before = everything(page)
    for path, values in [*forms.items(), ("nothing", {}), ("page.css", {}), ("changes", {})]:
        answers = set()
        for token in [*tokens, None, "", "x" * 43, "é"]:
            form = values if token is None else values | {"token": token}
            answer = page.browser.post(f"/_standin/page/{path}", form, headers, status=403)
            assert not [name for name in answer.headers if name.lower().startswith("access-contr")]
            answers.add(answer.body)
        assert len(answers) == 1
    assert everything(page) == before


def test_a_link_or_a_frame_of_another_site_sends_no_form(page):
    forms, token = filled(page), page.fense.app.guard.token
    before = everything(page)
    link = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    for path, values in forms.items():
        page.browser.post(f"/_standin/page/{path}", values | {"token": token}, link, status=403)
        answer = page.browser.get(f"/_standin/page/{path}", headers=link)  # shows it, to the user
        assert answer.headers["Content-Security-Policy"].endswith("frame-ancestors 'none'")
    assert everything(page) == before


def test_a_get_changes_nothing_whatever_it_brings(page):
    forms, token = filled(page), page.fense.app.guard.token
    before = everything(page)
    for path, values in forms.items():
        page.browser.get(f"/_standin/page/{path}", values | {"token": token}, status=400)
        page.browser.get(f"/_standin/page/{path}")
        query = f"/_standin/page/{path}?now=2027-01-01T00:00:00Z"
        page.browser.post(query, values | {"token": token}, status=400)
    assert everything(page) == before


@pytest.mark.slow
def test_a_crawl_of_every_link_changes_nothing(page):
    filled(page)
    before = everything(page)
    seen, left = set(), ["/_standin/"]
    while left:
        path = left.pop().partition("#")[0]
        if path in seen:
            continue
        seen.add(path)
        answer = page.browser.get(path, headers=HTML)
        if answer.content_type == "text/html":
            links = [
                a["href"].removeprefix("http://localhost:80") for a in answer.html.select("[href]")
            ]
            left += [link for link in links if link.startswith("/_standin")]
    assert {"/_standin/page/reset", "/_standin/page/state.json", "/_standin/page/page.css"} <= seen
    assert any(path.startswith("/_standin/instances/") for path in seen)
    assert everything(page) == before


def test_under_another_key_a_form_takes_that_key_and_its_token():
    with StandIn(SEED, master_key=MASTER_KEY, service_key=SERVICE_KEY, serve=False) as fense:
        client = Api(fense.app, MASTER_KEY, None).client
        basic = base64.b64encode(f"me:{MASTER_KEY}".encode()).decode()
        values = {"token": fense.app.guard.token, "status": "503"}

        def status(headers, values=values):
            return client.post("/_standin/page/faults/arm", values, headers, status="*").status_int

        for wrong in ({}, {"x-api-key": "wrong"}, {"Authorization": "Basic !"}):
            assert status(wrong) == 401
        assert status({"x-api-key": SERVICE_KEY}) == status({"x-api-key": "beta"}) == 403
        for right in ({"x-api-key": MASTER_KEY}, {"Authorization": f"Basic {basic}"}):
            assert status(right, {"status": "503"}) == 403
            assert status(right | {"Origin": "http://evil.example"}) == 403
        assert fense.faults() == []
        for right in ({"x-api-key": MASTER_KEY}, {"Authorization": f"Basic {basic}"}):
            assert status(right) == 303
        assert len(fense.faults()) == 2


def test_a_large_file_is_taken_from_the_own_page_alone():
    """The server decides before the body has arrived."""
    with StandIn(SEED, master_key=DEVELOPMENT_KEY) as fense:
        account = SEED["accounts"][0] | {"usage": {}}
        accounts = [account | {"api_key": f"sk_many_{n}", "name": "x" * 250} for n in range(1_500)]
        content = json.dumps({"accounts": accounts})
        head = "Content-Disposition: form-data; name="
        body = (
            "".join(
                f'--b\r\n{head}"{name}"{more}\r\n\r\n{text}\r\n'
                for name, more, text in (
                    ("token", "", fense.app.guard.token),
                    ("file", '; filename="state.json"', content),
                )
            )
            + "--b--\r\n"
        )
        for sent, status in (
            ({"Sec-Fetch-Site": "cross-site"}, 413),
            ({"Sec-Fetch-Site": "none"}, 413),
            ({}, 413),
            ({"Sec-Fetch-Site": "same-origin"}, 303),
        ):
            connection = http.client.HTTPConnection(
                "127.0.0.1", urlsplit(fense.url).port, timeout=TIMEOUT
            )
            headers = {"Content-Type": "multipart/form-data; boundary=b", **sent}
            connection.request("POST", "/_standin/page/state/load", body, headers)
            assert connection.getresponse().status == status
            connection.close()
            assert len(fense.state()["accounts"]) == (1_500 if status == 303 else 2)


def test_a_form_from_before_a_start_says_so(page):
    with StandIn(master_key=DEVELOPMENT_KEY, serve=False) as earlier:
        token = earlier.app.guard.token
    values = {"token": token, "status": "503"}
    answer = page.browser.post("/_standin/page/faults/arm", values, HTML, status=403)
    assert "go back and reload the page" in text_of(answer.html.main)
    assert token not in answer.text


@pytest.mark.parametrize("done", ["nothing", "<b>", "The fault is armed.", "reset%00"])
def test_a_link_puts_no_words_of_its_own_on_the_page(page, done):
    answer = page.open(f"?done={done}", status=400)
    assert not answer.html.select(".done")
    assert "must be one of" in text_of(answer.html.main)


# --- What is sent may be anything ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b'{"status": 503}', 403),
        ("text/plain", b"status=503", 403),
        ("application/x-www-form-urlencoded", b"\xff\xfe", 400),
        ("application/x-www-form-urlencoded", b"&a=" * 5_000, 400),
        ("multipart/form-data; boundary=b", b"--b\r\n" * 10_000, 403),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\n\x80\r\n--b--", 403),
        ("multipart/form-data", b"--\r\n\r\n--", 403),
        ("", b"", 403),
    ],
)  # fmt: skip
def test_what_is_no_form_of_the_page_is_refused(page, content_type, body, status):
    headers = {"Content-Type": content_type}
    answer = page.browser.post("/_standin/page/faults/arm", body, headers, status=status)
    assert list(answer.json) == ["error"]
    assert page.api.call("PUT", "/_standin/page/faults/arm", body).status == 405


HOSTILE = "</textarea><script>alert(1)</script>\"'>&amp;\u202e\u200b{{1}}%(x)s"


def test_what_was_typed_is_shown_as_it_was_and_never_run(page):
    for name in ("name", "email", "dispute_account_id"):
        answer = page.send("page/accounts", "accounts/create", **{name: HOSTILE})
        assert answer.form[name].value == HOSTILE
        assert len(answer.html.select("script")) == 1
    answer = page.send("page/faults", "faults/arm", "Arm a fault", body=HOSTILE, headers=HOSTILE)
    assert (answer.form["body"].value, answer.form["headers"].value) == (HOSTILE, HOSTILE)
    assert len(answer.html.select("script")) == 1


def test_a_name_that_can_not_be_seen_is_changed_letter_by_letter(page):
    account = page.fense.create_account(name="A\u200bc\u202eme\u3164")
    path = f"accounts/{account['fense_account_id']}/change"
    form = page.form(f"page/{path.removesuffix('/change')}", path)
    assert form["name"].value == account["name"]
    form["name"] = account["name"] + "!"
    assert done(page.follow(form.submit())) == "The changes were saved."
    assert page.fense.state()["accounts"][-1]["name"] == account["name"] + "!"
