"""Reads what another service responds, by our schemas, and notes where its shape differs.

What is left is in our shape, so that its values can be compared.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import fense_admin
from fense_admin import files, models, rules
from fense_admin.comparing.differences import Differences, kind, shown_digits, shown_name

Json = Any
Schema = Mapping[str, Any]

BODY_LINES = {  # the line that says what the fields of a schema are
    "Account": "account-body",
    "AccountUsage": "usage-body",
    "DailyLookups": "usage-body",
    "AllUsage": "usage-body",
    "AccountTotal": "usage-body",
}


def plain(name: str) -> str:
    """A name without what differs between styles: fenseAccountId is as fense_account_id."""
    return re.sub("[_-]", "", name).lower()


def shape_of(value: Json) -> str:
    """The names and kinds in a value: {"error": {"code": text}}."""
    if isinstance(value, dict):
        inner = ", ".join(
            f"{shown_name(name)}: {shape_of(it)}" for name, it in sorted(value.items())
        )
        return f"{{{inner}}}".replace("`", "")
    if isinstance(value, list):
        return f"[{shape_of(value[0])}]" if value else "[]"
    return kind(value)


class Shapes:
    """The schemas of openapi.json, and the differences from them that were noted."""

    def __init__(self, differences: Differences) -> None:
        self._schemas = json.loads(files.read(fense_admin.OPENAPI_FILE))["components"]["schemas"]
        self._note = differences.note
        self._tried = differences.tried
        self._formats: dict[str, Callable[[str, str], Json]] = {
            "date-time": self._time,
            "date": self._day,
            "uuid": self._uuid,
        }

    def read(self, name: str, body: Json) -> Json:
        """Return the body in the shape of our schema; None if it is something else."""
        self._tried.update(("envelope", "names", "numbers", "null", BODY_LINES[name]))
        body = self._unwrapped(name, body)
        if isinstance(body, list):
            item = self._schemas["AccountTotal"]
            return {"accounts": [self._object("AccountTotal", item, it) for it in body]}
        return None if body is None else self._object(name, self._schemas[name], body)

    def _known(self, schema: Schema, value: Json) -> bool:
        """Whether this is an object that has at least half of the names that the schema has."""
        if not isinstance(value, dict):
            return False
        names = {plain(name) for name in value}
        known = [name for name in schema["properties"] if plain(name) in names]
        return len(known) * 2 >= len(schema["properties"])

    def _unwrapped(self, name: str, body: Json) -> Json:
        """The object, or the list of all accounts, that is in a body; None without one."""
        schema = self._schemas[name]
        if self._known(schema, body):
            return body
        candidates = [("", body)]
        if isinstance(body, dict):
            candidates += [(f"{shown_name(it)} around it", value) for it, value in body.items()]
        for where, value in candidates:
            if where and self._known(schema, value):
                self._note("envelope", "none", where)
                return value
            if name == "AllUsage" and isinstance(value, list):
                account = self._schemas["AccountTotal"]
                if all(self._known(account, it) for it in value):
                    self._note("envelope", "none", f"a list{where and ', ' + where}")
                    return value
        self._note(BODY_LINES[name], f"the fields of {name}", shape_of(body))
        return None

    def _object(self, name: str, schema: Schema, value: dict[str, Json]) -> dict[str, Json]:
        by_plain_name = {plain(it): it for it in value}
        ours = f"the fields of {name}"
        found: dict[str, Json] = {}
        for field, rule in schema["properties"].items():
            there = field if field in value else by_plain_name.pop(plain(field), None)
            by_plain_name.pop(plain(field), None)
            if there is None:
                if "null" in self._resolved(rule)["type"]:
                    self._note("null", "null where there is no value", f"`{field}` is left out")
                    found[field] = None
                else:
                    self._note(BODY_LINES[name], ours, f"`{field}` is missing")
                continue
            if there != field:
                self._note("names", "in snake_case", f"{shown_name(there)}")
            found[field] = self._value(name, field, rule, value[there])
        for there in by_plain_name.values():
            self._note(BODY_LINES[name], ours, f"{shown_name(there)} as well")
        return found

    def _resolved(self, schema: Schema) -> Schema:
        while "$ref" in schema:
            schema = self._schemas[schema["$ref"].rpartition("/")[2]]
        types = schema["type"]
        return {**schema, "type": [types] if isinstance(types, str) else types}

    def _value(self, name: str, field: str, rule: Schema, value: Json) -> Json:
        """The value of a field, as the schema's rule for it has it; None if it can't be."""
        rule = self._resolved(rule)
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
            return self._formats.get(rule.get("format", ""), lambda _, text: text)(field, value)
        if wanted == "boolean" and isinstance(value, bool):
            return value
        if rule.get("format") == "date-time":
            self._note("times", "text in UTC, to the second", f"`{field}` is {kind(value)}")
            return None
        self._note(BODY_LINES[name], f"the types of {name}", f"`{field}` is {kind(value)}")
        return None

    def _number(self, field: str, value: Json) -> int | None:
        if type(value) is int:
            return value
        self._note("numbers", "whole numbers", f"`{field}` is {kind(value)}")
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            return int(value)
        return None

    def _time(self, field: str, text: str) -> str | None:
        self._tried.add("times")
        with contextlib.suppress(ValueError):
            return rules.check_time(text)
        self._note("times", "in UTC, to the second", f"`{field}` is {shown_digits(text)}")
        with contextlib.suppress(ValueError):
            time = datetime.datetime.fromisoformat(re.sub("[Zz]$", "+00:00", text))
            if time.tzinfo is not None:
                time = time.astimezone(datetime.timezone.utc)
            return models.as_text(time.replace(tzinfo=None))
        return None

    def _day(self, field: str, text: str) -> str | None:
        self._tried.add("days")
        with contextlib.suppress(ValueError):
            return rules.check_date(text)
        self._note("days", "YYYY-MM-DD", f"`{field}` is {shown_digits(text)}")
        with contextlib.suppress(ValueError):
            return rules.check_date(text[:10])
        return None

    def _uuid(self, field: str, text: str) -> str | None:
        try:
            canonical = rules.check_uuid(text).lower()
        except ValueError:
            self._note("dispute-account-id", "a UUID", f"`{field}` is other text")
            return None
        self._tried.add("dispute-account-id")
        if canonical != text:
            self._note("dispute-account-id", "in lower case", f"`{field}` is in upper case")
        return canonical
