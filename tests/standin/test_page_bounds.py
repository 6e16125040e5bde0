"""The page for people shows whatever was sent, quickly and on a page of bounded size."""

import time

import pytest
from conftest import MASTER_KEY, SEED, Api, few
from hypothesis import given, settings
from hypothesis import strategies as st

from fense_admin.standin import StandIn, journal
from fense_admin.standin.page.text import INVISIBLE, clip, named, size

KEY = {"x-api-key": MASTER_KEY}
MAX_BYTES = 200_000
MOST_SECONDS = 0.25  # of this thread: five times what SECURITY.md promises, for a busy machine
LONG = 9_000  # more than the journal keeps
HEAD = 15_000  # about what the server takes of a request line and headers

BODIES = {
    "no names in quotes": b"{name: 'x', note: '" + b"a" * LONG + b"'}",
    "an escape that JSON does not have": b'{"\\x41": 1, "y": "' + b"a" * LONG,
    "an escape without digits": b'{"a": "\\uZZZZ", "y": "' + b"a" * LONG,
    "a number of thousands of digits": b"1" * LONG,
    "opening brackets": b"[" * LONG,
    "nested arrays": b"[" * 4_000 + b"]" * 4_000,
    "nested objects": b'{"a":' * 2_000,
    "a nested array of many values": b"[" * 100 + b"1," * LONG,
    "many values": b"[" + b"1," * LONG,
    "empty strings": b"[" + b'"",' * LONG,
    "a backslash before each quote": b'"\\' * LONG,
    "backslashes": b'"' + b"\\" * LONG,
    "double quotes": b'"' * LONG,
    "single quotes": b"'" * LONG,
    "ampersands": b"&" * LONG,
    "control characters": b"\x01\x02" * LONG,
    "control characters of UTF-8": b'{"a": "' + b"\xc2\x80" * LONG,
    "zero bytes": b"\0" * LONG,
    "bytes that are not UTF-8": b"\x80" * LONG,
    "invisible letters": "\u200b\u3164".encode() * LONG,
    "tags": "\U000e0001".encode() * LONG,
    "half of a character": b'{"\\ud800": 1,' * LONG,
    "line breaks": b"\n" * LONG,
    "one name many times": b"{" + b'"a":1,' * 300 + b'"a":1}',
    "names that are almost right": b"{%s}" % b",".join(b'"supress_billin%03d":1' % n for n in range(300)),
    "multipart": b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n' + b"A" * LONG,
}  # fmt: skip
QUERIES = {
    "names": "a&" * (HEAD // 2),
    "values": "a=&" * (HEAD // 3),
    "ampersands": "%26" * (HEAD // 3),
    "quotes": '"' * HEAD,
    "control characters": "a=" + "%01" * (HEAD // 3),
    "one long value": "a=" + "b" * HEAD,
    "names that are almost right": "".join(f"e{n}nd_date&" for n in range(100)) + "a&" * 6_900,
}
HEADERS = {
    "ampersands": {"User-Agent": "&" * HEAD},
    "single quotes": {"User-Agent": "'" * HEAD},
    "bytes": {"User-Agent": "\x80" * HEAD},
    "many": {f"X-{number}": "&" for number in range(HEAD // 12)},
}


@pytest.fixture(scope="module")
def api():
    """A client of a stand-in that is full of what follows."""
    with StandIn(SEED, master_key=MASTER_KEY, serve=False) as fense:
        api = Api(fense.app, MASTER_KEY, None)
        api.fense = fense
        yield api


def look(api, path):
    """Open a view three times. Returns it, and checks what it cost at the least."""
    times = []
    for _ in range(3):
        began = time.thread_time()
        page = api.client.get(f"/_standin/{path}", headers=KEY, expect_errors=True)
        times.append(time.thread_time() - began)
    assert page.status_int == 200
    assert len(page.body) <= MAX_BYTES
    assert min(times) < MOST_SECONDS
    return page


def look_at_newest(api):
    return look(api, f"page/requests/{api.fense.app.journal[-1].number}")


@pytest.mark.parametrize("name", BODIES)
def test_a_body_of_any_kind_is_shown(api, name):
    api.call("POST", "/accounts", BODIES[name])
    page = look_at_newest(api)
    assert page.html.select(".curl")
    shown = page.html.select_one("pre.body")
    for message in shown.select(".blame"):
        message.decompose()
    came = api.fense.app.journal[-1]["body"] or "\0" * 100
    came = without_space(INVISIBLE.sub(named, came))
    assert without_space(shown.text)[:500] == came[:500]


def test_json_of_thousands_of_lines_is_shown_as_it_came(api):
    body = "[1" + ",1" * 3_000 + "]"
    api.call("POST", "/accounts", body.encode())
    assert look_at_newest(api).html.select_one("pre.body").text == body + "\n"


def test_an_error_is_shown_once_beside_its_field(api):
    api.call("POST", "/accounts", BODIES["one name many times"])
    assert len(look_at_newest(api).html.select("mark")) == 1


def test_what_is_kept_of_an_error_is_bounded_and_has_no_keys(api):
    secret = "sk_page_bounds_00001"
    api.fense.create_account(api_key=secret)
    fields = {secret: 1} | {f"{number}" + "\\" * 1_000: 1 for number in range(30)}
    api.call("POST", "/accounts", fields)
    entry = api.fense.app.journal[-1]
    names = [field for field, _ in entry.details]
    assert (names[:4], len(names)) == (["api_key", "name", "email", "…"], 11)
    assert entry.reason.startswith("api_key is required; ")
    assert len(entry.reason) < journal.MAX_TEXT
    assert secret not in look_at_newest(api).text + entry.reason


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_of_any_kind_is_shown(api, name):
    api.get(f"/accounts/usage?{QUERIES[name]}")
    page = look_at_newest(api)
    rows, more = page.html.select("#came ~ table")[0], page.html.select("#came ~ table ~ .note")
    count = QUERIES[name].count("&") or 1
    left_out = count - len(rows.select("tbody tr"))
    assert more[0].text == f"and {left_out:,} more" if left_out else len(rows.select("tbody tr"))


@pytest.mark.parametrize(
    "body", few([b'{"a":1,' * LONG, b"'&" * LONG, b""]), ids=["JSON", "text", "none"]
)
@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_any_kind_are_shown(api, name, body):
    api.call("POST", "/accounts", body, headers=HEADERS[name])
    page = look_at_newest(api)
    assert "Header" in page
    assert page.html.select(".curl")


def test_a_fault_with_a_message_of_any_length_is_shown(api):
    for message in ("&" * 100_000, "\u3164" * 100_000, "\\" * 100_000):
        api.fense.fail(503, message=message, headers={"X-Long": "&" * 100_000}, times=1)
        look(api, "page/faults")
        api.post("/accounts", BODIES["control characters"], headers=HEADERS["bytes"])
        page = look_at_newest(api)
        assert page.html.select(".why p")[1].text[:5] == INVISIBLE.sub(named, message)[:5]


def test_the_command_for_another_system_is_left_out_where_both_are_too_long(api):
    api.call("POST", "/accounts", b"", headers={"User-Agent": "&" * 15_000})
    (block,) = look_at_newest(api).html.select(".curl")
    assert block["class"] == ["curl", "sh"]


def test_a_line_that_is_too_long_is_left_out(api):
    api.call("POST", "/accounts", b"", headers={"User-Agent": "&" * 50_000})
    page = look_at_newest(api)
    assert not page.html.select(".curl")
    assert "The curl command is too long to show" in page


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
def test_lists_of_such_requests_are_bounded_too(api):
    with StandIn(SEED, master_key=MASTER_KEY, serve=False) as fense:
        lists = Api(fense.app, MASTER_KEY, None)
        lists.fense = fense
        update = b'{"suppress_billing": true}' + b" \n" * 5_000
        for number in range(200):
            fense.fail(503, message="\u3164" * 10_000)
            lists.get(f"/accounts/1?{QUERIES['ampersands']}")
            lists.call("POST", "/accounts/1", update)
            lists.call("X" * HEAD + f"{number}", f"/{'<' * HEAD}", b"")
        for path in ("", "?failed=1", "page/accounts/1", "?account=1", "?path=x", "page/faults"):
            look(lists, path)
        updates = look(lists, "page/accounts/1").html.select_one("section[aria-labelledby=updates]")
        assert len(updates.select("tbody tr")) == 50
        assert updates.select_one(".note").text == "and 150 more"


PIECES = ["[", "]", "{", "}", ",", ":", '"', "\\", "'", "&", "a", "1", " ", "\n", "\r", "\x01", "\x9f", "é", "\u200b", "\u3164", "null", "-", '"a":', '"\\x"', "\\\\"]  # fmt: skip


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(PIECES), st.integers(1, 4_000)), max_size=8), st.booleans()
)
def test_nothing_of_a_body_is_lost(api, pieces, is_long):
    text = "".join(piece * count for piece, count in pieces)
    api.call("POST", "/accounts", (text * 2 if is_long else text)[:30_000].encode())
    entry = api.fense.app.journal[-1]
    (shown, *_) = look_at_newest(api).html.select("pre.body")
    if entry["body"] is None:
        return
    expected = without_space(INVISIBLE.sub(named, entry["body"]))
    shown = without_space(shown.text)
    if not shown.endswith("…"):  # too long to show in full
        assert shown == expected
    else:
        assert expected.startswith(shown[:-1])
        assert len(shown) > 1_000


def without_space(text):
    return "".join(text.split())


@settings(max_examples=30)
@given(st.text(), st.integers(0, 200))
def test_a_text_is_cut_to_its_bytes_as_html(text, most):
    cut = clip(text, most)
    assert cut == text or (cut[-1] == "…" and text.startswith(cut[:-1]))
    assert size(cut) <= max(most, 3)
