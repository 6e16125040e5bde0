"""The page in a browser: what a person does to find out why a request failed."""

import contextlib
import http.client
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import pytest
from browsing import NARROW, WIDE
from conftest import CHECKOUT, SEED, npm_install, run_program, tools, wait_until
from playwright.sync_api import expect

from fense_admin.standin import StandIn, waits
from fense_admin.standin import page as standin_page

pytestmark = pytest.mark.slow

KEY = "local-dev-key"
VIEWS = ["", "page/requests/{number}", "page/accounts", "page/accounts/1"]
VIEWS += ["page/accounts/1?by=month", "page/faults", "page/service"]
VIEWS += ["page/documentation", "page/documentation/control-plane", "page/nothing", "?status=x"]
VIEWS += ["page/requests/again/{number}/send", "page/documentation/api/createAccount/try"]
FORM_PAGES = ["page/accounts/create", "page/accounts/1/change", "page/faults/arm", "page/reset"]
FORM_PAGES += ["page/state/load", "page/instances/create", "page/service?done=reset"]
LONG = "a_very_long_name_without_a_place_to_break_it" * 5


@pytest.fixture
def fense():
    with StandIn(SEED, master_key=KEY) as fense:
        yield fense


def send(fense, method, path, body=None, key=KEY):
    """A request as any client sends it; gives the status."""
    connection = http.client.HTTPConnection(fense.url.removeprefix("http://"), timeout=10)
    headers = {"x-api-key": key, "Content-Type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def misspelt(fense):
    fields = {
        "api_key": "sk_browser_0001",
        "name": "Acme",
        "emial": "a@b.example",
        "supress_billing": True,
    }
    assert send(fense, "POST", "/accounts", fields) == 400


# --- Why did my request fail -------------------------------------------------------------------


def count_changes(page):
    page.evaluate(
        "window.changes = []; new MutationObserver(found => changes.push(...found)).observe("
        "document.body, {subtree: true, childList: true, attributes: true, characterData: true})"
    )


def test_requests_appear_as_they_arrive(fense, look):
    page = look()
    expect(page.get_by_text("No requests yet")).to_be_visible()
    send(fense, "GET", "/accounts/1")
    page.get_by_role("link", name="GET /accounts/1").wait_for()
    send(fense, "GET", "/accounts/99")
    page.get_by_text("no account has this fense_account_id").wait_for()
    statuses = page.locator(".requests .status").all_inner_texts()
    assert statuses == ["404 Not Found", "200 OK"]
    expect(page).to_have_title(re.compile(r"^\(1 failed\) Requests "))
    expect(page.locator(".sum[role=status]")).to_have_text("2 requests, 1 failed.")


def test_a_fault_that_is_used_up_leaves_the_head_too(fense, look):
    fense.fail(503)
    page = look()
    expect(page.get_by_role("link", name="Faults 1 armed")).to_be_visible()
    send(fense, "GET", "/accounts/1")
    expect(page.get_by_text("1 armed")).to_be_hidden()


def test_while_nothing_happens_nothing_is_asked_and_nothing_changes(fense, look):
    send(fense, "GET", "/accounts/1")
    page = look()
    wait_until(lambda: is_followed(fense))
    asked = []
    page.on("request", lambda sent: asked.append(sent.url))
    count_changes(page)
    page.wait_for_timeout(1500)
    assert (asked, page.evaluate("changes.length")) == ([], 0)
    send(fense, "GET", "/accounts/1")
    expect(page.locator(".requests tbody tr")).to_have_count(2)
    assert page.evaluate("changes.length") > 0


def test_after_a_wait_without_a_change_the_list_is_not_fetched_again(fense, look, monkeypatch):
    monkeypatch.setattr(standin_page, "CHANGE_TIMEOUT", 0.2)
    page = look()
    asked = []
    page.on("request", lambda sent: asked.append(sent.url))
    page.wait_for_timeout(1000)
    assert len(asked) >= 2
    assert [url for url in asked if "/page/changes?" not in url] == []


def is_followed(fense):
    """Whether a page waits for the next request."""
    return fense.app.journal._page_slots._value < waits.MAX_PAGES


def test_a_hidden_page_and_one_that_is_not_live_ask_nothing(fense, look):
    page = look()
    wait_until(lambda: is_followed(fense))
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true}); "
    hide += "document.dispatchEvent(new Event('visibilitychange'))"
    page.evaluate(hide % "true")
    wait_until(lambda: not is_followed(fense))
    send(fense, "GET", "/accounts/1")
    page.evaluate(hide % "false")
    page.get_by_role("link", name="GET /accounts/1").wait_for()
    page.get_by_label("Live").uncheck()
    wait_until(lambda: not is_followed(fense))
    page.reload()
    expect(page.get_by_label("Live")).not_to_be_checked()
    assert not is_followed(fense)
    send(fense, "GET", "/accounts/2")
    page.get_by_label("Live").check()
    page.get_by_role("link", name="GET /accounts/2").wait_for()


def test_where_it_is_refused_it_asks_again_later(fense, look):
    room = fense.app.journal._page_slots
    with contextlib.ExitStack() as taken:
        for _ in range(waits.MAX_PAGES):
            taken.enter_context(room)
        page = look()
        expect(page.get_by_text("No connection: trying again")).to_be_visible()
        asked = []
        page.on("request", lambda sent: asked.append(time.monotonic()))
        for _ in range(2):  # after 1 s, and after 2 s more
            page.wait_for_event("response")
        assert asked[1] - asked[0] > 1.5
    send(fense, "GET", "/accounts/1")
    page.get_by_role("link", name="GET /accounts/1").wait_for()
    expect(page.get_by_text("No connection: trying again")).to_be_hidden()


def test_new_requests_leave_what_is_typed_selected_and_focused(fense, look):
    send(fense, "GET", "/accounts/1")
    page = look()
    page.get_by_label("Account").fill("9")
    page.get_by_role("link", name="GET /accounts/1").focus()
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.requests .at'))")
    selected = page.evaluate("String(getSelection())")
    send(fense, "GET", "/accounts/99")
    page.get_by_role("link", name="GET /accounts/99").wait_for()
    assert page.evaluate("String(getSelection())") == selected != ""
    assert page.evaluate("document.activeElement.innerText") == "GET /accounts/1"
    expect(page.get_by_label("Account")).to_have_value("9")


def test_new_requests_keep_the_filter_and_leave_what_is_read_in_its_place(fense, look):
    for number in range(100, 140):
        send(fense, "GET", f"/accounts/{number}")
    page = look("?failed=1")
    row = page.get_by_role("link", name="GET /accounts/110")
    row.scroll_into_view_if_needed()
    before = row.bounding_box()["y"]
    send(fense, "GET", "/accounts/1")
    send(fense, "GET", "/accounts/200")
    page.get_by_role("link", name="GET /accounts/200").wait_for(state="attached")
    assert abs(row.bounding_box()["y"] - before) < 1
    assert page.evaluate("scrollY") > 0
    expect(page.get_by_role("link", name="GET /accounts/1", exact=True)).to_have_count(0)


def test_a_request_is_in_flight_and_then_answered(fense, look):
    """Its row is the same one, and so is the link that has the focus."""
    fense.fail(delay_ms=60_000, path="/accounts/1")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(send, fense, "GET", "/accounts/1")
        page = look()
        page.get_by_text("in flight").wait_for()
        page.get_by_role("link", name="GET /accounts/1").focus()
        fense.disarm()
        assert waiting.result(timeout=10) == 200
    page.get_by_text("200 OK").wait_for()
    expect(page.locator(".requests tbody tr")).to_have_count(1)
    expect(page.locator(".requests tr.ok")).to_have_count(1)
    assert page.evaluate("document.activeElement.innerText") == "GET /accounts/1"


def test_a_reset_is_shown_as_it_happens(fense, look):
    for number in range(1, 60):
        send(fense, "GET", f"/accounts/{number}")
    page = look()
    expect(page.get_by_text("Page 1 of 2")).to_be_visible()
    fense.reset()
    page.get_by_text("No requests yet").wait_for()
    expect(page.locator(".curl.sh button")).to_have_count(1)
    send(fense, "GET", "/accounts/99")
    page.get_by_role("link", name="GET /accounts/99").wait_for()
    expect(page.locator(".requests tbody tr")).to_have_count(1)
    page.get_by_text("404 Not Found").wait_for()
    live = page.locator("#live").inner_html().replace('<button type="button">Copy</button>', "")
    page.reload()
    page.get_by_text("404 Not Found").wait_for()
    again = page.locator("#live").inner_html().replace('<button type="button">Copy</button>', "")
    assert live == again


def test_the_reason_of_a_400_is_two_clicks_away(fense, look):
    misspelt(fense)
    send(fense, "GET", "/accounts/1")
    page = look()
    page.get_by_role("checkbox", name="Failed only").check()
    page.get_by_role("button", name="Filter").click()
    expect(page.locator(".requests tbody tr")).to_have_count(1)
    page.get_by_role("link", name="POST /accounts").click()
    page.get_by_role("heading", name="Why").wait_for()
    row = page.get_by_role("row", name="supress_billing")
    expect(row.get_by_text("is not accepted here; did you mean suppress_billing?")).to_be_visible()
    beside = page.locator("mark").filter(has_text='"emial"')
    assert "did you mean email?" in beside.inner_text()
    page.get_by_role("link", name="All requests").click()
    expect(page.locator(".requests tbody tr")).to_have_count(2)


def test_a_fault_is_seen_armed_and_then_used(fense, look):
    fense.fail(503, method="POST", path="/accounts", times=2)
    page = look()
    page.get_by_role("link", name="Faults 1 armed").click()
    row = page.get_by_role("row", name="responds with 503")
    used = row.locator("td[data-label=Used]")
    expect(used).to_have_text("0")
    misspelt_status = send(fense, "POST", "/accounts", {})
    assert misspelt_status == 503
    page.reload()
    assert used.inner_text().split()[0] == "1"
    row.get_by_role("link", name="POST /accounts").click()
    expect(page.get_by_text("Fault 1 was used: it responds with 503.")).to_be_visible()
    send(fense, "POST", "/accounts", {})
    page.get_by_role("link", name="Faults", exact=True).first.click()
    expect(page.get_by_text("No fault is armed.")).to_be_visible()
    expect(page.get_by_role("heading", name="Used up or disarmed")).to_be_visible()


def test_a_curl_line_is_copied(fense, look):
    misspelt(fense)
    page = look(
        f"page/requests/{fense.app.journal[-1].number}",
        permissions=["clipboard-read", "clipboard-write"],
    )
    page.get_by_role("button", name="Copy").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator(".curl code").first.inner_text()
    assert copied.startswith(f"curl {fense.url}/accounts \\\n")


# --- Accounts ----------------------------------------------------------------------------------


def test_the_chart_of_an_account_follows_the_range(fense, look):
    fense.set_clock("2026-11-30T12:00:00Z")
    page = look("page/accounts")
    page.get_by_role("link", name="Acme Ltd").click()
    chart = page.get_by_role("img", name="Lookups by day from 2026-11-01 to 2026-11-30: 19 in all")
    chart.wait_for()
    bars = [bar.bounding_box() for bar in chart.locator("rect").all()]
    assert [round(bar["height"] / bars[0]["height"], 1) for bar in bars] == [1.0, 0.6]
    assert bars[0]["width"] > 5
    page.get_by_label("From", exact=True).fill("2026-11-02")
    page.get_by_role("combobox", name="By").select_option("month")
    page.get_by_role("button", name="Show").click()
    page.get_by_role(
        "img", name="Lookups by month from 2026-11-02 to 2026-11-30: 7 in all"
    ).wait_for()
    assert page.locator(".numbers tbody tr").inner_text().split() == ["2026-11", "7"]


def test_ten_thousand_accounts_come_in_pages_and_are_found(fense, look):
    fields = {"email": "owner@m.example", "usage": {"-1": 5}}
    accounts = [
        {"api_key": f"sk_many_{n:06}", "name": f"Merchant {n}", **fields} for n in range(10_000)
    ]
    fense.load({"accounts": accounts})
    page = look("page/accounts")
    expect(page.get_by_text("10,000 accounts, the newest first")).to_be_visible()
    expect(page.get_by_text("Page 1 of 200")).to_be_visible()
    page.get_by_role("link", name="Older").click()
    expect(page.locator(".accounts tbody tr")).to_have_count(50)
    expect(page.get_by_role("link", name="Merchant 9949")).to_be_visible()
    page.get_by_label("Find").fill("merchant 777")
    page.get_by_label("Find").press("Enter")
    page.get_by_text("11 accounts found").wait_for()
    expect(page.locator(".accounts .spark rect")).to_have_count(11)


# --- In every browser ----------------------------------------------------------------------------


@pytest.fixture
def busy(fense):
    """A stand-in with something of each kind, and with what is long."""
    fense.create_account(
        name=f"Дом {LONG}",
        email=f"{LONG}@x.example"[-60:],
        dispute_account_id="6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11",
    )
    fense.record_lookups(1, 10**12, -1)
    fense.fail(503, path="/accounts", headers={"X-Long": LONG}, message=LONG, times=0)
    fense.fail(drop="reset", path="/accounts/7", times=0)
    send(fense, "GET", f"/accounts/{LONG}?{LONG}={LONG}")
    with contextlib.suppress(OSError):
        send(fense, "GET", "/accounts/7")
    send(fense, "POST", "/accounts", {})
    send(fense, "POST", "/accounts/1", {"is_active": True})
    assert send(fense, "POST", "/_standin/instances", {}) == 201
    fense.set_clock("2026-11-03T12:00:00Z")
    send(fense, "POST", "/accounts/1", {LONG: LONG, "name": ""})
    return fense


def paths(fense):
    number = fense.app.journal[-1].number
    return [path.format(number=number) for path in [*VIEWS, *FORM_PAGES]]


def refused(page, fense):
    """Leave the page at a form that was refused, with a message beside each of its fields."""
    page.goto(f"{fense.standin_url}/page/faults/arm")
    for field in page.locator("form.act input[type=text], form.act textarea").all():
        field.fill(LONG)
    page.get_by_role("button", name="Arm a fault").click()
    expect(page.locator(".blame").nth(5)).to_be_visible()


def test_no_view_scrolls_sideways(busy, look):
    for viewport in (WIDE, NARROW):
        page = look(viewport=viewport)
        for path in paths(busy):
            page.goto(f"{busy.standin_url}/{path}")
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= viewport["width"], path
            cut = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('thead')).map(e => e.outerHTML)"
            assert page.evaluate(cut) == [], path
        refused(page, busy)
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        assert page.evaluate(cut) == []


def test_no_flag_breaks_within_a_word(busy, look):
    fense = busy
    fense.create_account(name=LONG, email=f"a@{LONG}"[:60], suppress_notifications=True)
    fense.create_account(name="Acme", suppress_billing=True)
    for width in (1280, 1024, 768, 720, 360):
        page = look("page/accounts", viewport={"width": width, "height": 800})
        broken = """[...document.querySelectorAll('.flags')].flatMap(cell => {
            const text = cell.firstChild, range = document.createRange();
            return [...text.data.matchAll(/\\S+/g)].filter(word => {
                range.setStart(text, word.index);
                range.setEnd(text, word.index + word[0].length);
                return range.getClientRects().length > 1;
            }).map(word => word[0]);
        })"""
        assert page.evaluate(broken) == [], width
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("scheme", "viewport"), [("light", WIDE), ("dark", NARROW)])
def test_axe_finds_nothing(busy, look, scheme, viewport):
    tools("npm")
    axe = (npm_install("tests/browser") / "axe-core" / "axe.min.js").read_text()
    page = look(viewport=viewport, color_scheme=scheme)

    def check(where):
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        page.evaluate(axe)
        found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
        blamed = [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]
        assert blamed == [], where

    for path in paths(busy):
        page.goto(f"{busy.standin_url}/{path}")
        check(path)
    refused(page, busy)
    check("refused")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keys").click()
    check("keys")


def test_it_is_valid_html(busy, tmp_path):
    tools("npm")
    html_validate = npm_install("tests/browser") / ".bin" / "html-validate"
    token = {"token": busy.app.guard.token}
    form = token | dict.fromkeys(("name", "status", "path", "delay_ms", "now", "lookups"), LONG)
    asked = [("GET", path, {}) for path in paths(busy)]
    asked += [("POST", path, form) for path in FORM_PAGES[:3]]
    for number, (method, path, sent) in enumerate(asked):
        connection = http.client.HTTPConnection(busy.url.removeprefix("http://"), timeout=10)
        connection.request(method, f"/_standin/{path}", urlencode(sent), {"Accept": "text/html"})
        (tmp_path / f"{number}.html").write_bytes(connection.getresponse().read())
        connection.close()
    run_program(
        html_validate, "-c", CHECKOUT / "tests/browser/.htmlvalidate.json", tmp_path, cwd=CHECKOUT
    )


def test_dark_is_dark_and_print_is_plain(fense, look):
    back = "getComputedStyle(document.body).backgroundColor"
    light, dark = look(), look(color_scheme="dark")
    assert light.evaluate(back) == "rgb(255, 255, 255)"
    assert sum(map(int, re.findall(r"\d+", dark.evaluate(back)))) < 150
    light.emulate_media(media="print")
    expect(light.get_by_role("navigation").first).to_be_hidden()
    expect(light.get_by_role("heading", name="Requests")).to_be_visible()


def test_it_takes_no_script(fense, look):
    misspelt(fense)
    page = look(java_script_enabled=False)
    page.get_by_label("Status").fill("4xx")
    page.get_by_label("Path").fill("ACCOUNTS")
    page.get_by_label("Account").fill("")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("link", name="POST /accounts").click()
    expect(page.get_by_text("is not accepted here; did you mean email?").first).to_be_visible()
    page.get_by_role("link", name="Accounts", exact=True).click()
    page.get_by_text("Create an account").first.click()
    expect(page.get_by_role("button", name="Create an account")).to_be_visible()
    page.get_by_role("link", name="Acme Ltd").click()
    page.get_by_role("link", name="Documentation").click()
    page.get_by_role("link", name="The control plane").click()
    page.get_by_role("link", name="POST /faults").click()
    expect(page).to_have_url(re.compile("/page/documentation/control-plane#armFault$"))


def test_the_keyboard_finds_the_content_first(fense, look):
    page = look("page/accounts")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "find"


@pytest.mark.parametrize("path", ["", "page/accounts/1", "page/faults", "page/service"])
def test_tab_reaches_everything_in_the_order_of_the_page(busy, look, path):
    page = look(path)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    wanted = page.evaluate("""window.all = [...document.querySelectorAll('a[href], button, summary, '
        + 'input:not([type=hidden]), select, textarea, [tabindex="0"]')].filter(it =>
            it.checkVisibility()); all.length""")
    reached = []
    while not reached or reached[-1] is not None:
        page.keyboard.press("Tab")
        at = page.evaluate("(at => at < 0 ? null : at)(all.indexOf(document.activeElement))")
        if reached[-1:] != [at]:  # a date has three parts
            reached.append(at)
        assert len(reached) <= wanted + 1
    assert reached == [*range(wanted), None]


def test_keys_move_between_rows_and_open_one(fense, look):
    for number in (1, 2, 3):
        send(fense, "GET", f"/accounts/{number}")
    page = look()
    focused = "document.activeElement.innerText"
    page.keyboard.press("k")
    assert page.evaluate(focused) == "GET /accounts/3"
    for key, expected in (("j", 2), ("j", 1), ("j", 1), ("k", 2)):
        page.keyboard.press(key)
        assert page.evaluate(focused) == f"GET /accounts/{expected}"
    for key in ("Control+j", "Alt+j", "Meta+j"):
        page.keyboard.press(key)
        assert page.evaluate(focused) == "GET /accounts/2"
    page.keyboard.press("/")
    page.keyboard.type("/j?k")
    expect(page.get_by_label("Path")).to_have_value("/j?k")
    page.get_by_role("link", name="GET /accounts/2").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/page/requests/*")


def test_a_question_mark_shows_the_keys_and_they_can_be_switched_off(fense, look):
    page = look("page/accounts")
    dialog = page.get_by_role("dialog", name="Keys")
    page.keyboard.press("?")
    expect(dialog).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Keys").click()
    dialog.get_by_label("Use these keys").uncheck()
    dialog.get_by_role("button", name="Close").click()
    for _ in range(2):
        page.keyboard.press("/")
        page.keyboard.press("?")
        expect(dialog).to_be_hidden()
        assert page.evaluate("document.activeElement.name") != "find"
        page.reload()


def test_under_a_key_of_its_own_the_browser_asks_for_it(browser, look):
    with StandIn(SEED, master_key="another-key-1234") as fense:
        context = browser.new_context(
            http_credentials={"username": "any", "password": "another-key-1234"}
        )
        page = context.new_page()
        page.goto(f"{fense.standin_url}/page/accounts")
        page.get_by_role("link", name="Acme Ltd").click()
        page.wait_for_url("**/page/accounts/1")  # and for what it loads
        page.get_by_label("suppress_billing").uncheck()
        page.get_by_role("button", name="Save changes").click()
        expect(page.get_by_text("The changes were saved.")).to_be_visible()
        assert fense.state()["accounts"][0]["suppress_billing"] is False
        page.wait_for_load_state()
        assert page.evaluate("document.styleSheets[0].cssRules.length") > 10
        context.close()


def test_nothing_of_this_is_in_the_journal(busy, look):
    before = busy.requests()
    page = look()
    for path in paths(busy):
        page.goto(f"{busy.standin_url}/{path}")
    assert busy.requests() == before
