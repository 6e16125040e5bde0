"""The control plane: /_standin beside the contract's application.

The contract knows nothing of it. Where it is off, none of it is imported.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import bottle
from bottle import request, response

from fense_admin import (
    DEVELOPMENT_KEY,
    ApiError,
    ApiKeyPlugin,
    Application,
    __version__,
    foreign_header,
    read_json,
    read_query,
)
from fense_admin.models import Database
from fense_admin.rules import ValidationErrors
from fense_admin.standin import page
from fense_admin.standin.faults import FAULT, FaultPlugin, Faults, check_fault, drop
from fense_admin.standin.journal import journal_entry, truncate
from fense_admin.standin.state import State, check_state, check_usage, record_usage

ROOT = "/_standin"
STANDIN_HEADER = ("X-Standin", f"fense-admin/{__version__}")  # on every response
MAX_STATE_BODY = 32 * 1024 * 1024  # bytes, of a state or a list of lookups
JOURNAL_LENGTH = 1_000  # entries
UNRECORDED = ("/healthz", "/openapi.json")


class ControlPlane:
    """A WSGI application: the contract's, with a journal and faults, and /_standin beside it.

    `seed` is what a reset goes back to. `on_loopback` says that no other machine reaches it: then
    DNS rebinding is refused, too.
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
        app.install(FaultPlugin(self.faults, app.prefix))
        if app.signposts:
            app.signposts["a page for people"] = ROOT + "/"

        self.control = Application(app.db, "", [master_key, *service_keys])
        self.guard = ControlGuard(master_key, service_keys, on_loopback)
        self.control.install(self.guard)
        for path, handlers in {
            "/": {"GET": self.get_page},
            "/reset": {"POST": self.post_reset},
            "/state": {"GET": self.get_state, "PUT": self.put_state},
            "/usage": {"POST": self.post_usage},
            "/faults": {
                "GET": self.get_faults,
                "POST": self.post_fault,
                "DELETE": self.delete_faults,
            },
            "/requests": {"GET": self.get_requests, "DELETE": self.delete_requests},
        }.items():
            self.control.endpoint(ROOT + path, handlers)

    def reset(self) -> None:
        """Back to the seed: accounts, usage, ids, faults, journal."""
        self.faults.reset()
        self.db.replace(*self.seed)
        self.journal.clear()

    # What the server asks

    def runs_inline(self, method: str, path: str, query: str) -> bool:
        return False  # a fault may delay any of them

    def body_limit(self, path: str, headers: Mapping[str, str]) -> int | None:
        """Large bodies are taken with the master key only."""
        key = headers.get("X_API_KEY") or basic_password(headers.get("AUTHORIZATION", ""))
        is_large = path.startswith(ROOT + "/") and self.guard.master.knows(key)
        return MAX_STATE_BODY if is_large else None

    def choose_id(self, sent: str | None, key: str) -> str:
        return self.app.choose_id(sent, key)

    def common_headers(self, request_id: str) -> list[tuple[str, str]]:
        return [*self.app.common_headers(request_id), STANDIN_HEADER]

    def release_waiting(self) -> None:
        self.faults.disarm()

    # Handlers

    def post_reset(self, db: Database) -> None:
        self.reset()
        response.status = 204

    def get_state(self, db: Database) -> str:
        return json_object("accounts", db.dump()["accounts"])

    def put_state(self, db: Database) -> str:
        with ValidationErrors() as errors:
            document = read_json(errors, limit=MAX_STATE_BODY)
            state = None if document is None else check_state(document, errors)
        db.replace(*state)
        return self.get_state(db)

    def post_usage(self, db: Database) -> dict[str, Any]:
        with ValidationErrors() as errors:
            entries = read_json(errors, list, MAX_STATE_BODY)
            rows = check_usage(entries or [], errors)
        record_usage(db, rows)
        return {"recorded": len(rows)}

    def get_faults(self, db: Database) -> dict[str, Any]:
        return {"faults": self.faults.armed()}

    def post_fault(self, db: Database) -> dict[str, Any]:
        with ValidationErrors() as errors:
            sent = read_json(errors, limit=MAX_STATE_BODY)
            fields = None if sent is None else check_fault(sent, errors)
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
        response.set_header("Content-Security-Policy", page.CONTENT_SECURITY_POLICY)
        accounts = json.loads(db.all_usage(None, None))["accounts"]
        return page.render(accounts, self.faults.armed(), list(self.journal))

    # The contract's requests

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*headers, STANDIN_HEADER], exc_info)

        path = environ.get("PATH_INFO", "")
        with own_context():
            if path == ROOT or path.startswith(ROOT + "/"):
                return self.control(environ, start)
            if path in UNRECORDED:
                return self.app(environ, start)
            return self._recorded(environ, start)

    def _recorded(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        """Answer a request of the contract, with an entry in the journal."""
        began = time.perf_counter()
        entry = journal_entry(environ, self.app)
        self.journal.append(entry)
        answer: list[Any] = []
        body = b"".join(self.app(environ, lambda *started: answer.extend(started)))
        fault = environ.get(FAULT, {})
        how = fault.get("drop")
        entry["fault"] = fault.get("id")
        if how is None:
            entry["status"] = int(answer[0][:3])
            key = environ.get("HTTP_X_API_KEY", "")
            entry["response"] = self.app.hide_keys(truncate(body), key) if body else None
        entry["duration_ms"] = round((time.perf_counter() - began) * 1000, 1)
        if how in (None, "truncate"):
            start(*answer)
        return drop(how, environ, body) if how else [body] if body else []


def json_object(name: str, items: list[Any]) -> str:
    """{name: items} as JSON. Item by item: for a long list json.dumps would hold the GIL."""
    response.content_type = "application/json"
    return f'{{"{name}": [{", ".join(map(json.dumps, items))}]}}'


@contextlib.contextmanager
def own_context() -> Iterator[None]:
    """Keeps Bottle's request and response: another Bottle application may be calling this one."""
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


class ControlGuard:
    """Lets the master key in, and no page of another site (CSRF, DNS rebinding)."""

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
            self.refuse_other_sites(request.environ)
            if not is_open:
                self.refuse_other_keys(request.environ, db)
            with ValidationErrors() as errors:
                read_query(errors)
            return callback(db=db, **kwargs)

        return guarded

    def refuse_other_sites(self, environ: dict[str, Any]) -> None:
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
        message = "the key is not the master key" if key else "the master key is missing"
        message += self.master.hint
        raise ApiError(401, message, WWW_Authenticate='Basic realm="fense-admin"')


def basic_password(authorization: str) -> str:
    """The password of HTTP Basic, as which a browser sends a key; "" if there is none."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""
