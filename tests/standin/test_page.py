"""The page for people: what its views show, whom they let in, and what they refuse."""

import base64
import json
import re
import subprocess
import sys
import unicodedata
from urllib.parse import quote

import pytest
from conftest import MASTER_KEY, SEED, SERVICE_KEY, Api, account_fields
from openapi_document import DOCUMENTS

from fense_admin.standin import StandIn
from fense_admin.standin.control import ControlPlane
from fense_admin.standin.faults import DROPS

KEY = {"x-api-key": MASTER_KEY}
VIEWS = ["", "page/accounts", "page/accounts/1", "page/faults", "page/service"]
VIEWS += ["page/documentation", "page/documentation/control-plane"]
VIEWS += ["page/accounts/create", "page/faults/arm", "page/reset", "page/state/load"]
FILES = ["page/page.css", "page/page.js", "page/state.json"]


@pytest.fixture
def see(seeded_api):
    """Opens a view of `seeded`; gives its HTML, parsed."""

    def see(path="", status=200):
        answer = seeded_api.client.get(
            f"/_standin/{path}", headers=KEY | {"Accept": "text/html"}, status=status
        )
        assert answer.content_type == "text/html"
        main = answer.html.main
        for table in main.select("table:has(thead)"):
            heads = len(table.select("thead th"))
            cells = {len(row.select("th, td")) for row in table.select("tbody tr")}
            assert cells <= {heads}, "a column lacks its head, or its cells"
        return main

    return see


def text_of(element):
    """The text as one reads it: one space between words."""
    return " ".join(element.get_text(" ").split())


def rows(main, table="table"):
    """The cells of each row of the first such table."""
    found = main.select_one(table)
    return [
        [text_of(cell) for cell in row.select("th, td")]
        for row in (found.select("tbody tr") if found else [])
    ]


def newest(seeded, see):
    """The view of the newest request."""
    return see(see("").select_one(".requests a")["href"].removeprefix("/_standin/"))


# --- Who may look ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*VIEWS, *FILES])
def test_under_the_development_key_a_view_opens_without_asking(make_app, path):
    plane = ControlPlane(make_app(master_key="local-dev-key"), "local-dev-key")
    api = Api(plane, "local-dev-key", None)
    plane.db.create_account(account_fields())
    urls = api.post("/_standin/instances", {}).body
    assert api.client.get(f"/_standin/{path}").status_int == 200
    assert api.client.head(f"/_standin/{path}").body == b""
    of_instance = urls["standin_url"].removeprefix("http://localhost:80")
    if path != "page/accounts/1":
        assert api.client.get(f"{of_instance}/{path}").status_int == 200
    for url in ("/_standin", of_instance):
        assert api.call("POST", f"{url}/{path}", b"", key=None).status == (403 if path else 401)
        assert api.get(f"{url}/state", key=None).status == 401
    assert len(plane.journal) == 0
    plane.close()


def test_without_the_slash_it_is_the_page_too(make_app):
    api = Api(ControlPlane(make_app(master_key="local-dev-key"), "local-dev-key"), "", None)
    page = api.client.get("/_standin")
    assert re.sub("[0-9.]+ ms", "", page.text) == api.client.get("/_standin/").text
    assert 'href="/_standin/page/page.css"' in page.text
    assert api.get("/").body["error"]["message"].endswith(", a web page is at /_standin/")


@pytest.mark.parametrize("path", [*VIEWS, *FILES])
def test_under_another_key_a_view_takes_that_key_alone(seeded, seeded_api, path):
    def status(**headers):
        return seeded_api.client.get(f"/_standin/{path}", headers=headers, status="*").status_int

    basic = base64.b64encode(f"me:{MASTER_KEY}".encode()).decode()
    assert status() == 401
    assert status(x_api_key="wrong") == status(**{"x-api-key": "wrong"}) == 401
    assert status(**{"x-api-key": SERVICE_KEY}) == 403
    assert status(**KEY) == status(Authorization=f"Basic {basic}") == 200
    assert status(**KEY, Origin="https://evil.example") == 403
    assert status(**KEY, Host="evil.example") == 403
    assert seeded.requests() == []


@pytest.mark.parametrize("path", VIEWS)
def test_a_view_has_nothing_inline_and_nothing_of_another_host(seeded, seeded_api, path):
    seeded.fail(503)
    seeded_api.get("/accounts/9")
    answer = seeded_api.client.get(f"/_standin/{path}", headers=KEY)
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'")
    assert "unsafe" not in policy
    assert not answer.html.select("[style], style, script:not([src]), [onclick]")
    sources = [tag.get("src") or tag["href"] for tag in answer.html.select("[src], [href]")]
    assert [
        s for s in sources if not s.startswith(("/_standin", "#", "data:", "http://localhost"))
    ] == []
    (icon,) = (tag["href"] for tag in answer.html.select("link[rel=icon]"))
    assert re.fullmatch("data:[!$&-;=?-Z_a-z~%]+", icon)  # of a valid URL: no spaces, say


def test_nothing_of_the_page_is_imported_before_it_is_opened():
    program = (
        "import sys; from fense_admin.standin import StandIn\n"
        "with StandIn(serve=False) as fense:\n"
        "    fense.create_account(); print([n for n in sys.modules if 'standin.page' in n])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], timeout=30).rstrip() == b"[]"


# --- What a view refuses -----------------------------------------------------------------------

REFUSALS = [
    ("?nonsense=1", "nonsense", "is not accepted here"),
    ("?status=abc", "status", "must be such as 400, 4xx or none"),
    ("?account=-1", "account", "must be a fense_account_id"),
    ("?failed=yes", "failed", "must be one of 1"),
    ("?page=0", "page", "must be the number of a page, from 1"),
    ("?method=GET&method=POST", "method", "is given twice"),
    ("page/accounts?page=x", "page", "must be the number of a page, from 1"),
    ("page/accounts/1?start_date=2026-02-30", "start_date", "must be a valid date, written YYYY-MM-DD"),
    ("page/accounts/1?by=week", "by", "must be one of day, month"),
    ("page/accounts/1?start_date=2026-11-02&end_date=2026-11-01", "start_date", "must not be after end_date"),
    ("page/accounts/1?start_date=2020-01-01", "start_date", "makes more than 366 days: choose a shorter range"),
    ("page/accounts/1?start_date=0001-01-01&by=month", "start_date", "makes more than 120 months: choose a shorter range"),
    ("page/faults?x=", "x", "is not accepted here"),
    ("page/service?a=b", "a", "is not accepted here"),
    ("page/documentation?a=b", "a", "is not accepted here"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "field", "message"), REFUSALS)
def test_a_wrong_parameter_is_refused_to_programs_and_to_people(
    seeded_api, see, path, field, message
):
    answer = seeded_api.get(f"/_standin/{path}")
    assert answer.status == 400
    assert answer.body["error"]["details"] == [{"field": field, "message": message}]
    assert [field, message] in rows(see(path, status=400))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("page/nothing", "there is no such view"),
        ("page/accounts/99", "no account has this fense_account_id"),
        ("page/accounts/9999999999999999999", "no account has this fense_account_id"),
        ("page/requests/9", "this request is no longer in the journal, which keeps 1000"),
        ("page/../page.css", "there is no such view"),
    ],
)
def test_what_is_not_there_is_not_found(seeded_api, see, path, message):
    answer = seeded_api.get(f"/_standin/{path}")
    assert (answer.status, answer.body["error"]["message"]) == (404, message)
    assert message in text_of(see(path, status=404))


# --- Requests ----------------------------------------------------------------------------------

TWO = '{"api_key": "sk_page_000000001", "emial": "a@b.example", "supress_billing": true}'
FAILURES = {
    "misspelt": ("POST", "/accounts", TWO, {}),
    "not JSON": ("POST", "/accounts", '{"name": }', {}),
    "a list": ("POST", "/accounts", "[]", {}),
    "a form": ("POST", "/accounts", "name=Acme", {"Content-Type": "application/x-www-form-urlencoded"}),
    "gzip": ("POST", "/accounts", "{}", {"Content-Encoding": "gzip"}),
    "taken": ("POST", "/accounts", '{"api_key": "beta", "name": "B", "email": "b@b"}', {}),
    "type": ("POST", "/accounts/1", '{"suppress_billing": "true", "name": 1}', {}),
    "email": ("POST", "/accounts/1", '{"email": "new@b.example"}', {}),
    "no account": ("GET", "/accounts/99", "", {}),
    "no number": ("GET", "/accounts/abc", "", {}),
    "no key": ("GET", "/accounts/1", "", {"x-api-key": None}),
    "merchant's key": ("GET", "/accounts/1", "", {"x-api-key": "sk_test_acme_000001"}),
    "method": ("DELETE", "/accounts/1", "", {}),
    "path": ("GET", "/acounts/1", "", {}),
    "range": ("GET", "/accounts/usage?start_date=2026-11-31&nme=1", "", {}),
    "long": ("POST", "/accounts", "{" + '"x": 1, ' * 5000 + '"x": 1}', {}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_the_reason_of_a_failure_is_in_the_list_and_each_of_its_details_in_its_view(
    seeded_api, see, name
):
    method, path, body, headers = FAILURES[name]
    answer = seeded_api.call(method, path, body.encode(), headers=headers)
    error = answer.body["error"]
    ((status, request, took, at),) = rows(see(""))
    shown = error["message"].replace("; the development key is local-dev-key", "")
    assert status.startswith(str(answer.status))
    assert request.startswith(f"{method} {path} {shown[:200]}")
    assert len(shown) > 300 or request == f"{method} {path} {shown}"
    assert took.endswith(" ms")
    assert at.startswith("20")
    view = newest(seeded_api, see)
    why = view.select_one(".why")
    if not error["details"]:
        assert error["message"] in text_of(why)
    messages_shown = rows(why)
    assert len(messages_shown) == len(error["details"])
    for (field, message), detail in zip(messages_shown, error["details"], strict=True):
        assert field == detail["field"]
        assert message.partition("; did you mean")[0] == detail["message"]


def test_what_is_wrong_stands_beside_the_field(seeded_api, see):
    seeded_api.post("/accounts", TWO.encode())
    view = newest(seeded_api, see)
    assert [text_of(mark) for mark in view.select("pre mark")] == [
        '"emial": "a@b.example", is not accepted here; did you mean email?',
        '"supress_billing": true is not accepted here; did you mean suppress_billing?',
    ]
    assert ["email", "is required"] in rows(view, ".why table")
    seeded_api.get("/accounts/usage?start_date=2026-11-31&end_date=2026-12-01")
    assert rows(newest(seeded_api, see), "#came ~ table") == [
        ["start_date", "2026-11-31 must be a valid date, written YYYY-MM-DD"],
        ["end_date", "2026-12-01"],
    ]


def test_a_field_that_is_known_elsewhere_gets_no_guess(seeded_api, see):
    seeded_api.post("/accounts", account_fields(is_active=True))
    assert rows(newest(seeded_api, see)) == [["is_active", "is not accepted here"]]


def test_a_view_has_the_request_and_its_answer_laid_out(seeded_api, see):
    body = b'{"name":"\\u0414\\u043e\\u043c","suppress_billing":true,"extra":[1.0,{}]}'
    seeded_api.post("/accounts/1", body, headers={"X-Request-Id": "mine-7"})
    view = newest(seeded_api, see)
    assert "mine-7" in text_of(view.select_one("dl"))
    assert view.select_one('dl a[href="/_standin/page/accounts/1"]').text == "1"
    assert ["x-request-id", "mine-7"] in rows(view, "section:nth-of-type(3) table")
    sent, answer = (pre.text for pre in view.select("pre.body"))
    assert sent.replace(" is not accepted here", "") == (
        '{\n  "name": "Дом",\n  "suppress_billing": true,\n  "extra": [\n    1.0,\n    {}\n  ]\n}\n'
    )
    assert answer.startswith('{\n  "error": {\n    "code": "bad_request",\n')


def test_a_body_that_is_longer_than_is_kept_is_shown_as_far_as_it_is(seeded, seeded_api, see):
    for number in range(100):
        seeded.create_account(name=f"Merchant no. {number}")
    seeded_api.get("/accounts/usage")
    view = newest(seeded_api, see)
    assert '\n      "name": "Merchant no. 40",\n' in view.select_one("pre.body").text
    assert "the rest is not shown" in text_of(view)
    seeded_api.post(
        "/accounts", json.dumps(account_fields(name="é" * 5000), ensure_ascii=False).encode()
    )
    assert "keeps the first 8 KiB of a body" in text_of(newest(seeded_api, see))


def test_the_fault_that_responded_is_shown(seeded, seeded_api, see):
    seeded.fail(503, path="/accounts/1", headers={"Retry-After": "7"}, message="come back")
    seeded.fail(drop="empty", times=0, path="/accounts/7")
    assert seeded_api.get("/accounts/1").status == 503
    assert "come back" in rows(see(""))[0][1]
    why = text_of(newest(seeded_api, see).select_one(".why"))
    assert "Fault 1 was used: it responds with 503, with Retry-After: 7." in why
    with pytest.raises(ConnectionResetError):
        seeded_api.get("/accounts/7")
    assert rows(see(""))[0][:2] == ["closed without a response", "GET /accounts/7 by fault 2"]
    assert "closes the connection without a response" in text_of(
        newest(seeded_api, see).select_one(".why")
    )


def test_a_head_says_where_the_reason_is(seeded_api, see):
    seeded_api.call("HEAD", "/accounts/99")
    assert rows(see(""))[0][:2] == [
        "404 Not Found",
        "HEAD /accounts/99 a HEAD gets no message: send it as a GET to see it",
    ]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", "8 7 6 5 4 3 2 1"),
        ("?failed=1", "8 7 6 5 2"),
        ("?method=POST", "7 4 1"),
        ("?status=404", "6 5"),
        ("?status=4xx", "7 6 5 2"),
        ("?status=none", "8"),
        ("?path=USAGE", "3 2"),
        ("?path=start", "2"),
        ("?account=1", "8 4 3 2"),
        ("?account=8", "7"),
        ("?account=2&failed=&method=&status=&path=", "1"),  # as a form sends it
        ("?failed=1&method=GET&path=nix", "6"),
    ],
)  # fmt: skip
def test_filters_leave_what_fits(query, found):
    with StandIn(SEED, master_key=MASTER_KEY, serve=False) as seeded:
        seeded.load({"accounts": [SEED["accounts"][0]]})
        api = Api(seeded.app, MASTER_KEY, None)
        api.new_account()
        api.get("/accounts/usage/1?start_date=x")
        api.get("/accounts/usage?fense_account_id=1")
        api.post("/accounts/1", {"is_active": True})
        api.get("/accounts/99")
        api.get("/nix")
        api.post("/accounts/8", {"nme": ""})
        seeded.fail(drop="reset")
        with pytest.raises(ConnectionResetError):
            api.get("/accounts/1")
        first = seeded.app.journal[0].number
        page = api.client.get(f"/_standin/{query}", headers=KEY).html
        links = [a["href"] for a in page.select(".requests a")]
        numbers = [int(link.rpartition("/")[2]) - first + 1 for link in links]
        assert numbers == [int(number) for number in found.split()]


@pytest.mark.parametrize("find", ["Café", "Cafe\u0301", "CAFÉ", "caf%c3%a9", "%C3%A9"])
def test_a_path_is_found_as_it_was_sent_and_as_it_reads(seeded_api, see, find):
    seeded_api.get(f"/accounts/usage?name={quote('Café')}")
    seeded_api.get("/accounts/1")
    assert len(rows(see(f"?path={quote(find)}"))) == 1


def test_requests_come_in_pages_of_fifty_and_keep_their_filter(seeded_api, see):
    for number in range(1, 121):
        seeded_api.get(f"/accounts/{'x' if number % 2 else ''}{number}")
    pages = [see(f"?status=400&page={page}") for page in (1, 2)]
    assert [len(rows(page)) for page in pages] == [50, 10]
    assert rows(pages[0])[0][1].startswith("GET /accounts/x119 ")
    assert rows(pages[1])[-1][1].startswith("GET /accounts/x1 ")
    assert "120 requests, 120 failed; 60 match the filter." in text_of(pages[0])
    assert pages[0].select_one("a[rel=next]")["href"] == "/_standin/?status=400&page=2"
    assert pages[1].select_one("a[rel=prev]")["href"] == "/_standin/?status=400&page=1"
    assert len(rows(see("?page=99"))) == 20


# --- What a client sent --------------------------------------------------------------------------

MARKUP = "<script>alert(1)</script>\"'&\u202e"


def test_whatever_a_client_sent_is_shown_and_never_run(seeded, seeded_api, see):
    fields = {"name": "<script>alert(1)</script>\"'&", "email": "<b>@x", "<i>": MARKUP}
    seeded_api.post(
        "/accounts", fields, headers={"X-Request-Id": "<script>", "User-Agent": MARKUP[:25]}
    )
    seeded_api.get("/accounts/<script>?<b>=<i>", headers={"Accept": "<u>"})
    seeded.create_account(name=fields["name"], email="<b>@x")
    seeded.fail(503, path="/<b>", message="<script>", headers={"X-A": "<i>"})
    paths = [
        "",
        "page/accounts",
        "page/accounts/8",
        "page/faults",
        "?path=<b>",
        "page/accounts?find=<b>",
    ]
    paths += [a["href"].removeprefix("/_standin/") for a in see("").select(".requests a")]
    assert len(paths) == 8
    for path in paths:
        page = seeded_api.client.get(f"/_standin/{path}", headers=KEY)
        assert len(page.html.select("script")) == 1
        assert not page.html.select("main i, main u")
        assert "\u202e" not in page.text
    assert "<script>alert(1)</script>" in text_of(see("page/accounts/8"))
    assert "⟨U+202E⟩" in text_of(see(paths[-1]))


def test_no_key_is_on_the_page(seeded, seeded_api, see):
    key = "sk_page_secret_99"
    seeded_api.post("/accounts", account_fields(api_key=key, name=""), key="another-secret-key")
    seeded_api.get(f"/accounts/1?api_key={key}", key="another-secret-key")
    for path in [
        "",
        *(a["href"].removeprefix("/_standin/") for a in see("").select(".requests a")),
    ]:
        text = str(see(path))
        assert key not in text
        assert "another-secret-key" not in text
        assert MASTER_KEY not in text


# --- Accounts ----------------------------------------------------------------------------------


def test_accounts_are_listed_with_flags_link_and_thirty_days_by_the_clock(seeded, see):
    seeded.set_clock("2026-11-30T12:00:00Z")
    seeded.record_lookups(1, 1000, "2026-10-31")
    assert rows(see("page/accounts")) == [
        ["7", "Beta b@beta.example", "active", "not linked", "", "0"],
        ["1", "Acme Ltd owner@acme.example", "inactive, no billing", "not linked",
         "2026-11-01: 12 2026-11-02: 7", "19"],
    ]  # fmt: skip
    seeded.set_clock("2026-11-29T23:59:59Z")
    row = rows(see("page/accounts"))[1]
    assert row[4:] == ["2026-10-31: 1,000 2026-11-01: 12 2026-11-02: 7", "1,019"]
    seeded.create_account(
        name="C",
        suppress_notifications=True,
        dispute_account_id="6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11",
    )
    row = rows(see("page/accounts"))[0]
    assert row[2:4] == ["active, no notifications", "6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11"]


@pytest.mark.parametrize(
    ("find", "found"),
    [
        ("acme", ["1"]),
        ("ДОМ", ["8"]),
        ("B@", ["7"]),
        ("7", ["7"]),
        ("0001", ["1"]),
        ("nobody", []),
    ],
)
def test_accounts_are_found_by_what_names_them(seeded, see, find, found):
    seeded.create_account(name="Дом и сад", email="d@x", api_key="sk_x")
    assert [row[0] for row in rows(see(f"page/accounts?find={quote(find)}"))] == found


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_an_account_is_found_however_its_letters_are_written(seeded, see, form):
    name = "Åsa's Café ﬁ Ltd"
    written = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    ids = [str(seeded.create_account(name=name)["fense_account_id"]) for name in written]
    for find in (unicodedata.normalize(form, "CAFÉ FI"), unicodedata.normalize(form, "åSA")):
        assert [row[0] for row in rows(see(f"page/accounts?find={quote(find)}"))] == ids[::-1]


# Letters that are drawn as nothing; the name of each contains no other.
UNSEEN = "\u3164 \u115f \u1160 \uffa0 \u2800 \u180e \u00ad \u034f \u17b4 \u180b \u200b \u2060 \ufe0f \ufeff \U000e0041 \U000e0100 \U0001d159"


@pytest.mark.parametrize("letter", UNSEEN.split(" "), ids=ascii)
def test_a_name_of_invisible_letters_is_a_link_that_can_be_seen(seeded, see, letter):
    name = f"⟨U+{ord(letter):04X}⟩"
    account = seeded.create_account(name=f"{letter}\u2003{letter}")
    link = see("page/accounts").select_one(".accounts a")
    assert link.text == f"{name}\u2003{name}"
    assert see(link["href"].removeprefix("/_standin/")).h1.text == f"{name}\u2003{name}"
    assert account["name"] == f"{letter}\u2003{letter}"


def test_letters_that_choose_a_form_are_left_where_they_do(seeded, see):
    for name in ("I \u2764\ufe0f you", "葛\U000e0100城", "山田　太郎", "दिल्ली"):
        seeded.create_account(name=name)
        assert see("page/accounts").select_one(".accounts a").text == name


def test_accounts_come_in_pages_of_fifty(seeded, see):
    for number in range(8, 129):
        seeded.create_account(name=f"Merchant no. {number}")
    last = see("page/accounts?find=merchant&page=3")
    assert [row[0] for row in rows(last)] == [str(number) for number in range(28, 7, -1)]
    assert last.select_one("a[rel=prev]")["href"] == "/_standin/page/accounts?find=merchant&page=2"
    assert not last.select("a[rel=next]")


def test_an_account_is_shown_with_all_its_fields_and_requests(seeded, seeded_api, see):
    seeded_api.get("/accounts/7")
    seeded_api.get("/accounts/1")
    seeded_api.get("/accounts/usage?fense_account_id=1")
    seeded_api.post("/accounts/1", {"name": "Acme Holdings"})
    seeded_api.post("/accounts/1", {"email": "x@y"})
    account = seeded_api.get("/accounts/1").body
    view = see("page/accounts/1")
    names = [text_of(term) for term in view.select(".fields dt")]
    values = [text_of(value) for value in view.select(".fields dd")]
    assert names == list(account)
    assert values == ["1", "Acme Holdings", "owner@acme.example", "0001", "false", "true", "false", "null", account["created_at"], account["updated_at"]]  # fmt: skip
    assert [row[1].split(" ")[:2] for row in rows(view, ".requests")] == [
        ["GET", "/accounts/1"],
        ["POST", "/accounts/1"],
        ["POST", "/accounts/1"],
        ["GET", "/accounts/usage?fense_account_id=1"],
        ["GET", "/accounts/1"],
    ]
    ((_, update),) = rows(view, ".pairs")
    assert update == '{"name": "Acme Holdings"}'


def test_the_usage_of_an_account_is_shown_by_day_and_by_month(seeded, see):
    seeded.set_clock("2026-11-30T12:00:00Z")
    seeded.record_lookups(1, 5, "2025-12-31")
    seeded.record_lookups(1, 3, "2026-10-31")
    days = see("page/accounts/1")
    assert rows(days, ".numbers table")[::29] == [["2026-11-30", "0"], ["2026-11-01", "12"]]
    assert len(rows(days, ".numbers table")) == 30
    assert text_of(days.select_one("tfoot")) == "Sum 19"
    assert days.select_one(".chart")["aria-label"] == (
        "Lookups by day from 2026-11-01 to 2026-11-30: 19 in all, 12 at most, in 2026-11-01"
    )
    assert len(days.select(".chart rect")) == 2
    months = see("page/accounts/1?by=month")
    assert rows(months, ".numbers table")[::11] == [["2026-11", "19"], ["2025-12", "5"]]
    assert text_of(months.select_one("tfoot")) == "Sum 27"
    chosen = see("page/accounts/1?start_date=2026-10-31&end_date=2026-11-01&by=day")
    assert rows(chosen, ".numbers table") == [["2026-11-01", "12"], ["2026-10-31", "3"]]
    assert see("page/accounts/7").select_one(".chart")["aria-label"] == (
        "No lookups from 2026-11-01 to 2026-11-30"
    )


@pytest.mark.parametrize("now", ["0001-01-05T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_at_the_ends_of_the_calendar_it_shows_what_there_is(seeded, see, now):
    seeded.set_clock(now)
    see("page/accounts")
    for by in ("day", "month"):
        assert rows(see(f"page/accounts/1?by={by}"), ".numbers table")[0] == [
            now[: 10 if by == "day" else 7],
            "0",
        ]


# --- Faults, instances, clock --------------------------------------------------------------------


def test_armed_faults_say_what_they_meet_and_how_often_they_were_used(seeded, seeded_api, see):
    seeded.fail(503, method="POST", path="/accounts", times=2)
    seeded.fail(delay_ms=1, path="/accounts/usage/[0-9]*", times=0)
    seeded.fail(status=418, drop="truncate", path="/account/*")
    seeded_api.post("/accounts", {})
    seeded_api.get("/accounts/usage/1")
    assert rows(see("page/faults")) == [
        ["1", "responds with 503", "the next POST request to /accounts POST /accounts", "1 POST /accounts", "Disarm"],
        ["2", "waits 1 ms, then lets the request be served",
         "all requests to /accounts/usage/[0-9]*, until it is disarmed GET /accounts/usage/{fense_account_id}",
         "1 GET /accounts/usage/1", "Disarm"],
        ["3", "cuts the response 418 short",
         "the next request to /account/* No endpoint of the API has such a path.", "0", "Disarm"],
    ]  # fmt: skip
    seeded_api.post("/accounts", {})
    view = see("page/faults")
    assert len(rows(view)) == 2
    assert rows(view, "h2 + table") == [
        ["1", "responds with 503", "POST /accounts POST /accounts", "2"]
    ]
    seeded.disarm()
    assert "No fault is armed." in text_of(see("page/faults"))


@pytest.mark.parametrize("kind", DROPS)
def test_each_kind_of_drop_is_put_into_words(seeded, seeded_api, see, kind):
    seeded.fail(drop=kind)
    effect = DROPS[kind].effect.format(status=503)
    assert rows(see("page/faults"))[0][1] == effect
    with pytest.raises(ConnectionResetError):
        seeded_api.get("/accounts/1")
    assert f"it {effect}." in text_of(newest(seeded, see))
    assert DROPS[kind].outcome in text_of(see(""))


def test_the_service_view_has_clock_instances_and_where_it_is(seeded, seeded_api, see):
    instance = seeded_api.post("/_standin/instances", {}).body
    seeded.set_clock("2026-11-30T12:00:00Z")
    view = see("page/service")
    facts = dict(
        zip(*[[text_of(e) for e in view.select(f"dl {tag}")] for tag in ("dt", "dd")], strict=True)
    )
    assert facts["API"] == "http://localhost:80"
    assert facts["Control plane"] == "http://localhost:80/_standin"
    assert facts["Prefix"] == "none"
    assert facts["Port"] == "80, for this machine alone"
    assert facts["Database"] == "in memory: it is lost when the process ends"
    assert re.fullmatch(r"3\.\d+\.\d+", facts["SQLite"])
    assert facts["Accounts"] == "2"
    assert "2026-11-30T12:00:00Z, stopped" in view.text
    where = f"{instance['base_url']} key {instance['api_key']}"
    assert rows(view) == [[instance["id"], where, "0 s", "0 s", "0", "0", "End…"]]
    assert view.select_one("table a")["href"] == instance["standin_url"] + "/"


def test_the_page_of_an_instance_is_its_own_and_leads_back(seeded, seeded_api):
    instance = seeded_api.post("/_standin/instances", {"seed": {"accounts": []}}).body
    root = instance["standin_url"].removeprefix("http://localhost:80")
    page = seeded_api.client.get(f"{root}/page/service", headers={"x-api-key": instance["api_key"]})
    assert page.html.select_one("link[rel=stylesheet]")["href"] == f"{root}/page/page.css"
    assert page.html.select_one(".notice a")["href"] == "/_standin/"
    assert "Instances" not in page.html.main.text
    assert instance["base_url"] in page.html.main.text


def test_a_database_file_and_a_prefix_are_shown(make_app, tmp_path):
    path = str(tmp_path / "fense.sqlite3")
    plane = ControlPlane(make_app(path, master_key=MASTER_KEY, prefix="/admin"), MASTER_KEY)
    text = text_of(
        Api(plane, MASTER_KEY, None).client.get("/_standin/page/service", headers=KEY).html
    )
    assert f"Database {path}" in text
    assert "Prefix /admin" in text
    assert "API http://localhost:80/admin" in text


WINDOWS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/143.0.0.0 Safari/537.36"
)
MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/26.0 Safari/605.1.15"


@pytest.mark.parametrize(
    ("headers", "first"),
    [
        ({}, "sh"),
        ({"User-Agent": MAC}, "sh"),
        ({"User-Agent": WINDOWS}, "powershell"),
        ({"User-Agent": "Mozilla/5.0", "Sec-CH-UA-Platform": '"Windows"'}, "powershell"),
        ({"User-Agent": WINDOWS, "Sec-CH-UA-Platform": '"Linux"'}, "sh"),
    ],
)
def test_the_command_for_the_readers_system_comes_first(seeded_api, headers, first):
    seeded_api.call("POST", "/accounts", {})
    number = seeded_api.client.app.journal[-1].number
    second = "sh" if first == "powershell" else "powershell"
    for path in ("page/documentation", f"page/requests/{number}"):
        main = seeded_api.client.get(f"/_standin/{path}", headers=KEY | headers).html.main
        shown, hidden = (main.select(f".curl.{shell}") for shell in (first, second))
        assert len(shown) == len(hidden) > 0
        assert not any(block.find_parent(class_="other") for block in shown)
        others = [block.find_parent("details", class_="other") for block in hidden]
        summary = {"sh": "In sh, bash or zsh", "powershell": "In PowerShell"}[second]
        assert {text_of(details.summary) for details in others} == {summary}


# --- Documentation -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_endpoint_parameter_and_field_of_a_document_is_shown(see, name):
    document = DOCUMENTS[name]
    view = see("page/documentation" + ("/control-plane" if name == "control" else ""))
    sections_shown = view.select(".endpoint")
    assert len(sections_shown) == len(document.operations)
    for section, (method, path, operation) in zip(sections_shown, document.operations, strict=True):
        assert text_of(section.h2) == f"{method.upper()} {path} {operation['summary']}"
        names = [text_of(code) for code in section.select("tbody th code")]
        parameters = [document.resolved(p)["name"] for p in operation.get("parameters", [])]
        bodies = [operation.get("requestBody", {}), next(iter(operation["responses"].values()))]
        fields = {field for body in bodies for field in field_names(document, body)}
        assert names[: len(parameters)] == parameters
        assert {name.rpartition(".")[2] for name in names} == fields | set(parameters)
        assert section.select_one(".curl")


def field_names(document, node):
    """The names of all fields of a body, and of what is within them."""
    if isinstance(node, list):
        return {name for part in node for name in field_names(document, part)}
    if not isinstance(node, dict):
        return set()
    node = document.resolved(node)
    names = set(node.get("properties", {}))
    parts = [*node.get("properties", {}).values()]
    parts += [
        node[key] for key in ("content", "application/json", "schema", "items") if key in node
    ]
    parts += [*node.get("oneOf", []), *node.get("anyOf", [])]
    return names | field_names(document, parts)


def test_the_documentation_says_what_a_value_may_be(see):
    view = see("page/documentation")
    fields = {row[0]: row[1:] for row in rows(view, "section[aria-labelledby=createAccount] table")}
    assert fields["api_key required"][0] == "string, 1 to 255 characters"
    assert fields["dispute_account_id optional"] == [
        "string or null",
        "The linked Dispute.com account, with hex digits in either case; null for no link. Default: null.",
    ]
    usage = view.select_one("section[aria-labelledby=getAccountUsage]")
    assert rows(usage)[1] == [
        "start_date in the query, optional",
        "string",
        "The first day to count. Requires end_date , which must not be earlier.",
    ]
    assert ["daily[].lookups", "integer, 1 to 1,000,000,000,000"] in [
        row[:2] for row in rows(usage, "table ~ table")
    ]
    assert '"daily": [\n    {\n      "date": "2026-11-03"' in usage.select("pre.body")[0].text
    assert [text_of(h) for h in view.select("section[aria-labelledby=errors] h3")] == [
        "400", "401", "403", "404", "413", "500", "503",
    ]  # fmt: skip
