"""Validation: strict JSON, a rule for each field, all errors at once. Knows no HTTP.

A rule takes a value and returns the value to keep, or raises `ValueError` with a message that
continues the field's name: "must be true or false".
"""

from __future__ import annotations

import codecs
import collections
import contextlib
import datetime
import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

MAX_MISSPELT = 40  # characters of an unknown name; the search for a similar one is slow
NOT_ACCEPTED = "is not accepted here"
MAX_ERRORS = 100  # listed for one request; the rest are only counted
MAX_LOOKUPS = 10**12  # of one account on one day; schema.sql enforces it, too
MAX_ID = 2**53 - 1  # the largest integer that JSON numbers hold exactly
MAX_DAYS = 3_660  # of a range of days: ten years

HIDDEN = "\N{HORIZONTAL ELLIPSIS}"  # shown in place of a key or a password
CONTROL = r"\x00-\x1f\x7f-\x9f"  # control characters, for a pattern
IN_UTC = "%Y-%m-%dT%H:%M:%SZ"  # the format of times in the contract

Rule = Callable[[Any], Any]


# --- Errors -----------------------------------------------------------------------------------


class ValidationErrors(ValueError):
    """The errors of a request. Use it as a context: it raises itself at the end if there are any.

    `str` returns one readable line, `len` the number of errors.
    """

    def __init__(self) -> None:
        self._errors: list[tuple[str | None, str, str]] = []  # field, message, advice
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __str__(self) -> str:
        return self.message(printable)

    def __enter__(self) -> ValidationErrors:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None and self:
            raise self

    def add(self, field: str | None, message: str, accepted: Iterable[str] = ()) -> None:
        """Add an error of a field, or of no field in particular (None).

        For an unknown field, the message suggests the most similar of the `accepted` names.
        """
        self._count += 1
        if self._count <= MAX_ERRORS:
            advice = meant_instead(field, accepted) if field and accepted else ""
            self._errors.append((field, message, advice))

    def check(self, field: str | None, rule: Rule, value: object) -> Any:
        """Apply a rule to a value and return the result; None after adding its error."""
        try:
            return rule(value)
        except ValueError as error:
            self.add(field, str(error))

    @property
    def details(self) -> list[tuple[str, str]]:
        """(field, message) for each error that concerns a field, up to `MAX_ERRORS`."""
        return [(field, message) for field, message, _ in self._errors if field is not None]

    def message(self, shown: Callable[[str], str]) -> str:
        """Return all errors in one line, each field's name as `shown` returns it."""
        parts = [
            text if name is None else f"{shown(name)} {text}{advice}"
            for name, text, advice in self._errors
        ]
        if self._count > MAX_ERRORS:
            parts.append(f"and {self._count - MAX_ERRORS} more")
        return "; ".join(parts)


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the end of a message about an unknown word; "" if no known word is similar."""
    nearest = difflib.get_close_matches(word, known, 1, cutoff)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def meant_instead(field: str, accepted: Iterable[str]) -> str:
    """Return the end of a message about an unknown field, which may have a path before its name.

    It is "" if the name is closer to one that is accepted elsewhere.
    """
    name = field.rpartition(".")[2]
    if len(name) > MAX_MISSPELT or name in KNOWN_NAMES:
        return ""
    nearest = difflib.get_close_matches(name, {*accepted, *KNOWN_NAMES}, 1, 0.7)
    return did_you_mean(name, set(accepted) & set(nearest), 0.7)


def printable(text: str) -> str:
    """Return the text with a replacement character for each unprintable character."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text) or '""'


# --- JSON --------------------------------------------------------------------------------------


class JsonObject(dict[str, Any]):
    """A JSON object. `doubled` lists the names that were given more than once, sorted."""

    doubled: Sequence[str] = ()  # shared by all instances, to save memory

    def __init__(self, pairs: list[tuple[str, Any]] | tuple[()] = ()) -> None:
        super().__init__(pairs)
        if len(self) < len(pairs):
            counts = collections.Counter(name for name, _ in pairs)
            self.doubled = sorted(name for name, count in counts.items() if count > 1)


def parse_json(raw: bytes, make_object: Callable[[list[tuple[str, Any]]], Any] = JsonObject) -> Any:
    """Parse a JSON text, with objects as `JsonObject`. Raises `ValueError`: "is not ..."."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not allowed")

    try:
        return json.loads(raw.decode(), object_pairs_hook=make_object, parse_constant=refuse)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        reason = str(error).partition(";")[0]  # the rest is advice to programmers
        raise ValueError(f"is not valid JSON: {reason}") from None


def without_mark(raw: bytes) -> bytes:
    """Return a file's text without the byte order mark that Windows programs put before UTF-8.

    Raises `ValueError` for UTF-16.
    """
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("is UTF-16, as PowerShell 5 writes files: save it as UTF-8")
    return raw.removeprefix(codecs.BOM_UTF8)


def as_json(value: object) -> Any:
    """Convert a Python value to what a body with it would parse to. Raises `ValueError`."""
    try:
        return parse_json(json.dumps(value).encode())
    except (TypeError, RecursionError) as error:
        raise ValueError(f"can't be encoded as JSON: {error}") from None


def validate(
    sent: JsonObject,
    rules: Mapping[str, Rule],
    errors: ValidationErrors,
    path: str = "",
    required: Iterable[str] = (),
    refusals: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the fields that were sent, each as its rule returns it; add problems to `errors`.

    `path` is put before each name there. `refusals` has special messages for some names without a
    rule.
    """
    checked = {}
    for name, rule in rules.items():
        if name in sent:
            checked[name] = errors.check(path + name, rule, sent[name])
        elif name in required:
            errors.add(path + name, "is required")
    for name in sent:
        if name not in rules:
            refusal = (refusals or {}).get(name)
            errors.add(path + name, refusal or NOT_ACCEPTED, () if refusal else rules)
    for name in sent.doubled:
        errors.add(path + name, "is given twice")
    return checked


# --- Rules -------------------------------------------------------------------------------------


def matching(pattern: str, message: str) -> Callable[[object], str]:
    """Return a rule for strings that fully match a pattern."""
    matches = re.compile(pattern).fullmatch

    def check(value: object) -> str:
        if not matches(text := check_string(value)):
            raise ValueError(message)
        return text

    return check


def without_point(value: object) -> object:
    """Return 12 for 12.0, an integer to JSON Schema; any other value unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def whole_number(low: int, high: int, unit: str = "") -> Rule:
    """Return a rule for whole numbers (of these units) from low to high."""

    def check(value: object) -> int:
        number = without_point(value)
        if type(number) is not int or not low <= number <= high:
            raise ValueError(f"must be a whole number {unit}from {low} to {high}")
        return number

    return check


def one_of(*values: str) -> Rule:
    """Return a rule for one of these strings."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return value

    return check


def instance(kind: type | tuple[type, ...], name: str) -> Rule:
    """Return a rule for values of this type; the message calls the type by this name."""

    def check(value: object) -> Any:
        if not isinstance(value, kind):
            raise ValueError(f"must be {name}")
        return value

    return check


def or_null(rule: Rule) -> Rule:
    """Return a rule that also accepts null."""
    return lambda value: None if value is None else rule(value)


def check_string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode: it has half of a surrogate pair") from None
    return value


def check_name(value: object) -> str:
    if re.search(f"[{CONTROL}]", text := check_string(value)):
        raise ValueError("must not have control characters or line breaks")
    if not 1 <= len(name := text.strip()) <= 255:
        raise ValueError("must be 1 to 255 characters, not counting white space around it")
    return name


def check_date(value: object) -> str:
    with contextlib.suppress(ValueError):
        if isinstance(value, str) and str(datetime.date.fromisoformat(value)) == value:
            return value
    raise ValueError("must be a valid date, written YYYY-MM-DD")


def day_or_before(today: str) -> Rule:
    """Return a rule for a day: YYYY-MM-DD, or a number of days before today such as "-7" or -7."""

    def check(value: object) -> str:
        number = without_point(value)
        if isinstance(number, str) and re.fullmatch("0|-[1-9][0-9]{0,6}", number):
            number = int(number)
        if type(number) is int and -(10**7) < number <= 0:
            try:
                return str(datetime.date.fromisoformat(today) + datetime.timedelta(number))
            except OverflowError:
                raise ValueError("is before 0001-01-01, the earliest date") from None
        return check_date(value)

    return check


def days_before(day: datetime.date, count: int) -> datetime.date:
    """Return the day this many days earlier, but not before 0001-01-01."""
    return datetime.date.fromordinal(max(1, day.toordinal() - count))


def check_days(value: object, today: str) -> list[str]:
    """Return the days that a value means; today for None.

    A day is a text, a `datetime.date` or a number of days before today; a range is (first, last)
    or "first..last", including both.
    """
    if isinstance(value, str) and ".." in value:
        value = value.split("..", 1)
    ends = value if isinstance(value, (list, tuple)) and len(value) == 2 else (value, value)
    ends = [str(end) if isinstance(end, datetime.date) else end for end in ends]
    check = day_or_before(today)
    first, last = (datetime.date.fromisoformat(check(0 if value is None else end)) for end in ends)
    if first > last:
        raise ValueError("must be a range: its first day must not be after its last")
    if (last - first).days >= MAX_DAYS:
        raise ValueError(f"must be a range of at most {MAX_DAYS} days")
    return [str(first + datetime.timedelta(day)) for day in range((last - first).days + 1)]


def check_time(value: object) -> str:
    text = check_string(value)
    with contextlib.suppress(ValueError):
        if f"{datetime.datetime.strptime(text, IN_UTC).isoformat()}Z" == text:
            return text
    raise ValueError("must be a time in UTC, written YYYY-MM-DDThh:mm:ssZ")


def check_clock_time(value: object) -> str:
    """Return a time like `check_time`, but accept a fraction of a second, which is dropped."""
    return check_time(re.sub(r"\.[0-9]{1,9}Z\Z", "Z", check_string(value)))


def check_id(text: str) -> int:
    """Return an account id from a path or a query: 007 is 7.

    No account has an id of more than 19 digits; the value returned for it can only be compared.
    """
    found = re.fullmatch("(-?)0*([0-9]+)", text)
    if not found:
        raise ValueError("must be an integer")
    sign, digits = found.groups()
    # int() limits the number of decimal digits and is slow for many. Base 16 is fast, and
    # different ids remain different.
    return int(sign + digits, 10 if len(digits) < 20 else 16)


check_api_key = matching(r"[\x21-\x7e]{1,255}", "must be 1 to 255 visible ASCII characters")
check_email = matching(
    rf"(?=.{{1,254}}\Z)[^@\s{CONTROL}]+@[^@\s{CONTROL}]+",
    "must be an address such as name@example.com, at most 254 characters",
)
check_flag = instance(bool, "true or false")
check_object = instance(JsonObject, "an object")
check_uuid = matching(
    "[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}",
    "must be a UUID of 8-4-4-4-12 hex digits, or null",
)
check_lookups = whole_number(0, MAX_LOOKUPS, "of lookups ")


# --- Accounts: the fields of each operation ------------------------------------------------------

ACCOUNT_RULES: dict[str, Rule] = {
    "api_key": check_api_key,
    "name": check_name,
    "email": check_email,
    "suppress_notifications": check_flag,
    "suppress_billing": check_flag,
    "is_active": check_flag,
    "dispute_account_id": or_null(lambda value: check_uuid(value).lower()),
}
CREATE_RULES = {name: rule for name, rule in ACCOUNT_RULES.items() if name != "is_active"}
CREATE_REQUIRED = ("api_key", "name", "email")
UPDATE_RULES = {name: rule for name, rule in ACCOUNT_RULES.items() if name != "email"}
UPDATE_REFUSALS = {"email": "can't be changed"}
# Names of the contract: sent to the wrong operation, they (or nearly they) aren't misspelt others.
KNOWN_NAMES = (*ACCOUNT_RULES, "fense_account_id", "start_date", "end_date")


# --- Settings ----------------------------------------------------------------------------------

# A host with or without a port, as in a URL.
HOST = re.compile(
    r"(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+(?:%[\w.-]+)?\])(?::[0-9]{1,5})?",
    re.ASCII | re.IGNORECASE,
)


def check_key(text: object) -> str:
    """Return a key as a header would send it: without surrounding white space."""
    return check_api_key(check_string(text).strip())


def check_prefix(text: str) -> str:
    """Return a prefix as "" or "/admin": "admin", "/admin/" and "/admin" are the same."""
    text = check_string(text).strip("/")
    segments = text.split("/") if text else []
    for segment in segments:
        if not re.fullmatch("[A-Za-z0-9._~-]+", segment) or segment in (".", ".."):
            raise ValueError("must be a path such as /admin, of letters, digits and . _ ~ -")
    return "".join("/" + segment for segment in segments)


def check_public_url(text: str) -> str:
    """Return a URL as "" or "https://fense.example/base", without slashes at its end."""
    if not check_string(text):
        return ""
    origin, path = split_url(text)
    try:
        return origin + check_prefix(path)
    except ValueError as error:
        raise ValueError(f"must be a URL whose path, if it has one, {error}") from None


def split_url(text: str) -> tuple[str, str]:
    """Split an HTTP URL into its origin, in the form that browsers send, and the rest."""
    found = re.fullmatch(f"(https?)://({HOST.pattern})([/?#].*)?", text, HOST.flags)
    port = found[2].rpartition("]")[2].partition(":")[2] if found else ""
    if found is None or int(port or 0) > 65535:
        raise ValueError("must be a URL such as http://127.0.0.1:8642, without a user")
    scheme, host, rest = found[1].lower(), found[2].lower(), found[3] or ""
    return f"{scheme}://{host.removesuffix(':443' if scheme == 'https' else ':80')}", rest
