"""An account's lookups for a chart, by day or by month."""

from __future__ import annotations

import datetime
import json

from fense_admin import models
from fense_admin.databases import Database
from fense_admin.rules import days_before

DAYS_SHOWN = 30  # unless a range is chosen: today, and those before
MONTHS_SHOWN = 12
MOST_BARS = {"day": 366, "month": 120}


class Usage:
    """The lookups of an account in a range, for a chart: a bar for each day or month."""

    def __init__(self, db: Database, account_id: int, start: str, end: str, period: str) -> None:
        self.start, self.end, self.period = start, end, period
        answer = json.loads(db.account_usage(account_id, start, end))
        self.total: int = answer["total_lookups"]
        length = 10 if period == "day" else 7  # of YYYY-MM-DD, of YYYY-MM
        self.lookups = dict.fromkeys(names_of(start, end, period), 0)
        for day in answer["daily"]:
            self.lookups[day["date"][:length]] += day["lookups"]
        self.most = max(self.lookups.values())

    def bars(self, height: int) -> list[tuple[str, int, float]]:
        """Return (name, lookups, height) each: the highest fills the chart, none is invisible."""
        scale = height / self.most if self.most else 0
        return [
            (name, lookups, max(lookups * scale, 1) if lookups else 0)
            for name, lookups in self.lookups.items()
        ]

    def in_words(self) -> str:
        """Return the chart in words, for those who can't see it."""
        if not self.total:
            return f"No lookups from {self.start} to {self.end}"
        busiest = max(self.lookups, key=self.lookups.__getitem__)
        return (
            f"Lookups by {self.period} from {self.start} to {self.end}: {self.total:,} in all, "
            f"{self.most:,} at most, in {busiest}"
        )


def first_day(end: str, period: str) -> str:
    day = datetime.date.fromisoformat(end)
    if period == "day":
        return str(days_before(day, DAYS_SHOWN - 1))
    months = max(12, day.year * 12 + day.month - 1 - (MONTHS_SHOWN - 1))
    return f"{months // 12:04}-{months % 12 + 1:02}-01"


def periods(start: str, end: str, period: str) -> range:
    """Return the days or the months of a range, as numbers."""
    if period == "month":
        return range(models.count_months(start[:7], end[:7]))
    first, last = (datetime.date.fromisoformat(day).toordinal() for day in (start, end))
    return range(first, last + 1)


def names_of(start: str, end: str, period: str) -> list[str]:
    """Return the days of a range as YYYY-MM-DD, or its months as YYYY-MM."""
    if period == "day":
        return [str(datetime.date.fromordinal(number)) for number in periods(start, end, period)]
    first = int(start[:4]) * 12 + int(start[5:7]) - 1
    months = [first + number for number in periods(start, end, period)]
    return [f"{month // 12:04}-{month % 12 + 1:02}" for month in months]
