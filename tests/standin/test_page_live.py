"""A page waits for the next request, and holds nobody up meanwhile."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import TIMEOUT, call_standin, connect, http_request, port_of, wait_until

from fense_admin.standin import waits

CHANGES = "/_standin/page/changes"


@pytest.fixture
def follow(fense):
    """Starts so many waits for the next change; gives futures of (status, changes since then)."""
    with ThreadPoolExecutor(waits.MAX_PAGES) as pool:

        def ask(seen):
            status, _, text = call_standin(fense, "GET", f"{CHANGES}?after={seen}", timeout=TIMEOUT)
            return status, int(text) - seen

        def follow(count=1):
            seen = changes(fense)
            futures = [pool.submit(ask, seen) for _ in range(count)]
            wait_until(lambda: waiting(fense) == count)
            return futures

        yield follow
        fense.app.journal.end_waits()


def waiting(fense):
    """The number of pages that wait."""
    return waits.MAX_PAGES - fense.app.journal._page_slots._value


def changes(fense):
    """What a page has seen by now."""
    return int(call_standin(fense, "GET", CHANGES)[2])


def test_an_earlier_change_is_reported_at_once(fense):
    seen = changes(fense)
    call_standin(fense, "GET", "/accounts/1")
    began = time.monotonic()
    _, _, text = call_standin(fense, "GET", f"{CHANGES}?after={seen}")
    assert int(text) - seen == 2  # it came, and was answered
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_request_and_an_empty_journal_end_a_wait(fense, follow, method):
    (future,) = follow()
    path = {"GET": "/accounts/1", "DELETE": "/_standin/requests"}[method]
    call_standin(fense, method, path)
    assert future.result(TIMEOUT) in ((200, 1), (200, 2))


def test_a_reset_ends_a_wait(fense, follow):
    (future,) = follow()
    fense.reset()
    assert future.result(TIMEOUT)[0] == 200


def test_a_request_that_is_in_flight_ends_a_wait(fense, follow):
    (future,) = follow()
    fense.fail(delay_ms=600_000)
    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as stack:
        stack.callback(fense.disarm)
        pool.submit(call_standin, fense, "GET", "/accounts/usage", timeout=TIMEOUT)
        assert future.result(TIMEOUT) == (200, 1)
        (future,) = follow()
    assert future.result(TIMEOUT) == (200, 1)


def test_twenty_pages_hold_nobody_up_and_one_more_is_refused(fense, follow):
    futures, seen = follow(waits.MAX_PAGES), changes(fense)
    began = time.monotonic()
    assert call_standin(fense, "GET", f"{CHANGES}?after={seen}")[0] == 503
    assert call_standin(fense, "GET", "/_standin/")[0] == 200
    with fense.app.journal._slots:  # that of tests that wait is another one
        assert call_standin(fense, "GET", "/_standin/requests?wait_ms=1")[0] == 200
    assert waiting(fense) == waits.MAX_PAGES
    call_standin(fense, "GET", "/accounts/1")
    assert {future.result(TIMEOUT)[0] for future in futures} == {200}
    assert time.monotonic() - began < 10
    assert waiting(fense) == 0


def test_the_wait_of_a_page_that_was_closed_ends(fense):
    seen = changes(fense)
    with connect(port_of(fense)) as sock:
        sock.sendall(http_request(f"GET {CHANGES}?after={seen}"))
        wait_until(lambda: waiting(fense) == 1)
    wait_until(lambda: waiting(fense) == 0)


@pytest.mark.parametrize("query", ["after=x", "after=-1", "after=1.5", f"after={'9' * 30}", "x=1"])
def test_a_number_that_makes_no_sense_is_refused(seeded_api, query):
    answer = seeded_api.get(f"{CHANGES}?{query}")
    assert answer.status == 400
    assert answer.body["error"]["details"][0]["field"] == query.partition("=")[0]


def test_it_is_open_where_the_page_is(seeded, seeded_api):
    assert seeded_api.get(CHANGES, key=None).status == 401
    assert seeded_api.client.get(CHANGES, headers={"x-api-key": seeded.master_key}).text.isdigit()
