"""Ask a service all questions: first for its accounts, then about each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fense_admin import exchange, rules
from fense_admin.comparing import questions
from fense_admin.comparing.differences import Differences
from fense_admin.comparing.questions import ALL, KNOWN, Question
from fense_admin.comparing.service import CouldNotAsk, Response
from fense_admin.comparing.shape import Json, Shapes

Ask = Callable[[Question], Response]
OK = 200
REFUSED = (exchange.UNKNOWN_KEY, exchange.FORBIDDEN)
GONE = "an account disappeared while it was read: try again"
Asked = list[tuple[Question, Response]]


MAX_AGAIN = 2  # requests that are repeated to see whether something has changed


def max_requests(accounts: int) -> int:
    """Return the maximum number of requests of a comparison of this many accounts."""
    return questions.MAX_OTHER + accounts * questions.MAX_PER_ACCOUNT + MAX_AGAIN


def planned() -> Iterator[Question]:
    """Yield all questions, for one account without lookups."""
    yield ALL
    yield from questions.about_account(1)
    yield from questions.about_usage(1, ())
    yield from questions.about_all(())
    yield from questions.about_errors(1, True, True)


def ask_all(ask: Ask, numbers: Sequence[int], most: int, has_other_key: bool) -> Asked:
    """Ask all questions about these accounts, or the first ones. Raises `CouldNotAsk`."""
    asked: Asked = []

    def put(question: Question) -> Response:
        answer = ask(question)
        asked.append((question, answer))
        return answer

    shapes = Shapes(Differences())  # differences are noted later
    body = check_is_fense(put(ALL), shapes)
    named = list(dict.fromkeys(numbers))
    chosen = named or ids_in(body)[:most]
    all_days = set[str]()
    readable = []
    for number in chosen:
        about, usage = [put(question) for question in questions.about_account(number)]
        if named and about.status == exchange.NOT_FOUND:
            raise CouldNotAsk(f"account {number} does not exist there: choose another --account")
        if usage.status != OK:
            continue
        readable.append(number)
        days = days_in(usage, shapes)
        all_days.update(days)
        for question in questions.about_usage(number, days):
            put(question)
    for question in questions.about_all(questions.settled(all_days)):
        put(question)
    first = readable[0] if readable else 1
    for question in questions.about_errors(first, bool(readable), has_other_key):
        put(question)
    check_still_there(ask, asked, shapes)
    return asked


def check_still_there(ask: Ask, asked: Asked, shapes: Shapes) -> None:
    """Ask again if a key or an account was rejected. Raises `CouldNotAsk` if it has disappeared."""
    refused = {question.key for question, it in asked if it.status in REFUSED}
    found: set[int] = set()  # accounts that could be read
    missing: set[int] = set()  # accounts that were listed but couldn't be read
    gone: set[int] = set()  # accounts that could be read only at first
    for question, answer in asked:
        if question.schema in ("Account", "AccountUsage"):
            if answer.status == OK:
                found.add(question.account)
            elif answer.status == exchange.NOT_FOUND:
                (gone if question.account in found else missing).add(question.account)
    if KNOWN in refused or missing:
        again = ask(ALL)
        if again.status in REFUSED:
            raise CouldNotAsk(f"the service has begun to reject the key ({again.status})")
        if missing.difference(ids_in(shapes.read("AllUsage", again.body))):
            raise CouldNotAsk(GONE)
    if gone and ask(questions.about_account(min(gone))[0]).status == exchange.NOT_FOUND:
        raise CouldNotAsk(GONE)


def ids_in(usage: Json) -> list[int]:
    """Return the account ids that a stand-in can have, in the order of the list."""
    listed = [it.get("fense_account_id") for it in (usage or {}).get("accounts") or ()]
    return [it for it in dict.fromkeys(listed) if it is not None and 0 < it <= rules.MAX_ID]


def check_is_fense(answer: Response, shapes: Shapes) -> Json:
    """Return the usage of all accounts in our form. Raises `CouldNotAsk` for anything else."""
    if answer.status in REFUSED:
        raise CouldNotAsk(
            f"the service rejects the key ({answer.status}): check DISPUTE_MASTER_KEY"
        )
    if 300 <= answer.status < 400:
        raise CouldNotAsk(
            f"the service redirects ({answer.status}), and the key is not sent elsewhere: use the "
            "URL that it redirects to"
        )
    if answer.status != OK:
        raise CouldNotAsk(f"GET {ALL.path} returned {answer.status}: check the URL and its prefix")
    if not answer.is_json:
        raise CouldNotAsk("the response is not JSON: this is not a Fense")
    body = shapes.read("AllUsage", answer.body)
    if body is None:
        raise CouldNotAsk("the response is not the usage of all accounts: this is not a Fense")
    return body


def days_in(answer: Response, shapes: Shapes) -> list[str]:
    """Return the days on which an account has lookups, in order."""
    body = shapes.read("AccountUsage", answer.body) if answer.status == OK else None
    return sorted(
        it["date"] for it in (body or {}).get("daily") or () if it.get("date") and it.get("lookups")
    )
