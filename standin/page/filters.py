"""The query parameters of a view: filters, and the number of a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from fense_admin import models, rules
from fense_admin.reading import read_query
from fense_admin.rules import ValidationErrors
from fense_admin.standin.journal import Entry
from fense_admin.standin.page import entries
from fense_admin.standin.page.usage import MOST_BARS

PAGE_LENGTH = 50  # rows of a list
MOST_FILTERED = 1_000  # characters of a filter, and of a path that it looks into


Checks = Mapping[str, Callable[[str], Any]]  # the rule of each parameter


def read(checks: Checks) -> dict[str, Any]:
    """Return the view's query parameters, checked; None for one that is left out or empty."""
    with ValidationErrors() as errors:
        sent = read_query(errors, *checks, may_be_empty=True)
        return {
            name: None if sent.get(name) is None else errors.check(name, check, sent[name])
            for name, check in checks.items()
        }


def any_text(text: str) -> str:
    if len(text) > MOST_FILTERED:
        raise ValueError(f"must be at most {MOST_FILTERED:,} characters")
    return text


def check_page(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,5}", text):
        raise ValueError("must be the number of a page, from 1")
    return int(text)


OF_REQUESTS: Checks = {
    "failed": rules.one_of("1"),
    "method": any_text,
    "status": rules.matching("[1-5]xx|[1-5][0-9]{2}|none", "must be such as 400, 4xx or none"),
    "path": any_text,
    "account": rules.matching("[0-9]{1,19}", "must be a fense_account_id"),
    "page": check_page,
}
OF_CHANGES: Checks = {"after": rules.matching("[0-9]{1,18}", "must be the number of changes seen")}
OF_ACCOUNTS: Checks = {"find": any_text, "page": check_page}
OF_USAGE: Checks = {
    "start_date": rules.check_date,
    "end_date": rules.check_date,
    "by": rules.one_of(*MOST_BARS),
}


def fit(entry: Entry, sent: Mapping[str, Any]) -> bool:
    """Whether the filters `OF_REQUESTS` let an entry pass."""
    status = "none" if entry["status"] is None else str(entry["status"])
    return (
        (not sent["failed"] or entries.has_failed(entry))
        and sent["method"] in (None, entry["method"])
        and sent["status"] in (None, status, f"{status[0]}xx")
        and (not sent["path"] or has_text(entries.target(entry), sent["path"]))
        and (not sent["account"] or entries.account_of(entry) == int(sent["account"]))
    )


def has_text(target: str, wanted: str) -> bool:
    """Whether the beginning of a path with its query has the text, as it was sent or decoded."""
    target, wanted = target[:MOST_FILTERED], models.folded(wanted)
    return any(wanted in models.folded(text) for text in (target, unquote(target)))


class Pager:
    """One page of a long list."""

    def __init__(self, rows: Sequence[Any], number: int | None) -> None:
        self.total = len(rows)
        self.last = max(1, -(-self.total // PAGE_LENGTH))
        self.number = min(number or 1, self.last)
        self.first = (self.number - 1) * PAGE_LENGTH
        self.rows = rows[self.first : self.first + PAGE_LENGTH]
