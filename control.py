"""The control plane: /_standin beside the contract's application, which it joins from outside.

The contract knows nothing of it, and where it is off, none of it is loaded.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import fnmatch
import html
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import bottle
from bottle import request, response

import fense_admin
from fense_admin import (
    CONTROL,
    DEVELOPMENT_KEY,
    ApiError,
    ApiKeyPlugin,
    Application,
    DatabasePlugin,
    JsonObject,
    Problems,
    Rule,
    check_fields,
    foreign_header,
    read_json,
    read_query,
)
from fense_admin.journal import cut, journal_entry
from fense_admin.models import Database
from fense_admin.state import (
    State,
    check_object,
    check_state,
    check_usage,
    like,
    one_of,
    record_usage,
    whole_number,
)

ROOT = "/_standin"
MARK = ("X-Standin", f"fense-admin/{fense_admin.__version__}")  # on every response
MAX_BODY = 32 * 1024 * 1024  # bytes, of a state or a list of lookups
MAX_LATE = 400  # requests that wait for a delay at once: others have to get in, too
GONE_CHECK = 0.5  # seconds between two looks whether the client of one that waits is still there
JOURNAL_LENGTH = 1_000  # entries


# --- Faults ------------------------------------------------------------------------------------

# What the server itself sets, and what belongs to the connection.
OWN_HEADERS = frozenset(
    "cache-control connection content-length content-type date keep-alive proxy-authenticate "
    "proxy-authorization server te trailers transfer-encoding upgrade via x-request-id "
    "x-standin".split()
)


def check_headers(value: object) -> JsonObject:
    names = [name.lower() for name in check_object(value)]
    if len(set(names)) < len(names):
        raise ValueError("has a header twice")
    for name, text in value.items():
        if not re.fullmatch("[A-Za-z0-9-]+", name):
            raise ValueError(f"has {name!a}, which is no header's name")
        if name.lower() in OWN_HEADERS:
            raise ValueError(f"has {name}, which the server itself sets")
        if not isinstance(text, str) or not re.fullmatch(r"[\x20-\x7e]*", text):
            raise ValueError(f"has a {name} that is no string of printable ASCII characters")
    return value


FAULT = {
    "status": Rule(whole_number(400, 599)),
    "method": Rule(one_of("GET", "HEAD", "POST")),
    "path": Rule(like(r"[/*][\x21-\x7e]{0,254}", "must be a glob of a path, such as /accounts/*")),
    "times": Rule(whole_number(0, 10**12)),
    "delay_ms": Rule(whole_number(0, 600_000)),
    "drop": Rule(one_of("reset", "empty", "truncate")),
    "headers": Rule(check_headers),
    "message": Rule(like(rf"[^{CONTROL}]*", "must be one line without control characters")),
}


def check_fault(sent: JsonObject, problems: Problems) -> dict[str, Any]:
    fields = check_fields(sent, FAULT, problems)
    answers = "status" in sent or "drop" in sent
    if not answers and not sent.get("delay_ms"):
        problems.add(None, "the fault does nothing: give it a status, a drop or a delay_ms")
    elif not answers:
        for name in ("headers", "message"):
            if name in sent:
                problems.add(name, "needs a status or a drop")
    return fields


class Waiting:
    """What requests wait in for a delay to pass, until it is over for all of them."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.turned_away = False
        self._lock = threading.Lock()
        self._count = 0

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        with self._lock:
            if self._count >= MAX_LATE:
                raise ApiError(503, f"{MAX_LATE} requests wait for a delay already")
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1


class Faults:
    """The armed faults, oldest first. Each is what was sent, with its `id` and the `times` left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = Waiting()
        self._armed: list[dict[str, Any]] = []
        self._count = 0

    def arm(self, fields: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._count += 1
            fault = {"id": self._count} | fields | {"times": fields.get("times", 1)}
            self._armed.append(fault)
            return dict(fault)

    def armed(self) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(fault) for fault in self._armed]

    def disarm(self) -> None:
        """Forget them all; whoever waits for the delay of one goes on."""
        with self._lock:
            self._armed.clear()
            self._waiting.over.set()
            self._waiting = Waiting()

    def reset(self) -> None:
        """Forget them and count from 1; whoever waits is turned away, lest it write after this."""
        self._waiting.turned_away = True
        self.disarm()
        self._count = 0

    def take(self, method: str, path: str) -> dict[str, Any] | None:
        """The oldest that matches, with the `waiting` that its delay is to be spent in."""
        with self._lock:
            for fault in self._armed:
                if fault.get("method", method) == method and fnmatch.fnmatchcase(
                    path, fault.get("path", "*")
                ):
                    if fault["times"] == 1:
                        self._armed.remove(fault)
                    elif fault["times"]:
                        fault["times"] -= 1
                    return fault | {"waiting": self._waiting}
        return None


# --- The control plane -------------------------------------------------------------------------

CONTRACT = (
    fense_admin.create_account,
    fense_admin.get_account,
    fense_admin.update_account,
    fense_admin.get_usage,
)
UNWATCHED = ("/healthz", "/openapi.json")
FAULT_TAKEN = "fense_admin.fault"  # its place in the WSGI environment


class ControlPlane:
    """A WSGI application: the contract's, watched and made to fail, and /_standin beside it.

    `seed` is what a reset goes back to. `on_loopback` says that no other machine reaches it: then a
    web page elsewhere can't either, by a name of its own for this address.
    """

    def __init__(
        self,
        app: Application,
        master_key: str,
        service_keys: Iterable[str] = (),
        *,
        seed: State | None = None,
        on_loopback: bool = True,
    ) -> None:
        if f"{app.prefix}/".startswith(ROOT + "/"):
            raise ValueError(f"the prefix must not be under {ROOT}")
        self.app = app
        self.db = app.db
        self.seed = seed or State([], [])
        self.faults = Faults()
        self.journal: collections.deque[dict[str, Any]] = collections.deque(maxlen=JOURNAL_LENGTH)
        for route in app.routes:
            if route.callback in CONTRACT:  # behind the key, before the handler
                route.callback = self._with_faults(route.callback)
                route.reset()

        if app.signposts:
            app.signposts["a page for people"] = ROOT + "/"
        self.control = Application(app.db, "", [master_key, *service_keys])
        self.guard = ControlGuard(master_key, service_keys, on_loopback)
        self.control.install(DatabasePlugin(app.db))
        self.control.install(self.guard)
        endpoints = self.control.endpoints
        endpoints(ROOT + "/", {"GET": self.get_page})
        endpoints(ROOT + "/reset", {"POST": self.post_reset})
        endpoints(ROOT + "/state", {"GET": self.get_state, "PUT": self.put_state})
        endpoints(ROOT + "/usage", {"POST": self.post_usage})
        endpoints(
            ROOT + "/faults",
            {"GET": self.get_faults, "POST": self.post_fault, "DELETE": self.delete_faults},
        )
        endpoints(ROOT + "/requests", {"GET": self.get_requests, "DELETE": self.delete_requests})

    @property
    def server_options(self) -> dict[str, Any]:
        """What `server.Server` has to know to serve it."""
        return {
            "headers": [MARK],
            "body_limit": self.body_limit,
            "choose_id": self.app.choose_id,
            "before_drain": self.faults.disarm,
        }

    def body_limit(self, path: str, headers: dict[str, str]) -> int | None:
        """How many bytes a body may have: large ones are for who has shown the master key."""
        key = headers.get("X_API_KEY") or basic_password(headers.get("AUTHORIZATION", ""))
        return MAX_BODY if path.startswith(ROOT + "/") and self.guard.master.knows(key) else None

    def reset(self) -> None:
        """Back to the seed: accounts, usage, ids, faults, journal."""
        self.faults.reset()
        self.db.replace(*self.seed)
        self.journal.clear()

    # Handlers

    def post_reset(self, db: Database) -> None:
        self.reset()
        response.status = 204

    def get_state(self, db: Database) -> str:
        return json_object("accounts", db.dump()["accounts"])

    def put_state(self, db: Database) -> str:
        with Problems() as problems:
            document = read_json(problems, JsonObject, MAX_BODY)
            state = None if document is None else check_state(document, problems)
        db.replace(*state)
        return self.get_state(db)

    def post_usage(self, db: Database) -> dict[str, Any]:
        with Problems() as problems:
            entries = read_json(problems, list, MAX_BODY)
            rows = check_usage(entries or [], problems)
        record_usage(db, rows)
        return {"recorded": len(rows)}

    def get_faults(self, db: Database) -> dict[str, Any]:
        return {"faults": self.faults.armed()}

    def post_fault(self, db: Database) -> dict[str, Any]:
        with Problems() as problems:
            sent = read_json(problems, JsonObject, MAX_BODY)
            fields = None if sent is None else check_fault(sent, problems)
        response.status = 201
        return self.faults.arm(fields)

    def delete_faults(self, db: Database) -> None:
        self.faults.disarm()
        response.status = 204

    def get_requests(self, db: Database) -> str:
        return json_object("requests", list(self.journal))

    def delete_requests(self, db: Database) -> None:
        self.journal.clear()
        response.status = 204

    def get_page(self, db: Database) -> str:
        response.content_type = "text/html; charset=utf-8"
        response.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        accounts = json.loads(db.all_usage(None, None))["accounts"]
        return page(accounts, self.faults.armed(), list(self.journal))

    # The contract's requests

    def _with_faults(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """The handler, unless a fault is armed for this request."""

        def handle(**kwargs: Any) -> Any:
            path = request.path[len(self.app.prefix) :]
            fault = request.environ[FAULT_TAKEN] = self.faults.take(request.method, path)
            if fault and "delay_ms" in fault:
                self._be_late(fault["waiting"], fault["delay_ms"] / 1000)
            if fault is None or not ("status" in fault or "drop" in fault):
                return handler(**kwargs)
            told = fault.get("message", "a fault that was armed for this request")
            error = ApiError(fault.get("status", 503), told)
            for name, value in fault.get("headers", {}).items():
                error.set_header(name, value)
            raise error

        return handle

    def _be_late(self, waiting: Waiting, seconds: float) -> None:
        """Wait so long, or until the delay is over for all, or the client has gone."""
        is_gone = request.environ.get("waitress.client_disconnected", lambda: False)
        with waiting.one_more(), self.db.while_waiting():
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0 and not is_gone():
                if waiting.over.wait(min(left, GONE_CHECK)):
                    break
        if waiting.turned_away:
            raise ApiError(503, "the stand-in was reset while this request waited")

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        with own_context():
            return self._answer(environ, start_response)

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*headers, MARK], exc_info)

        path = environ.get("PATH_INFO", "")
        if path == ROOT or path.startswith(ROOT + "/"):
            return self.control(environ, start)
        if path in UNWATCHED:
            return self.app(environ, start)
        return self._watch(environ, start)

    def _watch(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        """Answer a request of the contract's, with an entry in the journal."""
        began = time.perf_counter()
        entry = journal_entry(environ, self.app)
        self.journal.append(entry)
        answer: list[Any] = []
        body = b"".join(self.app(environ, lambda *started: answer.extend(started)))
        fault = environ.get(FAULT_TAKEN) or {}
        drop = fault.get("drop")
        entry["fault"] = fault.get("id")
        if drop is None:
            entry["status"] = int(answer[0][:3])
            key = environ.get("HTTP_X_API_KEY", "")
            entry["response"] = self.app.hide_keys(cut(body), key) if body else None
        entry["duration_ms"] = round((time.perf_counter() - began) * 1000, 1)
        if drop in ("reset", "empty"):
            if drop == "reset":
                reset_when_closed(environ)
            raise dropped()
        start(*answer)
        return truncated(body) if drop else [body] if body else []


def json_object(name: str, items: list[Any]) -> str:
    """{name: items} as JSON. Written item by item: a long list at once would hold up others."""
    response.content_type = "application/json"
    return f'{{"{name}": [{", ".join(map(json.dumps, items))}]}}'


@contextlib.contextmanager
def own_context() -> Iterator[None]:
    """Leaves the request and the response of a Bottle application that calls this one alone."""
    of_request = ("environ",)
    of_response = ("_status_line", "_status_code", "_cookies", "_headers", "body")
    outer = []
    for local, names in ((request, of_request), (response, of_response)):
        with contextlib.suppress(RuntimeError):  # there is none: the usual case
            outer += [(local, name, getattr(local, name)) for name in names]
    try:
        yield
    finally:
        for local, name, value in outer:
            setattr(local, name, value)


def dropped() -> ConnectionResetError:
    """What ends a connection under waitress, and what an in-process client gets to see."""
    return ConnectionResetError("dropped by a fault that was armed for this request")


def truncated(body: bytes) -> Iterator[bytes]:
    """Half of it, and then no more: the connection ends there."""
    yield body[: len(body) // 2]
    raise dropped()


def reset_when_closed(environ: dict[str, Any]) -> None:
    """Make waitress's closing of this request's connection a reset."""
    is_disconnected = environ.get("waitress.client_disconnected")
    if is_disconnected is not None:  # else in-process, where no connection is
        connection = is_disconnected.__self__.socket
        if connection is None:  # it has been closed
            return
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class ControlGuard:
    """Lets the master key in, and no web page from elsewhere; no endpoint takes a parameter."""

    name = "control_guard"
    api = 2

    def __init__(self, master_key: str, service_keys: Iterable[str], on_loopback: bool) -> None:
        self.master = ApiKeyPlugin([master_key])
        self.service = ApiKeyPlugin(service_keys)
        self.on_loopback = on_loopback
        self.page_is_open = master_key == DEVELOPMENT_KEY

    def apply(self, callback: Callable[..., Any], route: bottle.Route) -> Callable[..., Any]:
        is_open = self.page_is_open and route.rule == ROOT + "/" and route.method == "GET"

        def guarded(db: Database, **kwargs: Any) -> Any:
            self.refuse_pages_from_elsewhere(request.environ)
            if not is_open:
                self.refuse_other_keys(request.environ, db)
            with Problems() as problems:
                read_query(problems)
            return callback(db=db, **kwargs)

        return guarded

    def refuse_pages_from_elsewhere(self, environ: dict[str, Any]) -> None:
        blamed = foreign_header(environ, self.on_loopback)
        if blamed == "Origin":
            raise ApiError(403, "the control plane takes no requests of another page's (Origin)")
        if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
            raise ApiError(403, "the control plane takes no requests of another site's pages")
        if blamed:
            raise ApiError(403, "the control plane is at localhost or 127.0.0.1 only (Host)")

    def refuse_other_keys(self, environ: dict[str, Any], db: Database) -> None:
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        key = environ.get("HTTP_X_API_KEY") or basic_password(authorization)
        if self.master.knows(key):
            return
        if key and (self.service.knows(key) or db.is_merchant_key(key)):
            raise ApiError(403, "the control plane takes the master key alone")
        told = "the key is not the master key" if key else "the master key is missing"
        raise ApiError(401, told + self.master.hint, WWW_Authenticate='Basic realm="fense-admin"')


def basic_password(authorization: str) -> str:
    """The password of HTTP Basic, with which a browser brings a key; "" where there is none."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


# --- The page ----------------------------------------------------------------------------------

ROWS_SHOWN = 100  # of each table
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(
    accounts: list[dict[str, Any]], faults: list[dict[str, Any]], journal: list[dict[str, Any]]
) -> str:
    """What there is, for people: armed faults, the newest requests, the newest accounts."""
    columns = ("at", "method", "path", "query", "body", "status", "fault")
    requests = [{name: entry[name] for name in columns} for entry in journal]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>fense-admin</title>"
        "<style>body{font:15px/1.5 system-ui;margin:2em}th,td{text-align:left;vertical-align:top;"
        "padding:.2em 1em .2em 0;border-bottom:1px solid #ddd}td{overflow-wrap:anywhere}</style>"
        f"<h1>fense-admin {fense_admin.__version__}</h1>"
        "<p>A stand-in for Fense's Dispute Integration API, not the real one.</p>"
        + table("Armed faults", faults)
        + table("Requests", requests)
        + table("Accounts", accounts)
    )


def table(title: str, rows: list[dict[str, Any]]) -> str:
    """The newest of them, the newest first."""
    shown = rows[: -ROWS_SHOWN - 1 : -1]
    columns = list(dict.fromkeys(name for row in shown for name in row))
    lines = [
        "".join(f"<td>{html.escape(str('' if row.get(k) is None else row[k]))}" for k in columns)
        for row in shown
    ]
    head = "".join(f"<th>{html.escape(name)}" for name in columns)
    return f"<h2>{title}: {len(rows)}</h2><table><tr>{'<tr>'.join([head, *lines])}</table>"
