"""The data: read and write accounts and their lookups, on any engine. Knows no HTTP.

What `Database` returns has the form of the contract's bodies.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from peewee import OperationalError

from fense_admin import engines, models, rules, sqlite
from fense_admin.engines import Engine, Read, Row, Unusable, Values
from fense_admin.masking import digest
from fense_admin.models import Columns, Lookups

if TYPE_CHECKING:
    from fense_admin import shapes


EXTRA = "run pip install 'fense-admin[postgresql]' (in a checkout '.[postgresql]')"
BIG_READS = 16  # large responses produced at once; each takes a connection and a thread
BIG_READ_TIMEOUT = 2  # seconds that a further one waits for its turn before it is rejected
USAGE = ("usage", "usage_month")  # the tables
REPORTED = 5_000  # rows between two progress reports of a long write

Item = TypeVar("Item")
Piece = dict[str, int]  # a range of accounts: it begins `after` an id and ends at `last_id`


class Report:
    """Receives progress reports of a long write. This class ignores them."""

    def __call__(self, accounts: int, days: int) -> None:
        """Report the numbers of accounts and days written so far."""

    def before_commit(self) -> None:
        """Called right before the commit, when everything is written."""


NO_REPORT = Report()


class Database:
    """A database of accounts and usage. Threads can share it.

    `clock` provides the time for what is written. Any method may raise an error for which
    `engines.is_unavailable` is true.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.clock = models.Clock()
        self._big_reads = threading.BoundedSemaphore(BIG_READS)
        # Called after a write with the digests of the new keys and of the removed ones; None means
        # that all other keys were removed.
        self.on_keys: Callable[[Iterable[str], Iterable[str] | None], None] = lambda new, old: None

    def now(self) -> str:
        """Return the clock's time in the format of the contract."""
        return models.as_text(self.clock.now())

    def today(self) -> str:
        """Return the clock's date as YYYY-MM-DD."""
        return self.now()[:10]

    def ping(self) -> None:
        """Raise an error for which `engines.is_unavailable` is true if the data can't be read."""
        self.engine.ping(models.PROBE)

    # Accounts

    def count_accounts(self) -> int:
        """Return the number of accounts."""
        return int(self.engine.execute_sql(models.COUNT_ACCOUNTS).fetchone()[0])

    def is_merchant_key(self, key: str) -> bool:
        """Return whether this is the api_key of an account."""
        return bool(self.merchant_keys_among([digest(key)]))

    def merchant_keys_among(self, digests: Collection[str]) -> set[str]:
        """Return those of the digests that belong to the api_key of an account.

        Returns or raises quickly, because requests need it before they are handled.
        """
        left, found = list(digests), set[str]()
        while left:
            values = {f"key_{n}": one for n, one in enumerate(left[: models.LOOK_UPS])}
            found |= {key for (key,) in self.engine.peek(models.select_keys(*values), values)}
            left = left[models.LOOK_UPS :]
        return found

    def find_accounts(self, text: str = "") -> list[int]:
        """Return the ids of accounts with the text in their id, name, email or key, newest first.

        Ignores case, and whether "é" is one character or "e" with a combining accent.
        """
        wanted = models.folded(text)
        if not wanted:
            return [number for (number,) in self.engine.execute_sql(models.SELECT_IDS).fetchall()]
        rows = self.engine.execute_sql(models.SELECT_NAMES).fetchall()
        return [number for number, names in rows if wanted in models.folded(names)]

    def get_account(self, fense_account_id: int) -> shapes.Account:
        """Return an account in the form of the contract. Raises `NoSuchAccount`."""
        row = self._row_of(fense_account_id, models.SELECT_ACCOUNT)
        return cast("shapes.Account", models.as_account(row, models.ACCOUNT_KEYS))

    def _row_of(self, fense_account_id: int, query: str, **values: str) -> Row:
        """Return the row that a query about one account finds. Raises `NoSuchAccount`."""
        row: Row | None = None
        if 0 < fense_account_id <= rules.MAX_ID:
            of_account = {"fense_account_id": fense_account_id, **values}
            row = self.engine.execute_sql(query, of_account).fetchone()
        if row is None:
            raise models.NoSuchAccount(fense_account_id)
        return row

    def create_account(self, fields: dict[str, Any]) -> shapes.Account:
        """Create an account from checked fields and return it. Raises `ApiKeyTaken`."""
        created_at = self.now()
        columns = models.as_columns(fields) | {"created_at": created_at, "updated_at": created_at}

        def create() -> shapes.Account:
            self._claim_key(columns["api_key_sha256"])
            self.engine.execute_sql(models.insert_account(*columns), columns)
            row = self.engine.execute_sql(models.SELECT_OWNER, columns).fetchone()
            if row[0] > rules.MAX_ID:
                raise OperationalError("every fense_account_id is used up")
            return cast("shapes.Account", models.as_account(row, models.ACCOUNT_KEYS))

        account = self.engine.write(create)
        self.on_keys([columns["api_key_sha256"]], ())
        return account

    def update_account(self, fense_account_id: int, fields: dict[str, Any]) -> shapes.Account:
        """Change only the given fields, which are checked, and return the account.

        Raises `NoSuchAccount`, `ApiKeyTaken`.
        """

        old_key = ""

        def update() -> shapes.Account:
            nonlocal old_key
            account = self.get_account(fense_account_id)
            if not fields:
                return account
            columns = models.as_columns(fields) | {"updated_at": self.now()}
            if "api_key_sha256" in columns:
                (old_key,) = self._row_of(fense_account_id, models.SELECT_DIGEST)
                self._claim_key(columns["api_key_sha256"], fense_account_id)
            query = models.change_account(*columns, goes_back=self.clock.was_set)
            self.engine.execute_sql(query, columns | {"fense_account_id": fense_account_id})
            return self.get_account(fense_account_id)

        account = self.engine.write(update)
        if old_key:
            self.on_keys([digest(fields["api_key"])], [old_key])
        return account

    def _claim_key(self, key_digest: str, fense_account_id: int | None = None) -> None:
        """Raise `ApiKeyTaken` if an account other than this one has the key.

        Until the transaction ends, nobody else can claim the key. Checked before the INSERT so that
        a rejected request doesn't consume an id.
        """
        self.engine.lock(key_digest)
        values = {"api_key_sha256": key_digest}
        owner = self.engine.execute_sql(models.SELECT_OWNER, values).fetchone()
        if owner is not None and owner[0] != fense_account_id:
            raise models.ApiKeyTaken

    # Usage

    def account_usage(self, fense_account_id: int, start: str | None, end: str | None) -> str:
        """Return the lookups of one account by day, from start to end inclusive, as JSON.

        Dates are YYYY-MM-DD, or None for no limit. Raises `NoSuchAccount`.
        """
        bounds = {"first": start or models.FIRST_DAY, "last": end or models.LAST_DAY}
        row = self._row_of(fense_account_id, models.SELECT_USAGE, **bounds)
        name, uuid, total, daily = row
        account = {"fense_account_id": fense_account_id, "name": name, "dispute_account_id": uuid}
        head = account | {"start_date": start, "end_date": end, "total_lookups": total}
        return f'{json.dumps(head)[:-1]}, "daily": [{daily}]}}'

    def all_usage(self, start: str | None, end: str | None) -> str | Iterator[str]:
        """Return one total of lookups per account, from start to end inclusive, as JSON.

        With many accounts, the JSON comes in pieces, all from one snapshot; `close()` the iterator
        to stop early. Errors before the first piece are raised here, later ones by the iterator.
        """
        first, last = start or models.FIRST_DAY, end or models.LAST_DAY
        queries, values = models.totals_between(first, last)
        head = f'{{"start_date": {json.dumps(start)}, "end_date": {json.dumps(end)}'
        high, low, accounts = self.engine.execute_sql(queries.of_all, values).fetchone()
        if accounts is not None:
            total = (high << 32) + low
            return f'{head}, "total_lookups": {total}, "accounts": [{accounts}]}}'
        pieces = self._usage_by_piece(queries, values, head)
        next(pieces)
        return pieces

    def _usage_by_piece(
        self, queries: models.TotalsQueries, values: dict[str, Any], head: str
    ) -> Iterator[str]:
        """Yield the pieces of `all_usage`; before them, "" when the first one is ready."""
        with self._big_read() as read:
            total = 0
            for piece in pieces_of(read, queries.summed_up):
                ((high, low),) = read(queries.sum_of_piece, {**values, **piece})
                total += (high << 32) + low
            pieces = pieces_of(read, models.PIECE)
            lists = (read(queries.piece, {**values, **piece})[0][0] for piece in pieces)
            yield from in_pieces(f'{head}, "total_lookups": {total}, "accounts": [', lists)

    @contextlib.contextmanager
    def _big_read(self) -> Iterator[Read]:
        """Return the context of a function that reads from one snapshot, for a large response.

        A substitute takes this worker's place. Raises `OperationalError` if there are too many.
        """
        with self.engine.while_waiting():
            if not self._big_reads.acquire(timeout=BIG_READ_TIMEOUT):
                raise OperationalError("too many large responses at once")
            try:
                with self.engine.reading() as read:
                    yield read
            finally:
                self._big_reads.release()

    def record_lookups(
        self, fense_account_id: int, lookups: int, date: Any = None, report: Report = NO_REPORT
    ) -> None:
        """Add lookups to an account's UTC day, or to each day of a range: see `rules.check_days`.

        Raises `NoSuchAccount`, and `ValueError` for an invalid number or day, or if a day's total
        would exceed 10^12. Then nothing has changed.
        """
        if type(fense_account_id) is not int:
            raise ValueError("fense_account_id must be an integer")
        days = rules.check_days(date, self.today())
        rules.check_lookups(lookups)
        try:
            self.record_all([(fense_account_id, day, lookups) for day in days], report=report)
        except models.NotRecorded as refused:
            if refused.unknown:
                raise models.NoSuchAccount(fense_account_id) from None
            raise ValueError(models.over_daily_maximum(days[refused.excessive[0]])) from None

    def record_all(
        self, rows: Sequence[Lookups], long_running: bool = False, report: Report = NO_REPORT
    ) -> None:
        """Add these checked lookups, all or nothing. Raises `NotRecorded`.

        Set `long_running` for long lists: see the engine's `write`.
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
            missing = self.engine.execute_each(models.SELECT_ID, models.USAGE_KEYS[:1], valid, 1)
            known = {number for (number,) in valid} - {number for (number,) in missing}
            # In a fixed order, days before months, so that writers can't deadlock.
            added = [(*key, days[key]) for key in sorted(days) if days[key] and key[0] in known]
            fitting = [row for row in added if row[2] <= rules.MAX_LOOKUPS]
            full = [row for row in added if row[2] > rules.MAX_LOOKUPS]
            written = set[int]()
            for start in range(0, len(fitting), REPORTED):
                some = fitting[start : start + REPORTED]
                full += self.engine.execute_each(models.ADD_TO_DAY, models.USAGE_KEYS, some, 2)
                written.update(row[0] for row in some)
                report(len(written), start + len(some))
            if full or len(known) < len(ids):
                unknown = [place for place, row in enumerate(rows) if row[0] not in known]
                raise models.NotRecorded(unknown, self._excessive(rows, {row[:2] for row in full}))
            added = [(*key, months[key]) for key in sorted(months) if months[key]]
            self.engine.execute_each(models.ADD_TO_MONTH, models.MONTH_KEYS, added, 2)
            report.before_commit()

        self.engine.write(record, long_running)

    def _excessive(self, rows: Sequence[Lookups], full: set[tuple[int, str]]) -> list[int]:
        """Return the indexes of the rows that exceed a day's maximum. `full` are these days."""
        totals: dict[tuple[int, str], int] = {}
        for number in {number for number, _ in full}:
            days = self.engine.execute_sql(models.SELECT_DAYS_OF, {"fense_account_id": number})
            totals |= {(number, date): lookups for date, lookups in days}
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

    def state(self) -> str | Iterator[str]:
        """Return every account with its usage by day, in id order: a state document, as JSON.

        With many accounts, the JSON comes in pieces, as with `all_usage`.
        """
        first = next(pieces_of(self._read, models.FEW_ACCOUNTS))
        if first["last_id"] == rules.MAX_ID:
            return f'{{"accounts": [{accounts_as_json(self._read, first)}]}}'
        pieces = self._state_by_piece()
        next(pieces)
        return pieces

    def _state_by_piece(self) -> Iterator[str]:
        """Yield the pieces of `state`; before them, "" when the first one is ready."""
        with self._big_read() as read:
            pieces = pieces_of(read, models.FEW_ACCOUNTS)
            lists = (accounts_as_json(read, piece) for piece in pieces)
            yield from in_pieces('{"accounts": [', lists)

    def _read(self, query: str, values: Values) -> list[Row]:
        return self.engine.execute_sql(query, values).fetchall()

    def dump(self) -> shapes.State:
        """Return the document of `state` as Python objects."""
        return cast("shapes.State", json.loads("".join(self.state())))

    def replace(self, accounts: Sequence[Columns], usage: Collection[Lookups]) -> None:
        """Replace everything with these accounts (as columns) and their usage.

        The next id follows the highest.
        """
        is_long = len(accounts) + len(usage) > models.FEW_ROWS
        with self.engine.scratch() if is_long else contextlib.nullcontext() as empty:
            target = self if empty is None else Database(empty)
            target.load(accounts, usage, models.highest_id(accounts), replace=True)
        self.on_keys((account["api_key_sha256"] for account in accounts), None)

    def seed(
        self, accounts: Sequence[Columns], usage: Collection[Lookups], report: Report = NO_REPORT
    ) -> bool:
        """Load these, like `replace`, unless there are accounts. Return whether it did."""
        last_id = models.highest_id(accounts)
        is_loaded = self.load(accounts, usage, last_id, replace=False, report=report)
        if is_loaded:
            self.on_keys((account["api_key_sha256"] for account in accounts), None)
        return is_loaded

    def load(
        self,
        accounts: Iterable[Columns],
        usage: Iterable[Lookups],
        last_id: int,
        replace: bool = False,
        report: Report = NO_REPORT,
    ) -> bool:
        """Load these unless there are accounts; with `replace`, delete those first.

        The next id follows `last_id`. Calls `report` every few thousand rows. Returns whether it
        loaded them.
        """

        def load() -> bool:
            self.engine.lock()
            if replace:
                for query in models.DELETE_ALL:
                    self.engine.execute_sql(query)
            elif self.count_accounts():
                return False
            loaded = 0

            def report_accounts(count: int) -> None:
                nonlocal loaded
                loaded = count
                report(loaded, 0)

            counted = report_each(accounts, report_accounts)
            # A column that an account leaves out gets the schema's default.
            for columns, group in itertools.groupby(counted, key=tuple):
                rows = (tuple(account.values()) for account in group)
                self.engine.load("account", columns, rows)
            days = report_each(usage, lambda count: report(loaded, count))
            first = list(itertools.islice(days, models.MANY_DAYS))
            is_long = len(first) == models.MANY_DAYS
            with self.engine.without_keys(USAGE) if is_long else contextlib.nullcontext():
                self.engine.load("usage", models.USAGE_KEYS, itertools.chain(first, days))
                for piece in pieces_of(self._read, models.FEW_ACCOUNTS):
                    self.engine.execute_sql(models.SUM_UP_MONTHS, piece)
            self.engine.set_last_id(last_id)
            report.before_commit()
            return True

        return self.engine.write(load, long_running=True)


def pieces_of(read: Read, size: int) -> Iterator[Piece]:
    """Yield ranges of `size` accounts each, in id order; the last one has the rest."""
    last_id = 0
    while last_id < rules.MAX_ID:
        after = last_id
        rows = read(models.END_OF_PIECE, {"after": after, "size": size})
        last_id = rows[0][0] if rows else rules.MAX_ID
        yield {"after": after, "last_id": last_id}


def accounts_as_json(read: Read, piece: Piece) -> str:
    """Return the accounts of a piece in the form of a state document."""
    return ", ".join(
        f'{json.dumps(models.as_account(account))[:-1]}, "usage": {{{days}}}}}'
        for *account, days in read(models.SELECT_STATE_OF_PIECE, piece)
    )


def in_pieces(head: str, lists: Iterable[str | None]) -> Iterator[str]:
    """Yield a document that ends with a list, which is the concatenation of the `lists`.

    The first piece is "": it shows that the next one is ready.
    """
    before = head
    for number, items in enumerate(lists):
        if not number:
            yield ""
        if items:
            yield before + items
            before = ", "
    yield "]}" if before == ", " else head + "]}"


def report_each(items: Iterable[Item], report: Callable[[int], None]) -> Iterator[Item]:
    """Yield the items. Call `report` with their number after each `REPORTED`, and at the end."""

    def batches() -> Iterator[list[Item]]:
        left, taken = iter(items), 0
        while batch := list(itertools.islice(left, REPORTED)):
            yield batch
            taken += len(batch)
            report(taken)

    # No Python code runs per row, only per batch.
    return itertools.chain.from_iterable(batches())


def copy(source: Database, target: Database, report: Report = NO_REPORT) -> bool:
    """Copy a snapshot of the source to the target, unless the target has accounts.

    Returns whether it did. The next id is then the same in both.
    """
    with source.engine.reading(long_running=True) as read:

        def rows(query: str) -> Iterator[Row]:
            return itertools.chain.from_iterable(
                read(query, piece) for piece in pieces_of(read, models.FEW_ACCOUNTS)
            )

        accounts = map(models.as_account, rows(models.SELECT_ACCOUNTS_OF_PIECE))
        ((last_id,),) = read(source.engine.last_id, {})
        usage = cast("Iterator[Lookups]", rows(models.SELECT_DAYS_OF_PIECE))
        return target.load(accounts, usage, last_id, replace=False, report=report)


def open_database(name: str, read_only: bool = False) -> Database:
    """Open a database by its name: see `engines.check_name`. Raises `Unusable`.

    With `read_only` its tables may be of an earlier version, so it can only be a source of `copy`.
    """
    try:
        engines.check_name(name)
    except ValueError as error:
        raise Unusable(f"the database's name {error}") from None
    if not engines.is_server(name):
        return Database(sqlite.Engine(name, read_only))
    try:
        from fense_admin import postgres  # imported late: the driver is optional
    except ImportError as error:
        raise Unusable(f"PostgreSQL needs psycopg ({error}): {EXTRA}") from None
    return Database(postgres.Engine(name, read_only))
