"""compare reports each difference of another service once, and none for an equal one."""

import functools
import json

import pytest
from other_fense import MASTER_KEY, PERSONAL, SEED, SERVICE_KEY, OtherFense
from ways_to_differ import CHANGES, WRITTEN

from fense_admin import settings
from fense_admin.comparing import asking, recording, report, writing
from fense_admin.comparing.judging import Comparison
from fense_admin.comparing.lines import read_lines


def compared(asked):
    return report.results(Comparison(asked).differences)


def that_differ(results):
    return [it["line"] for it in results if it["result"] == report.DIFFERS]


def ask(other, accounts=5, numbers=()):
    return asking.ask_all(other.ask, numbers, accounts, has_other_key=True)


def unchanged(request, respond):
    return respond(request)


@functools.cache
def asked_of(name):
    """The responses of a service that differs in this way, and how it compares."""
    asked = ask(OtherFense(CHANGES[name][1]))
    return asked, compared(asked)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_service_like_ours_is_the_same(count):
    other = OtherFense(unchanged, {"accounts": SEED["accounts"][:count]})
    results = compared(ask(other))
    assert that_differ(results) == []
    assert {request.method for request in other.requests} == {"GET", "HEAD"}
    assert len(other.requests) <= asking.max_requests(max(1, count))


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_difference_is_found_once_with_its_line(name):
    line, _ = CHANGES[name]
    asked, results = asked_of(name)
    found = [it for it in results if it["result"] == report.DIFFERS]
    assert [it["line"] for it in found] == [line]
    assert len(found[0]["differences"]) == 1, found
    text = json.dumps(found) + "\n".join(report.printed(results, len(asked)))
    assert not [it for it in (*PERSONAL, MASTER_KEY, SERVICE_KEY) if it in text]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", *WRITTEN])
def test_a_difference_that_a_write_shows_is_found_once_with_its_line(name, monkeypatch):
    monkeypatch.setattr(writing, "SECOND", 0)
    line, change = WRITTEN.get(name, ("", unchanged))
    other = OtherFense(change)
    asked = ask(other) + writing.put_all(other.ask)
    results = compared(asked)
    found = [it for it in results if it["result"] == report.DIFFERS]
    assert [it["line"] for it in found] == [line] * bool(name)
    assert all(len(it["differences"]) == 1 for it in found), found
    assert compared(recording.read(recording.record(asked, "1.0").encode())) == results
    made = other.standin.state()["accounts"][len(SEED["accounts"]) :]
    assert {it["name"] for it in made} == {writing.NAME}
    assert not any(it["is_active"] for it in made)
    assert 1 <= len(made) <= 1 + len(writing.REFUSED)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_recording_shows_the_same_and_nothing_personal(name):
    asked, results = asked_of(name)
    recorded = recording.record(asked, "1.0")
    assert not [it for it in (*PERSONAL, MASTER_KEY, SERVICE_KEY) if it in recorded]
    assert compared(recording.read(recorded.encode())) == results


def test_no_comparison_sends_more_requests_than_it_may():
    assert asking.max_requests(settings.MAX_COMPARED) <= settings.MAX_REQUESTS


def test_each_line_is_tested_or_says_why_not():
    results = compared(ask(OtherFense(unchanged)))
    assert all(("why" in it) == (it["result"] == report.NOT_TRIED) for it in results)
    same = {it["line"] for it in results if it["result"] == report.SAME}
    # That no day has more than 10^12 lookups does not show that none may.
    assert {CHANGES[name][0] for name in CHANGES} - same == {"most-lookups"}


def test_each_assumption_names_a_place_that_exists():
    import importlib
    import pkgutil
    from pathlib import Path

    import fense_admin

    for line in read_lines():
        assert line.places or line.is_documented, line.name
        for place in line.places:
            if "/" in place:
                assert (Path(fense_admin.__path__[0]) / place).exists(), place
                continue
            name = place if place.startswith("fense_admin") else f"fense_admin.{place}"
            pkgutil.resolve_name(name) if "." in name else importlib.import_module(name)
