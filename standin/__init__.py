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
from fense_admin.realtime import monotonic
from fense_admin.rules import ValidationErrors
from fense_admin.standin.clock import CLOCK_RULES
from fense_admin.standin.control import ControlPlane
from fense_admin.standin.faults import check_fault
from fense_admin.standin.instances import ROOT, generated
from fense_admin.standin.journal import Entry
from fense_admin.standin.state import Seed
from fense_admin.standin.waits import FILTER_RULES, Filter, check_timeout

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fense_admin import shapes

    Source = shapes.State | shapes.StateSent | str | os.PathLike[str]

THREADS = 4  # requests handled at the same time
Day = str | int | datetime.date
STOP_TIMEOUT = 1  # seconds to wait for in-flight requests at the end of the block


class StandIn:
    """Fense's API with its control plane, in this process, with its own database in memory.

    Use it as a context, once: a thread serves it on a free port of 127.0.0.1, and nothing is left
    afterwards. With `serve=False` it opens no socket; call it through `app`.

    `seed` is a state document, the path of one, or "demo"; `prefix` is a path such as "/admin";
    missing keys are generated. Raises `ValueError` for invalid arguments, `OSError` if the seed
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
            # Imported late: in-process, waitress isn't needed.
            from fense_admin.serving import addresses, server

            sockets = addresses.listen(addresses.resolve("127.0.0.1", 0))
            self._server = server.Server(self.app, sockets, THREADS)
            # A daemon thread, stopped at exit, so that an unclosed StandIn can't block that.
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
        self.app.release_waiting()
        if self._serves:
            self._server.stop()
            self._thread.join()
        self.app.close()

    def _locate(self, origin: str) -> None:
        self.url = origin + self._prefix
        self.standin_url = origin + ROOT

    def create_account(self, **fields: Unpack[shapes.NewAccount]) -> shapes.Account:
        """Create an account directly, without faults and journal, and return it.

        Takes the fields of a creation and `is_active`; missing required fields are generated.
        Raises `ValueError`, with the contract's message, for what the contract would reject.
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
        """Add lookups to an account's UTC day, or to each day of a range; default: today.

        A day is "YYYY-MM-DD", a `datetime.date`, or a number of days before today, such as -7. A
        range is (first, last) or "first..last", inclusive. Bypasses faults and journal. Raises
        `ValueError` for invalid arguments; then nothing has changed.
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
        """Arm a fault and return it with its `id`. Arguments that are None are left out.

        It applies to the next `times` requests (default: 1; 0: until disarmed) with this `method`
        and this `path`, a glob without the prefix, after letting `skip` of them pass. Alone,
        `delay_ms` (a number or [least, most]) only delays them; `random_seed` makes the delays
        repeatable. With `after` the request is handled first, and only its response is lost, late
        or replaced. `message` is the message of the error body; `body` replaces that body. Raises
        `ValueError` for invalid arguments.
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
        """Return the armed faults, oldest first, with the `times` left and the times `used`."""
        return cast("list[shapes.Fault]", self.app.faults.armed())

    def disarm(self) -> None:
        """Disarm all faults. Requests that are waiting for a delay continue."""
        self.app.faults.disarm()

    def requests(self) -> list[shapes.RequestEntry]:
        """Return a copy of the journal: the newest 1,000 requests, oldest first."""
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
        """Wait until `count` matching requests have been answered, and return the newest of them.

        They match by `method`, `path` (a glob without the prefix) and `status` (400 or "4xx").
        Earlier requests count, too, and so do those that a fault dropped. `timeout` is in seconds.
        Raises `TimeoutError`, whose message lists the requests received, and `ValueError` for
        invalid arguments.
        """
        named = {"method": method, "path": path, "status": status}
        given = {name: str(value) for name, value in named.items() if value is not None}
        with ValidationErrors() as errors:
            errors.check("timeout", check_timeout, timeout)
            checked = {
                name: errors.check(name, FILTER_RULES[name], text)
                for name, text in (given | {"count": str(count)}).items()
            }
        wanted, count, began = Filter(checked, self._prefix), checked["count"], monotonic()
        found = self.app.journal.wait(wanted, timeout, {}, contextlib.nullcontext, count)
        if len(found) < count:
            asked = " ".join(given.values()) or "any request"
            came = self.report() or "no request"
            took = min(timeout, monotonic() - began)  # a reset ends it early
            raise TimeoutError(
                f"{len(found)} of {count} arrived in {took:.3g} s ({asked}); received:\n{came}"
            )
        return copied(found)

    def set_clock(self, now: str | datetime.datetime) -> None:
        """Stop the clock at a time: a text such as "2026-11-30T23:59:59Z", or a datetime.

        A datetime without a time zone is UTC. Fractions of a second are dropped. The clock decides
        `created_at`, `updated_at` and today; the log, the journal and delays use the system's
        clock. Raises `ValueError` for any other value.
        """
        if isinstance(now, datetime.datetime):
            if now.tzinfo is not None:
                now = now.astimezone(datetime.timezone.utc).replace(tzinfo=None)
            now = models.as_text(now)
        self.app.clock.stop(rules.check_clock_time(now))

    def advance(self, seconds: int) -> None:
        """Move the stopped clock forward, or back. Raises `ValueError` if it isn't stopped."""
        self.app.clock.advance(CLOCK_RULES["advance_seconds"](seconds))

    def release_clock(self) -> None:
        """Release the clock: it follows the system's clock again."""
        self.app.clock.release()

    def report(self) -> str:
        """Return a report for a failed test: the last 20 requests, and armed faults never used.

        Includes those of its instances. "" if there are none.
        """
        return self.app.report()

    def state(self) -> shapes.State:
        """Return the state document: all accounts with their usage."""
        return self._db.dump()

    def load(self, state: Source) -> None:
        """Replace everything with a state document, the one in a file, or "demo".

        Raises `ValueError`, and then nothing has changed.
        """
        now = self._db.now()
        self._db.replace(*Seed(state, now).at(now))

    def reset(self) -> None:
        """Go back to the seed: accounts, usage, ids, faults, journal, clock. Ends all instances.

        Raises `ValueError` if two of the seed's days, such as -1 and 2026-11-01, are now the same.
        """
        self.app.reset()


def copied(entries: Iterable[Entry]) -> list[shapes.RequestEntry]:
    """Copy entries of the journal, so that callers can't change the originals."""
    copies = [entry | {"headers": dict(entry["headers"])} for entry in list(entries)]
    return cast("list[shapes.RequestEntry]", copies)
