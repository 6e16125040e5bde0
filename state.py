"""State documents and lists of lookups: what may be seeded and loaded, rule by rule.

The rules for accounts are the contract's. What breaks one is noted by its place: accounts[3].email.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fense_admin import (
    CREATE,
    JsonObject,
    Problems,
    Rule,
    check_fields,
    check_flag,
    check_string,
    models,
    parse_json,
)
from fense_admin.models import Database

# --- Rules -------------------------------------------------------------------------------------


def whole_number(low: int, high: int) -> Callable[[object], int]:
    """The rule for a whole number from low to high."""

    def check(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return check


def one_of(*values: str) -> Callable[[object], str]:
    """The rule for one of these strings."""

    def check(value: object) -> str:
        if value not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return value

    return check


def like(pattern: str, told: str) -> Callable[[object], str]:
    """The rule for a string that the pattern matches."""

    def check(value: object) -> str:
        if not re.fullmatch(pattern, check_string(value)):
            raise ValueError(told)
        return value

    return check


def check_time(value: object) -> str:
    text = check_string(value)
    with contextlib.suppress(ValueError):
        written = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
        if f"{written.isoformat()}Z" == text:
            return text
    raise ValueError("must be a time in UTC, written YYYY-MM-DDThh:mm:ssZ")


def check_last4(value: object) -> str | None:
    return None if value is None else check_four(value)


def check_list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("must be an array")
    return value


def check_object(value: object) -> JsonObject:
    if not isinstance(value, JsonObject):
        raise ValueError("must be an object")
    return value


check_four = like(r"[\x21-\x7e]{4}", "must be four visible ASCII characters, or null")


def as_json(value: object) -> Any:
    """A Python value as it would arrive in a body. Raises `ValueError` if it could not."""
    try:
        return parse_json(json.dumps(value).encode())
    except (TypeError, RecursionError) as error:
        raise ValueError(f"is no JSON: {error}") from None


@contextlib.contextmanager
def as_value_errors() -> Iterator[Problems]:
    """Problems that are raised as one `ValueError`, for callers in Python."""
    problems = Problems()
    yield problems
    if problems:
        raise ValueError(problems.error().body)


# --- State: the document that is seeded, put in, and read back ------------------------------------

STATE = {"accounts": Rule(check_list, required=True)}
STATE_ACCOUNT = CREATE | {
    "api_key": Rule(CREATE["api_key"].check),  # or its digest, as a state read back has it
    "api_key_sha256": Rule(like("[0-9a-f]{64}", "must be a SHA-256 in 64 lower-case hex digits")),
    "api_key_last4": Rule(check_last4),
    "is_active": Rule(check_flag),
    "fense_account_id": Rule(whole_number(1, models.MAX_ID)),
    "created_at": Rule(check_time),
    "updated_at": Rule(check_time),
    "usage": Rule(check_object),
}


class State(NamedTuple):
    """A state document as checked rows: accounts by column, usage as (id, date, lookups)."""

    accounts: list[dict[str, Any]]
    usage: list[tuple[int, str, int]]


def check_state(document: JsonObject, problems: Problems) -> State:
    """The rows of a state document; what is wrong with it is noted by its place."""
    state = State([], [])
    places: dict[object, str] = {}  # of each id and each key
    highest = 0
    for number, sent in enumerate(check_fields(document, STATE, problems).get("accounts") or []):
        place = f"accounts[{number}]"
        if not isinstance(sent, JsonObject):
            problems.add(place, "must be an object")
            continue
        known = len(problems)
        fields = check_fields(sent, STATE_ACCOUNT, problems, place + ".")
        key_name = "api_key" if "api_key" in sent else "api_key_sha256"
        if key_name not in sent:
            problems.add(place + ".api_key", "is required, or else api_key_sha256")
        elif key_name == "api_key":
            for name in ("api_key_sha256", "api_key_last4"):
                if name in sent:
                    problems.add(f"{place}.{name}", "is not accepted beside api_key")
        days = fields.pop("usage", None) or JsonObject(())
        account_id = fields.setdefault("fense_account_id", highest + 1)
        usage = check_days(days, account_id, place + ".usage", problems)
        if len(problems) > known:
            continue
        account = models.as_columns(fields)
        key_digest = account["api_key_sha256"]
        for name, value in (("fense_account_id", account_id), (key_name, key_digest)):
            if value in places:
                problems.add(f"{place}.{name}", f"is that of {places[value]} too")
            places[value] = place
        account.setdefault("created_at", models.now())
        account.setdefault("updated_at", account["created_at"])
        highest = max(highest, account_id)
        state.accounts.append(account)
        state.usage.extend(usage)
    return state


def check_days(
    days: JsonObject, account_id: int, place: str, problems: Problems
) -> list[tuple[int, str, int]]:
    """The days of an account's usage as rows."""
    rows = []
    for date, lookups in days.items():
        try:
            row = (account_id, models.check_date(date), models.check_lookups(lookups))
        except ValueError as error:
            problems.add(f"{place}.{date}", str(error))
        else:
            rows.append(row)
    for date in days.doubled:
        problems.add(f"{place}.{date}", "is given twice")
    return [row for row in rows if row[2]]


def read_state(source: Any) -> State:
    """The rows of a state document, given as a dict or as the path of a JSON file.

    Raises `ValueError` in the contract's words, naming each place; `OSError` for the file.
    """
    if isinstance(source, dict):
        document = as_json(source)
    elif not isinstance(source, (str, os.PathLike)):
        raise ValueError("a state is a dict, or the path of a file")
    else:
        with open(source, "rb") as file:
            document = parse_json(file.read())
    with as_value_errors() as problems:
        return check_state(check_object(document), problems)


# --- Usage -------------------------------------------------------------------------------------

USAGE = {
    "fense_account_id": Rule(whole_number(-(2**63), 2**63 - 1), required=True),
    "date": Rule(models.check_date),
    "lookups": Rule(models.check_lookups, required=True),
}


def check_usage(entries: list[Any], problems: Problems) -> list[tuple[int, int, str]]:
    """The entries of a list of lookups as (id, lookups, date)."""
    rows = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, JsonObject):
            problems.add(f"[{number}]", "must be an object")
            continue
        fields = check_fields(entry, USAGE, problems, f"[{number}].")
        date = fields.get("date") or models.today()
        rows.append((fields.get("fense_account_id"), fields.get("lookups"), date))
    return rows


def record_usage(db: Database, rows: list[tuple[int, int, str]]) -> None:
    """Add them, all or nothing."""
    unknown = Problems()
    with db.writing(), Problems() as problems:
        for number, row in enumerate(rows):
            try:
                db.add_lookups(*row)
            except models.NoSuchAccount:
                unknown.add(f"[{number}].fense_account_id", "names no account")
            except ValueError as error:
                problems.add(f"[{number}].lookups", str(error))
        if unknown and not problems:
            raise unknown.error(404)
