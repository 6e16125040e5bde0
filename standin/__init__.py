"""Fense's API as a stand-in for tests in Python: served from a thread, or in-process."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import threading
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from fense_admin import create_app, models, rules
from fense_admin.exchange import KEY_HEADER
from fense_admin.rules import ValidationErrors
from fense_admin.standin.clock import CLOCK_RULES
from fense_admin.standin.control import ControlPlane
from fense_admin.standin.faults import check_fault
from fense_admin.standin.instances import ROOT, generated
from fense_admin.standin.journal import Entry
from fense_admin.standin.state import Seed
from fense_admin.standin.waits import FILTER_RULES, Filter

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fense_admin import shapes

    Source = shapes.State | shapes.StateSent | str | os.PathLike[str]

THREADS = 4  # requests answered at the same time
Day = str | int | datetime.date
STOP_TIMEOUT = 1  # seconds that the end of the block waits for in-flight requests


class StandIn:
    """Fense's API with its control plane, in this process, over a database of its own in memory.

    Use it as a context, once: it serves on a free port of 127.0.0.1 from a thread, and leaves
    nothing behind. With `serve=False` it opens no socket, and is called through `app`.

    `seed` is a state document, the path of one, or "demo"; `prefix` is such as "/admin"; keys that
    are not given are generated. Raises `ValueError` for what is none of these, `OSError` if a seed
    can't be read.
    """

    def __init__(
        self,
        seed: Source | Seed | None = None,
        prefix: str = "",
        master_key: str | None = None,
        service_key: str | None = None,
        serve: bool = True,
    ) -> None:
        loaded = seed if isinstance(seed, Seed) else Seed(seed, models.now())
        with ValidationErrors() as errors:
            self.master_key, self.service_key = (
                generated(kind)
                if key is None
                else errors.check(f"{kind}_key", rules.check_key, key)
                for kind, key in (("master", master_key), ("service", service_key))
            )
        # Read-only, so that no test changes them for the next: fense.headers | {"x-api-key": "x"}
        self.headers: Mapping[str, str] = MappingProxyType(
            {KEY_HEADER: self.master_key, "Content-Type": "application/json"}
        )
        contract = create_app(
            master_key=self.master_key, service_keys=[self.service_key], prefix=prefix
        )
        self._prefix = contract.prefix
        self._db = contract.db
        self._serves = serve
        self._entered = self._left = False
        try:
            # The WSGI application, for WebTest or an in-process HTTP client.
            self.app = ControlPlane(contract, self.master_key, [self.service_key], seed=loaded)
            self.reset()
        except ValueError:
            contract.close()
            raise
        self._locate("http://localhost")

    def __enter__(self) -> StandIn:
        if self._entered:
            raise RuntimeError("a StandIn can be used only once: create another one")
        self._entered = True
        if self._serves:
            # Late: in-process it takes no waitress.
            from fense_admin.serving import addresses, server

            sockets = addresses.listen(addresses.resolve("127.0.0.1", 0))
            self._server = server.Server(self.app, sockets, THREADS)
            # A daemon thread, stopped at exit: a block that is never left must not hold it up.
            self._thread = threading.Thread(
                target=self._server.run, args=(STOP_TIMEOUT,), daemon=True
            )
            self._thread.start()
            atexit.register(self.__exit__)
            self._locate(f"http://127.0.0.1:{self._server.port}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._left:
            return
        self._left = True
        atexit.unregister(self.__exit__)
        self.app.faults.disarm()
        if self._serves:
            self._server.stop()
            self._thread.join()
        self.app.close()

    def _locate(self, origin: str) -> None:
        self.url = origin + self._prefix
        self.standin_url = origin + ROOT

    def create_account(self, **fields: Unpack[shapes.NewAccount]) -> shapes.Account:
        """Create an account and return it as the contract does; no fault, no journal entry.

        Takes the fields of a creation and `is_active`; what is required and left out is generated.
        Raises `ValueError` in the contract's words for what the contract would refuse.
        """
        name = generated("merchant")
        least = {"api_key": generated("sk_test"), "name": name, "email": f"owner@{name}.example"}
        with ValidationErrors() as errors:
            checked = rules.validate(rules.as_json(least | fields), rules.ACCOUNT_RULES, errors)
        try:
            return self._db.create_account(checked)
        except models.ApiKeyTaken as error:
            raise ValueError(f"api_key {error}") from None

    def record_lookups(
        self, fense_account_id: int, lookups: int, date: Day | tuple[Day, Day] | None = None
    ) -> None:
        """Add lookups to an account's UTC day, or to each day of a range; today unless given.

        A day is "YYYY-MM-DD", a `datetime.date`, or days before today such as -7. A range is
        (first, last) or "first..last", both included. No fault, no journal entry. Raises
        `ValueError` for what can't be recorded, and then nothing has changed.
        """
        try:
            self._db.record_lookups(fense_account_id, lookups, date)
        except models.NoSuchAccount as error:
            raise ValueError(str(error)) from None

    def fail(
        self,
        status: int | None = None,
        *,
        method: shapes.FaultMethod | None = None,
        path: str | None = None,
        times: int | None = None,
        skip: int | None = None,
        after: bool | None = None,
        delay_ms: int | list[int] | None = None,
        random_seed: int | None = None,
        drop: shapes.FaultDrop | None = None,
        headers: dict[str, str] | None = None,
        message: str | None = None,
        body: str | None = None,
        content_type: str | None = None,
    ) -> shapes.Fault:
        """Arm a fault and return it with its `id`. What is None is left out.

        It meets the next `times` (1; 0: until disarmed) requests of this `method` and with this
        `path`, a glob without the prefix, once `skip` of them have passed. `delay_ms`, a number or
        [least, most], alone only delays them; `random_seed` repeats such delays. With `after` the
        request is handled first, and only its response is lost, late or replaced. `message` is that
        of the error body, `body` is sent in its place. Raises `ValueError` for a fault that can't
        be armed.
        """
        sent = {
            "status": status,
            "method": method,
            "path": path,
            "times": times,
            "skip": skip,
            "after": after,
            "delay_ms": delay_ms,
            "random_seed": random_seed,
            "drop": drop,
            "headers": headers,
            "message": message,
            "body": body,
            "content_type": content_type,
        }
        given = {name: value for name, value in sent.items() if value is not None}
        with ValidationErrors() as errors:
            fields = check_fault(rules.as_json(given), errors)
        return cast("shapes.Fault", self.app.faults.arm(fields))

    def faults(self) -> list[shapes.Fault]:
        """The armed faults, oldest first, with the `times` left and how often each was `used`."""
        return cast("list[shapes.Fault]", self.app.faults.armed())

    def disarm(self) -> None:
        """Disarm every fault; requests that wait for the delay of one go on."""
        self.app.faults.disarm()

    def requests(self) -> list[shapes.RequestEntry]:
        """The journal, copied: the newest 1,000 requests, oldest first."""
        return copied(self.app.journal)

    def wait_for_requests(
        self,
        method: str | None = None,
        path: str | None = None,
        *,
        status: int | str | None = None,
        count: int = 1,
        timeout: float = 10,
    ) -> list[shapes.RequestEntry]:
        """Wait until so many requests have been answered, and return the newest of them.

        Those of this `method`, with this `path` (a glob without the prefix) and `status` (400 or
        "4xx") count, those before the call, too; a dropped one counts as answered. `timeout` is in
        seconds. Raises `TimeoutError`, which says what came instead, and `ValueError` for an
        argument that can't be one.
        """
        named = {"method": method, "path": path, "status": status, "count": count}
        with ValidationErrors() as errors:
            checked = {
                name: errors.check(name, FILTER_RULES[name], str(value))
                for name, value in named.items()
                if value is not None
            }
        wanted = Filter(checked, self._prefix)
        found = self.app.journal.wait(wanted, timeout, {}, contextlib.nullcontext, count)
        if len(found) < count:
            asked = " ".join(filter(None, (method, path))) or "any request"
            came = self.report() or "no request"
            raise TimeoutError(
                f"{len(found)} of {count} arrived in {timeout:g} s ({asked}); received:\n{came}"
            )
        return copied(found)

    def set_clock(self, now: str | datetime.datetime) -> None:
        """Stop the clock at a time: a text such as "2026-11-30T23:59:59Z", or a datetime.

        Both are in UTC, a datetime with another time zone excepted; what is less than a second is
        dropped. It decides `created_at`, `updated_at` and today; the log, the journal and delays go
        by the system's. Raises `ValueError` for any other value.
        """
        if isinstance(now, datetime.datetime):
            if now.tzinfo is not None:
                now = now.astimezone(datetime.timezone.utc).replace(tzinfo=None)
            now = models.as_text(now)
        self.app.clock.stop(rules.check_clock_time(now))

    def advance(self, seconds: int) -> None:
        """Move the stopped clock on, or back. Raises `ValueError` where it runs."""
        self.app.clock.advance(CLOCK_RULES["advance_seconds"](seconds))

    def release_clock(self) -> None:
        """Let the clock go: it is the system's again."""
        self.app.clock.release()

    def report(self) -> str:
        """For a failed test: the last 20 requests, a line each, and the armed faults never used.

        Those of its instances, too. "" where there is neither.
        """
        return self.app.report()

    def state(self) -> shapes.State:
        """The state document: all accounts with their usage."""
        return self._db.dump()

    def load(self, state: Source) -> None:
        """Replace everything by a state document, the one in the file of this path, or "demo".

        Raises `ValueError`, and then nothing has changed.
        """
        now = self._db.now()
        self._db.replace(*Seed(state, now).at(now))

    def reset(self) -> None:
        """Back to the seed: accounts, usage, ids, faults, journal, clock; ends all instances.

        Raises `ValueError` if two of the seed's days, such as -1 and 2026-11-01, are the same now.
        """
        self.app.reset()


def copied(entries: Iterable[Entry]) -> list[shapes.RequestEntry]:
    """Entries of the journal, as nobody else can change them."""
    copies = [entry | {"headers": dict(entry["headers"])} for entry in list(entries)]
    return cast("list[shapes.RequestEntry]", copies)
