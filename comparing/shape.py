"""Convert responses of another service to the form of our schemas, and note the differences.

Afterwards their values can be compared with ours.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import fense_admin
from fense_admin import files, models, rules
from fense_admin.comparing.differences import NAME, Differences, kind, shown_digits, shown_names

Json = Any
Schema = Mapping[str, Any]

DEEP, LONG = 4, 12  # nested objects, and names of an object, that `shape_of` shows
ENVELOPES = 3  # nested envelopes around a body that are searched
UNREADABLE = object()  # in place of a value that can't be read

BODY_LINES = {  # the line of FIDELITY.md for the fields of each schema
    "Account": "account-body",
    "AccountUsage": "usage-body",
    "DailyLookups": "usage-body",
    "AllUsage": "usage-body",
    "AccountTotal": "usage-body",
}


def plain(name: str) -> str:
    """Normalise the style of a name: fenseAccountId and fense_account_id become the same."""
    return name.replace("_", "").replace("-", "").lower()


def whole(value: Json) -> int | None:
    """Return a whole number, which may be a float or a text; None for anything else."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 10**19 else None
    if isinstance(value, str):
        return int(value) if re.fullmatch("-?[0-9]{1,19}", value) else None
    return value if type(value) is int else None


def shape_of(value: Json, deep: int = DEEP) -> str:
    """Return the names and kinds in a value: {"error": {"code": text}}."""
    if isinstance(value, (dict, list)) and value and not deep:
        return "…"
    if isinstance(value, dict):
        shown = shown_names(value)
        fields = itertools.islice(value.items(), LONG)
        inner = sorted(f"{shown[name]}: {shape_of(it, deep - 1)}" for name, it in fields)
        more = ["…"] if len(value) > LONG else []
        return f"{{{', '.join(inner + more)}}}".replace("`", "")
    if isinstance(value, list):
        return f"[{shape_of(value[0], deep - 1)}]" if value else "[]"
    return kind(value)


class Shapes:
    """The schemas of openapi.json, and the noted differences from them."""

    def __init__(self, differences: Differences) -> None:
        self._schemas = json.loads(files.read(fense_admin.OPENAPI_FILE))["components"]["schemas"]
        for name in BODY_LINES:
            fields = self._schemas[name]["properties"]
            fields.update({field: self._resolved(rule) for field, rule in fields.items()})
        self._note = differences.note
        self._tried = differences.tried
        self._formats: dict[str, Callable[[str, str], Json]] = {
            "date-time": self._time,
            "date": self._day,
            "uuid": self._uuid,
        }

    def read(self, name: str, body: Json) -> Json:
        """Return the body in the form of our schema; None if it is something else."""
        self._tried.update(("envelope", "names", "numbers", "null", BODY_LINES[name]))
        body = self._unwrapped(name, body)
        if isinstance(body, list):
            item = self._schemas["AccountTotal"]
            return {"accounts": [self._object("AccountTotal", item, it) for it in body]}
        return None if body is None else self._object(name, self._schemas[name], body)

    def _known(self, schema: Schema, value: Json) -> bool:
        """Return whether a value is an object with at least half of the schema's names."""
        if not isinstance(value, dict):
            return False
        fields = schema["properties"]
        if value.keys() >= fields.keys():  # fast path: there may be 100,000 of them
            return True
        names = {plain(name) for name in value}
        return 2 * sum(plain(field) in names for field in fields) >= len(fields)

    def _unwrapped(self, name: str, body: Json) -> Json:
        """Return the object, or the list of all accounts, in a body; None if there is none."""
        schema, account = self._schemas[name], self._schemas["AccountTotal"]
        around = [("", body)]  # candidates, each with the names of the envelopes around it
        for deep in range(ENVELOPES + 1):
            for where, value in around:
                is_list = name == "AllUsage" and isinstance(value, list)
                may_be_it = is_list and (value or deep < 2)  # an empty one may be anything
                if may_be_it and all(self._known(account, it) for it in value):
                    self._note("envelope", "none", f"a list{where and ', ' + where}")
                    return value
                if self._known(schema, value):
                    if where:
                        self._note("envelope", "none", where)
                    return value
            around = [
                (f"{shown} around it{where and ', ' + where}", value[it])
                for where, value in around
                if isinstance(value, dict) and len(value) <= LONG
                for it, shown in shown_names(value).items()
            ]
        self._note(BODY_LINES[name], f"the fields of {name}", shape_of(body))
        return None

    def _object(self, name: str, schema: Schema, value: dict[str, Json]) -> dict[str, Json]:
        fields = schema["properties"]
        by_plain_name = {} if value.keys() == fields.keys() else {plain(it): it for it in value}
        ours = f"the fields of {name}"
        found: dict[str, Json] = {}
        for field, rule in fields.items():
            there = field if field in value else by_plain_name.get(plain(field))
            if by_plain_name:
                by_plain_name.pop(plain(field), None)
            if there is None:
                if "null" in rule["type"]:
                    self._note("null", "null where there is no value", f"`{field}` is left out")
                    found[field] = None
                else:
                    self._note(BODY_LINES[name], ours, f"`{field}` is missing")
                continue
            if there != field:
                is_plain = re.fullmatch(NAME, there)  # its letters are those of the field
                self._note("names", "in snake_case", f"`{there}`" if is_plain else "`…`")
            read = self._value(name, field, rule, value[there])
            if read is not UNREADABLE:
                found[field] = read
        if by_plain_name:
            shown = shown_names(value)
            for there in by_plain_name.values():
                self._note(BODY_LINES[name], ours, f"{shown[there]} as well")
        return found

    def _resolved(self, schema: Schema) -> Schema:
        while "$ref" in schema:
            schema = self._schemas[schema["$ref"].rpartition("/")[2]]
        types = schema["type"]
        return {**schema, "type": [types] if isinstance(types, str) else types}

    def _value(self, name: str, field: str, rule: Schema, value: Json) -> Json:
        """Return the value of a field in the form of its schema, or `UNREADABLE`."""
        (wanted,) = [it for it in rule["type"] if it != "null"]
        if value is None and "null" in rule["type"]:
            return None
        if wanted == "array" and isinstance(value, list):
            item = rule["items"]["$ref"].rpartition("/")[2]
            items = [it for it in value if self._known(self._schemas[item], it)]
            if len(items) == len(value):
                return [self._object(item, self._schemas[item], it) for it in items]
        if wanted == "integer":
            return self._number(field, value)
        if wanted == "string" and isinstance(value, str):
            read = self._formats.get(rule.get("format", ""))
            return read(field, value) if read else value
        if wanted == "boolean" and isinstance(value, bool):
            return value
        if rule.get("format") == "date-time":
            self._note("times", "text in UTC, to the second", f"`{field}` is {kind(value)}")
            return UNREADABLE
        self._note(BODY_LINES[name], f"the types of {name}", f"`{field}` is {kind(value)}")
        return UNREADABLE

    def _number(self, field: str, value: Json) -> Json:
        if type(value) is int:
            return value
        self._note("numbers", "whole numbers", f"`{field}` is {kind(value)}")
        number = whole(value)
        return UNREADABLE if number is None else number

    def _time(self, field: str, text: str) -> Json:
        self._tried.add("times")
        with contextlib.suppress(ValueError):
            return rules.check_time(text)
        self._note("times", "in UTC, to the second", f"`{field}` is {shown_digits(text)}")
        with contextlib.suppress(ValueError, OverflowError):
            time = datetime.datetime.fromisoformat(re.sub("[Zz]$", "+00:00", text))
            if time.tzinfo is not None:
                time = time.astimezone(datetime.timezone.utc)
            return models.as_text(time.replace(tzinfo=None))
        return UNREADABLE

    def _day(self, field: str, text: str) -> Json:
        self._tried.add("days")
        with contextlib.suppress(ValueError):
            return rules.check_date(text)
        self._note("days", "YYYY-MM-DD", f"`{field}` is {shown_digits(text)}")
        with contextlib.suppress(ValueError):
            return rules.check_date(text[:10])
        return UNREADABLE

    def _uuid(self, field: str, text: str) -> Json:
        try:
            canonical = rules.check_uuid(text).lower()
        except ValueError:
            self._note("dispute-account-id", "a UUID", f"`{field}` is other text")
            return UNREADABLE
        self._tried.add("dispute-account-id")
        if canonical != text:
            self._note("dispute-account-id", "in lower case", f"`{field}` is in upper case")
        return canonical
