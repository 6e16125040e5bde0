"""The data: the tables of accounts and their lookups, every query, and time. Knows no HTTP.

Of a merchant's key only the digest and the last four characters are kept.
"""

from __future__ import annotations

import calendar
import dataclasses
import datetime
import functools
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import peewee
from peewee import SQL, BooleanField, TextField

from fense_admin import rules
from fense_admin.masking import digest, last4

FIRST_DAY, LAST_DAY = "0001-01-01", "9999-12-31"
FEW_ROWS = 1_000  # up to so many are written within milliseconds
MANY_DAYS = 10_000  # of lookups; from here on, checking the account of each is slow

Columns = dict[str, Any]  # of an account
Lookups = tuple[int, str, int]  # of an account on a day: fense_account_id, YYYY-MM-DD, how many


class NoSuchAccount(LookupError):
    """No account has this id, the only argument."""

    def __str__(self) -> str:
        return f"no account has the fense_account_id {self.args[0]}"


class ApiKeyTaken(ValueError):
    """Another account has this api_key. `str` continues the field's name."""

    def __str__(self) -> str:
        return "belongs to another account"


class NotRecorded(ValueError):
    """Lookups that can't be added.

    `unknown` are the indexes of entries for unknown accounts, `excessive` those of entries that
    exceed the daily maximum.
    """

    def __init__(self, unknown: list[int], excessive: list[int]) -> None:
        super().__init__(unknown, excessive)
        self.unknown, self.excessive = unknown, excessive


# --- Tables: schema.sql or schema-postgresql.sql creates them, these models query them -----------


class Account(peewee.Model):
    fense_account_id = peewee.AutoField()
    name = TextField()
    email = TextField()
    api_key_sha256 = TextField(unique=True)
    api_key_last4 = TextField(null=True)
    suppress_notifications = BooleanField()
    suppress_billing = BooleanField()
    is_active = BooleanField()
    dispute_account_id = TextField(null=True)
    created_at = TextField()
    updated_at = TextField()


# The columns of `usage` and of `usage_month`, the sums of its days.
USAGE_KEYS = ("fense_account_id", "date", "lookups")
MONTH_KEYS = ("fense_account_id", "month", "lookups")


# --- Queries -----------------------------------------------------------------------------------
#
# Queries are SQL texts, or compiled once by peewee: building one costs more than running it.
# Values are bound by name when a query is run: {"fense_account_id": 1, "date": "2026-11-03"}.
# SQLite and PostgreSQL run the same text, except for what `postgres.translated` changes.


def bound(name: str) -> SQL:
    """Return the placeholder of a value in a query."""
    return SQL(f":{name}")


def compiled(query: Any) -> str:
    """Return the SQL of a query whose values are all `bound`."""
    text: str
    text, literals = peewee.SqliteDatabase(None).get_sql_context().sql(query).query()
    assert not literals, f"{literals} would be missing from: {text}"
    return text


# An account's columns, in the contract's order: all, and those that the contract shows.
STATE_KEYS = tuple(field.name for field in Account._meta.sorted_fields)
ACCOUNT_KEYS = tuple(name for name in STATE_KEYS if name != "api_key_sha256")
FLAGS = [field.name for field in Account._meta.sorted_fields if isinstance(field, BooleanField)]

BY_ID = Account.fense_account_id == bound("fense_account_id")
COUNT_ACCOUNTS = compiled(Account.select(peewee.fn.COUNT(Account.fense_account_id)))
OWNS_KEY = Account.api_key_sha256 == bound("api_key_sha256")
ACCOUNTS = Account.select(*(getattr(Account, name) for name in ACCOUNT_KEYS))
SELECT_ACCOUNT, SELECT_OWNER = compiled(ACCOUNTS.where(BY_ID)), compiled(ACCOUNTS.where(OWNS_KEY))
SELECT_DIGEST = compiled(Account.select(Account.api_key_sha256).where(BY_ID))
LOOK_UPS = 256  # maximum number of keys in one query
# An account's id, and the text to search for accounts.
SELECT_NAMES = """
SELECT fense_account_id, fense_account_id || ' ' || name || ' ' || email
    || COALESCE(' ' || dispute_account_id, '') || COALESCE(' ' || api_key_last4, '')
FROM account ORDER BY fense_account_id DESC
"""
SELECT_IDS = "SELECT fense_account_id FROM account ORDER BY fense_account_id DESC"
DELETE_ALL = [f"DELETE FROM {table}" for table in ("usage_month", "usage", "account")]


# One query for each set of columns, compiled when it is first needed.
@functools.cache
def insert_account(*columns: str) -> str:
    return compiled(Account.insert({name: bound(name) for name in columns}))


@functools.cache
def change_account(*columns: str, goes_back: bool = False) -> str:
    """Return the query that changes these columns of an account.

    `updated_at` never goes back, even if another node's clock is ahead or this one was set back,
    unless the clock `goes_back` on purpose.
    """
    values: dict[str, Any] = {name: bound(name) for name in columns}
    if not goes_back:
        stored, now = Account.updated_at, values["updated_at"]
        values["updated_at"] = peewee.Case(None, [(stored > now, stored)], now)
    return compiled(Account.update(values).where(BY_ID))


@functools.cache
def select_keys(*names: str) -> str:
    key = Account.api_key_sha256
    return compiled(Account.select(key).where(key << [bound(name) for name in names]))


def adding(table: str, period: str, condition: str = "") -> str:
    """Return the query that adds lookups to an account's period, a day or a month.

    It is a single statement: reading, then writing, could lose lookups.
    """
    return f"""\
INSERT INTO {table} (fense_account_id, {period}, lookups)
VALUES (:fense_account_id, :{period}, :lookups)
ON CONFLICT (fense_account_id, {period}) DO UPDATE
SET lookups = {table}.lookups + EXCLUDED.lookups {condition}
"""


# Changes no row if the sum would exceed the maximum.
FITS = f"WHERE usage.lookups + EXCLUDED.lookups <= {rules.MAX_LOOKUPS}"
ADD_TO_DAY = adding("usage", "date", FITS)
ADD_TO_MONTH = adding("usage_month", "month")
SELECT_ID = compiled(Account.select(Account.fense_account_id).where(BY_ID))
SELECT_DAYS_OF = "SELECT date, lookups FROM usage WHERE fense_account_id = :fense_account_id"

# Whatever grows with the data is read and written in pieces: ranges of account ids.
PIECE = 2_000  # accounts that one query lists or sums up by day: 200 KB and about 10 ms
SUMMED_UP = 20_000  # accounts that one query sums up by month; fewer take more time each
FEW_ACCOUNTS = 100  # accounts whose usage is read at once: ten years of it are seven megabytes
IN_PIECE = "fense_account_id > :after AND fense_account_id <= :last_id"
# The last id of a piece of `:size` accounts; no row for the last piece.
END_OF_PIECE = """
SELECT fense_account_id FROM account WHERE fense_account_id > :after
ORDER BY fense_account_id LIMIT 1 OFFSET :size - 1
"""
SELECT_ACCOUNTS_OF_PIECE = f"""
SELECT {", ".join(STATE_KEYS)} FROM account WHERE {IN_PIECE} ORDER BY fense_account_id
"""
SELECT_DAYS_OF_PIECE = f"""
SELECT {", ".join(USAGE_KEYS)} FROM usage WHERE {IN_PIECE} ORDER BY fense_account_id, date
"""
SUM_UP_MONTHS = f"""
INSERT INTO usage_month (fense_account_id, month, lookups)
SELECT fense_account_id, substr(date, 1, 7), SUM(lookups) FROM usage
WHERE {IN_PIECE} GROUP BY 1, 2 ORDER BY 1, 2
"""

# The database itself builds the JSON of usage responses. Python's sqlite3 releases the GIL for each
# row and must acquire it again, which is slow in a busy process; and while Python encodes a long
# history as JSON, it serves no other request.
SELECT_USAGE = """
SELECT name, dispute_account_id, COALESCE(total_lookups, 0), COALESCE(daily, '')
FROM account, (
    SELECT CAST(SUM(lookups) AS BIGINT) AS total_lookups,
        group_concat('{"date": "' || date || '", "lookups": ' || lookups || '}', ', ') AS daily
    FROM (
        SELECT date, lookups FROM usage
        WHERE fense_account_id = :fense_account_id AND date BETWEEN :first AND :last
        ORDER BY date
    ) AS days
) AS sums
WHERE fense_account_id = :fense_account_id
"""
# The sum over all accounts is split into two halves, because it may exceed 64 bits.
HALVES = """\
CAST(COALESCE(SUM({0} >> 32), 0) AS BIGINT), CAST(COALESCE(SUM({0} & 4294967295), 0) AS BIGINT)"""
ACCOUNT_TOTALS = """
group_concat(
    '{"fense_account_id": ' || fense_account_id || ', "name": ' || json_quote(name)
    || ', "dispute_account_id": ' || json_quote(dispute_account_id)
    || ', "total_lookups": ' || total_lookups || '}',
', ')
"""
AT_ONCE = 10_000  # accounts summed up and listed by one query; pieces would read days twice

# Accounts by column, and their usage as the JSON of a state document.
SELECT_STATE_OF_PIECE = f"""
SELECT {", ".join(STATE_KEYS)}, COALESCE((
    SELECT group_concat('"' || date || '": ' || lookups, ', ') FROM (
        SELECT date, lookups FROM usage
        WHERE usage.fense_account_id = account.fense_account_id ORDER BY date
    ) AS days
), '')
FROM account WHERE {IN_PIECE} ORDER BY fense_account_id
"""


@dataclasses.dataclass(frozen=True)
class TotalsQueries:
    """Queries for the lookups of all accounts in a range of days. Each returns one row."""

    of_all: str  # both halves of the sum, and the accounts as JSON, or null if there are many
    sum_of_piece: str  # both halves
    piece: str  # the accounts as JSON
    summed_up: int  # number of accounts of a piece for `sum_of_piece`


@functools.cache
def totals(parts: tuple[tuple[str, str], ...]) -> TotalsQueries:
    """Return the queries that sum up lookups from (table, condition) pairs.

    They read days with a subquery per account: a join would read all days of a long history.
    """

    def of_account(part: tuple[str, str]) -> str:
        table, condition = part
        return f"""(SELECT CAST(COALESCE(SUM(lookups), 0) AS BIGINT) FROM {table}
            WHERE {table}.fense_account_id = account.fense_account_id AND {condition})"""

    def rows(part: tuple[str, str]) -> str:
        table, condition = part
        if table == "usage":
            return f"SELECT {of_account(part)} AS lookups FROM account WHERE {IN_PIECE}"
        return f"SELECT lookups FROM {table} WHERE {condition} AND {IN_PIECE}"

    def accounts(chosen: str) -> str:
        return f"""(
            SELECT fense_account_id, name, dispute_account_id,
                {" + ".join(map(of_account, parts))} AS total_lookups
            FROM account WHERE {chosen} ORDER BY fense_account_id
        ) AS totals"""

    are_few = (
        f"(SELECT COUNT(*) FROM (SELECT 1 FROM account LIMIT {AT_ONCE} + 1) AS s) <= {AT_ONCE}"
    )
    # The limit is never reached. It prevents databases from running the subquery twice.
    summands = f"({' UNION ALL '.join(map(rows, parts))} LIMIT {rules.MAX_ID}) AS summands"
    return TotalsQueries(
        f"SELECT {HALVES.format('total_lookups')},"
        f" CASE WHEN {are_few} THEN COALESCE({ACCOUNT_TOTALS}, '') END"
        f" FROM {accounts(are_few)}",
        f"SELECT {HALVES.format('lookups')} FROM {summands}",
        f"SELECT {ACCOUNT_TOTALS} FROM {accounts(IN_PIECE)}",
        SUMMED_UP if all(table == "usage_month" for table, _ in parts) else PIECE,
    )


def totals_between(first: str, last: str) -> tuple[TotalsQueries, dict[str, Any]]:
    """Return the queries for this range of days, and their values.

    Whole months are read from the table of months, the days before and after them from that of
    days; a short range only from that of days.
    """
    values = {"first": first, "last": last, "first_month": first[:7], "last_month": last[:7]}
    starts_whole = first[8:] == "01"
    ends_whole = int(last[8:]) == calendar.monthrange(int(last[:4]), int(last[5:7]))[1]
    if not (starts_whole and ends_whole) and count_months(first[:7], last[:7]) <= 2:
        return totals((("usage", "date BETWEEN :first AND :last"),)), values
    after, before = ">=" if starts_whole else ">", "<=" if ends_whole else "<"
    parts = [("usage_month", f"month {after} :first_month AND month {before} :last_month")]
    if not starts_whole:
        values["end_of_first"] = first[:7] + "-31"
        parts.append(("usage", "date BETWEEN :first AND :end_of_first"))
    if not ends_whole:
        values["start_of_last"] = last[:7] + "-01"
        parts.append(("usage", "date BETWEEN :start_of_last AND :last"))
    return totals(tuple(parts)), values


# Fails if a table, a column or a function that the queries need is missing.
PROBE = f"""
SELECT 1 FROM (SELECT json_quote(name), {", ".join(STATE_KEYS)} FROM account LIMIT 1) AS account
LEFT JOIN (SELECT {", ".join(USAGE_KEYS)} FROM usage LIMIT 1) AS usage ON 1 = 1
LEFT JOIN (SELECT {", ".join(MONTH_KEYS)} FROM usage_month LIMIT 1) AS usage_month ON 1 = 1
"""


# --- Time --------------------------------------------------------------------------------------


def utc_now() -> datetime.datetime:
    """Return the current time in UTC, without a time zone."""
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)


class Clock:
    """The system's clock."""

    was_set = False  # whether a test has set it: then it may go back

    def now(self) -> datetime.datetime:
        """Return the time in UTC, without a time zone."""
        return utc_now()


def as_text(time: datetime.datetime) -> str:
    """Return a UTC time in the format of the contract."""
    return time.isoformat(timespec="seconds") + "Z"


def now() -> str:
    """Return the current UTC time in the format of the contract."""
    return as_text(utc_now())


# --- Helpers -----------------------------------------------------------------------------------


def count_months(first: str, last: str) -> int:
    """Return the number of months from YYYY-MM to YYYY-MM, inclusive."""
    return (int(last[:4]) - int(first[:4])) * 12 + int(last[5:]) - int(first[5:]) + 1


def over_daily_maximum(date: str) -> str:
    """Return the error message for lookups that exceed the daily maximum."""
    return f"would exceed the daily maximum of {rules.MAX_LOOKUPS} on {date}"


def highest_id(accounts: Iterable[dict[str, Any]]) -> int:
    return max((account["fense_account_id"] for account in accounts), default=0)


def folded(text: str) -> str:
    """Normalise a text for searching: case, and characters that can be written in several ways."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def as_columns(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the contract's fields as columns: the same, except for the key."""
    columns = dict(fields)
    if "api_key" in columns:
        key = columns.pop("api_key")
        columns |= {"api_key_sha256": digest(key), "api_key_last4": last4(key)}
    return columns


def as_account(row: Sequence[Any], keys: tuple[str, ...] = STATE_KEYS) -> dict[str, Any]:
    account = dict(zip(keys, row, strict=True))
    for flag in FLAGS:
        account[flag] = bool(account[flag])
    return account
