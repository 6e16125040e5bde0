"""A service that differs from this one in one detail, as the real Fense may."""

from __future__ import annotations

import copy
import datetime
import http.server
import io
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlencode

from webtest import TestApp

from fense_admin.comparing.differences import plain_header
from fense_admin.comparing.judging import TIMED
from fense_admin.comparing.questions import KNOWN, MERCHANT, NONE, OTHER, Question
from fense_admin.comparing.service import COMPARED
from fense_admin.comparing.service import Response as Received
from fense_admin.standin import StandIn

MASTER_KEY, SERVICE_KEY = "real-master-key-77aa", "real-service-key-88bb"
NAMES = ("Zebra Industries", "Miller & Sons", "Acme Ltd")
UUID = "6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11"
SEED = {
    "accounts": [
        {
            "fense_account_id": number * 17,
            "api_key": f"sk-private-{number}-q7w{number}",
            "name": name,
            "email": f"private.person{number}@merchant.example",
            "dispute_account_id": UUID if number == 1 else None,
            "is_active": number != 3,
            "usage": {"2026-03-01": 4, "2026-03-02": 5, "2026-03-09": number} if number < 3 else {},
        }
        for number, name in enumerate(NAMES, 1)
    ]
}
PERSONAL = (*NAMES, "private.person", "merchant.example", UUID, "sk-private", "q7w")
FULL = {**SEED["accounts"][2], "usage": {"2026-03-02": 8}}  # an inactive account with lookups


@dataclass
class Request:
    method: str
    path: str
    query: str
    key: str | None
    body: str | None = None
    content_type: str = "application/json"
    encoding: str = ""

    @property
    def target(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path

    def having(self, **parameters: str) -> Request:
        """The request with these parameters and no others."""
        return replace(self, query=urlencode(parameters))

    @property
    def parameters(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(self.query, True).items()}


@dataclass
class Response:
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


Respond = Callable[[Request], Response]
Change = Callable[[Request, Respond], Response]


class OtherFense:
    """It responds as `change` makes it respond."""

    def __init__(self, change: Change, seed: Any = SEED) -> None:
        self.change = change
        self.standin = StandIn(
            seed=copy.deepcopy(seed), master_key=MASTER_KEY, service_key=SERVICE_KEY, serve=False
        )
        self.app = TestApp(self.standin.app)
        self.requests: list[Request] = []

    def respond(self, request: Request) -> Response:
        """Respond as this service does."""
        headers = {} if request.key is None else {"x-api-key": request.key}
        headers |= {"Content-Encoding": request.encoding} if request.encoding else {}
        environ = {"PATH_INFO": request.path, "QUERY_STRING": request.query}
        if request.body is not None:
            raw = request.body.encode()
            environ |= {"CONTENT_TYPE": request.content_type, "CONTENT_LENGTH": str(len(raw))}
            environ["wsgi.input"] = io.BytesIO(raw)
        given = self.app.request(
            "/", method=request.method, headers=headers, environ=environ, expect_errors=True
        )
        kept = {
            name: plain_header(name, given.headers[name])
            for name in COMPARED
            if name in given.headers
        }
        return Response(given.status_int, json.loads(given.body) if given.body else None, kept)

    def ask(self, question: Question) -> Received:
        keys = {KNOWN: MASTER_KEY, OTHER: SERVICE_KEY, NONE: None, MERCHANT: "merchant-key-1"}
        path, _, query = question.path.partition("?")
        body = question.body
        for place, key in (("{key}", "merchant-key-1"), ("{other_key}", "merchant-key-2")):
            body = body and body.replace(place, key)
        request = Request(
            question.method,
            path,
            query,
            keys.get(question.key, "no-key"),
            body,
            question.content_type,
            question.encoding,
        )
        if question.line in TIMED:
            self.standin.set_clock("2030-01-01T00:00:00Z")
            self.standin.advance(len(self.requests))
        self.requests.append(request)
        response = self.change(request, self.respond)
        is_json = not isinstance(response.body, str) and question.method != "HEAD"
        body = response.body if is_json else None
        return Received(response.status, response.headers, body, is_json)


def serving(respond: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Any:
    """A server on a free port, for a `with` block, that calls this for each request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            respond(self)

        do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def __enter__(self) -> Any:
            threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
            return self

        def __exit__(self, *_: object) -> None:
            self.shutdown()
            self.server_close()

        def handle_error(self, *_: Any) -> None:
            pass

    return Server(("127.0.0.1", 0), Handler)


# --- Ways to differ ----------------------------------------------------------------------------

CHANGES: dict[str, tuple[str, Change]] = {}  # by name: the line of FIDELITY.md, and how
WRITTEN: dict[str, tuple[str, Change]] = {}  # that only a write shows


def differs(line: str) -> Callable[[Change], Change]:
    def register(change: Change) -> Change:
        CHANGES[change.__name__] = line, change
        return change

    return register


def in_bodies(change: Callable[[str, Any], tuple[str, Any]], body: Any) -> Any:
    """The body with each (name, value) of its objects as `change` returns it."""
    if isinstance(body, list):
        return [in_bodies(change, it) for it in body]
    if isinstance(body, dict):
        return {
            name: in_bodies(change, value)
            for name, value in (change(*item) for item in body.items())
        }
    return body


def changing(
    line: str, name: str, change: Callable[[str, Any], tuple[str, Any]], errors: bool = False
) -> None:
    """Register a way to differ in each field of a body."""

    def respond(request: Request, respond: Respond) -> Response:
        response = respond(request)
        if errors or response.status < 400:
            response.body = in_bodies(change, response.body)
        return response

    CHANGES[name] = line, respond


def camel(name: str) -> str:
    return re.sub("_([a-z])", lambda found: found[1].upper(), name)


changing("names", "camel_case", lambda name, value: (camel(name), value))
changing(
    "numbers",
    "ids_as_text",
    lambda name, value: (name, str(value) if name == "fense_account_id" else value),
)
changing(
    "numbers",
    "totals_as_text",
    lambda name, value: (name, str(value) if "total" in name else value),
)
changing(
    "times",
    "times_with_an_offset",
    lambda name, value: (name, value.replace("Z", "+00:00") if name.endswith("_at") else value),
)
changing(
    "times",
    "times_with_a_fraction",
    lambda name, value: (name, value.replace("Z", ".123Z") if name.endswith("_at") else value),
)
changing(
    "times",
    "times_as_numbers",
    lambda name, value: (
        name,
        datetime.datetime.fromisoformat(value[:-1]).timestamp() if name.endswith("_at") else value,
    ),
)
changing(
    "days",
    "days_with_a_time",
    lambda name, value: (name, f"{value}T00:00:00Z" if name == "date" else value),
)
changing(
    "dispute-account-id",
    "upper_case_uuids",
    lambda name, value: (name, value.upper() if value == UUID else value),
)
changing(
    "account-body",
    "another_name",
    lambda name, value: ("email_address" if name == "email" else name, value),
)
changing(
    "account-body",
    "flags_as_numbers",
    lambda name, value: (name, int(value) if isinstance(value, bool) else value),
)
changing(
    "error-codes",
    "other_codes",
    lambda name, value: (name, "E_X" if name == "code" else value),
    errors=True,
)


changing(
    "numbers",
    "uuids_for_ids",
    lambda name, value: (
        name,
        f"{value:08x}{UUID[8:]}" if name == "fense_account_id" else value,
    ),
)
changing(
    "numbers",
    "numbers_with_a_point",
    lambda name, value: (name, float(value) if name == "total_lookups" else value),
)
changing(
    "usage-body",
    "days_as_an_object",
    lambda name, value: (
        name,
        {it["date"]: it["lookups"] for it in value} if name == "daily" else value,
    ),
)
changing(
    "usage-body",
    "no_name_for_a_day",
    lambda name, value: ("on" if name == "date" else name, value),
)
changing(
    "error-body",
    "codes_as_numbers",
    lambda name, value: (name, 7 if name == "code" else value),
    errors=True,
)
changing(
    "daily",
    "a_day_twice",
    lambda name, value: (
        name,
        [part for it in value for part in halves(it)] if name == "daily" else value,
    ),
)


def halves(day):
    return (
        [day | {"lookups": 1}, day | {"lookups": day["lookups"] - 1}]
        if day["lookups"] > 1
        else [day]
    )


@differs("most-lookups")
def more_lookups_than_a_day_may_have(request, respond):
    response = respond(request)
    if response.status == 200 and response.body and response.body.get("daily"):
        response.body["daily"][0]["lookups"] += 10**13
        response.body["total_lookups"] += 10**13
    return response


@differs("null")
def nulls_left_out(request, respond):
    response = respond(request)

    def without(body):
        if isinstance(body, list):
            return [without(it) for it in body]
        if isinstance(body, dict):
            return {name: without(value) for name, value in body.items() if value is not None}
        return body

    response.body = without(response.body)
    return response


@differs("account-body")
def one_more_field(request, respond):
    response = respond(request)
    if response.status == 200 and response.body and "email" in response.body:
        response.body["plan"] = "gold"
    return response


@differs("envelope")
def in_an_envelope(request, respond):
    response = respond(request)
    if response.status == 200:
        response.body = {"data": response.body, "success": True}
    return response


@differs("envelope")
def in_two_envelopes(request, respond):
    response = respond(request)
    if response.status == 200:
        response.body = {"data": {"result": response.body}, "meta": {}}
    return response


@differs("envelope")
def a_bare_list(request, respond):
    response = respond(request)
    if response.status == 200 and response.body and "accounts" in response.body:
        response.body = response.body["accounts"]
    return response


@differs("error-body")
def problem_details(request, respond):
    response = respond(request)
    if response.status >= 400 and request.method == "GET":
        message = response.body["error"]["message"]
        response.body = {"type": "about:blank", "title": message, "status": response.status}
    if response.status >= 400:
        response.headers["content-type"] = "application/problem+json"
    return response


@differs("error-body")
def html_errors(request, respond):
    response = respond(request)
    if response.status >= 400 and request.method == "GET":
        response.body = "<h1>Error</h1>"
        response.headers["content-type"] = "text/html; charset=utf-8"
    return response


@differs("error-body")
def errors_that_blame_no_field(request, respond):
    response = respond(request)
    if response.status >= 400 and request.method == "GET":
        response.body["error"]["details"] = []
    return response


def other_status(ours: int, theirs: int, line: str, name: str) -> None:
    def change(request: Request, respond: Respond) -> Response:
        response = respond(request)
        if response.status == ours:
            response.status = theirs
        return response

    CHANGES[name] = line, change


other_status(400, 422, "bad-request", "unprocessable_for_bad_requests")
other_status(401, 403, "unknown-key", "forbidden_without_a_key")
other_status(405, 404, "wrong-method", "not_found_for_a_wrong_method")


@differs("statuses")
def errors_with_the_status_200(request, respond):
    response = respond(request)
    response.status = 200
    return response


@differs("unknown-key")
def another_challenge(request, respond):
    response = respond(request)
    if "www-authenticate" in response.headers:
        response.headers["www-authenticate"] = "Bearer"
    return response


@differs("content-type")
def no_content_type(request, respond):
    response = respond(request)
    del response.headers["content-type"]
    return response


@differs("unknown-key")
def no_challenge(request, respond):
    response = respond(request)
    response.headers.pop("www-authenticate", None)
    return response


@differs("content-type")
def a_charset(request, respond):
    response = respond(request)
    response.headers["content-type"] += "; charset=utf-8"
    return response


@differs("paths")
def a_slash_at_the_end(request, respond):
    return respond(replace(request, path=request.path.rstrip("/")))


@differs("paths")
def a_redirect_of_slashes(request, respond):
    if request.path.endswith("/") or request.path.startswith("//"):
        return Response(301, None, {"location": "/accounts/usage"})
    return respond(request)


@differs("paths")
def paths_in_either_case(request, respond):
    return respond(replace(request, path=request.path.lower()))


@differs("key-first")
def no_path_without_a_key(request, respond):
    if request.key is None:
        return respond(replace(request, path="/accounts/usage"))
    return respond(request)


@differs("key-first")
def the_id_before_the_key(request, respond):
    if request.path == "/accounts/x":
        return respond(replace(request, key=MASTER_KEY))
    return respond(request)


@differs("several-keys")
def one_key(request, respond):
    return respond(replace(request, key="no" if request.key == SERVICE_KEY else request.key))


def ignoring(line: str, name: str, ignore: Callable[[Request], Request]) -> None:
    """Register a way to differ in which requests are accepted."""
    CHANGES[name] = line, lambda request, respond: respond(ignore(request))


def without_unknown(request: Request) -> Request:
    known = {"start_date", "end_date", "fense_account_id"}
    given = parse_qs(request.query, True)
    if set(given) - known:
        return request.having(**{it: values[0] for it, values in given.items() if it in known})
    return request


def without_empty(request: Request) -> Request:
    if re.search("=(&|$)", request.query):
        return request.having(**{it: value for it, value in request.parameters.items() if value})
    return request


def without_doubled(request: Request) -> Request:
    if len(re.findall("end_date=", request.query)) > 1:
        return request.having(**request.parameters)
    return request


def end_of_today(request: Request) -> Request:
    given = request.parameters
    if "start_date" in given and "end_date" not in given:
        return request.having(**given, end_date="2026-12-31")
    return request


def swapped(request: Request) -> Request:
    given = request.parameters
    if given.get("start_date", "") > given.get("end_date", "~"):
        return request.having(start_date=given["end_date"], end_date=given["start_date"])
    return request


def first_of_two_ids(request: Request) -> Request:
    if re.search("usage/[0-9]", request.path) and "fense_account_id" in request.parameters:
        given = request.parameters
        del given["fense_account_id"]
        return request.having(**given)
    return request


ignoring("unknown-parameter", "unknown_parameters_ignored", without_unknown)
ignoring("empty-parameter", "empty_parameters_ignored", without_empty)
ignoring("doubled-parameter", "doubled_parameters_taken", without_doubled)
ignoring("end-date", "no_end_date_needed", end_of_today)
ignoring("start-after-end", "start_after_end_taken", swapped)
ignoring("two-ids", "the_id_of_the_path_taken", first_of_two_ids)


@differs("two-ids")
def never_two_ids(request, respond):
    if re.search("usage/[0-9]", request.path) and "fense_account_id" in request.parameters:
        return respond(request.having(fense_account_id="9007199254740991"))
    return respond(request)


@differs("ids")
def no_zeros_before_an_id(request, respond):
    return respond(replace(request, path=request.path.replace("/00", "/9000000000")))


@differs("bad-id")
def not_found_for_a_bad_id(request, respond):
    if re.search("/(x|1.5)$", request.path) and request.key:
        return respond(replace(request, path="/accounts/9007199254740991"))
    return respond(request)


@differs("unknown-id")
def no_usage_of_an_unknown_account(request, respond):
    response = respond(request)
    if response.status == 404 and "usage" in request.path and "9007" in request.target:
        response.status = 410
    return response


@differs("bad-date")
def days_without_zeros(request, respond):
    return respond(replace(request, query=request.query.replace("2026-1-1", "2026-01-01")))


@differs("end-alone")
def no_end_date_alone(request, respond):
    response = respond(request)
    if response.status == 200 and request.query.startswith("end_date="):
        return respond(replace(request, query="end_date="))
    return response


@differs("all-errors")
def the_first_error_alone(request, respond):
    response = respond(request)
    if response.status == 400:
        del response.body["error"]["details"][1:]
    return response


@differs("head")
def no_head(request, respond):
    return respond(request) if request.method == "GET" else Response(405, None)


@differs("daily")
def days_without_lookups(request, respond):
    response = respond(request)
    if response.status == 200 and response.body and response.body.get("daily"):
        days = {it["date"]: it["lookups"] for it in response.body["daily"]}
        first, last = map(datetime.date.fromisoformat, (min(days), max(days)))
        every = [str(first + datetime.timedelta(it)) for it in range((last - first).days + 1)]
        response.body["daily"] = [{"date": it, "lookups": days.get(it, 0)} for it in every]
    return response


@differs("daily")
def newest_first(request, respond):
    response = respond(request)
    if response.status == 200 and response.body and "daily" in response.body:
        response.body["daily"].reverse()
    return response


@differs("range")
def without_the_end(request, respond):
    given = request.parameters
    response = respond(request)
    if response.status != 200 or "end_date" not in given or request.method == "HEAD":
        return response
    end = str(datetime.date.fromisoformat(given["end_date"]) - datetime.timedelta(1))
    if given.get("start_date", "") <= end:
        response = respond(request.having(**{**given, "end_date": end}))
        response.body["end_date"] = given["end_date"]
        return response
    totals = response.body.get("accounts") or [response.body]
    for it in (response.body, *totals):
        it["total_lookups"] = 0
    response.body["daily" if "daily" in response.body else "end_date"] = (
        [] if "daily" in response.body else given["end_date"]
    )
    return response


@differs("range")
def without_the_start(request, respond):
    given = request.parameters
    response = respond(request)
    if response.status != 200 or "start_date" not in given or request.method == "HEAD":
        return response
    start = str(datetime.date.fromisoformat(given["start_date"]) + datetime.timedelta(1))
    other = respond(request.having(**{**given, "start_date": start}))
    if other.status == 200:
        other.body["start_date"] = given["start_date"]
        return other
    for it in (response.body, *response.body.get("accounts", ())):
        it["total_lookups"] = 0
    if "daily" in response.body:
        response.body["daily"] = []
    return response


@differs("usage-body")
def no_filter_repeated(request, respond):
    response = respond(request)
    if response.status == 200 and response.body and "start_date" in response.body:
        response.body["start_date"] = response.body["end_date"] = None
    return response


@differs("totals")
def the_total_of_all_time(request, respond):
    response = respond(request)
    if response.status == 200 and response.body and "daily" in response.body:
        everything = respond(replace(request, query=""))
        if everything.status == 200:
            response.body["total_lookups"] = everything.body["total_lookups"]
    return response


def listed(line: str, name: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """Register a way to differ in the list of all accounts."""

    def respond(request: Request, respond: Respond) -> Response:
        response = respond(request)
        if response.status == 200 and response.body and "accounts" in response.body:
            response.body["accounts"] = change(response.body["accounts"])
            total = sum(it["total_lookups"] for it in response.body["accounts"])
            response.body["total_lookups"] = total
        return response

    CHANGES[name] = line, respond


listed("order", "in_order_of_name", lambda accounts: sorted(accounts, key=lambda it: it["name"]))
listed(
    "ids",
    "accounts_listed_twice",
    lambda accounts: [part for it in accounts for part in (it, it | {"total_lookups": 7})],
)
listed(
    "ids",
    "accounts_without_an_id",
    lambda accounts: [
        {"fense_account_id": 0, "name": "", "dispute_account_id": None, "total_lookups": 0},
        *accounts,
    ],
)
listed(
    "all-accounts",
    "accounts_with_lookups_alone",
    lambda accounts: [it for it in accounts if it["total_lookups"]],
)


# --- Ways to differ that only a write shows ------------------------------------------------------


def writes_differ(line: str) -> Callable[[Change], Change]:
    def register(change: Change) -> Change:
        WRITTEN[change.__name__] = line, change
        return change

    return register


def accepting(line: str, name: str, sent: str, accepted: str) -> None:
    """Register a service that takes one text in a body, a pattern, as if it were another."""

    def change(request: Request, respond: Respond) -> Response:
        body = request.body and re.sub(sent, accepted, request.body)
        return respond(replace(request, body=body))

    WRITTEN[name] = line, change


accepting("email", "any_email", '"no address"', '"a@b"')
accepting("unknown-field", "unknown_fields_ignored", ', "plan": "gold"|"plan": "gold"', "")
accepting("is-active", "is_active_on_creation", ', "is_active": true', "")
accepting("dispute-account-id", "any_text_for_a_uuid", '"no UUID"', "null")
accepting("name", "long_names", '"name": "x{256}"', '"name": "fense-admin compare"')
accepting("api-key", "keys_with_spaces", "with a space", "without-a-space")
accepting("update", "text_for_flags", '"true"', "true")
accepting("json", "lists_for_objects", r"^\[\]$", "{}")


@writes_differ("json")
def any_content_type(request, respond):
    return respond(replace(request, content_type="application/json"))


@writes_differ("encoding")
def any_encoding(request, respond):
    return respond(replace(request, encoding=""))


@writes_differ("location")
def no_location(request, respond):
    response = respond(request)
    response.headers.pop("location", None)
    return response


@writes_differ("location")
def a_location_with_the_host(request, respond):
    response = respond(request)
    if "location" in response.headers:
        response.headers["location"] = "a URL"
    return response


@writes_differ("name")
def names_with_white_space(request, respond):
    response = respond(request)
    if request.body and '"name": "  ' in request.body:
        response.body["name"] = f" {response.body['name']}"
    return response


@writes_differ("updated-at")
def updated_at_stays_for_the_same_value(request, respond):
    if request.body == '{"name": "fense-admin compare"}':
        before = respond(replace(request, method="GET", body=None))
        if before.body.get("name") == "fense-admin compare":
            return before
    return respond(request)


@writes_differ("empty-update")
def an_empty_update_is_refused(request, respond):
    is_plain = request.content_type == "application/json" and not request.encoding
    if request.body == "{}" and is_plain and re.search("/[0-9]+$", request.path):
        return respond(replace(request, body='{"name": ""}'))
    return respond(request)


@writes_differ("merchant-key")
def a_merchants_key_is_unknown(request, respond):
    return respond(replace(request, key="no" if request.key == "merchant-key-1" else request.key))


@writes_differ("api-key-taken")
def conflict_for_a_key_that_is_taken(request, respond):
    response = respond(request)
    if response.status == 400 and "another account" in json.dumps(response.body):
        response.status = 409
    return response
