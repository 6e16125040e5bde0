"""The data: accounts, their lookups by day, and every query. Knows no HTTP.

What `Database` returns has the shape of the contract's bodies. Of a merchant's key only the digest
and the last four characters are kept.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import itertools
import json
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import peewee
from peewee import SQL, BooleanField, IntegerField, TextField

from fense_admin import rules
from fense_admin.engines import Engine, Row
from fense_admin.masking import digest, last4

if TYPE_CHECKING:
    from fense_admin import shapes

FIRST_DAY, LAST_DAY = "0001-01-01", "9999-12-31"
FEW_ROWS = 1_000  # are written within milliseconds

Lookups = tuple[int, str, int]  # of an account on a day: fense_account_id, YYYY-MM-DD, how many


class NoSuchAccount(LookupError):
    """The id, its one argument, names no account."""

    def __str__(self) -> str:
        return f"no account has the fense_account_id {self.args[0]}"


class ApiKeyTaken(ValueError):
    """Another account has this api_key. `str` reads on from the field's name."""

    def __str__(self) -> str:
        return "belongs to another account"


class NotRecorded(ValueError):
    """Lookups that can't be added, each by its place in the list.

    `unknown` name no account, `excessive` would take a day past its most.
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

    class Meta:
        table_name = "account"


class Usage(peewee.Model):
    account = peewee.ForeignKeyField(Account, column_name="fense_account_id")
    date = TextField()
    lookups = IntegerField()

    class Meta:
        table_name = "usage"
        primary_key = peewee.CompositeKey("account", "date")


class UsageMonth(peewee.Model):
    account = peewee.ForeignKeyField(Account, column_name="fense_account_id")
    month = TextField()
    lookups = IntegerField()

    class Meta:
        table_name = "usage_month"
        primary_key = peewee.CompositeKey("account", "month")


# --- Queries -----------------------------------------------------------------------------------
#
# Where SQL itself is not plainer, peewee writes one, once: building it costs more than running it.
# Values are bound by name when a query is run: {"fense_account_id": 1, "date": "2026-11-03"}.
# SQLite and PostgreSQL run the same text, but for what `postgres.translated` says.


def bound(name: str) -> SQL:
    """The placeholder of a value in a query."""
    return SQL(f":{name}")


def compiled(query: Any) -> str:
    """The SQL of a query, all of whose values are `bound`."""
    text: str
    text, literals = peewee.SqliteDatabase(None).get_sql_context().sql(query).query()
    assert not literals, f"{literals} would be missing from: {text}"
    return text


# An account's columns, in the contract's order: all of them, and those that the contract shows.
STATE_KEYS = tuple(field.name for field in Account._meta.sorted_fields)
ACCOUNT_KEYS = tuple(name for name in STATE_KEYS if name != "api_key_sha256")
FLAGS = [field.name for field in Account._meta.sorted_fields if isinstance(field, BooleanField)]

BY_ID = Account.fense_account_id == bound("fense_account_id")
COUNT_ACCOUNTS = compiled(Account.select(peewee.fn.COUNT(Account.fense_account_id)))
OWNS_KEY = Account.api_key_sha256 == bound("api_key_sha256")
ACCOUNTS = Account.select(*(getattr(Account, name) for name in ACCOUNT_KEYS))
SELECT_ACCOUNT, SELECT_OWNER = compiled(ACCOUNTS.where(BY_ID)), compiled(ACCOUNTS.where(OWNS_KEY))
SELECT_DIGEST = compiled(Account.select(Account.api_key_sha256).where(BY_ID))
LOOK_UPS = (1, 4, 16, 64, 256)  # keys that one query looks for
SELECT_FOUND = """
SELECT fense_account_id, name, email, dispute_account_id, api_key_last4
FROM account ORDER BY fense_account_id DESC
"""
SELECT_STATE = compiled(Account.select().order_by(Account.fense_account_id))
SELECT_DAYS = compiled(Usage.select().order_by(Usage.account, Usage.date))
DELETE_ALL = [compiled(table.delete()) for table in (UsageMonth, Usage, Account)]


# One query for each set of columns, made when it is first needed.
@functools.cache
def insert_account(*columns: str) -> str:
    return compiled(Account.insert({name: bound(name) for name in columns}))


@functools.cache
def change_account(*columns: str, goes_back: bool = False) -> str:
    """The query that changes these columns of an account.

    `updated_at` stays where it is later already, as another node's clock may be ahead of this one's
    or this one was set back; unless the clock `goes_back` by intention.
    """
    values: dict[str, Any] = {name: bound(name) for name in columns}
    if not goes_back:
        stored, now = Account.updated_at, values["updated_at"]
        values["updated_at"] = peewee.Case(None, [(stored > now, stored)], now)
    return compiled(Account.update(values).where(BY_ID))


@functools.cache
def select_keys(count: int) -> str:
    places = [bound(f"key_{number}") for number in range(count)]
    return compiled(Account.select(Account.api_key_sha256).where(Account.api_key_sha256 << places))


def adding(table: str, period: str, condition: str = "") -> str:
    """The query that adds lookups to an account's period, a day or a month.

    It is one statement: reading first and writing then could lose lookups.
    """
    return f"""\
INSERT INTO {table} (fense_account_id, {period}, lookups)
VALUES (:fense_account_id, :{period}, :lookups)
ON CONFLICT (fense_account_id, {period}) DO UPDATE
SET lookups = {table}.lookups + EXCLUDED.lookups {condition}
"""


# It changes no row where the sum would exceed the maximum.
ADD_TO_DAY = adding(
    "usage", "date", f"WHERE usage.lookups + EXCLUDED.lookups <= {rules.MAX_LOOKUPS}"
)
ADD_TO_MONTH = adding("usage_month", "month")
USAGE_KEYS = ("fense_account_id", "date", "lookups")
MONTH_KEYS = ("fense_account_id", "month", "lookups")
SELECT_ID = compiled(Account.select(Account.fense_account_id).where(BY_ID))
SELECT_DAYS_BETWEEN = """
SELECT date, lookups FROM usage
WHERE fense_account_id = :fense_account_id AND date BETWEEN :first AND :last
"""
SUM_UP_MONTHS = """
INSERT INTO usage_month (fense_account_id, month, lookups)
SELECT fense_account_id, substr(date, 1, 7), SUM(lookups) FROM usage GROUP BY 1, 2
"""

# The database itself writes usage as JSON, as the contract shows it. Python's sqlite3 releases the
# GIL for each row and has to acquire it again, which takes long in a busy process; and while Python
# writes a long history as JSON, no other request is served.
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
# The sum over all accounts comes in two halves: it may exceed 64 bits.
SELECT_TOTALS = """
SELECT CAST(COALESCE(SUM(total_lookups >> 32), 0) AS BIGINT),
    CAST(COALESCE(SUM(total_lookups & 4294967295), 0) AS BIGINT),
    COALESCE(group_concat(
        '{"fense_account_id": ' || fense_account_id || ', "name": ' || json_quote(name)
        || ', "dispute_account_id": ' || json_quote(dispute_account_id)
        || ', "total_lookups": ' || total_lookups || '}',
    ', '), '')
FROM (
    SELECT fense_account_id, name, dispute_account_id, <total> AS total_lookups
    FROM account ORDER BY fense_account_id
) AS totals
"""


def total_of(table: str, condition: str) -> str:
    """A subquery per account. A JOIN with GROUP BY is slower, more so with a long history."""
    return (
        f"(SELECT CAST(COALESCE(SUM(lookups), 0) AS BIGINT) FROM {table}"
        f" WHERE {table}.fense_account_id = account.fense_account_id AND {condition})"
    )


SELECT_TOTALS_BY_DAY = SELECT_TOTALS.replace(
    "<total>", total_of("usage", "date BETWEEN :first AND :last")
)
# The first and the last month by day, those between by month.
SELECT_TOTALS_BY_MONTH = SELECT_TOTALS.replace(
    "<total>",
    f"""
    {total_of("usage", "date BETWEEN :first AND :end_of_first")}
    + {total_of("usage_month", "month > :first_month AND month < :last_month")}
    + {total_of("usage", "date BETWEEN :start_of_last AND :last")}""",
)

# Whether all that these need is there: each table with its columns, and functions.
PROBE = f"""
SELECT 1 FROM (SELECT json_quote(name), {", ".join(STATE_KEYS)} FROM account LIMIT 1) AS account
LEFT JOIN (SELECT {", ".join(USAGE_KEYS)} FROM usage LIMIT 1) AS usage ON 1 = 1
LEFT JOIN (SELECT {", ".join(MONTH_KEYS)} FROM usage_month LIMIT 1) AS usage_month ON 1 = 1
"""


# --- Time --------------------------------------------------------------------------------------


def utc_now() -> datetime.datetime:
    """The current time in UTC, without a time zone."""
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)


class Clock:
    """The system's clock."""

    was_set = False  # by a test: then it may go back

    def now(self) -> datetime.datetime:
        """The time in UTC, without a time zone."""
        return utc_now()


def as_text(time: datetime.datetime) -> str:
    """A time in UTC as the contract writes it."""
    return time.isoformat(timespec="seconds") + "Z"


def now() -> str:
    """The current time in UTC, as the contract writes times."""
    return as_text(utc_now())


# --- Reading and writing -------------------------------------------------------------------------


class Database:
    """A database of accounts and usage, safe to share between threads.

    `clock` gives the time of what is written.

    Any method may raise an error for which `engines.is_unavailable` is true.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.clock = Clock()
        # Called after a write, with the digests of keys that accounts have got and of those that
        # they have no longer; None: all others.
        self.on_keys: Callable[[Iterable[str], Iterable[str] | None], None] = lambda new, old: None

    def now(self) -> str:
        """The time of its clock, as the contract writes times."""
        return as_text(self.clock.now())

    def today(self) -> str:
        """The day of its clock, as YYYY-MM-DD."""
        return self.now()[:10]

    def ping(self) -> None:
        """Raise an error for which `engines.is_unavailable` is true if requests can't read."""
        self.engine.ping(PROBE)

    # Accounts

    def count_accounts(self) -> int:
        """How many accounts there are."""
        count: int = self.engine.execute_sql(COUNT_ACCOUNTS).fetchone()[0]
        return count

    def is_merchant_key(self, key: str) -> bool:
        """Whether it is the api_key of some account."""
        return bool(self.merchant_keys_among([digest(key)]))

    def merchant_keys_among(self, digests: Collection[str]) -> set[str]:
        """Those of the digests that are of the api_key of some account.

        It takes next to no time, or raises an error: a request may ask before it is served.
        """
        left, found = list(digests), set[str]()
        while left:
            count = next((count for count in LOOK_UPS if count >= len(left)), LOOK_UPS[-1])
            now, left = left[:count], left[count:]
            now += now[:1] * (count - len(now))  # few queries: each is compiled once
            values = {f"key_{number}": one for number, one in enumerate(now)}
            found.update(row[0] for row in self.engine.peek(select_keys(count), values))
        return found

    def find_accounts(self, text: str = "") -> list[int]:
        """The ids of the accounts that have the text, in any case, in what names them.

        The newest first. However a letter is written, as "é" or as "e" with an accent, it is found.
        """
        rows = self.engine.execute_sql(SELECT_FOUND).fetchall()
        wanted = folded(text)
        if not wanted:
            return [row[0] for row in rows]
        names = (" ".join(str(value) for value in row if value is not None) for row in rows)
        return [row[0] for row, name in zip(rows, names, strict=True) if wanted in folded(name)]

    def get_account(self, fense_account_id: int) -> shapes.Account:
        """The account, as the contract shows it. Raises `NoSuchAccount`."""
        row = self._row_of(fense_account_id, SELECT_ACCOUNT)
        return cast("shapes.Account", _account(ACCOUNT_KEYS, row))

    def _row_of(self, fense_account_id: int, query: str, **values: str) -> Row:
        """The row that a query about one account returns. Raises `NoSuchAccount`."""
        row: Row | None = None
        if 0 < fense_account_id <= rules.MAX_ID:
            of_account = {"fense_account_id": fense_account_id, **values}
            row = self.engine.execute_sql(query, of_account).fetchone()
        if row is None:
            raise NoSuchAccount(fense_account_id)
        return row

    def create_account(self, fields: dict[str, Any]) -> shapes.Account:
        """Create an account from checked fields and return it. Raises `ApiKeyTaken`."""
        created_at = self.now()
        columns = as_columns(fields) | {"created_at": created_at, "updated_at": created_at}

        def create() -> shapes.Account:
            self._claim_key(columns["api_key_sha256"])
            self.engine.execute_sql(insert_account(*columns), columns)
            row = self.engine.execute_sql(SELECT_OWNER, columns).fetchone()
            if row[0] > rules.MAX_ID:
                raise peewee.OperationalError("every fense_account_id is used up")
            return cast("shapes.Account", _account(ACCOUNT_KEYS, row))

        account = self.engine.write(create)
        self.on_keys([columns["api_key_sha256"]], ())
        return account

    def update_account(self, fense_account_id: int, fields: dict[str, Any]) -> shapes.Account:
        """Change the checked fields given, no others, and return the account.

        Raises `NoSuchAccount`, `ApiKeyTaken`.
        """

        old_key = ""

        def update() -> shapes.Account:
            nonlocal old_key
            account = self.get_account(fense_account_id)
            if not fields:
                return account
            columns = as_columns(fields) | {"updated_at": self.now()}
            if "api_key_sha256" in columns:
                (old_key,) = self._row_of(fense_account_id, SELECT_DIGEST)
                self._claim_key(columns["api_key_sha256"], fense_account_id)
            values = columns | {"fense_account_id": fense_account_id}
            query = change_account(*columns, goes_back=self.clock.was_set)
            self.engine.execute_sql(query, values)
            return self.get_account(fense_account_id)

        account = self.engine.write(update)
        if old_key:
            self.on_keys([digest(fields["api_key"])], [old_key])
        return account

    def _claim_key(self, key_digest: str, fense_account_id: int | None = None) -> None:
        """Raise `ApiKeyTaken` if another account than this one has the key.

        Nobody else gives it to an account until the transaction ends. Asked before an id is given
        out: a refusal uses none up.
        """
        self.engine.lock(key_digest)
        owner = self.engine.execute_sql(SELECT_OWNER, {"api_key_sha256": key_digest}).fetchone()
        if owner is not None and owner[0] != fense_account_id:
            raise ApiKeyTaken

    # Usage

    def account_usage(self, fense_account_id: int, start: str | None, end: str | None) -> str:
        """The lookups of one account, day by day, both ends included; as JSON.

        Days are YYYY-MM-DD, or None for no bound. Raises `NoSuchAccount`.
        """
        bounds = {"first": start or FIRST_DAY, "last": end or LAST_DAY}
        row = self._row_of(fense_account_id, SELECT_USAGE, **bounds)
        name, dispute_account_id, total_lookups, daily = row
        head = {
            "fense_account_id": fense_account_id,
            "name": name,
            "dispute_account_id": dispute_account_id,
            "start_date": start,
            "end_date": end,
            "total_lookups": total_lookups,
        }
        return f'{json.dumps(head)[:-1]}, "daily": [{daily}]}}'

    def all_usage(self, start: str | None, end: str | None) -> str:
        """The lookups of every account, one total each, both ends included; as JSON."""
        first, last = start or FIRST_DAY, end or LAST_DAY
        values = {"first": first, "last": last}
        query = SELECT_TOTALS_BY_DAY
        if count_months(first[:7], last[:7]) > 2:
            query = SELECT_TOTALS_BY_MONTH
            values |= {"first_month": first[:7], "end_of_first": first[:7] + "-31"}
            values |= {"last_month": last[:7], "start_of_last": last[:7] + "-01"}
        high, low, accounts = self.engine.execute_sql(query, values).fetchone()
        head = {"start_date": start, "end_date": end, "total_lookups": (high << 32) + low}
        return f'{json.dumps(head)[:-1]}, "accounts": [{accounts}]}}'

    def record_lookups(self, fense_account_id: int, lookups: int, date: Any = None) -> None:
        """Add lookups to an account's UTC day, or to each day of a range: see `rules.check_days`.

        Raises `NoSuchAccount`, and `ValueError` for a number below 0 or no number, for a day that
        is none, and where a day's total would pass 10^12. Then nothing has changed.
        """
        if type(fense_account_id) is not int:
            raise ValueError("fense_account_id must be an integer")
        days = rules.check_days(date, self.today())
        rules.check_lookups(lookups)
        try:
            self.record_all([(fense_account_id, day, lookups) for day in days])
        except NotRecorded as refused:
            if refused.unknown:
                raise NoSuchAccount(fense_account_id) from None
            raise ValueError(beyond_most(days[refused.excessive[0]])) from None

    def record_all(self, rows: Sequence[Lookups], patient: bool = False) -> None:
        """Add these checked lookups, all or nothing. Raises `NotRecorded`.

        `patient` is for long lists: see the engine's `write`.
        """
        days: dict[tuple[int, str], int] = {}
        months: dict[tuple[int, str], int] = {}
        for fense_account_id, date, lookups in rows:
            for sums, period in ((days, date), (months, date[:7])):
                key = fense_account_id, period
                sums[key] = sums.get(key, 0) + lookups
        ids = sorted({key[0] for key in months})

        def record() -> None:
            valid = [(number,) for number in ids if 0 < number <= rules.MAX_ID]
            missing = self.engine.execute_each(SELECT_ID, USAGE_KEYS[:1], valid, 1)
            known = {number for (number,) in valid} - {number for (number,) in missing}
            # In a fixed order, days before months, so that writers can't deadlock.
            added = [(*key, days[key]) for key in sorted(days) if days[key] and key[0] in known]
            fitting = [row for row in added if row[2] <= rules.MAX_LOOKUPS]
            full = self.engine.execute_each(ADD_TO_DAY, USAGE_KEYS, fitting, 2)
            full += [row for row in added if row[2] > rules.MAX_LOOKUPS]
            if full or len(known) < len(ids):
                unknown = [place for place, row in enumerate(rows) if row[0] not in known]
                raise NotRecorded(unknown, self._excessive(rows, {row[:2] for row in full}))
            added = [(*key, months[key]) for key in sorted(months) if months[key]]
            self.engine.execute_each(ADD_TO_MONTH, MONTH_KEYS, added, 2)

        self.engine.write(record, patient)

    def _excessive(self, rows: Sequence[Lookups], full: set[tuple[int, str]]) -> list[int]:
        """The places of rows that exceed the maximum of a day. `full` are these days."""
        totals: dict[tuple[int, str], int] = {}
        for number, group in itertools.groupby(sorted(full), key=lambda key: key[0]):
            days = [date for _, date in group]
            values = {"fense_account_id": number, "first": days[0], "last": days[-1]}
            for date, lookups in self.engine.execute_sql(SELECT_DAYS_BETWEEN, values):
                totals[number, date] = lookups
        places = []
        for place, (fense_account_id, date, lookups) in enumerate(rows):
            key = fense_account_id, date
            if key in full:
                total = totals.get(key, 0) + lookups
                if total > rules.MAX_LOOKUPS:
                    places.append(place)
                else:
                    totals[key] = total
        return places

    # All of it

    def dump(self) -> shapes.State:
        """Every account with its usage by day, in order of id: a state document."""
        with self.engine.snapshot():
            rows = self.engine.execute_sql(SELECT_STATE).fetchall()
            days = self.engine.execute_sql(SELECT_DAYS).fetchall()
        usage: dict[int, dict[str, int]] = {row[0]: {} for row in rows}
        for fense_account_id, date, lookups in days:
            usage[fense_account_id][date] = lookups
        accounts = [_account(STATE_KEYS, row) | {"usage": usage[row[0]]} for row in rows]
        return cast("shapes.State", {"accounts": accounts})

    def replace(self, accounts: Sequence[dict[str, Any]], usage: Sequence[Lookups]) -> None:
        """Replace everything by these accounts, by column, and their usage.

        The next id follows the highest.
        """
        is_long = len(accounts) + len(usage) > FEW_ROWS
        with self.engine.scratch() if is_long else contextlib.nullcontext() as empty:
            target = self if empty is None else Database(empty)
            target.load(accounts, usage, highest_id(accounts), replace=True)
        self.on_keys((account["api_key_sha256"] for account in accounts), None)

    def seed(self, accounts: Sequence[dict[str, Any]], usage: Sequence[Lookups]) -> bool:
        """Load these, as `replace` would, unless there are accounts; whether it did."""
        is_loaded = self.load(accounts, usage, highest_id(accounts))
        if is_loaded:
            self.on_keys((account["api_key_sha256"] for account in accounts), None)
        return is_loaded

    def load(
        self,
        accounts: Iterable[dict[str, Any]],
        usage: Iterable[Lookups],
        last_id: int,
        replace: bool = False,
    ) -> bool:
        """Load these unless there are accounts, or to replace those; return whether it did.

        The next id follows `last_id`.
        """

        def load() -> bool:
            self.engine.lock()
            if replace:
                for query in DELETE_ALL:
                    self.engine.execute_sql(query)
            elif self.count_accounts():
                return False
            # A column that an account leaves out gets the schema's default.
            for columns, group in itertools.groupby(accounts, key=tuple):
                rows = (tuple(account.values()) for account in group)
                self.engine.load("account", columns, rows)
            self.engine.load("usage", USAGE_KEYS, usage)
            self.engine.execute_sql(SUM_UP_MONTHS)
            self.engine.set_last_id(last_id)
            return True

        return self.engine.write(load, patient=True)


def copy(source: Database, target: Database) -> bool:
    """Copy all of the source, as it is at one moment, unless the target has accounts.

    Returns whether it did. The next id is the same in both.
    """
    with source.engine.snapshot():
        accounts = (_account(STATE_KEYS, row) for row in source.engine.rows(SELECT_STATE))
        return target.load(accounts, source.engine.rows(SELECT_DAYS), source.engine.last_id())


# --- Helpers -----------------------------------------------------------------------------------


def count_months(first: str, last: str) -> int:
    """How many months there are from YYYY-MM to YYYY-MM, both included."""
    return (int(last[:4]) - int(first[:4])) * 12 + int(last[5:]) - int(first[5:]) + 1


def beyond_most(date: str) -> str:
    """What is said of lookups that `NotRecorded` calls excessive."""
    return f"would take {date} past {rules.MAX_LOOKUPS}, a day's most"


def highest_id(accounts: Iterable[dict[str, Any]]) -> int:
    return max((account["fense_account_id"] for account in accounts), default=0)


def folded(text: str) -> str:
    """The text in a form to search in: one for either case, and for all ways to write a letter."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def as_columns(fields: dict[str, Any]) -> dict[str, Any]:
    """The contract's fields as columns: the same, but for the key."""
    columns = dict(fields)
    if "api_key" in columns:
        key = columns.pop("api_key")
        columns |= {"api_key_sha256": digest(key), "api_key_last4": last4(key)}
    return columns


def _account(keys: tuple[str, ...], row: tuple[Any, ...]) -> dict[str, Any]:
    account = dict(zip(keys, row, strict=True))
    for flag in FLAGS:
        account[flag] = bool(account[flag])
    return account
