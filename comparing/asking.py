"""Asks a service everything: first which accounts it has, then about each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fense_admin import exchange
from fense_admin.comparing import questions
from fense_admin.comparing.differences import Differences
from fense_admin.comparing.questions import ALL, Question
from fense_admin.comparing.service import Answer, CouldNotAsk
from fense_admin.comparing.shape import Json, Shapes

Ask = Callable[[Question], Answer]
Asked = list[tuple[Question, Answer]]


def most_requests(accounts: int) -> int:
    """How many requests a comparison sends at most if it reads so many accounts."""
    return questions.MOST_OTHER + accounts * questions.MOST_PER_ACCOUNT


def planned() -> Iterator[Question]:
    """All questions, about one account without lookups."""
    yield ALL
    yield from questions.about_account(1)
    yield from questions.about_usage(1, ())
    yield from questions.about_all(())
    yield from questions.about_errors(1, True, True)


def ask_all(ask: Ask, numbers: Sequence[int], most: int, has_other_key: bool) -> Asked:
    """Ask everything, about these accounts or else the first ones. Raises `CouldNotAsk`."""
    asked: Asked = []

    def put(question: Question) -> Answer:
        answer = ask(question)
        asked.append((question, answer))
        return answer

    shapes = Shapes(Differences())  # what differs is noted later
    body = check_is_fense(put(ALL), shapes)
    listed = [it.get("fense_account_id") for it in body.get("accounts") or ()]
    chosen = list(numbers) or [number for number in listed if number is not None][:most]
    all_days = set[str]()
    for number in chosen:
        about, usage = [put(question) for question in questions.about_account(number)]
        if numbers and about.status == exchange.NOT_FOUND:
            raise CouldNotAsk(f"it has no account {number}: name another one with --account")
        days = days_in(usage, shapes)
        all_days.update(days)
        for question in questions.about_usage(number, days):
            put(question)
    for question in questions.about_all(questions.settled(all_days)):
        put(question)
    first = chosen[0] if chosen else 1
    for question in questions.about_errors(first, bool(chosen), has_other_key):
        put(question)
    return asked


def check_is_fense(answer: Answer, shapes: Shapes) -> Json:
    """Return the usage of all accounts in our shape. Raises `CouldNotAsk` for anything else."""
    if answer.status in (exchange.UNKNOWN_KEY, exchange.FORBIDDEN):
        raise CouldNotAsk(f"it refuses the key ({answer.status}): check DISPUTE_MASTER_KEY")
    if 300 <= answer.status < 400:
        raise CouldNotAsk(
            f"it redirects ({answer.status}), and a key is not sent elsewhere: name the URL that "
            "responds itself"
        )
    if answer.status != 200:
        raise CouldNotAsk(f"GET {ALL.path} is {answer.status} there: check the URL and its prefix")
    if not answer.is_json:
        raise CouldNotAsk("it does not respond in JSON: this is not a Fense")
    body = shapes.read("AllUsage", answer.body)
    if body is None:
        raise CouldNotAsk("its usage of all accounts is not like ours at all: this is not a Fense")
    return body


def days_in(answer: Answer, shapes: Shapes) -> list[str]:
    """The days on which an account has lookups, in order."""
    body = shapes.read("AccountUsage", answer.body) if answer.status == 200 else None
    return sorted(
        it["date"] for it in (body or {}).get("daily") or () if it.get("date") and it.get("lookups")
    )
