"""What one does by hand while developing takes at most three clicks on the page."""

import datetime
import re

import pytest
from browsing import NARROW, WIDE
from conftest import SEED, Api, account_fields
from playwright.sync_api import expect

from fense_admin.standin import StandIn

pytestmark = pytest.mark.slow

KEY = "local-dev-key"
# With and without a script, wide and narrow, light and dark: any two of them meet.
BROWSERS = {
    "script-wide-light": (True, WIDE, "light"),
    "script-narrow-dark": (True, NARROW, "dark"),
    "no-script-wide-dark": (False, WIDE, "dark"),
    "no-script-narrow-light": (False, NARROW, "light"),
}
HOSTILE = '"><script>window.ran=1</script><img src=x onerror=window.ran=1>\u202e{{7*7}} \u0644'


@pytest.fixture
def fense():
    with StandIn(SEED, master_key=KEY) as fense:
        yield fense


@pytest.fixture
def api(fense):
    return Api(fense.app, KEY, None)


class Person:
    """Somebody who looks at the page. Only links, buttons and openings count as clicks."""

    def __init__(self, page):
        self.page = page
        self.clicks = 0

    def click(self, role, name, within=None):
        (within or self.page).get_by_role(role, name=name, exact=True).click()
        self.clicks += 1

    def open(self, summary):
        self.page.locator("summary").get_by_text(summary, exact=True).click()
        self.clicks += 1

    def form(self, button):
        """The form that has this button."""
        button = self.page.get_by_role("button", name=button, exact=True)
        return self.page.locator("form.act").filter(has=button)

    def sees(self, done):
        """The page says that it is done, in at most three clicks."""
        done_line = self.page.locator(".done")
        expect(done_line).to_have_text(done)
        expect(done_line).to_be_focused()
        assert self.clicks <= 3


@pytest.fixture(params=BROWSERS.values(), ids=BROWSERS)
def person(request, look):
    has_script, viewport, scheme = request.param
    return Person(look(java_script_enabled=has_script, viewport=viewport, color_scheme=scheme))


# --- The seven tasks -----------------------------------------------------------------------------


def test_an_account_is_created(person, api):
    person.click("link", "Accounts")
    person.open("Create an account")
    form = person.form("Create an account")
    form.get_by_label("name", exact=True).fill(HOSTILE)
    form.get_by_label("email").fill("owner@acme.example")
    person.click("button", "Create an account")
    person.sees("The account was created.")
    account = api.get("/accounts/8").body
    assert (account["name"], account["email"]) == (HOSTILE, "owner@acme.example")
    assert person.page.evaluate("document.scripts.length") == 1


def test_billing_of_an_account_is_stopped(person, api):
    before = api.new_account(name=HOSTILE)
    person.page.reload()
    person.click("link", "Accounts")
    person.page.locator(".accounts .what a").first.click()
    person.clicks += 1
    person.page.get_by_label("suppress_billing").check()
    person.click("button", "Save changes")
    person.sees("The changes were saved.")
    after = api.get(f"/accounts/{before['fense_account_id']}").body
    assert after == before | {"suppress_billing": True, "updated_at": after["updated_at"]}


def test_lookups_of_last_week_are_added(person, fense, api):
    account = api.new_account()["fense_account_id"]
    day = datetime.date.fromisoformat(fense.app.db.today()) - datetime.timedelta(days=7)
    person.click("link", "Accounts")
    person.page.locator(".accounts .what a").first.click()
    person.clicks += 1
    form = person.form("Add lookups")
    form.get_by_label("date").fill(str(day))
    form.get_by_label("to, if it is a range").fill(str(day + datetime.timedelta(days=1)))
    form.get_by_label("lookups, each day").fill("12")
    person.click("button", "Add lookups")
    person.sees("The lookups were added.")
    usage = api.get(f"/accounts/usage/{account}?start_date={day}&end_date={day}").body
    assert (usage["total_lookups"], usage["daily"]) == (12, [{"date": str(day), "lookups": 12}])
    assert api.get(f"/accounts/usage/{account}").body["total_lookups"] == 24
    expect(person.page.get_by_text("24 lookups")).to_be_visible()


def test_the_next_creation_fails_twice(person, api):
    person.page.get_by_role("link", name=re.compile("^Faults")).click()
    person.clicks += 1
    person.form("The next creation fails with 503").get_by_label("times").fill("2")
    person.click("button", "The next creation fails with 503")
    person.sees("The fault is armed.")
    statuses = [api.post("/accounts", account_fields()).status for _ in range(3)]
    assert statuses == [503, 503, 201]


def test_the_clock_is_stopped_at_the_end_of_the_month(person, fense, api):
    month = fense.app.db.today()[:7]
    person.click("link", "Service")
    person.click("button", "Stop at the end of this month")
    person.sees("The clock was stopped.")
    clock = api.get("/_standin/clock").body
    assert clock["stopped"]
    assert re.fullmatch(f"{month}-(28|29|30|31)T23:59:59Z", clock["now"])
    assert api.call("PUT", "/_standin/clock", {"advance_seconds": 1}).body["now"][8:10] == "01"


def test_it_starts_over(person, fense, api):
    before = fense.state()
    api.new_account(name=HOSTILE)
    fense.fail(503, path="/accounts/7")
    person.page.reload()  # "1 armed" moves the link
    person.click("link", "Service")
    person.click("link", "Reset…")
    person.click("button", "Reset")
    person.sees("The stand-in was reset.")
    assert fense.state() == before
    assert (fense.faults(), fense.requests()) == ([], [])


def test_an_instance_is_made(person, fense, api):
    person.click("link", "Service")
    person.form("Create an instance").get_by_label("name").fill(HOSTILE)
    person.click("button", "Create an instance")
    person.sees("The instance was created.")
    (instance,) = api.get("/_standin/instances").body["instances"]
    assert instance["name"] == HOSTILE
    row = person.page.get_by_role("row").filter(has_text=instance["id"])
    key = row.locator(".reason code").inner_text()
    path = instance["base_url"].partition("/_standin")[2]
    assert api.get(f"/_standin{path}/accounts/1", key=key).status == 200
    row.get_by_role("link").first.click()
    expect(person.page.get_by_text("of another stand-in, with its own data")).to_be_visible()


# --- Refusals --------------------------------------------------------------------------------------

REFUSALS = {
    "account": ("page/accounts/create", "Create an account", {"name": " ", "email": HOSTILE, "api_key": "ключ"}, {"name", "email", "api_key"}),
    "change": ("page/accounts/1", "Save changes", {"dispute_account_id": HOSTILE, "name": ""}, {"dispute_account_id", "name"}),
    "lookups": ("page/accounts/1", "Add lookups", {"lookups": "many"}, {"lookups"}),
    "range": ("page/accounts/1", "Add lookups", {"last": "2000-01-01", "lookups": "1"}, {"last"}),
    "fault": ("page/faults/arm", "Arm a fault", {"status": "99", "path": "x", "delay_ms": "[2, 1]", "headers": HOSTILE}, {"status", "path", "delay_ms", "headers"}),
    "clock": ("page/service", "Stop at this time", {"now": "soon"}, {"now"}),
    "instance": ("page/service", "Create an instance", {"seed": HOSTILE, "name": "x" * 101}, {"seed", "name"}),
}  # fmt: skip


@pytest.mark.parametrize(
    "person",
    [BROWSERS["script-wide-light"], BROWSERS["no-script-narrow-light"]],
    ids=["script-wide", "no-script-narrow"],
    indirect=True,
)
@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_stands_next_to_its_field(person, fense, name):
    path, button, typed, blamed = REFUSALS[name]
    before, page = fense.state(), person.page
    page.goto(f"{fense.standin_url}/{path}")
    form = person.form(button)
    for field, text in typed.items():
        form.locator(f"[name={field}]").fill(text)
    person.click("button", button)
    expect(page.get_by_role("alert")).to_be_visible()
    invalid = page.locator("[aria-invalid=true]").all()
    assert {field.get_attribute("name") for field in invalid} == blamed
    expect(invalid[0]).to_be_focused()
    for field in invalid:
        expect(field).to_have_value(typed[field.get_attribute("name")])
        message = page.locator("label").filter(has=page.locator(f"[name={field.get_attribute('name')}]")).locator(".blame")  # fmt: skip
        expect(message).to_be_visible()
        where, what = message.bounding_box(), field.bounding_box()
        assert 0 <= what["y"] - where["y"] - where["height"] < 10
        assert abs(where["x"] - what["x"]) < 30
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("window.ran") is None
    assert fense.state() == before


def test_what_is_done_is_said_once(fense, look):
    page = look("page/service?done=reset")
    expect(page.get_by_text("The stand-in was reset.")).to_be_focused()
    assert page.url == f"{fense.standin_url}/page/service"
    page.reload()
    expect(page.locator(".done")).to_have_count(0)


# --- Hostile names ---------------------------------------------------------------------------------


@pytest.fixture
def hostile(fense, api):
    """A stand-in in which whatever can be named has a hostile name."""
    account = api.new_account(name=HOSTILE)["fense_account_id"]
    fense.record_lookups(account, 3, -1)
    fense.fail(503, path='/"><script>window.ran=1</script>', message=HOSTILE, times=0)
    api.post("/_standin/instances", {"name": HOSTILE})
    api.post(f"/accounts/{account}", {HOSTILE: HOSTILE, "name": HOSTILE})
    api.get(f"/accounts/{account}?x=%22%3E%3Cscript%3Ewindow.ran=1%3C/script%3E")
    api.post(f"/accounts/{account}", {"name": HOSTILE + "2"})
    fense.fail(502, body=HOSTILE, content_type="text/html", headers={"X-A": HOSTILE[:20]})
    api.client.get("/accounts/1", headers=fense.headers, status=502)
    return fense


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_crawl_of_every_link_runs_nothing_and_changes_nothing(hostile, look, viewport):
    state = [hostile.state(), hostile.faults(), hostile.requests(), len(hostile.app.instances)]
    page = look(viewport=viewport)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    methods = set()
    page.on("request", lambda sent: methods.add(sent.method))
    seen, left = set(), [f"{hostile.standin_url}/"]
    while left:
        url = left.pop()
        if url in seen or not url.startswith(hostile.standin_url):
            continue
        seen.add(url)
        if url.endswith("/state.json"):  # a download
            continue
        page.goto(url)
        assert page.evaluate("window.ran") is None, url
        assert page.evaluate("document.querySelectorAll('main script, main img').length") == 0, url
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), url
        left += page.evaluate("Array.from(document.links, link => link.href.replace(/#.*/, ''))")
        left += page.evaluate(
            "Array.from(document.forms, form => form.action + '?' + new URLSearchParams("
            "Array.from(new FormData(form)).filter(([name]) => name != 'token')))"
        )
    assert len(seen) > 40
    assert methods == {"GET"}
    assert [
        hostile.state(),
        hostile.faults(),
        hostile.requests(),
        len(hostile.app.instances),
    ] == state
