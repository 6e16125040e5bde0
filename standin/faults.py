"""Fault injection: what a fault may be, and the armed ones, which answer requests."""

from __future__ import annotations

import copy
import fnmatch
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import bottle
from bottle import request

from fense_admin import rules
from fense_admin.databases import Database
from fense_admin.exchange import RESET, UNAVAILABLE, ApiError
from fense_admin.reading import application
from fense_admin.realtime import monotonic
from fense_admin.rules import JsonObject, ValidationErrors

GONE_CHECK = 0.5  # seconds between two checks whether a waiting request's client is still there
# Keys of the WSGI environment
FAULT = "fense_admin.fault"  # the fault that met the request
IS_STALE = "fense_admin.is_stale"  # whether the stand-in was reset since the request came
WAS_RESET = "the stand-in was reset while this request waited"
# Headers that the server itself sets, and those of the connection.
RESERVED_HEADERS = frozenset(
    "cache-control connection content-length content-type date keep-alive proxy-authenticate "
    "proxy-authorization server te trailers transfer-encoding upgrade via x-request-id "
    "x-standin".split()
)


# --- Drops: what can happen to a connection ----------------------------------------------------


class Drop(NamedTuple):
    """A way to break off a response, and its words for the page."""

    outcome: str  # in place of a status
    effect: str  # "It ..."; {status} is that of the response
    part: Callable[[bytes], bytes] | None = None  # of the body to send; None sends no head either
    is_reset: bool = False  # the connection is reset, not closed


DROPS = {
    "reset": Drop("connection reset", "resets the connection", is_reset=True),
    "empty": Drop("closed without an answer", "closes the connection without an answer"),
    "truncate": Drop(
        "answer cut short", "cuts the answer {status} short", lambda body: body[: len(body) // 2]
    ),
}


def drop(how: Drop, environ: dict[str, Any], body: bytes) -> Iterator[bytes]:
    """The body of a response that breaks off."""
    if how.part:
        yield how.part(body)
    if how.is_reset and RESET in environ:  # a server set it; in-process nothing did
        environ[RESET]()
    # Under a server it ends the connection; an in-process client gets it as it is.
    raise ConnectionResetError("dropped by a fault that was armed for this request")


# --- What a fault may be -------------------------------------------------------------------------


def check_headers(value: object) -> JsonObject:
    headers: JsonObject = rules.check_object(value)
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("has a header twice")
    for name, text in headers.items():
        if not re.fullmatch("[A-Za-z0-9-]+", name):
            raise ValueError(f"has {name!a}, which is no header's name")
        if name.lower() in RESERVED_HEADERS:
            raise ValueError(f"has {name}, which the server itself sets")
        if not isinstance(text, str) or not re.fullmatch(r"[\x20-\x7e]*", text):
            raise ValueError(f"has a {name} that is no string of printable ASCII characters")
    return headers


FAULT_RULES = {
    "status": rules.whole_number(400, 599),
    "method": rules.one_of("GET", "HEAD", "POST"),
    "path": rules.matching(
        r"[/*][\x21-\x7e]{0,254}", "must be a glob of a path, such as /accounts/*"
    ),
    "times": rules.whole_number(0, 10**12),
    "delay_ms": rules.whole_number(0, 600_000),
    "drop": rules.one_of(*DROPS),
    "headers": check_headers,
    "message": rules.matching(
        rf"[^{rules.CONTROL}]*", "must be one line without control characters"
    ),
}


def check_fault(sent: JsonObject, errors: ValidationErrors) -> dict[str, Any]:
    fields = rules.validate(sent, FAULT_RULES, errors)
    answers = "status" in sent or "drop" in sent
    if not answers and not sent.get("delay_ms"):
        errors.add(None, "the fault does nothing: give it a status, a drop or a delay_ms")
    elif not answers:
        for name in ("headers", "message"):
            if name in sent:
                errors.add(name, "needs a status or a drop")
    return fields


# --- Armed faults ------------------------------------------------------------------------------


class Waiting(threading.Event):
    """The requests that wait for a delay. Once it is set, the delays of all of them are over."""

    was_reset = False


class Faults:
    """The armed faults, oldest first; a Bottle plugin.

    Each is what was sent, with its `id`, the `times` left and how many requests `used` it.

    At most `most_waiting` requests wait for a delay. Those of an instance count with its parent's,
    as they share the connections.
    """

    _room: threading.BoundedSemaphore

    def __init__(self, most_waiting: int, parent: Faults | None = None) -> None:
        self._most = most_waiting
        self._room = parent._room if parent else threading.BoundedSemaphore(most_waiting)
        self._lock = threading.Lock()
        self._waiting = Waiting()
        self._armed: list[dict[str, Any]] = []
        self._count = 0

    def arm(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Arm a fault of checked fields. Returns it."""
        with self._lock:
            self._count += 1
            fault = {"id": self._count} | fields | {"times": fields.get("times", 1), "used": 0}
            self._armed.append(fault)
            return copy.deepcopy(fault)

    def armed(self) -> list[dict[str, Any]]:
        """The armed faults, copied."""
        with self._lock:
            return copy.deepcopy(self._armed)

    def disarm(self) -> None:
        """Disarm them all; requests that wait for a delay go on."""
        with self._lock:
            self._armed.clear()
            self._waiting.set()
            self._waiting = Waiting()

    def reset(self) -> None:
        """Disarm them and count from 1; requests that wait are answered 503, not written."""
        self._waiting.was_reset = True
        self.disarm()
        self._count = 0

    def take(self, method: str, path: str) -> tuple[dict[str, Any], Waiting]:
        """The oldest fault that matches ({} for none), and where its delay is waited for."""
        with self._lock:
            for fault in self._armed:
                glob = fault.get("path", "*")
                if fault.get("method", method) == method and fnmatch.fnmatchcase(path, glob):
                    fault["used"] += 1
                    if fault["times"] == 1:
                        self._armed.remove(fault)
                    elif fault["times"]:
                        fault["times"] -= 1
                    return fault, self._waiting
        return {}, self._waiting

    def wait(self, waiting: Waiting, seconds: float, db: Database) -> None:
        """Wait that long, or until all delays are ended, or the client of this request has gone."""
        if not self._room.acquire(blocking=False):
            raise ApiError(UNAVAILABLE, f"{self._most} requests wait for a delay already")
        is_gone = request.environ.get("waitress.client_disconnected", lambda: False)
        until = monotonic() + seconds
        try:
            with db.engine.while_waiting():
                while (left := until - monotonic()) > 0 and not is_gone():
                    if waiting.wait(min(left, GONE_CHECK)):
                        break
        finally:
            self._room.release()
        if waiting.was_reset:
            raise ApiError(UNAVAILABLE, WAS_RESET)

    # In a request

    def apply(self, callback: Callable[..., Any], route: bottle.Route) -> Callable[..., Any]:
        """Let armed faults answer the contract's routes, once the key has been accepted."""
        if not route.config.get("contract"):
            return callback

        def faulted(db: Database, **kwargs: Any) -> Any:
            if request.environ.get(IS_STALE):
                raise ApiError(UNAVAILABLE, WAS_RESET)
            path = request.path[len(application().prefix) :]
            fault, waiting = self.take(request.method, path)
            request.environ[FAULT] = fault
            if "delay_ms" in fault:
                self.wait(waiting, fault["delay_ms"] / 1000, db)
            if "status" not in fault and "drop" not in fault:
                return callback(db=db, **kwargs)
            message = fault.get("message", "a fault that was armed for this request")
            error = ApiError(fault.get("status", UNAVAILABLE), message)
            for name, value in fault.get("headers", {}).items():
                error.set_header(name, value)
            raise error

        return faulted
