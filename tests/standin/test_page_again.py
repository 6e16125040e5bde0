"""Requests of the journal are sent again from the page: as they were, corrected or changed."""

import pytest
from conftest import MASTER_KEY, SEED, Api

from fense_admin.standin import StandIn

DEVELOPMENT_KEY = "local-dev-key"
JSON = {"Content-Type": "application/json"}


def stand_in(master_key, **options):
    fense = StandIn(SEED, master_key=master_key, serve=False, **options)
    fense.api = Api(fense.app, master_key, None)
    fense.client = fense.api.client
    return fense


@pytest.fixture
def fense():
    """A stand-in in development mode, whose page asks for no key."""
    with stand_in(DEVELOPMENT_KEY) as fense:
        yield fense


@pytest.fixture
def private():
    """A stand-in with a key of its own."""
    with stand_in(MASTER_KEY) as fense:
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
        found[field["name"]] = field.find_next("strong", "blame").text.strip()
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
