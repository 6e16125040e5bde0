"""Fault injection: the rules for faults, and the armed ones, which are applied to requests."""

from __future__ import annotations

import copy
import fnmatch
import random
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from wsgiref.util import is_hop_by_hop

import bottle
from bottle import request

from fense_admin import Application, rules
from fense_admin.databases import Database
from fense_admin.exchange import (
    ERROR,
    HOP_BY_HOP,
    REQUEST_ID,
    RESET,
    UNAVAILABLE,
    ApiError,
    Stream,
    error_body,
    log,
)
from fense_admin.reading import application
from fense_admin.realtime import monotonic
from fense_admin.rules import JsonObject, ValidationErrors

GONE_CHECK = 0.5  # seconds between checks whether the client of a waiting request is connected
# Keys of the WSGI environment
APPLIED_FAULT = "fense_admin.applied"  # the `AppliedFault` of the request
IS_REPLACED = "fense_admin.is_replaced"  # whether the fault responded in place of the handler
IS_SPARED = "fense_admin.is_spared"  # whether no fault applies to it: a form of the page sent it
IS_STALE = "fense_admin.is_stale"  # whether the stand-in was reset after the request arrived
WAS_RESET = "the stand-in was reset while this request was waiting"
# Headers that the server sets itself; `content_type` is a separate key.
RESERVED_HEADERS = frozenset(
    "connection content-length content-type date server transfer-encoding via x-request-id "
    "x-standin".split()
)
MAX_BODY = 64 * 1024  # bytes of a fault's body
PLAIN_TEXT = "text/plain; charset=utf-8"  # the Content-Type of such a body
MESSAGE = "simulated failure"


# --- Drops: what can happen to a connection ----------------------------------------------------


class Drop(NamedTuple):
    """A way to cut off a response, with its description for the page."""

    outcome: str  # shown instead of a status
    effect: str  # continues "It"; {status} is the status of the response
    # Which part of the body to send; None: nothing, not even headers.
    part: Callable[[bytes], bytes] | None = None
    is_reset: bool = False  # whether the connection is reset instead of closed


DROPS = {
    "reset": Drop("connection reset", "resets the connection", is_reset=True),
    "empty": Drop("closed without a response", "closes the connection without a response"),
    "truncate": Drop(
        "response cut short",
        "cuts the response {status} short",
        lambda body: body[: len(body) // 2],
    ),
}


def drop(how: Drop, environ: dict[str, Any], body: bytes) -> Iterator[bytes]:
    """Return the body of a response that is cut off."""
    if how.part:
        yield how.part(body)
    if how.is_reset and RESET in environ:  # only set by a server, not in-process
        environ[RESET]()
    # A server ends the connection; an in-process client gets this exception.
    raise ConnectionResetError(f"dropped by a {MESSAGE}")


def drop_stream(how: Drop, environ: dict[str, Any], stream: Stream) -> Iterator[bytes]:
    """Like `drop`, for a response that is sent while it is produced."""
    try:
        first = next(iter(stream), b"") if how.part else b""
    finally:
        stream.close()
    if how.part and RESET in environ:  # HTTP/1.0 has no other sign that a response is incomplete
        environ[RESET]()
    yield from drop(how, environ, first)


# --- What a fault may be -------------------------------------------------------------------------


def check_headers(value: object) -> JsonObject:
    headers: JsonObject = rules.check_object(value)
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("has a header twice")
    for name, text in headers.items():
        if not re.fullmatch("[A-Za-z0-9-]+", name):
            raise ValueError(f"has {name!a}, which is not a valid header name")
        if name.lower() in RESERVED_HEADERS:
            raise ValueError(f"has {name}, which the server sets itself")
        if not isinstance(text, str) or not re.fullmatch(r"[\x20-\x7e]*", text):
            raise ValueError(f"has a {name} that is not a string of printable ASCII characters")
    return headers


def check_body(value: object) -> str:
    if len((text := rules.check_string(value)).encode()) > MAX_BODY:
        raise ValueError(f"must be at most {MAX_BODY} bytes in UTF-8")
    return text


check_milliseconds = rules.whole_number(0, 600_000)


def check_delay(value: object) -> int | list[int]:
    """Return a number of milliseconds, or a pair [least, most] of them."""
    if not isinstance(value, list):
        milliseconds: int = check_milliseconds(value)
        return milliseconds
    if len(value) != 2:
        raise ValueError("must be a number of milliseconds, or a pair [least, most]")
    least, most = map(check_milliseconds, value)
    if least > most:
        raise ValueError(
            "must be a pair [least, most]: the first number must not exceed the second"
        )
    return [least, most]


FAULT_RULES = {
    "status": rules.whole_number(400, 599),
    "method": rules.one_of("GET", "HEAD", "POST"),
    "path": rules.matching(
        r"[/*][\x21-\x7e]{0,254}", "must be a glob of a path, such as /accounts/*"
    ),
    "times": rules.whole_number(0, 10**12),
    "skip": rules.whole_number(0, 10**12),
    "after": rules.check_flag,
    "delay_ms": check_delay,
    "random_seed": rules.whole_number(-rules.MAX_ID, rules.MAX_ID),
    "drop": rules.one_of(*DROPS),
    "headers": check_headers,
    "message": rules.matching(
        rf"[^{rules.CONTROL}]*", "must be one line without control characters"
    ),
    "body": check_body,
    "content_type": rules.matching(
        r"[\x21-\x7e][\x20-\x7e]{0,254}", "must be a media type, such as text/html"
    ),
}


def check_fault(sent: JsonObject, errors: ValidationErrors) -> dict[str, Any]:
    fields = rules.validate(sent, FAULT_RULES, errors)
    has_delay = sent.get("delay_ms") not in (None, 0, [0, 0])
    is_nothing = not has_delay and "status" not in sent and "drop" not in sent
    if is_nothing and "after" not in sent:
        errors.add(None, "the fault does nothing: give it a status, a drop or a delay_ms")
    # With `after`, a drop affects the real response.
    has_error = "status" in sent or ("drop" in sent and not sent.get("after"))
    needs = "needs a status" if sent.get("after") else "needs a status or a drop"
    for name, is_met, message in (
        ("after", not is_nothing, "needs a status, a drop or a delay_ms"),
        ("headers", has_error or is_nothing, needs),
        ("message", has_error or is_nothing, needs),
        ("message", "body" not in sent, "is not accepted together with body"),
        ("body", "status" in sent, "needs a status"),
        ("content_type", "body" in sent, "needs a body"),
        ("random_seed", isinstance(sent.get("delay_ms"), list), "needs a pair in delay_ms"),
    ):
        if name in sent and not is_met:
            errors.add(name, message)
    return fields


# --- Armed faults ------------------------------------------------------------------------------


def wait_for(event: threading.Event, seconds: float, environ: Mapping[str, Any]) -> None:
    """Wait for an event this long, or until the client of this request disconnects."""
    is_gone = environ.get("waitress.client_disconnected", lambda: False)
    until = monotonic() + seconds
    while (left := until - monotonic()) > 0 and not is_gone():
        if event.wait(min(left, GONE_CHECK)):
            break


class Waiting(threading.Event):
    """Set to end the delays of all requests that are waiting for a fault."""

    was_reset = False


NO_DELAY = Waiting()


class Armed:
    """A fault as `GET /_standin/faults` shows it, with its counter and random generator."""

    def __init__(self, fault: dict[str, Any]) -> None:
        self.fault = fault
        self.waiting = Waiting()
        self.left_to_skip = fault.get("skip", 0)
        self._delay = fault.get("delay_ms", 0)
        if isinstance(self._delay, list):
            self._random = random.Random(fault.get("random_seed"))

    def draw_delay(self) -> float:
        """Return the seconds of the next delay."""
        delay = self._delay
        return (self._random.uniform(*delay) if isinstance(delay, list) else delay) / 1000


class AppliedFault(NamedTuple):
    """The fault that is applied to a request; {} for none."""

    fault: dict[str, Any]
    delay: float  # seconds
    waiting: Waiting = NO_DELAY  # ends the delay early


class Faults:
    """The armed faults, oldest first; a Bottle plugin.

    Each has the fields that were sent, its `id`, the `times` left, and `used`: how many requests it
    was applied to. At most `most_waiting` requests can wait for a delay, including those of
    instances, which share the connections.
    """

    _slots: threading.BoundedSemaphore

    def __init__(self, most_waiting: int, parent: Faults | None = None) -> None:
        self._most = most_waiting
        self._slots = parent._slots if parent else threading.BoundedSemaphore(most_waiting)
        self._lock = threading.Lock()
        # Of all faults that requests may still wait for, including used up ones.
        self._waiting: weakref.WeakSet[Waiting] = weakref.WeakSet()
        self._armed: list[Armed] = []
        self._count = 0

    def arm(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Arm a fault with these checked fields, and return it."""
        with self._lock:
            self._count += 1
            fault = {"id": self._count} | fields | {"times": fields.get("times", 1), "used": 0}
            self._armed.append(Armed(fault))
            self._waiting.add(self._armed[-1].waiting)
            return copy.deepcopy(fault)

    def armed(self) -> list[dict[str, Any]]:
        """Return copies of the armed faults."""
        with self._lock:
            return [copy.deepcopy(armed.fault) for armed in self._armed]

    def disarm(self) -> None:
        """Disarm all faults. Requests that are waiting for a delay continue."""
        with self._lock:
            self._armed.clear()
            for waiting in self._waiting:
                waiting.set()

    def disarm_one(self, number: int) -> bool:
        """Disarm the fault with this id, and end its delays. Return whether it was armed."""
        with self._lock:
            found = next((armed for armed in self._armed if armed.fault["id"] == number), None)
            if found:
                self._armed.remove(found)
                found.waiting.set()
        return found is not None

    def reset(self) -> None:
        """Disarm all faults, and number from 1 again. Waiting requests get 503."""
        with self._lock:
            for waiting in self._waiting:
                waiting.was_reset = True
        self.disarm()
        self._count = 0

    def take(self, method: str, path: str) -> AppliedFault:
        """Return the oldest matching fault, and count the use."""
        with self._lock:
            for armed in self._armed:
                fault, glob = armed.fault, armed.fault.get("path", "*")
                if fault.get("method", method) != method or not fnmatch.fnmatchcase(path, glob):
                    continue
                if armed.left_to_skip:
                    armed.left_to_skip -= 1
                    continue
                fault["used"] += 1
                if fault["times"] == 1:
                    self._armed.remove(armed)
                elif fault["times"]:
                    fault["times"] -= 1
                return AppliedFault(fault, armed.draw_delay(), armed.waiting)
        return AppliedFault({}, 0)

    def wait(self, applied: AppliedFault, environ: dict[str, Any], db: Database) -> None:
        """Wait for the fault's delay, unless delays are ended or the client disconnects."""
        if not applied.delay:
            return
        if not self._slots.acquire(blocking=False):
            raise ApiError(UNAVAILABLE, f"{self._most} requests are already waiting for a delay")
        try:
            with db.engine.while_waiting():
                wait_for(applied.waiting, applied.delay, environ)
        finally:
            self._slots.release()
        if applied.waiting.was_reset:
            raise ApiError(UNAVAILABLE, WAS_RESET)

    def apply_to_response(
        self,
        applied: AppliedFault,
        body: Any,
        answer: list[Any],
        environ: dict[str, Any],
        app: Application,
    ) -> Any:
        """Apply a fault with `after` to this response: see `replace`."""
        try:
            if environ["REQUEST_METHOD"] == "POST":
                self.wait(applied, environ, app.db)
        except ApiError as error:  # too many requests are waiting
            return replace(error, {}, body, answer, environ, app)
        number = applied.fault["id"]
        log.info("fault %d was applied to this response: id=%s", number, environ[REQUEST_ID])
        if "status" not in applied.fault:
            return body
        return replace(error_of(applied.fault), applied.fault, body, answer, environ, app)

    # In a request

    def apply(self, callback: Callable[..., Any], route: bottle.Route) -> Callable[..., Any]:
        """Apply armed faults to the contract's routes, after the key has been accepted."""
        if not route.config.get("contract"):
            return callback

        def faulted(db: Database, **kwargs: Any) -> Any:
            if request.environ.get(IS_STALE):
                raise ApiError(UNAVAILABLE, WAS_RESET)
            if request.environ.get(IS_SPARED):
                return callback(db=db, **kwargs)
            path = request.path[len(application().prefix) :]
            request.environ[APPLIED_FAULT] = applied = self.take(request.method, path)
            is_after = bool(applied.fault.get("after"))
            # Delay a read before it starts: it has no effect, and would hold a transaction open.
            if not is_after or request.method != "POST":
                self.wait(applied, request.environ, db)
            if not is_after and ("status" in applied.fault or "drop" in applied.fault):
                request.environ[IS_REPLACED] = True
                raise error_of(applied.fault)
            return callback(db=db, **kwargs)

        return faulted


def error_of(fault: dict[str, Any]) -> ApiError:
    """Return the error of a fault, without its `headers` and its `body`."""
    return ApiError(fault.get("status", UNAVAILABLE), fault.get("message", MESSAGE))


def replace(
    error: ApiError,
    fault: dict[str, Any],
    body: Any,
    answer: list[Any],
    environ: dict[str, Any],
    app: Application,
) -> list[bytes]:
    """Replace a response with an error, as a fault describes it. Return the new body.

    `answer` is a list of the response's WSGI status line and headers, and `body` its body.
    """
    if isinstance(body, Stream):
        body.close()
    if "body" in fault:
        content, content_type = fault["body"].encode(), fault.get("content_type", PLAIN_TEXT)
        environ[ERROR] = None
    else:
        content, content_type = error_body(error.status_code, error.body), "application/json"
        environ[ERROR] = error
    set_by_fault = fault.get("headers", {})
    names = {name.lower() for name in set_by_fault}
    headers = [("Content-Type", content_type), ("Content-Length", str(len(content)))]
    common = app.common_headers(environ[REQUEST_ID])
    headers += [pair for pair in common if pair[0].lower() not in names]
    by_server = environ.get(HOP_BY_HOP, headers)
    for name, value in set_by_fault.items():
        (by_server if is_hop_by_hop(name) else headers).append((name, value))
    answer[:] = [error.status_line, headers]
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]
