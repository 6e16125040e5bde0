"""Requests of the journal are sent again from the page: as they were, corrected or changed."""

import threading
import time

import pytest
from conftest import MASTER_KEY, SEED, TIMEOUT, Api
from webtest import TestApp

from fense_admin.standin import StandIn

DEVELOPMENT_KEY = "local-dev-key"
SECRET = "sk_again_secret_0001"


def stand_in(master_key, **options):
    fense = StandIn(SEED, master_key=master_key, serve=False, **options)
    fense.api = Api(fense.app, master_key, None)
    fense.client = fense.api.client
    return fense


@pytest.fixture
def fense():
    """A stand-in in development mode, whose page asks for no key."""
    with stand_in(DEVELOPMENT_KEY) as fense:
        fense.set_clock("2026-11-30T12:00:00Z")  # so that the same request has the same response
        yield fense


@pytest.fixture
def private():
    """A stand-in with a key of its own."""
    with stand_in(MASTER_KEY) as fense:
        fense.client = TestApp(fense.app)
        fense.client.authorization = ("Basic", ("me", MASTER_KEY))
        yield fense


def view_of_newest(fense):
    return fense.client.get(f"/_standin/page/requests/{fense.app.journal[-1].number}")


def button(page, text):
    """The form that has this button."""
    (found,) = [
        form
        for form in page.forms.values()
        if any(text == tag.text for tag in form.html.select("button"))
    ]
    return found


def edit(fense, how="again"):
    """The form to change the newest request in."""
    page = fense.client.get(f"/_standin/page/requests/{how}/{fense.app.journal[-1].number}/send")
    return button(page, "Send again")


def sent(answer, fense):
    """The entry of what was sent, which the page goes to."""
    assert answer.status_int == 303, answer
    entry = fense.app.journal[-1]
    assert answer.location.partition("?")[0].endswith(f"/page/requests/{entry.number}")
    assert answer.follow().status_int == 200
    return entry


def blamed(answer):
    """The messages of a refused form, by their fields."""
    assert answer.status_int == 400
    found = {}
    for field in answer.html.select("[aria-invalid]"):
        found[field["name"]] = field.find_parent("label").select_one(".blame").text.strip()
    return found


def same(old, new):
    """Whether one request is the other again, byte for byte."""
    unlike = [key for key in ("method", "path", "query", "body") if old[key] != new[key]]
    headers = [{k: v for k, v in e["headers"].items() if v != "0"} for e in (old, new)]
    return unlike == [] and headers[0] == headers[1] and old.sent_body == new.sent_body


# --- As it was ---------------------------------------------------------------------------------

AGAIN = {
    "a read": ("GET", "/accounts/1?", b"", {}),
    "with a query": ("GET", "/accounts/usage?start_date=2026-11-01&end_date=2026-11-02", b"", {}),
    "a refused query": ("GET", "/accounts/usage?a=%3C%22&a=%ff&&=", b"", {}),
    "an update": ("POST", "/accounts/1", b'{"suppress_billing": false}', {}),
    "with line breaks": ("POST", "/accounts/1", b'\r\n{"name":\n\n"A"}\r\n', {}),
    "bytes that are not UTF-8": ("POST", "/accounts/1", b'{"name": "\x80\xff"}', {}),
    "control characters": ("POST", "/accounts/1", bytes(range(32)) + b"\x7f\xc2\x80", {}),
    "invisible letters": ("POST", "/accounts/1", "\u200b\u3164\ufe0f\U000e0001a\ufe0f".encode(), {}),
    "markup": ("POST", "/accounts/1", b"</textarea><script>alert(1)</script>&lt;&#34;\"'", {}),
    "an ellipsis": ("POST", "/accounts/1", '{"name": "Acme\u2026"}'.encode(), {}),
    "no key": ("GET", "/accounts/1", b"", {"x-api-key": None}),
    "other headers": ("HEAD", "/accounts/1", b"", {"Accept": "*/*, \xe9", "User-Agent": '"<>&'}),
    "an unknown path": ("DELETE", "/%2e%2e/%00%ff;a=b", b"", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", AGAIN)
def test_a_request_is_sent_again_as_it_was_with_one_click(fense, name):
    method, path, body, headers = AGAIN[name]
    fense.api.call(method, path, body or None, headers=headers)
    old = fense.app.journal[-1]
    new = sent(button(view_of_newest(fense), "Send again").submit(), fense)
    assert new is not old
    assert same(old, new)
    assert (new["status"], new["response"]) == (old["status"], old["response"])


@pytest.mark.parametrize("name", AGAIN)
def test_the_form_has_every_byte_of_a_request(fense, name):
    method, path, body, headers = AGAIN[name]
    fense.api.call(method, path, body or None, headers=headers)
    old = fense.app.journal[-1]
    assert same(old, sent(edit(fense).submit(), fense))


# --- What the journal does not have --------------------------------------------------------------

MISSING = {
    "x-api-key": ("POST", "/accounts/1", b"{}", {"x-api-key": "unknown-key-1234"}),
    "headers": ("GET", "/accounts/1", b"", {"X-Trace": "trace-secret-5678"}),
    "body": ("POST", "/accounts", b'{"api_key": "%s", "name": "N"}' % SECRET.encode(), {}),
    "path": ("GET", f"/accounts/usage?api_key={SECRET}", b"", {}),
}
NOTES = {
    "x-api-key": "the journal masks the key of the request: …1234",
    "headers": "… replaces a key, which the journal masks: insert your own",
    "body": "… replaces a key, which the journal masks: insert your own",
    "path": "… replaces a key, which the journal masks: insert your own",
}


def set_missing(form, name):
    """Write what is masked in this field."""
    whole = {
        "x-api-key": "unknown-key-1234",
        "body": MISSING["body"][2].decode(),
        "path": MISSING["path"][1],
    }
    form[name] = whole.get(name) or form[name].value.replace("…5678", "trace-secret-5678")


@pytest.mark.parametrize("name", MISSING)
def test_what_the_journal_masks_is_asked_for(fense, name):
    method, path, body, headers = MISSING[name]
    fense.api.call(method, path, body or None, headers=headers)
    old = fense.app.journal[-1]
    page = view_of_newest(fense)
    assert not [tag for tag in page.html.select("button") if tag.text == "Send again"]
    form = button(page.click("Change it, and send it again"), "Send again")
    assert f"{name} ({NOTES[name]})" in form.text
    assert SECRET not in form.text
    form[name] = form[name].value if name != "x-api-key" else "…1234"
    answer = form.submit(expect_errors=True)
    assert blamed(answer) == {name: "has … in place of a key"}
    assert answer.form[name].value == form[name].value
    form = answer.form
    form[name] = ""
    answer = form.submit(expect_errors=True)
    assert blamed(answer)[name].startswith("is required")
    assert fense.app.journal[-1] is old
    form = edit(fense)
    set_missing(form, name)
    new = sent(form.submit(), fense)
    assert (new["status"], new["path"], new["response"]) == (
        old["status"],
        old["path"],
        old["response"],
    )
    assert new["headers"] == old["headers"]


def test_what_is_missing_is_asked_for_also_where_a_client_sends_the_button(fense):
    fense.api.post("/accounts", {"api_key": SECRET})
    number, token = fense.app.journal[-1].number, fense.app.guard.token
    path = f"/_standin/page/requests/again/{number}/send"
    answer = fense.client.post(path, {"token": token, "again": "1"}, status=400)
    assert blamed(answer) == {"body": "has … in place of a key"}


def test_a_body_that_was_cut_is_asked_for(fense):
    body = '{"name": "' + "x" * 9_000 + '"}'
    fense.api.call("POST", "/accounts/1", body.encode())
    old = fense.app.journal[-1]
    form = edit(fense)
    assert "body (the journal keeps the first 8 KiB of a body: add the rest)" in form.text
    assert blamed(form.submit(expect_errors=True)) == {
        "body": "is only the first 8 KiB: add the rest"
    }
    form["body"] = body
    new = sent(form.submit(), fense)
    assert (new["status"], new["response"]) == (old["status"], old["response"])
    form["body"] = body.replace("x", "…")
    assert sent(form.submit(), fense).sent_body.startswith('{"name": "…'.encode())
    assert '"message": "must be 1 to 255 characters' in new["response"]


def test_a_mask_differs_from_an_ellipsis_that_was_sent(fense):
    fense.api.call("POST", "/accounts/1", '{"name": "Acme…"}'.encode())
    form = edit(fense)
    form["body"] = '{"name": "Acme……"}'
    assert sent(form.submit(), fense)["status"] == 200
    assert fense.state()["accounts"][0]["name"] == "Acme……"


def test_in_development_mode_the_key_is_filled_in(fense):
    fense.api.get("/accounts/1")
    assert edit(fense)["x-api-key"].value == DEVELOPMENT_KEY
    fense.api.get("/accounts/1", key="another-key-0001")
    form = edit(fense)
    assert form["x-api-key"].value == DEVELOPMENT_KEY  # the mistake that one makes
    assert sent(form.submit(), fense)["status"] == 200
    fense.api.get("/accounts/1", key=None)
    assert edit(fense)["x-api-key"].value == ""


def test_a_key_of_ones_own_is_asked_for_and_never_shown(private):
    private.api.get("/accounts/1")
    page = view_of_newest(private)
    form = button(page.click("Change it, and send it again"), "Send again")
    assert form["x-api-key"].value == ""
    assert MASTER_KEY not in page.text + form.text
    assert blamed(form.submit(expect_errors=True)) == {"x-api-key": "is required"}
    form["x-api-key"] = MASTER_KEY
    assert sent(form.submit(), private)["status"] == 200


def test_the_public_key_is_sent_again_where_it_is_none_of_the_keys(private):
    private.api.get("/accounts/1", key=DEVELOPMENT_KEY)
    entry = sent(button(view_of_newest(private), "Send again").submit(), private)
    assert (entry["status"], entry.reason) == (401, "x-api-key is not a known key")
    assert edit(private)["x-api-key"].value == DEVELOPMENT_KEY


# --- Changed, and corrected ------------------------------------------------------------------------


def test_a_request_is_changed_and_sent(fense):
    fense.api.get("/accounts/1")
    form = edit(fense)
    form["method"], form["path"] = "POST", "/accounts/7?x=%20"
    form["headers"] = "Host: localhost\nContent-Type: text/plain\n\nAccept: 1\r\naccept:2"
    form["body"] = '{\n"name": "B"}'
    entry = sent(form.submit(), fense)
    assert (entry["method"], entry["path"], entry["query"]) == ("POST", "/accounts/7", "x=%20")
    assert entry["body"] == '{\n"name": "B"}'
    assert entry["headers"]["content-type"] == "text/plain"
    assert entry["headers"]["content-length"] == "14"
    assert entry["headers"]["accept"] == "1, 2"
    assert entry["status"] == 400
    form = edit(fense)
    assert "content-length" not in form["headers"].value
    form["body"] = "{}"
    assert sent(form.submit(), fense)["headers"]["content-length"] == "2"


WRONG = {
    "method": ["", "get", "GET /", "GÉT"],
    "path": ["", "accounts", "http://localhost/", "/a b", "/a#b", "/é", "/\u200b", "/…", "/⟨U+0000⟩"],
    "headers": ["x", "a b: c", ": x", "x_y: z", "X: \u2026", "x: ⟨U+0000⟩", "x: €", " x: folded", "é: x"],
    "x-api-key": ["…", "a⟨U+0000⟩b", "€"],
    "body": ["⟨U+D800⟩", "x⟨U+DFFF⟩"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in WRONG for text in WRONG[name]])
def test_what_can_not_be_sent_is_refused_beside_its_field(fense, name, text):
    fense.api.get("/accounts/1")
    form = edit(fense)
    form[name] = text
    answer = form.submit(expect_errors=True)
    assert set(blamed(answer)) == {name}
    assert answer.form[name].value == text
    assert len(fense.app.journal) == 1


@pytest.mark.parametrize(
    "text", ["⟨U+110000⟩", "⟨U+12⟩", "</textarea>\"'&lt;\u202e", "\n\n", "\ud7ff"]
)
def test_any_other_text_is_sent_as_it_is(fense, text):
    fense.api.call("POST", "/accounts/1", b"{}")
    form = edit(fense)
    form["body"] = text
    assert sent(form.submit(), fense).sent_body == text.encode()
    assert edit(fense)["body"].value.encode() == text.replace("\u202e", "⟨U+202E⟩").encode()


CORRECTED = {
    "a field": ("POST", "/accounts/1", b'{ "supress_billing" :true, "name": "supress_billing"}', {},
                "suppress_billing", "/accounts/1", b'{ "suppress_billing" :true, "name": "supress_billing"}'),
    "two fields": ("POST", "/accounts/1", b'{"nmae": "A", "is_activ": true}', {},
                   "name, is_active", "/accounts/1", b'{"name": "A", "is_active": true}'),
    "a pattern": ("POST", "/accounts/1", b'{"suppress_billing(": true}', {},
                  "suppress_billing", "/accounts/1", b'{"suppress_billing": true}'),
    "a parameter": ("GET", "/accounts/usage?end_dat%65=2026-11-30&star%5Fdate=2026-11-01", b"", {},
                    "start_date", "/accounts/usage?end_dat%65=2026-11-30&start_date=2026-11-01", b""),
    "a path": ("GET", "/acounts/1?", b"", {}, "/accounts/1", "/accounts/1", b""),
}  # fmt: skip


@pytest.mark.parametrize("name", CORRECTED)
def test_a_guess_is_sent_with_one_click(fense, name):
    method, path, body, headers, meant, right_path, right_body = CORRECTED[name]
    fense.api.call(method, path, body or None, headers=headers)
    assert fense.app.journal[-1]["status"] in (400, 404)
    page = view_of_newest(fense)
    entry = sent(button(page, f"Send it with {meant}").submit(), fense)
    assert entry["status"] == 200, entry["response"]
    assert entry["path"] + ("?" + entry["query"]) * bool(entry["query"]) == right_path
    assert entry.sent_body == right_body


def test_a_guess_waits_for_what_is_masked(fense):
    fense.api.post("/accounts", {"api_key": SECRET, "name": "N", "emial": "a@b"})
    page = view_of_newest(fense)
    assert not [tag for tag in page.html.select("button") if "Send" in tag.text]
    form = button(page.click("Send it with email"), "Send again")
    assert form["body"].value == '{"api_key": "…0001", "name": "N", "email": "a@b"}'
    form["body"] = form["body"].value.replace("…0001", SECRET)
    assert sent(form.submit(), fense)["status"] == 201


@pytest.mark.parametrize(
    "body",
    [
        b'{"xyzzy": 1}',
        b'{"supress_billing": true, "suppress_billing": true}',
        b'{"\\u0073upress_billing": true}',
        b'{"a; did you mean name?": 1, "is not accepted here": 1, "": 2}',
        b"[]",
    ],
)
def test_without_a_guess_that_helps_there_is_no_button(fense, body):
    fense.api.call("POST", "/accounts/1", body)
    page = view_of_newest(fense)
    assert [tag.text for tag in page.html.select("main button") if "Send" in tag.text] == [
        "Send again"
    ]
    assert edit(fense, "corrected")["body"].value == body.decode()


# --- Through the service itself --------------------------------------------------------------------


def test_it_meets_faults_and_a_drop_is_shown_as_what_it_is(fense):
    fense.api.call("POST", "/accounts/1", b'{"name": "New"}')
    page = view_of_newest(fense)
    for options, outcome in (
        ({"status": 503}, "503 Service Unavailable"),
        ({"drop": "reset"}, "connection reset"),
        ({"drop": "empty", "after": True}, "closed without a response"),
        ({"drop": "truncate"}, "response cut short"),
        ({"status": 502, "body": "<b>", "content_type": "text/html"}, "502 Bad Gateway"),
    ):
        fense.fail(**options)
        answer = button(page, "Send again").submit()
        assert sent(answer, fense).fault
        assert answer.follow().html.select_one("h1 .status").text == outcome


def test_a_delay_holds_it_until_it_is_disarmed(fense):
    fense.api.get("/accounts/1")
    form = button(view_of_newest(fense), "Send again")
    fense.fail(delay_ms=600_000)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(form.submit()))
    waiting.start()
    until = time.monotonic() + TIMEOUT
    while fense.faults() and time.monotonic() < until:
        time.sleep(0.01)
    waiting.join(0.05)
    assert waiting.is_alive()
    fense.disarm()
    waiting.join(TIMEOUT)
    assert sent(answers[0], fense)["status"] == 200


def test_a_path_that_the_journal_leaves_out_is_answered_on_the_page(fense):
    fense.api.get("/accounts/1")
    for path, status in (("/healthz", "200"), ("/_standin/faults", "200"), ("/_standin/x", "404")):
        form = edit(fense)
        form["path"] = path
        answer = form.submit()
        assert answer.html.select_one("#answer").text == f"{status} GET {path}"
        assert answer.form["path"].value == path
        assert "x-request-id" in answer.html.select_one("#answer + dl").text.lower()
    assert len(fense.app.journal) == 1


def test_of_two_names_for_one_parameter_the_first_is_corrected(fense):
    fense.api.get("/accounts/usage?star_date=2026-11-01&start_dat=2026-11-01&end_date=2026-11-30")
    form = button(view_of_newest(fense), "Send it with start_date")
    query = "start_date=2026-11-01&start_dat=2026-11-01&end_date=2026-11-30"
    assert sent(form.submit(), fense)["query"] == query
    assert "Send it with" not in view_of_newest(fense).text


def test_very_many_headers_are_refused_in_no_time(fense):
    fense.api.get("/accounts/1")
    form = edit(fense)
    form["headers"] = "a: b\n" * 400_000
    began = time.thread_time()
    assert form.submit(status=400).html.select_one("[role=alert]")
    assert time.thread_time() < began + 3


@pytest.mark.parametrize("name", ["path", "headers", "x-api-key"])
def test_what_the_server_would_find_too_long_is_not_sent(fense, name):
    fense.api.get("/accounts/1")
    start = {"path": "/accounts/1?", "headers": "accept: ", "x-api-key": ""}[name]
    for length, status in ((15_000, 303), (17_000, 400)):
        form = edit(fense)
        form[name] = start + "x" * length
        answer = form.submit(expect_errors=True)
        assert answer.status_int == status
    assert len(fense.app.journal) == 2
    message = "the request line and headers exceed the maximum of 16384 bytes"
    assert answer.html.select_one("[role=alert]").text == message
    assert answer.form[name].value == start + "x" * length


def test_a_form_sends_no_other_form(fense):
    fense.api.get("/accounts/1")
    form = edit(fense)
    form["method"], form["path"] = "POST", "/_standin/page/clock/stop"
    form["body"] = f"token={fense.app.guard.token}&now=2030-01-01T00:00:00Z"
    answer = form.submit()
    assert answer.html.select_one("#answer").text == "403 POST /_standin/page/clock/stop"
    assert fense.app.clock.stopped_at.year == 2026


def test_in_an_instance_and_under_a_prefix_it_goes_there():
    with stand_in(DEVELOPMENT_KEY, prefix="/admin") as fense:
        urls = fense.api.post("/_standin/instances", {}).body
        root = urls["base_url"].removeprefix("http://localhost:80")
        fense.api.get("/admin/accounts/1")
        fense.api.call("GET", f"{root}/acounts/1", key=urls["api_key"])
        (instance,) = fense.app.instances.values()
        (entry,) = instance.plane.journal
        page = fense.client.get(f"{instance.path}/_standin/page/requests/{entry.number}")
        form = button(page.click("Send it with .*"), "Send again")
        assert form["path"].value == "/admin/accounts/1"
        assert form["x-api-key"].value == urls["api_key"]  # as the list of instances shows it
        answer = form.submit()
        assert answer.location.startswith(f"{instance.path}/_standin/page/requests/")
        assert [e["status"] for e in instance.plane.journal] == [404, 200]
        assert instance.plane.journal[-1]["path"] == f"{root}/accounts/1"
        fense.client.get(answer.location).click("Change it").form.submit(status=303)
        assert [e["path"] for e in instance.plane.journal][1:] == [f"{root}/accounts/1"] * 2
        assert len(fense.app.journal) == 1


def test_what_is_gone_from_the_journal_is_not_found(fense):
    fense.api.get("/accounts/1")
    form = button(view_of_newest(fense), "Send again")
    fense.reset()
    assert "no longer in the journal" in form.submit(status=404).json["error"]["message"]


@pytest.mark.parametrize("letter", ["\0", "\u200b", "x", "<", "€"])
def test_a_request_of_any_size_has_a_form_of_bounded_size(fense, letter):
    body = (letter * 9_000).encode()
    fense.api.call("POST", "/accounts/1", body, headers={"User-Agent": "&" * 50_000})
    assert len(view_of_newest(fense).body) < 200_000
    form = edit(fense)
    assert len(form.text) < 200_000
    assert "headers (too long to change in a form)" in form.text
