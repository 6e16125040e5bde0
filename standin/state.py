"""State documents and lists of lookups: the rules for seeding, loading and recording them.

Accounts have the rules of the contract. Errors name the path of a value: accounts[3].email.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
from array import array
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from fense_admin import models, rules
from fense_admin.databases import NO_REPORT, Database, Report
from fense_admin.exchange import NOT_FOUND, invalid
from fense_admin.rules import JsonObject, ValidationErrors
from fense_admin.standin import demo

DEMO = "demo"  # the name of the built-in state
CHECKED_DAYS = 4096  # cached days: most accounts have usage on the same days

# --- State documents -----------------------------------------------------------------------------


class Accounts:
    """The accounts of a state document, parsed one by one from valid JSON.

    All at once, they would take several times the memory of their text.
    """

    def __init__(self, text: str, start: int) -> None:
        self._text, self._start = text, start

    def __iter__(self) -> Iterator[Any]:
        decode = json.JSONDecoder(object_pairs_hook=JsonObject).raw_decode
        next_value, place = re.compile(r"[^\s,]"), self._start
        while (found := next_value.search(self._text, place)) and found[0] != "]":
            account, place = decode(self._text, found.start())
            yield account


def parse_document(raw: bytes) -> Any:
    """Parse like `rules.parse_json`, but return `Accounts` in a state document."""
    number_of_fields = rules.parse_json(raw, len)  # also checks whether it is valid
    text = raw.decode()
    start = re.match(r'\s*\{\s*"accounts"\s*:\s*\[', text)
    if start is None or number_of_fields > 1:
        return rules.parse_json(raw)
    return JsonObject([("accounts", Accounts(text, start.end()))])


STATE_RULES = {"accounts": rules.instance((list, Accounts), "an array")}
STATE_ACCOUNT_RULES = rules.CREATE_RULES | {
    # Instead of api_key, in a state that was returned by the control plane.
    "api_key_sha256": rules.matching(
        "[0-9a-f]{64}", "must be a SHA-256 in 64 lower-case hex digits"
    ),
    "api_key_last4": rules.or_null(
        rules.matching(r"[\x21-\x7e]{4}", "must be four visible ASCII characters, or null")
    ),
    "is_active": rules.check_flag,
    "fense_account_id": rules.whole_number(1, rules.MAX_ID),
    "created_at": rules.check_time,
    "updated_at": rules.check_time,
    "usage": rules.check_object,
}


class Days(Collection[models.Lookups]):
    """Rows of usage, (id, date, lookups), in a quarter of the memory of tuples."""

    def __init__(self) -> None:
        self._ids, self._dates, self._lookups = array("q"), list[str](), array("q")
        self.are_relative = False  # whether a day was given as a number of days before today

    def add(self, fense_account_id: int, usage: dict[str, int]) -> None:
        """Add the usage of an account by day, without days of 0."""
        for date, lookups in usage.items():
            if lookups:
                self._ids.append(fense_account_id)
                self._dates.append(date)
                self._lookups.append(lookups)

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[models.Lookups]:
        return zip(self._ids, self._dates, self._lookups, strict=True)

    def __contains__(self, row: object) -> bool:
        return any(row == own for own in self)


class State(NamedTuple):
    """A state document as checked rows: accounts by column, usage as (id, date, lookups)."""

    accounts: list[dict[str, Any]]
    usage: Days


def check_state(
    document: JsonObject | None,
    errors: ValidationErrors,
    today: str,
    root: str = "",
    report: Report = NO_REPORT,
) -> State:
    """Return the rows of a state document, without default times: see `with_times`.

    Problems are added to `errors`, with `root` before each path. Without a document there are no
    rows.
    """
    state = State([], Days())
    check_day = functools.lru_cache(CHECKED_DAYS)(rules.day_or_before(today))
    places: dict[object, int] = {}  # where each id and each key is used
    highest = 0
    fields = {}
    if document is not None:
        fields = rules.validate(document, STATE_RULES, errors, root, required=("accounts",))
    for number, sent in enumerate(fields.get("accounts") or []):
        path = f"{root}accounts[{number}]"
        if not isinstance(sent, JsonObject):
            errors.add(path, "must be an object")
            continue
        known = len(errors)
        account = rules.validate(
            sent, STATE_ACCOUNT_RULES, errors, path + ".", required=("name", "email")
        )
        key_name = "api_key" if "api_key" in sent else "api_key_sha256"
        if key_name not in sent:
            errors.add(path + ".api_key", "is required, unless there is an api_key_sha256")
        elif key_name == "api_key":
            for name in ("api_key_sha256", "api_key_last4"):
                if name in sent:
                    errors.add(f"{path}.{name}", "is not accepted together with api_key")
        days = account.pop("usage", None) or JsonObject()
        account_id: int = account.setdefault("fense_account_id", highest + 1)
        if account_id is not None and account_id > rules.MAX_ID:
            message = f"is required: the id after {highest} would exceed the maximum"
            errors.add(f"{path}.fense_account_id", message)
        usage = check_usage_by_day(days, check_day, path + ".usage", errors)
        if len(errors) > known:
            continue
        account = models.as_columns(account)
        key_digest = account["api_key_sha256"]
        for name, value in (("fense_account_id", account_id), (key_name, key_digest)):
            if value in places:
                message = f"duplicates {root}accounts[{places[value]}]"
                errors.add(f"{path}.{name}", message)
            places[value] = number
        highest = max(highest, account_id)
        state.accounts.append(account)
        state.usage.add(account_id, usage)
        state.usage.are_relative |= usage.keys() != days.keys()
        report(len(state.accounts), len(state.usage))
    return state


def with_times(state: State, now: str) -> State:
    """Return the state with the default times: `created_at` now, `updated_at` the same."""

    def times(account: dict[str, Any]) -> dict[str, str]:
        created_at = account.get("created_at", now)
        return {"created_at": created_at, "updated_at": account.get("updated_at", created_at)}

    return State([account | times(account) for account in state.accounts], state.usage)


def check_usage_by_day(
    days: JsonObject, check_day: rules.Rule, path: str, errors: ValidationErrors
) -> dict[str, int]:
    """Return the checked lookups by date of an account's usage."""
    usage = {}
    names: dict[str, str] = {}  # the name of each date
    for name, sent in days.items():
        try:
            date = check_day(name)
            lookups = rules.check_lookups(sent)
            if date in names:
                raise ValueError(f"is the same day as {names[date]}")
        except ValueError as error:
            errors.add(f"{path}.{name}", str(error))
        else:
            names[date], usage[date] = name, lookups
    for name in days.doubled:
        errors.add(f"{path}.{name}", "is given twice")
    return usage


class Seed:
    """A state that can be loaded repeatedly. Relative days count from the day of loading.

    `source` is a state document as a dict, "demo", the path of a JSON file, or None for nothing.
    `now` is the default `created_at`; `state` has the document's rows if it was checked today.
    Raises `ValueError` with the path of each problem, `OSError` if the file can't be read.
    """

    def __init__(
        self, source: Any, now: str, state: State | None = None, report: Report = NO_REPORT
    ) -> None:
        self._created_at = now
        self._is_demo = source == DEMO
        self._document = JsonObject() if self._is_demo else read_document(source)
        self._checked = now[:10], state or self._check(now[:10], report)
        self._is_relative = self._is_demo or self._checked[1].usage.are_relative
        if not self._is_relative:
            self._document = JsonObject()

    def at(self, now: str) -> State:
        """Return its rows, to load now. Raises `ValueError` if two names are now the same day."""
        day, state = self._checked
        if self._is_relative and day != now[:10]:
            state = self._check(now[:10])
            self._checked = now[:10], state
        return with_times(state, self._created_at)

    def since(self, now: str) -> Seed:
        """Return the same seed for another stand-in, with accounts created now."""
        seed = copy.copy(self)
        seed._created_at = now
        return seed

    def _check(self, today: str, report: Report = NO_REPORT) -> State:
        return demo_state(today) if self._is_demo else checked(self._document, today, report)


@functools.lru_cache(maxsize=2)  # shared by all stand-ins of a day
def demo_state(today: str) -> State:
    return checked(demo.document(today), today)


def checked(document: JsonObject, today: str, report: Report = NO_REPORT) -> State:
    with ValidationErrors() as errors:
        return check_state(document, errors, today, report=report)


def read_document(source: Any) -> JsonObject:
    if source is None:
        return JsonObject([("accounts", [])])
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            source = rules.check_object(parse_document(rules.without_mark(file.read())))
    if not isinstance(source, dict):
        raise ValueError("a state must be a dict or the path of a file")
    document: JsonObject = source if isinstance(source, JsonObject) else rules.as_json(source)
    return document


# --- Usage -------------------------------------------------------------------------------------


def check_usage(
    entries: list[Any], errors: ValidationErrors, today: str
) -> list[tuple[int, str, int]]:
    """Return the entries of a list of lookups as (id, date, lookups)."""
    usage_rules = {
        "fense_account_id": rules.whole_number(-(2**63), 2**63 - 1),
        "date": rules.day_or_before(today),
        "lookups": rules.check_lookups,
    }
    rows = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, JsonObject):
            errors.add(f"[{number}]", "must be an object")
            continue
        required = ("fense_account_id", "lookups")
        fields = rules.validate(entry, usage_rules, errors, f"[{number}].", required)
        date = fields.get("date") or today
        rows.append((fields.get("fense_account_id", 0), date, fields.get("lookups", 0)))
    return rows


def record_usage(
    db: Database,
    rows: list[models.Lookups],
    long_running: bool = False,
    report: Report = NO_REPORT,
) -> None:
    """Add lookups, all or nothing. Raises `ValidationErrors`, `ApiError` (404)."""
    try:
        db.record_all(rows, long_running, report)
    except models.NotRecorded as refused:
        unknown = ValidationErrors()
        with ValidationErrors() as errors:
            for place in refused.excessive:
                errors.add(f"[{place}].lookups", models.over_daily_maximum(rows[place][1]))
            for place in refused.unknown:
                unknown.add(f"[{place}].fense_account_id", "is not the id of an account")
        raise invalid(unknown, NOT_FOUND) from None
