"""What the query of a view may have: filters, and the number of a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fense_admin.reading import read_query
from fense_admin.rules import ValidationErrors

PAGE_LENGTH = 50  # rows of a list
MOST_FILTERED = 1_000  # characters of a filter, and of a path that it looks into


def read_filters(checks: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The view's query parameters, checked; None for one that is left out or empty."""
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


class Pager:
    """One page of a long list."""

    def __init__(self, rows: Sequence[Any], number: int | None) -> None:
        self.total = len(rows)
        self.last = max(1, -(-self.total // PAGE_LENGTH))
        self.number = min(number or 1, self.last)
        self.first = (self.number - 1) * PAGE_LENGTH
        self.rows = rows[self.first : self.first + PAGE_LENGTH]
