"""Ways in which the real Fense may differ from this service, each of a line of FIDELITY.md."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

from other_fense import MASTER_KEY, SERVICE_KEY, UUID, Change, Request, Respond, Response

CHANGES: dict[str, tuple[str, Change]] = {}  # by name: the line of FIDELITY.md, and how
WRITTEN: dict[str, tuple[str, Change]] = {}  # that only a write shows


def differs(line: str, ways: dict[str, tuple[str, Change]] = CHANGES) -> Callable[[Change], Change]:
    def register(change: Change) -> Change:
        ways[change.__name__] = line, change
        return change

    return register


def has(response: Response, name: str) -> bool:
    """Is it a success whose body has this field?"""
    return response.status == 200 and name in (response.body or ())


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


def only(names: str, change: Callable[[Any], Any]) -> Callable[[str, Any], tuple[str, Any]]:
    """Change the value of each field whose name has this pattern."""
    return lambda name, value: (name, change(value) if re.fullmatch(names, name) else value)


def renamed(old: str, new: str) -> Callable[[str, Any], tuple[str, Any]]:
    return lambda name, value: (new if name == old else name, value)


def timestamp(text: str) -> float:
    return datetime.datetime.fromisoformat(text[:-1]).timestamp()


def halves(day: Any) -> list[Any]:
    """A day's lookups in two parts, if there are two."""
    if day["lookups"] < 2:
        return [day]
    return [day | {"lookups": 1}, day | {"lookups": day["lookups"] - 1}]


changing("names", "camel_case", lambda name, value: (camel(name), value))
changing("account-body", "another_name", renamed("email", "email_address"))
changing("usage-body", "no_name_for_a_day", renamed("date", "on"))
changing("account-body", "flags_as_numbers", only("suppress_.*|is_active", int))
changing("numbers", "ids_as_text", only("fense_account_id", str))
changing("numbers", "uuids_for_ids", only("fense_account_id", lambda it: f"{it:08x}{UUID[8:]}"))
changing("numbers", "totals_as_text", only("total_lookups", str))
changing("numbers", "numbers_with_a_point", only("total_lookups", float))
changing("times", "times_with_an_offset", only(".*_at", lambda it: it.replace("Z", "+00:00")))
changing("times", "times_with_a_fraction", only(".*_at", lambda it: it.replace("Z", ".123Z")))
changing("times", "times_as_numbers", only(".*_at", timestamp))
changing("days", "days_with_a_time", only("date", lambda it: f"{it}T00:00:00Z"))
changing(
    "dispute-account-id",
    "upper_case_uuids",
    only("dispute_account_id", lambda it: it and it.upper()),
)
changing(
    "usage-body",
    "days_as_an_object",
    only("daily", lambda days: {it["date"]: it["lookups"] for it in days}),
)
changing(
    "daily", "a_day_twice", only("daily", lambda days: [it for day in days for it in halves(day)])
)
changing("error-codes", "other_codes", only("code", lambda _: "E_X"), errors=True)
changing("error-body", "codes_as_numbers", only("code", lambda _: 7), errors=True)


@differs("most-lookups")
def more_lookups_than_a_day_may_have(request, respond):
    response = respond(request)
    if has(response, "daily") and response.body["daily"]:
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
    if has(response, "email"):
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
    if has(response, "accounts"):
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
    if has(response, "daily") and response.body["daily"]:
        days = {it["date"]: it["lookups"] for it in response.body["daily"]}
        first, last = map(datetime.date.fromisoformat, (min(days), max(days)))
        every = [str(first + datetime.timedelta(it)) for it in range((last - first).days + 1)]
        response.body["daily"] = [{"date": it, "lookups": days.get(it, 0)} for it in every]
    return response


@differs("daily")
def newest_first(request, respond):
    response = respond(request)
    if has(response, "daily"):
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
    if has(response, "start_date"):
        response.body["start_date"] = response.body["end_date"] = None
    return response


@differs("totals")
def the_total_of_all_time(request, respond):
    response = respond(request)
    if has(response, "daily"):
        everything = respond(replace(request, query=""))
        if everything.status == 200:
            response.body["total_lookups"] = everything.body["total_lookups"]
    return response


def listed(line: str, name: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """Register a way to differ in the list of all accounts."""

    def respond(request: Request, respond: Respond) -> Response:
        response = respond(request)
        if has(response, "accounts"):
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


@differs("json", WRITTEN)
def any_content_type(request, respond):
    return respond(replace(request, content_type="application/json"))


@differs("encoding", WRITTEN)
def any_encoding(request, respond):
    return respond(replace(request, encoding=""))


@differs("location", WRITTEN)
def no_location(request, respond):
    response = respond(request)
    response.headers.pop("location", None)
    return response


@differs("location", WRITTEN)
def a_location_with_the_host(request, respond):
    response = respond(request)
    if "location" in response.headers:
        response.headers["location"] = "a URL"
    return response


@differs("name", WRITTEN)
def names_with_white_space(request, respond):
    response = respond(request)
    if request.body and '"name": "  ' in request.body:
        response.body["name"] = f" {response.body['name']}"
    return response


@differs("updated-at", WRITTEN)
def updated_at_stays_for_the_same_value(request, respond):
    if request.body == '{"name": "fense-admin compare"}':
        before = respond(replace(request, method="GET", body=None))
        if before.body.get("name") == "fense-admin compare":
            return before
    return respond(request)


@differs("empty-update", WRITTEN)
def an_empty_update_is_refused(request, respond):
    is_plain = request.content_type == "application/json" and not request.encoding
    if request.body == "{}" and is_plain and re.search("/[0-9]+$", request.path):
        return respond(replace(request, body='{"name": ""}'))
    return respond(request)


@differs("merchant-key", WRITTEN)
def a_merchants_key_is_unknown(request, respond):
    return respond(replace(request, key="no" if request.key == "merchant-key-1" else request.key))


@differs("api-key-taken", WRITTEN)
def conflict_for_a_key_that_is_taken(request, respond):
    response = respond(request)
    if response.status == 400 and "another account" in json.dumps(response.body):
        response.status = 409
    return response
