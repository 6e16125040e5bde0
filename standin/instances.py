"""Instances: stand-ins under a path of their parent, for parallel tests."""

from __future__ import annotations

import collections
import secrets
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from fense_admin import Application, rules
from fense_admin.databases import Database
from fense_admin.exchange import CONFLICT, ApiError, when_over
from fense_admin.reading import mount_point, origin
from fense_admin.realtime import monotonic
from fense_admin.serving import application
from fense_admin.standin.clock import Clock
from fense_admin.standin.faults import Faults
from fense_admin.standin.guard import ControlGuard
from fense_admin.standin.journal import REPORTED, Entry
from fense_admin.standin.waits import Journal

ROOT = "/_standin"  # the path of the control plane, also within an instance
INSTANCES = ROOT + "/instances"
MAX_INSTANCES = 1_000
UNUSED_TIMEOUT = 24 * 3_600  # seconds after which an unused instance ends
LOOK_INTERVAL = 60  # seconds between checks for unused instances


class Plane(application.Application, Protocol):
    """What instances and the page use of a control plane."""

    app: Application
    db: Database
    clock: Clock
    faults: Faults
    guard: ControlGuard
    journal: Journal
    instances: Instances
    is_instance: bool
    shown_name: str
    master_key: str

    def close(self) -> None: ...


class Instance:
    """A control plane under a path of its parent.

    After its end, it closes its database as soon as no request is in flight.
    """

    def __init__(
        self, plane: Plane, master_key: str, service_key: str, name: str | None = None
    ) -> None:
        self.id = secrets.token_hex(8)
        self.name = name
        plane.shown_name = self.id if name is None else rules.printable(name)
        self.path = f"{INSTANCES}/{self.id}"
        self.plane, self.master_key, self.service_key = plane, master_key, service_key
        self._changing = threading.Lock()
        self._in_flight = 0  # requests
        self._has_ended = False
        self._made_at = self._used_at = monotonic()

    def age(self) -> float:
        """Return the seconds since it was created."""
        return monotonic() - self._made_at

    def unused_for(self) -> float:
        """Return the seconds since its last request ended; 0 while one is in flight."""
        return 0.0 if self._in_flight else monotonic() - self._used_at

    def urls(self) -> dict[str, str | None]:
        """Return its id, its name and its URLs."""
        url = origin() + mount_point() + self.path
        base_url = url + self.plane.app.prefix
        named = {"id": self.id, "name": self.name}
        return {**named, "base_url": base_url, "standin_url": url + ROOT}

    def answer(self, environ: dict[str, Any], path: str, start: Callable[..., Any]) -> Any:
        """Respond to a request for a path within it, like a WSGI app; None if it has ended."""
        with self._changing:
            if self._has_ended:
                return None
            self._in_flight += 1
        mount = environ.get("SCRIPT_NAME", "") + self.path
        body = None
        try:
            body = self.plane(environ | {"SCRIPT_NAME": mount, "PATH_INFO": path}, start)
            return body
        finally:
            when_over(body, lambda _: self._leave())

    def end(self) -> None:
        """End it: requests that are waiting for a delay get 503, others continue."""
        with self._changing:
            self._has_ended = True
            self._in_flight += 1
        self.plane.faults.reset()
        self.plane.journal.end_waits(for_good=True)
        self._leave()

    def _leave(self) -> None:
        with self._changing:
            self._used_at = monotonic()
            self._in_flight -= 1
            if self._has_ended and not self._in_flight:
                self.plane.close()


class Instances(dict[str, Instance]):
    """The instances of a stand-in by id, and what reports need of those that have ended."""

    def __init__(self) -> None:
        super().__init__()
        self._changing = threading.Lock()
        self._is_closed = False
        self._looked_at = 0.0  # monotonic time of the last check for unused ones
        self.ended_requests: collections.deque[Entry] = collections.deque(maxlen=REPORTED)
        self.ended_faults: collections.deque[tuple[str, dict[str, Any]]]
        self.ended_faults = collections.deque(maxlen=REPORTED)

    def all(self) -> list[Instance]:
        return list(self.values())

    def at(self, path: str) -> tuple[Instance | None, str]:
        """Return the instance that a path belongs to, if any, and the path within it."""
        if not path.startswith(INSTANCES + "/"):
            return None, path
        id, slash, rest = path[len(INSTANCES) + 1 :].partition("/")
        return (self.get(id) if slash else None), slash + rest

    def check_limit(self) -> None:
        """Raise `ApiError` (409) if there are too many, or the parent has stopped."""
        if self._is_closed or len(self) >= MAX_INSTANCES:
            raise ApiError(CONFLICT, f"there are {MAX_INSTANCES} instances: end some, or reset")

    def add(self, instance: Instance) -> None:
        """Serve an instance. If there are too many, end it and raise: see `check_limit`."""
        try:
            with self._changing:
                self.check_limit()
                self[instance.id] = instance
        except ApiError:
            instance.end()
            raise

    def end(self, ids: Iterable[str]) -> bool:
        """End the instances with these ids. Return whether there were any."""
        with self._changing:
            ended = [self.pop(id) for id in ids if id in self]
        for instance in ended:
            self.ended_requests.extend(list(instance.plane.journal)[-REPORTED:])
            name = instance.plane.shown_name
            self.ended_faults.extend((name, fault) for fault in instance.plane.faults.armed())
            instance.end()
        return bool(ended)

    def end_unused(self) -> None:
        """End instances unused for `UNUSED_TIMEOUT`: their tests have ended."""
        now = monotonic()
        if now < self._looked_at + LOOK_INTERVAL:
            return
        self._looked_at = now
        self.end([it.id for it in self.all() if it.unused_for() > UNUSED_TIMEOUT])

    def close(self) -> None:
        """End all instances, and accept no more."""
        self._is_closed = True
        self.end(list(self))


def generated(kind: str) -> str:
    """Return a unique name or key."""
    return f"{kind}-{secrets.token_hex(8)}"
