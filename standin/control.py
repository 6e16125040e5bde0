"""The control plane: /_standin beside the contract's application.

The contract knows nothing of it. Where it is off, none of it is imported.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import datetime
import heapq
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import bottle
from bottle import request, response

from fense_admin import (
    DEVELOPMENT_KEY,
    ApiKeyPlugin,
    Application,
    __version__,
    create_app,
    foreign_header,
    models,
    rules,
)
from fense_admin.exchange import (
    CONFLICT,
    FORBIDDEN,
    NOT_FOUND,
    RECEIVED,
    UNKNOWN_KEY,
    ApiError,
    request_key,
)
from fense_admin.masking import SharedKeys, digest
from fense_admin.models import Database
from fense_admin.reading import mount_point, origin, read_json, read_openapi, read_query
from fense_admin.realtime import monotonic
from fense_admin.rules import JsonObject, ValidationErrors
from fense_admin.standin.faults import (
    FAULT,
    IS_STALE,
    FaultPlugin,
    Faults,
    check_fault,
    drop,
)
from fense_admin.standin.journal import REPORTED, Entry, add_response, journal_entry, report
from fense_admin.standin.state import (
    DEMO,
    Seed,
    check_state,
    check_usage,
    record_usage,
    with_times,
)

ROOT = "/_standin"
OPENAPI_FILE = os.path.join(os.path.dirname(__file__), "openapi.json")
INSTANCES = ROOT + "/instances"
MAX_INSTANCES = 1_000
UNUSED_TIMEOUT = 24 * 3_600  # seconds after which an instance ends that nobody has used
LOOK_INTERVAL = 60  # seconds between two looks for such instances
STANDIN_HEADER = ("X-Standin", f"fense-admin/{__version__}")  # on every response
JOURNAL_LENGTH = 1_000  # entries
RESET_TIMEOUT = 5  # seconds that a reset waits for requests which have begun
UNRECORDED = ("/healthz", "/openapi.json")


CLOCK_RULES = {
    "now": rules.check_clock_time,
    "advance_seconds": rules.whole_number(-(10**12), 10**12),
}


def check_seed(value: object) -> Any:
    if value != DEMO and not isinstance(value, JsonObject):
        raise ValueError(f'must be a state document or "{DEMO}"')
    return value


class Clock(models.Clock):
    """The time of a stand-in: the system's, unless it is stopped."""

    def __init__(self, stopped_at: datetime.datetime | None = None) -> None:
        self.stopped_at = stopped_at
        self.was_set = stopped_at is not None
        self._moving = threading.Lock()

    def now(self) -> datetime.datetime:
        """The time in UTC, without a time zone."""
        return self.stopped_at or super().now()

    def stop(self, time: str) -> None:
        """Stop it at a time that `rules.check_time` takes."""
        self.was_set = True
        self.stopped_at = datetime.datetime.strptime(time, rules.IN_UTC)

    def advance(self, seconds: int) -> None:
        """Move it on, or back. Raises `ValueError` where it runs, or would leave the calendar."""
        with self._moving:
            stopped_at = self.stopped_at
            if stopped_at is None:
                raise ValueError("moves a stopped clock, and this one runs: send now first")
            try:
                self.stopped_at = stopped_at + datetime.timedelta(seconds=seconds)
            except OverflowError:
                raise ValueError("would leave the calendar: the years are 1 to 9999") from None

    def release(self) -> None:
        """Let it go: it is the system's again."""
        self.stopped_at = None

    def reset(self) -> None:
        """Let it go, and forget that it was ever stopped."""
        self.stopped_at, self.was_set = None, False


class ControlPlane:
    """A WSGI application: the contract's, with a journal and faults, and /_standin beside it.

    `seed` is what a reset goes back to. `on_loopback` says that no other machine reaches it: then
    DNS rebinding is refused, too. With `parent` it is an instance of that one.
    """

    def __init__(
        self,
        app: Application,
        master_key: str,
        service_keys: Iterable[str] = (),
        *,
        seed: Seed | None = None,
        on_loopback: bool = True,
        parent: ControlPlane | None = None,
    ) -> None:
        if f"{app.prefix}/".startswith(ROOT + "/"):
            raise ValueError(f"the prefix must not be under {ROOT}")
        self.app = app
        self.db = app.db
        self.clock = self.db.clock = Clock(parent and parent.clock.stopped_at)
        self.seed = seed or Seed(None, self.db.now())
        self.limits = app.limits
        self.faults = Faults(app.limits.waiting, parent and parent.faults)
        self.is_instance = parent is not None
        self._begun: set[object] = set()  # requests of the contract that are being answered
        self._reset_at = 0.0  # by the monotonic clock
        self.instances: dict[str, Instance] = {}
        self._changing_instances = threading.Lock()
        self._looked_at = 0.0  # for unused instances, by the monotonic clock
        self._is_closed = False
        # Of instances that have ended, what a report shows.
        self._ended_requests: collections.deque[dict[str, Any]] = collections.deque(maxlen=REPORTED)
        self._ended_faults: collections.deque[dict[str, Any]] = collections.deque(maxlen=REPORTED)
        self.journal: collections.deque[Entry] = collections.deque(maxlen=JOURNAL_LENGTH)
        app.install(FaultPlugin(self.faults, app.prefix))
        if app.signposts:
            app.signposts["a page for people"] = ROOT + "/"

        self.control = Application(
            app.db, "", app.masker.own, app.public_origin, app.public_path, app.limits
        )
        # A stand-in and its instances mask each other's keys.
        self._shared = parent._shared if parent else SharedKeys()
        self._shared.change(added=map(digest, app.masker.own))
        self._merchants: set[str] = set()  # digests that it shares
        self._sharing = threading.Lock()
        if self.db.engine.info.in_memory:  # nobody else writes to it, and a query costs more
            self.db.on_keys = self._share
            app.masker.look_ups.clear()
        if parent is not None:
            app.masker.look_ups += parent.app.masker.look_ups
        app.masker.others = self._shared
        self.control.masker.others, self.control.masker.look_ups = self._shared, app.masker.look_ups
        self.control.masker.plain = re.compile(ROOT + "(?:/[a-z]*)?")
        self.guard = ControlGuard(master_key, service_keys, on_loopback)
        if parent is not None:
            self.guard.page_is_open = parent.guard.page_is_open
        self.control.install(self.guard)
        endpoints: dict[str, dict[str, Callable[..., Any]]] = {
            "/reset": {"POST": self.post_reset},
            "/state": {"GET": self.get_state, "PUT": self.put_state},
            "/usage": {"POST": self.post_usage},
            "/faults": {
                "GET": self.get_faults,
                "POST": self.post_fault,
                "DELETE": self.delete_faults,
            },
            "/requests": {"GET": self.get_requests, "DELETE": self.delete_requests},
            "/clock": {"GET": self.get_clock, "PUT": self.put_clock, "DELETE": self.delete_clock},
            "/openapi.json": {"GET": self.get_openapi},
        }
        if parent is None:
            endpoints["/instances"] = {"GET": self.get_instances, "POST": self.post_instance}
            endpoints["/instances/<id>"] = {"DELETE": self.delete_instance}
            ended = INSTANCES + r"/<id>/<path:re:[\s\S]*>"
            self.control.route(ended, "ANY", no_such_instance, skip=[self.guard])
        for path, handlers in endpoints.items():
            self.control.endpoint(ROOT + path, handlers)
        for path in ("", "/", "/page/<path:path>"):
            self.control.endpoint(ROOT + path, {"GET": self.get_page}, page=True)

    def reset(self) -> None:
        """Back to the seed: accounts, usage, ids, faults, journal, clock; no instances.

        What was sent before leaves nothing behind: requests that have begun are answered first,
        others that were read are answered 503. Raises `ValueError` where the seed can't be loaded
        today: see `Seed.at`.
        """
        state = self.seed.at(models.now())
        self._reset_at = monotonic()
        self.faults.reset()
        self.end_instances(list(self.instances))
        while self._begun and monotonic() < self._reset_at + RESET_TIMEOUT:
            time.sleep(0.001)
        self.clock.reset()
        self.db.replace(*state)
        for entries in (self.journal, self._ended_requests, self._ended_faults):
            entries.clear()

    def close(self) -> None:
        """End its instances, and close its database for good."""
        self._is_closed = True
        self.end_instances(list(self.instances))
        self._shared.change(dropped=[*map(digest, self.app.masker.own), *self._merchants])
        self.app.close()

    def report(self) -> str:
        """The last requests and the armed faults never used, those of its instances, too."""
        planes = [self, *(instance.plane for instance in list(self.instances.values()))]
        journals = [list(plane.journal) for plane in planes]
        entries = heapq.merge(list(self._ended_requests), *journals, key=itemgetter("at"))
        faults = [fault for plane in planes for fault in plane.faults.armed()]
        return report(list(entries), [*self._ended_faults, *faults])

    def _share(self, new: Iterable[str], old: Iterable[str] | None) -> None:
        """Mask these keys of merchants, in the parent and in other instances, too."""
        with self._sharing:
            dropped = set(self._merchants if old is None else self._merchants.intersection(old))
            self._merchants -= dropped
            added = set(new) - self._merchants
            self._merchants |= added
            self._shared.change(added, dropped)

    # Instances

    def add_instance(self, instance: Instance) -> bool:
        """Serve an instance. Returns False if there are too many, or this has stopped."""
        with self._changing_instances:
            if self._is_closed or len(self.instances) >= MAX_INSTANCES:
                return False
            self.instances[instance.id] = instance
        return True

    def end_instances(self, ids: Iterable[str]) -> bool:
        """End these, as far as they are there. Returns whether any was."""
        with self._changing_instances:
            ended = [self.instances.pop(id) for id in ids if id in self.instances]
        for instance in ended:
            self._ended_requests.extend(list(instance.plane.journal)[-REPORTED:])
            self._ended_faults.extend(instance.plane.faults.armed())
            instance.end()
        return bool(ended)

    def _end_unused_instances(self) -> None:
        """End the instances that nobody has used for `UNUSED_TIMEOUT`: their tests have ended."""
        now = monotonic()
        if now < self._looked_at + LOOK_INTERVAL:
            return
        self._looked_at = now
        instances = list(self.instances.values())
        self.end_instances([it.id for it in instances if it.unused_for() > UNUSED_TIMEOUT])

    # What the server asks

    def runs_inline(self, method: str, path: str, query: str) -> bool:
        return False  # a fault may delay any of them

    @property
    def may_wait(self) -> bool:
        return self.app.may_wait

    def use_spare(self, spare: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self.app.use_spare(spare)

    def body_limit(self, environ: Mapping[str, Any]) -> int | None:
        """Large bodies are taken with the master key only."""
        path = environ["PATH_INFO"]
        instance, rest = self._instance_at(path)
        if instance is not None:
            return instance.plane.body_limit({**environ, "PATH_INFO": rest})
        key = request_key(environ) or basic_password(environ.get("HTTP_AUTHORIZATION", ""))
        is_large = path.startswith(ROOT + "/") and self.guard.master.knows(key)
        return self.limits.state_body if is_large else None

    def choose_id(self, environ: Mapping[str, Any]) -> str:
        return self.app.choose_id(environ)

    def common_headers(self, request_id: str) -> list[tuple[str, str]]:
        return [*self.app.common_headers(request_id), STANDIN_HEADER]

    def release_waiting(self) -> None:
        self.faults.disarm()
        for instance in list(self.instances.values()):
            instance.plane.release_waiting()

    def end_thread(self) -> None:
        self.db.engine.close()
        for instance in list(self.instances.values()):
            instance.plane.end_thread()

    # Handlers

    def post_reset(self, db: Database) -> None:
        self.reset()
        response.status = 204

    def get_state(self, db: Database) -> str:
        return json_object("accounts", db.dump()["accounts"])

    def put_state(self, db: Database) -> str:
        with ValidationErrors() as errors:
            document = read_json(errors, limit=self.limits.state_body)
            state = None if document is None else check_state(document, errors, db.today())
        db.replace(*with_times(state, db.now()))
        return self.get_state(db)

    def post_usage(self, db: Database) -> dict[str, Any]:
        with ValidationErrors() as errors:
            entries = read_json(errors, list, self.limits.state_body)
            rows = check_usage(entries or [], errors, db.today())
        record_usage(db, rows)
        return {"recorded": len(rows)}

    def get_faults(self, db: Database) -> dict[str, Any]:
        return {"faults": self.faults.armed()}

    def post_fault(self, db: Database) -> dict[str, Any]:
        with ValidationErrors() as errors:
            sent = read_json(errors, limit=self.limits.state_body)
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

    def get_clock(self, db: Database) -> dict[str, Any]:
        return {"now": db.now(), "stopped": self.clock.stopped_at is not None}

    def put_clock(self, db: Database) -> dict[str, Any]:
        with ValidationErrors() as errors:
            sent = read_json(errors)
            fields = {} if sent is None else rules.validate(sent, CLOCK_RULES, errors)
            if len(fields) != 1 and not errors:
                errors.add(None, "send either now or advance_seconds")
            if "advance_seconds" in fields and not errors:
                errors.check("advance_seconds", self.clock.advance, fields["advance_seconds"])
        if "now" in fields:
            self.clock.stop(fields["now"])
        return self.get_clock(db)

    def delete_clock(self, db: Database) -> None:
        self.clock.release()
        response.status = 204

    def get_instances(self, db: Database) -> dict[str, Any]:
        return {"instances": [instance.urls() for instance in list(self.instances.values())]}

    def post_instance(self, db: Database) -> dict[str, Any]:
        now, state = db.now(), None
        with ValidationErrors() as errors:
            sent = read_json(errors, limit=self.limits.state_body, may_be_empty=True)
            fields = {} if sent is None else rules.validate(sent, {"seed": check_seed}, errors)
            source = fields.get("seed")
            if isinstance(source, JsonObject):
                state = check_state(source, errors, now[:10], "seed.")
        too_many = ApiError(CONFLICT, f"there are {MAX_INSTANCES} instances: end some, or reset")
        if len(self.instances) >= MAX_INSTANCES:
            raise too_many
        seed = self.seed.since(now) if source is None else Seed(source, now, state)
        instance = Instance(self, seed)
        if not self.add_instance(instance):
            instance.end()
            raise too_many
        response.status = 201
        urls = instance.urls()
        return {
            "id": instance.id,
            "base_url": urls["base_url"],
            "api_key": instance.master_key,
            "service_key": instance.service_key,
            "standin_url": urls["standin_url"],
        }

    def delete_instance(self, db: Database, id: str) -> None:
        if not self.end_instances([id]):
            no_such_instance(db)
        response.status = 204

    def get_openapi(self, db: Database) -> dict[str, Any]:
        document = read_openapi(OPENAPI_FILE, ROOT)
        if self.is_instance:  # it has no instances
            for path in ("/instances", "/instances/{id}"):
                del document["paths"][path]
        return document

    def get_page(self, db: Database, path: str = "") -> str:
        from fense_admin.standin import page  # late: most stand-ins are never looked at

        return page.show(self, path)

    # The contract's requests

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*headers, STANDIN_HEADER], exc_info)

        self._end_unused_instances()
        path = environ.get("PATH_INFO", "")
        instance, rest = self._instance_at(path)
        with own_context():
            answer = instance and instance.answer(environ, rest, start_response)
            if answer is not None:
                return answer
            if path == ROOT or path.startswith(ROOT + "/"):
                return self.control(environ, start)
            if path.removeprefix(self.app.prefix) in UNRECORDED:
                return self.app(environ, start)
            return self._recorded(environ, start)

    def _instance_at(self, path: str) -> tuple[Instance | None, str]:
        """The instance that a path belongs to, if any, and the path within it."""
        if not path.startswith(INSTANCES + "/"):
            return None, path
        id, slash, rest = path[len(INSTANCES) + 1 :].partition("/")
        return (self.instances.get(id) if slash else None), slash + rest

    def _recorded(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        """Answer a request of the contract, with an entry in the journal."""
        received = environ.get(RECEIVED) or monotonic()
        begun = object()
        self._begun.add(begun)
        try:
            environ[IS_STALE] = received < self._reset_at
            return (self.app if environ[IS_STALE] else self._with_entry)(environ, start)
        finally:
            self._begun.discard(begun)

    def _with_entry(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        began = monotonic()
        entry = journal_entry(environ, self.app)
        self.journal.append(entry)
        answer: list[Any] = []
        body = b"".join(self.app(environ, lambda *started: answer.extend(started), entry["id"]))
        fault = environ.get(FAULT, {})
        how = fault.get("drop")
        entry.fault, entry["fault"] = fault, fault.get("id")
        if how is None:
            entry["status"] = int(answer[0][:3])
            add_response(entry, body, self.app, request_key(environ))
        entry["duration_ms"] = round((monotonic() - began) * 1000, 1)
        if how in (None, "truncate"):
            start(*answer)
        return drop(how, environ, body) if how else [body] if body else []


class Instance:
    """A stand-in of its own, under a path of its parent's.

    Once it has ended it closes its database, as soon as no request is in flight.
    """

    def __init__(self, parent: ControlPlane, seed: Seed) -> None:
        state = seed.at(parent.db.now())
        self.id = secrets.token_hex(8)
        self.path = f"{INSTANCES}/{self.id}"
        self.master_key, self.service_key = generated("master"), generated("service")
        keys = {"master_key": self.master_key, "service_keys": [self.service_key]}
        public_url = parent.app.public_origin + parent.app.public_path
        app = create_app(
            prefix=parent.app.prefix, public_url=public_url, limits=parent.limits, **keys
        )
        app.db.engine.while_waiting = lambda: parent.db.engine.while_waiting()
        self.plane = ControlPlane(
            app, **keys, seed=seed, on_loopback=parent.guard.on_loopback, parent=parent
        )
        app.db.replace(*state)
        self._changing = threading.Lock()
        self._in_flight = 0  # requests
        self._has_ended = False
        self._made_at = self._used_at = monotonic()

    def age(self) -> float:
        """Seconds since it was created."""
        return monotonic() - self._made_at

    def unused_for(self) -> float:
        """Seconds since its last request was answered; 0 while one is in flight."""
        return 0.0 if self._in_flight else monotonic() - self._used_at

    def urls(self) -> dict[str, str]:
        """Its id and where clients find it."""
        url = origin() + mount_point() + self.path
        return {
            "id": self.id,
            "base_url": url + self.plane.app.prefix,
            "standin_url": url + ROOT,
        }

    def answer(self, environ: dict[str, Any], path: str, start: Callable[..., Any]) -> Any:
        """Answer a request to this path within it, as a WSGI application; None if it has ended."""
        with self._changing:
            if self._has_ended:
                return None
            self._in_flight += 1
        mount = environ.get("SCRIPT_NAME", "") + self.path
        try:
            return self.plane(environ | {"SCRIPT_NAME": mount, "PATH_INFO": path}, start)
        finally:
            self._leave()

    def end(self) -> None:
        """End it: requests that wait for a delay are answered 503, others go on."""
        with self._changing:
            self._has_ended = True
            self._in_flight += 1
        self.plane.faults.reset()
        self._leave()

    def _leave(self) -> None:
        with self._changing:
            self._used_at = monotonic()
            self._in_flight -= 1
            if self._has_ended and not self._in_flight:
                self.plane.close()


def no_such_instance(db: Database, **kwargs: Any) -> None:
    raise ApiError(NOT_FOUND, "no instance has this id, or it has ended")


def generated(kind: str) -> str:
    """A name or a key that is unique."""
    return f"{kind}-{secrets.token_hex(8)}"


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
        self.page_is_open = master_key == DEVELOPMENT_KEY
        self.on_loopback = on_loopback

    def apply(self, callback: Callable[..., Any], route: bottle.Route) -> Callable[..., Any]:
        is_page = route.method == "GET" and route.config.get("page")

        def guarded(db: Database, **kwargs: Any) -> Any:
            self.refuse_other_sites(request.environ, is_page)
            if not (is_page and self.page_is_open):
                self.refuse_other_keys(request.environ, db)
            if not is_page:  # whose views take parameters, and check them
                with ValidationErrors() as errors:
                    read_query(errors)
            return callback(db=db, **kwargs)

        return guarded

    def refuse_other_sites(self, environ: dict[str, Any], is_page: bool) -> None:
        # Where no other machine comes in, or anybody knows the key, another Host is DNS rebinding.
        blamed = foreign_header(environ, self.on_loopback or self.page_is_open)
        if blamed == "Origin":
            raise ApiError(
                FORBIDDEN, "the control plane takes no requests of another page's (Origin)"
            )
        is_own = environ.get("HTTP_SEC_FETCH_SITE", "none") in ("none", "same-origin")
        # A link on another site may open the page: that shows it to the user alone.
        if not is_own and not (is_page and is_navigation(environ)):
            raise ApiError(FORBIDDEN, "the control plane takes no requests of another site's pages")
        if blamed:
            raise ApiError(FORBIDDEN, "the control plane is at localhost or 127.0.0.1 only (Host)")

    def refuse_other_keys(self, environ: dict[str, Any], db: Database) -> None:
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        key = request_key(environ) or basic_password(authorization)
        if self.master.knows(key):
            return
        if key and (self.service.knows(key) or db.is_merchant_key(key)):
            raise ApiError(FORBIDDEN, "the control plane takes the master key alone")
        message = "the key is not the master key" if key else "the master key is missing"
        message += self.master.hint
        raise ApiError(UNKNOWN_KEY, message, WWW_Authenticate='Basic realm="fense-admin"')


def is_navigation(environ: Mapping[str, Any]) -> bool:
    """Whether a browser says that it opens the page in a tab, and not in a frame of another one."""
    mode, what = environ.get("HTTP_SEC_FETCH_MODE"), environ.get("HTTP_SEC_FETCH_DEST")
    return environ["REQUEST_METHOD"] == "GET" and (mode, what) == ("navigate", "document")


def basic_password(authorization: str) -> str:
    """The password of HTTP Basic, as which a browser sends a key; "" if there is none."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""
