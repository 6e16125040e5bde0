"""The questions of a comparison: requests that only read, each for a line of FIDELITY.md."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from fense_admin import rules

READS = ("GET", "HEAD")
NO_ACCOUNT = rules.MAX_ID  # an id that no account has
# A range before any account, so without lookups.
EMPTY = ("1999-01-01", "1999-01-31")
SETTLED = 2  # days before today; older days don't change anymore

# The lines of FIDELITY.md that need a write.
WRITES = frozenset(
    "create update merchant-key api-key api-key-taken name email unknown-field is-active "
    "empty-update updated-at location encoding json".split()
)

# The lines that need accounts with lookups.
DATA = frozenset(
    "account account-body times days daily dispute-account-id ids order range totals "
    "usage usage-body numbers null names".split()
)
NEEDS_TWO_KEYS = frozenset(["several-keys"])

# The key to send with a request; "merchant": the key of the account that was created
KEYS = KNOWN, OTHER, UNKNOWN, NONE, MERCHANT = "known", "other", "unknown", "none", "merchant"


class Question(NamedTuple):
    """A request, and the line of FIDELITY.md that its response tests."""

    line: str
    target: str  # path and query, without the prefix; {id} is the account's id
    schema: str = "ErrorResponse"  # the schema of the response in openapi.json
    account: int = 1
    method: str = "GET"
    key: str = KNOWN
    body: str | None = None  # {key} and {other_key} stand for generated keys
    content_type: str = "application/json"
    encoding: str = ""  # its Content-Encoding

    @property
    def path(self) -> str:
        return self.target.replace("{id}", str(self.account))

    def with_keys(self, key: str, other_key: str) -> str | None:
        """Return the body with these merchant keys."""
        return self.body and self.body.replace("{key}", key).replace("{other_key}", other_key)

    def __str__(self) -> str:
        with_key = {KNOWN: "", NONE: ", without a key", UNKNOWN: ", with an unknown key"}
        sent = f" {self.body}" if self.body is not None else ""
        return f"{self.method} {self.path}{sent}{with_key.get(self.key, ', with another key')}"


ALL = Question("usage", "/accounts/usage", "AllUsage")


def between(first: str, last: str) -> str:
    return f"start_date={first}&end_date={last}"


def about_account(number: int) -> list[Question]:
    """Return the questions whose responses decide what else to ask about an account."""
    return [
        Question("account", "/accounts/{id}", "Account", number),
        Question("usage", "/accounts/usage/{id}", "AccountUsage", number),
    ]


def about_usage(number: int, days: Sequence[str]) -> Iterator[Question]:
    """Yield the questions about an account with lookups on these (ordered) days."""

    def ask(line: str, query: str) -> Question:
        return Question(line, "/accounts/usage/{id}?" + query, "AccountUsage", number)

    by_query = "/accounts/usage?fense_account_id={id}"
    yield Question("usage", by_query, "AccountUsage", number)
    yield ask("daily", between(*EMPTY))
    old = settled(days)
    first, last = (old[0], old[-1]) if old else EMPTY
    yield ask("range", between(first, last))  # with its gaps, if it has any
    yield ask("range", between(last, last))
    yield ask("end-alone", f"end_date={last}")


def settled(days: Iterable[str]) -> list[str]:
    """Return those of the days whose lookups don't change anymore, in order."""
    today = datetime.datetime.now(datetime.timezone.utc).date()
    return sorted(day for day in days if day <= str(today - datetime.timedelta(SETTLED)))


MAX_PER_ACCOUNT = len(about_account(1)) + len(list(about_usage(1, ())))


def about_all(days: Iterable[str]) -> Iterator[Question]:
    """Yield the questions about all accounts, given the days with lookups."""
    first, last = min(days, default=EMPTY[0]), max(days, default=EMPTY[1])
    yield ALL._replace(line="all-accounts", target=f"{ALL.target}?{between(*EMPTY)}")
    yield ALL._replace(line="range", target=f"{ALL.target}?{between(first, last)}")
    yield ALL._replace(line="end-alone", target=f"{ALL.target}?end_date={last}")


def about_errors(number: int, has_account: bool, has_other_key: bool) -> Iterator[Question]:
    """Yield the questions that are rejected, and those about paths, for one account."""
    usage, one = "/accounts/usage", "/accounts/usage/{id}"
    yield Question("unknown-key", usage, key=NONE)
    yield Question("unknown-key", usage, key=UNKNOWN)
    yield Question("key-first", "/accounts/x", key=NONE)
    yield Question("key-first", "/no/such/path", key=NONE)
    if has_other_key:
        yield ALL._replace(line="several-keys", target=f"{usage}?{between(*EMPTY)}", key=OTHER)
    for line, target in (
        ("end-date", f"{one}?start_date=2026-01-01"),
        ("end-date", f"{usage}?start_date=2026-01-01"),
        ("start-after-end", f"{one}?{between('2026-02-01', '2026-01-01')}"),
        ("two-ids", f"{one}?fense_account_id={NO_ACCOUNT}"),
        ("bad-date", f"{one}?{between('2026-02-30', '2026-03-01')}"),
        ("bad-date", f"{usage}?end_date=2026-1-1"),
        ("bad-id", "/accounts/x"),
        ("bad-id", "/accounts/1.5"),
        ("bad-id", f"{usage}/x"),
        ("bad-id", f"{usage}?fense_account_id=x"),
        ("unknown-parameter", "/accounts/{id}?colour=red"),
        ("unknown-parameter", f"{one}?colour=red"),
        ("empty-parameter", f"{one}?end_date="),
        ("doubled-parameter", f"{one}?end_date=2026-01-01&end_date=2026-01-02"),
        ("all-errors", f"{usage}?fense_account_id=x&end_date=2026-02-30"),
        ("unknown-id", f"/accounts/{NO_ACCOUNT}"),
        ("unknown-id", f"{usage}/{NO_ACCOUNT}"),
        ("unknown-id", f"{usage}?fense_account_id={NO_ACCOUNT}"),
        ("unknown-path", "/no/such/path"),
        ("paths", f"{usage}/"),
        ("paths", f"/{usage}"),
        ("paths", usage.upper()),
        ("wrong-method", "/accounts"),
    ):
        yield Question(line, target, account=number)
    yield Question("head", f"{usage}?{between(*EMPTY)}", "AllUsage", method="HEAD")
    yield Question("head", f"/accounts/{NO_ACCOUNT}", method="HEAD")
    if has_account:
        yield Question("ids", "/accounts/00{id}", "Account", number)
        twice = "/accounts/usage/{id}?fense_account_id={id}"
        yield Question("two-ids", twice, "AccountUsage", number)


MAX_OTHER = 1 + len([*about_all(()), *about_errors(1, True, True)])
