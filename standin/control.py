"""The control plane: /_standin, around the contract's application.

The contract knows nothing of it. If it is off, nothing of it is imported.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from bottle import request, response

from fense_admin import Application, __version__, create_app, models, rules
from fense_admin.databases import Database
from fense_admin.exchange import (
    NOT_FOUND,
    RECEIVED,
    ApiError,
    Stream,
    request_key,
    when_over,
)
from fense_admin.masking import SharedKeys, digest, hide
from fense_admin.reading import read_fields, read_json, read_query
from fense_admin.realtime import monotonic
from fense_admin.rules import JsonObject, ValidationErrors
from fense_admin.standin import document, faults, state, waits
from fense_admin.standin.calling import own_context
from fense_admin.standin.clock import CLOCK_RULES, Clock
from fense_admin.standin.faults import Faults
from fense_admin.standin.guard import ControlGuard
from fense_admin.standin.instances import INSTANCES, ROOT, Instance, Instances, Plane, generated
from fense_admin.standin.journal import (
    ENTRY,
    SEEN,
    add_response,
    journal_entry,
    report,
)
from fense_admin.standin.state import Seed
from fense_admin.standin.waits import Journal

if TYPE_CHECKING:
    from fense_admin.standin import page

STANDIN_HEADER = ("X-Standin", f"fense-admin/{__version__}")  # on every response
RESET_TIMEOUT = 5  # seconds that a reset waits for in-flight requests
UNRECORDED = ("/healthz", "/openapi.json")


def check_seed(value: object) -> Any:
    if value != state.DEMO and not isinstance(value, JsonObject):
        raise ValueError(f'must be a state document or "{state.DEMO}"')
    return value


INSTANCE_RULES: dict[str, rules.Rule] = {
    "seed": check_seed,
    "name": rules.or_null(
        rules.matching(
            f"[^{rules.CONTROL}]{{1,100}}", "must be 1 to 100 characters without control characters"
        )
    ),
}


class ControlPlane:
    """A WSGI application: the contract's, with a journal and faults, plus /_standin.

    A reset goes back to `seed`. With `on_loopback` no other machine can reach it, so it also
    rejects DNS rebinding. With `parent` it is an instance of that control plane.
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
        self.clock: Clock = Clock(parent.clock.stopped_at if parent else None)
        self.db.clock = self.clock
        self.seed = seed or Seed(None, self.db.now())
        self.master_key = master_key
        self.limits = app.limits
        self.faults: Faults = Faults(app.limits.waiting, parent.faults if parent else None)
        self.is_instance = parent is not None
        self.shown_name = ""  # an instance's name in logs and reports
        self._begun: set[object] = set()  # in-flight requests of the contract
        self._reset_at = 0.0  # monotonic time
        self.instances = Instances()
        self.journal: Journal = Journal(parent.journal if parent else None)
        app.install(self.faults)
        if app.signposts:
            app.signposts["a web page"] = ROOT + "/"

        self.control = Application(app.db, "", app.masker.own, app.public_url, app.limits)
        # A stand-in and its instances mask each other's keys.
        self._keys: SharedKeys = SharedKeys(parent._keys if parent else None)
        self._keys.change(map(digest, app.masker.own), ())
        self._merchants = SharedKeys(self._keys)
        if self.db.engine.info.in_memory:  # no one else writes to it, and queries cost more
            self.db.on_keys = self._merchants.change
            app.masker.look_ups.clear()
        if parent is not None:
            app.masker.look_ups += parent.app.masker.look_ups
        app.masker.others = self._keys
        self.control.masker.others, self.control.masker.look_ups = self._keys, app.masker.look_ups
        self.control.masker.plain = re.compile(ROOT + "(?:/[a-z]*)?")
        self.guard = ControlGuard(master_key, service_keys, on_loopback)
        if parent is not None:
            self.guard.page_is_open = parent.guard.page_is_open
            self.guard.on_loopback = parent.guard.on_loopback
        self.control.install(self.guard)

        def endpoint(path: str, takes_query: bool = False, **handlers: Callable[..., Any]) -> None:
            self.control.endpoint(ROOT + path, handlers, takes_query=takes_query)

        endpoint("/reset", POST=no_content(self.reset))
        endpoint("/state", GET=self.get_state, PUT=self.put_state)
        endpoint("/usage", POST=self.post_usage)
        disarm, release = no_content(self.faults.disarm), no_content(self.clock.release)
        endpoint("/faults", GET=self.get_faults, POST=self.post_fault, DELETE=disarm)
        requests = {"GET": self.get_requests, "DELETE": self.delete_requests}
        endpoint("/requests", takes_query=True, **requests)
        endpoint("/clock", GET=self.get_clock, PUT=self.put_clock, DELETE=release)
        endpoint("/openapi.json", GET=self.get_openapi)
        if parent is None:
            endpoint("/instances", GET=self.get_instances, POST=self.post_instance)
            endpoint("/instances/<id>", DELETE=self.delete_instance)
            ended = INSTANCES + r"/<id>/<path:re:[\s\S]*>"
            self.control.route(ended, "ANY", no_such_instance, skip=[self.guard])
        see = {"GET": self.answer_page}
        see_and_act = see | {"POST": self.answer_page}
        for path, handlers in (("", see), ("/", see), ("/page/<path:path>", see_and_act)):
            self.control.endpoint(ROOT + path, handlers, page=(*handlers,))

    def reset(self) -> None:
        """Go back to the seed: accounts, usage, ids, faults, journal, clock; no instances.

        Requests sent earlier have no effect afterwards: in-flight ones finish first, and others
        that were already read get 503. Raises `ValueError` if the seed can't be loaded today: see
        `Seed.at`.
        """
        rows = self.seed.at(models.now())
        self._reset_at = monotonic()
        self.faults.reset()
        self.instances.end(list(self.instances))
        while self._begun and monotonic() < self._reset_at + RESET_TIMEOUT:
            time.sleep(0.001)
        self.clock.reset()
        self.db.replace(*rows)
        self.journal.clear()
        self.journal.end_waits()
        self.instances.ended_requests.clear()
        self.instances.ended_faults.clear()

    def close(self) -> None:
        """End its instances, and close its database permanently."""
        self.instances.close()
        for keys in (self._keys, self._merchants):
            keys.change((), None)
        self.app.close()

    def report(self) -> str:
        """Return a report for a failed test, including its instances: see `journal.report`."""
        planes: list[Plane] = [self, *(instance.plane for instance in self.instances.all())]
        journals = [list(plane.journal) for plane in planes]
        ended = self.instances.ended_requests, self.instances.ended_faults
        entries = heapq.merge(list(ended[0]), *journals, key=itemgetter("at"))
        armed = [(plane.shown_name, fault) for plane in planes for fault in plane.faults.armed()]
        return report(list(entries), [*ended[1], *armed])

    # What the server asks

    def runs_inline(self, method: str, path: str, query: str) -> bool:
        return False  # a fault may delay any request

    @property
    def may_wait(self) -> bool:
        return self.app.may_wait

    def use_spare(self, spare: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self.app.use_spare(spare)

    def body_limit(self, environ: Mapping[str, Any]) -> int | None:
        """Accept large bodies only with the master key."""
        path = environ["PATH_INFO"]
        instance, rest = self.instances.at(path)
        if instance is not None:
            return instance.plane.body_limit({**environ, "PATH_INFO": rest})
        is_large = path.startswith(ROOT + "/") and self.guard.takes_large_body(
            path.removeprefix(ROOT), environ
        )
        return self.limits.state_body if is_large else None

    def choose_id(self, environ: Mapping[str, Any]) -> str:
        return self.app.choose_id(environ)

    def common_headers(self, request_id: str) -> list[tuple[str, str]]:
        return [*self.app.common_headers(request_id), STANDIN_HEADER]

    def release_waiting(self) -> None:
        self.faults.disarm()
        self.journal.end_waits(for_good=True)
        for instance in self.instances.all():
            instance.plane.release_waiting()

    def end_thread(self) -> None:
        self.db.engine.close()
        for instance in self.instances.all():
            instance.plane.end_thread()

    # Handlers

    def get_state(self, db: Database) -> str | Iterator[str]:
        response.content_type = "application/json"
        return db.state()

    def put_state(self, db: Database) -> str | Iterator[str]:
        with ValidationErrors() as errors:
            sent = read_json(errors, limit=self.limits.state_body, parse=state.parse_document)
            rows = state.check_state(sent, errors, db.today())
        del sent  # to free the memory of its text
        db.replace(*state.with_times(rows, db.now()))
        return self.get_state(db)

    def post_usage(self, db: Database) -> dict[str, Any]:
        with ValidationErrors() as errors:
            entries = read_json(errors, list, self.limits.state_body)
            rows = state.check_usage(entries or [], errors, db.today())
        state.record_usage(db, rows)
        return {"recorded": len(rows)}

    def get_faults(self, db: Database) -> dict[str, Any]:
        return {"faults": self.faults.armed()}

    def post_fault(self, db: Database) -> dict[str, Any]:
        with ValidationErrors() as errors:
            sent = read_json(errors, limit=self.limits.state_body)
            fields = {} if sent is None else faults.check_fault(sent, errors)
        response.status = 201
        return self.faults.arm(fields)

    def get_requests(self, db: Database) -> str:
        with ValidationErrors() as errors:
            query = read_query(errors, *waits.FILTER_RULES)
            sent = {
                name: errors.check(name, waits.FILTER_RULES[name], text)
                for name, text in query.items()
                if text is not None
            }
        wanted = waits.Filter(sent, self.app.prefix)
        newest = {"count": sent["count"]} if "count" in sent else {}
        if "wait_ms" not in sent:
            return json_object("requests", self.journal.find(wanted, **newest))
        seconds, spare = sent["wait_ms"] / 1000, db.engine.while_waiting
        found = self.journal.wait(wanted, seconds, request.environ, spare, **newest)
        return json_object("requests", found)

    def delete_requests(self, db: Database) -> None:
        with ValidationErrors() as errors:
            read_query(errors)
        self.journal.clear()
        response.status = 204

    def get_clock(self, db: Database) -> dict[str, Any]:
        return {"now": db.now(), "stopped": self.clock.stopped_at is not None}

    def put_clock(self, db: Database) -> dict[str, Any]:
        with ValidationErrors() as errors:
            fields = read_fields(errors, CLOCK_RULES)
            if len(fields) != 1 and not errors:
                errors.add(None, "send either now or advance_seconds")
            if "advance_seconds" in fields and not errors:
                errors.check("advance_seconds", self.clock.advance, fields["advance_seconds"])
        if "now" in fields:
            self.clock.stop(fields["now"])
        return self.get_clock(db)

    def get_instances(self, db: Database) -> dict[str, Any]:
        return {"instances": [instance.urls() for instance in self.instances.all()]}

    def post_instance(self, db: Database) -> dict[str, Any]:
        now, rows = db.now(), None
        with ValidationErrors() as errors:
            sent = read_json(errors, limit=self.limits.state_body, may_be_empty=True)
            fields = {} if sent is None else rules.validate(sent, INSTANCE_RULES, errors)
            source = fields.get("seed")
            if isinstance(source, JsonObject):
                rows = state.check_state(source, errors, now[:10], "seed.")
        self.instances.check_limit()
        instance = self.new_instance(
            self.seed.since(now) if source is None else Seed(source, now, rows), fields.get("name")
        )
        self.instances.add(instance)
        response.status = 201
        urls = instance.urls()
        standin_url = urls.pop("standin_url")
        keys = {"api_key": instance.master_key, "service_key": instance.service_key}
        return urls | keys | {"standin_url": standin_url}

    def delete_instance(self, db: Database, id: str) -> None:
        if not self.instances.end([id]):
            no_such_instance(db)
        response.status = 204

    def get_openapi(self, db: Database) -> dict[str, Any]:
        return document.served(has_instances=not self.is_instance)

    def answer_page(self, db: Database, path: str = "") -> page.Body:
        from fense_admin.standin import page  # imported late: most pages are never opened

        return page.answer(self, path)

    # The contract's requests

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*headers, STANDIN_HEADER], exc_info)

        self.instances.end_unused()
        path = environ.get("PATH_INFO", "")
        instance, rest = self.instances.at(path)
        with own_context():
            answer = instance and instance.answer(environ, rest, start_response)
            if answer is not None:
                return answer
            if path == ROOT or path.startswith(ROOT + "/"):
                return self.control(environ, start)
            if path.removeprefix(self.app.prefix) in UNRECORDED:
                return self.app(environ, start)
            return self._recorded(environ, start)

    def _recorded(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        """Handle a request of the contract, and note it in the journal."""
        received = environ.get(RECEIVED) or monotonic()
        begun = object()
        self._begun.add(begun)
        body = None
        try:
            environ[faults.IS_STALE] = received < self._reset_at
            body = (self.app if environ[faults.IS_STALE] else self._with_entry)(environ, start)
            return body
        finally:
            when_over(body, lambda _: self._begun.discard(begun))

    def _with_entry(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        began = monotonic()
        entry = environ[ENTRY] = journal_entry(environ, self.app)
        entry.instance, entry.mount = self.shown_name, environ.get("SCRIPT_NAME", "")
        self.journal.note_arrived(entry)
        answer: list[Any] = []
        body = self.app(environ, lambda *started: answer.extend(started), entry["id"])
        applied: faults.AppliedFault | None = environ.get(faults.APPLIED_FAULT)
        fault = applied.fault if applied else {}
        entry.fault, entry["fault"] = fault, fault.get("id")
        if answer[0].startswith("201"):
            entry.created = json.loads(b"".join(body))["fense_account_id"]
        if applied and fault.get("after"):
            entry["handled"] = int(answer[0][:3])
            body = self.faults.apply_to_response(applied, body, answer, environ, self.app)
        elif environ.get(faults.IS_REPLACED):
            body = faults.replace(faults.error_of(fault), fault, body, answer, environ, self.app)
        how = faults.DROPS[fault["drop"]] if "drop" in fault else None
        if how is None:
            entry["status"] = int(answer[0][:3])
        sent = bytearray()  # the body; of a stream only the beginning
        if isinstance(body, Stream):
            body.seen.append(lambda piece: sent.extend(piece[: SEEN - len(sent)]))
        else:
            sent += b"".join(body)

        def add_rest(_: Exception | None) -> None:
            if how is None:
                add_response(entry, bytes(sent), self.app, environ)
            self.journal.note_answered(entry, round((monotonic() - began) * 1000, 1))

        when_over(body, add_rest)
        if how is None or how.part:
            start(*answer)
        if how is None:
            return body
        if isinstance(body, Stream):
            return faults.drop_stream(how, environ, body)
        return faults.drop(how, environ, bytes(sent))

    def new_instance(self, seed: Seed, name: str | None = None) -> Instance:
        """Return a stand-in like this one, with its own data and keys. Raises like `Seed.at`."""
        rows = seed.at(self.db.now())
        master_key, service_key = generated("master"), generated("service")
        app = create_app(
            master_key=master_key,
            service_keys=[service_key],
            prefix=self.app.prefix,
            public_url=self.app.public_url,
            limits=self.limits,
        )
        app.db.engine.while_waiting = lambda: self.db.engine.while_waiting()
        plane = ControlPlane(app, master_key, [service_key], seed=seed, parent=self)
        app.db.replace(*rows)
        if name is not None:
            name = hide(name, self.app.masker.keys_in([name], request_key(request.environ)))
            app.masker.label = f"[{rules.printable(name)}] "
        return Instance(plane, master_key, service_key, name)


def no_content(change: Callable[[], None]) -> Callable[[Database], None]:
    """Return a handler that makes this change and responds with 204."""

    def handler(db: Database) -> None:
        change()
        response.status = 204

    return handler


def no_such_instance(db: Database, **kwargs: Any) -> None:
    raise ApiError(NOT_FOUND, "no instance has this id, or it has ended")


def json_object(name: str, items: list[Any]) -> str:
    """Return {name: items} as JSON, item by item: json.dumps would hold the GIL for a long list."""
    response.content_type = "application/json"
    return f'{{"{name}": [{", ".join(map(json.dumps, items))}]}}'
