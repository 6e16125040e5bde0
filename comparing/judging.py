"""Compare the responses of a service with those of a stand-in to the same questions."""

from __future__ import annotations

import datetime
import io
import re
import wsgiref.util
from collections.abc import Iterable, Sequence
from typing import Any

from fense_admin import exchange, rules
from fense_admin.comparing.differences import NAME, Differences, kind
from fense_admin.comparing.questions import (
    ALL,
    KNOWN,
    MERCHANT,
    OTHER,
    READS,
    SETTLED,
    UNKNOWN,
    Question,
)
from fense_admin.comparing.service import Response, read_response
from fense_admin.comparing.shape import BODY_LINES, Json, Shapes, plain, shape_of
from fense_admin.standin import StandIn

Asked = tuple[Question, Response]
OK, CREATED = 200, 201
# The lines about the time of an update, and their statements.
TIMED = {"updated-at": "`updated_at` moves", "empty-update": "`updated_at` stays"}
GROWING = SETTLED + 1  # newest days, whose lookups may grow during the comparison
MAX_DAYS = 40_000  # with lookups of one account: a century
MAX_STATUSES = 3  # of errors; if so many are all the same there, that is a single difference
# If all errors with a status have another one there, that is a single difference, of this line.
COMMON_STATUS = {exchange.INVALID: "bad-request", exchange.UNKNOWN_KEY: "unknown-key"}
ERROR: Json = {"code": "", "message": "", "details": [{"field": "", "message": ""}]}
HEADERS = {"www-authenticate": "unknown-key", "allow": "wrong-method", "location": "location"}


class Comparison:
    """The differences between a service and a stand-in in the responses to these questions.

    The stand-in has the accounts and lookups that the responses of the service show.
    """

    def __init__(self, asked: Sequence[Asked]) -> None:
        self.differences = Differences()
        self.asked = asked
        self._updated_at: tuple[Json, Json] = None, None  # there and here, in the previous response
        questions = [question for question, _ in asked]
        is_write = [question.method not in READS for question in questions]
        writes = is_write.index(True) if True in is_write else len(asked)  # the first write
        self._accounts = read_accounts(asked[:writes])
        self._ours = ask_ourselves(questions[:writes], [*map(self._as_seed, self._accounts)])
        if writes < len(asked):
            self._ours += ask_ourselves(questions[writes:], before(questions[writes].account))
        self._other_status = self._note_common_statuses()
        shapes = Shapes(self.differences)
        for number, (question, theirs) in enumerate(asked):
            self.differences.question = number
            self._compare(question, theirs, self._ours[number], shapes)

    def _as_seed(self, number: int) -> dict[str, Any]:
        """Return an account for a state document, like the one with this id, but nameless."""
        read = self._accounts[number]
        flags = ("suppress_notifications", "suppress_billing", "is_active")
        return nameless(number) | {
            "dispute_account_id": read.get("dispute_account_id"),
            "usage": read.get("usage") or {},
            **{name: bool(read.get(name, name == "is_active")) for name in flags},
        }

    # Comparing

    def _compare(
        self, question: Question, theirs: Response, ours: Response, shapes: Shapes
    ) -> None:
        common = COMMON_STATUS.get(ours.status, question.line)
        self.differences.tried.update(("key", question.line, common))
        status = self._other_status.get(ours.status, ours.status)
        if theirs.status != status:
            expected = "as a GET" if question.method == "HEAD" else f"{ours.status}"
            self._note(question.line, expected, f"{theirs.status}")
            return
        has_our_shape = self._compare_error(question, theirs, ours)
        if theirs.status == ours.status:
            self._compare_headers(theirs, ours, has_our_shape)
        schema = schema_of(ours.body)
        if not schema or question.method == "HEAD":
            return
        if not theirs.is_json:
            self._note(BODY_LINES[schema], f"the fields of {schema}", "no JSON")
            return
        body = shapes.read(schema, theirs.body)
        if body is None:
            return
        if schema == "AccountUsage":
            self._compare_usage(question, body, ours.body)
        elif schema == "AllUsage":
            self._compare_all(question, body, ours.body)
        else:
            self._compare_account(question, body, ours.body)

    def _note(self, line: str, ours: str, theirs: str) -> None:
        self.differences.note(line, ours, theirs)

    def _note_common_statuses(self) -> dict[int, int]:
        """Note the statuses that are common to all errors of a kind there; return them by ours."""
        theirs: dict[int, dict[int, int]] = {}  # by our status, then by the number of the question
        for number, ours in enumerate(self._ours):
            answer = self.asked[number][1]
            if ours.status >= exchange.INVALID and is_error(answer):
                theirs.setdefault(ours.status, {})[number] = answer.status
        found = {status: set(there.values()) for status, there in theirs.items()}
        all_alike = set().union(*found.values())
        if len(all_alike) == 1 and len(found) >= MAX_STATUSES:
            (status,) = all_alike
            for number in set().union(*theirs.values()):
                self.differences.question = number
                self._note("statuses", "one for each kind of error", f"{status} for all")
            return dict.fromkeys(found, status)
        common = {}
        for expected, line in COMMON_STATUS.items():
            there = theirs.get(expected, {})
            if len(there) > 1 and len(found[expected]) == 1 and expected not in found[expected]:
                (common[expected],) = found[expected]
                for number in there:
                    self.differences.question = number
                    self._note(line, f"{expected}", f"{common[expected]}")
        return common

    def _compare_headers(self, theirs: Response, ours: Response, has_our_shape: bool) -> None:
        self.differences.tried.add("content-type")
        expected, sent = (it.headers.get("content-type", "none") for it in (ours, theirs))
        media_type, _, parameters = sent.partition("; ")
        if media_type == expected and parameters:
            self._note("content-type", expected, f"with `; {parameters}`")
        # An error in another form may have a different media type.
        elif media_type != expected and has_our_shape:
            self._note("content-type", expected, sent)
        for name, line in HEADERS.items():
            if name in ours.headers:
                self.differences.tried.add(line)
                wanted, there = (it.headers.get(name, "none") for it in (ours, theirs))
                if there != wanted:
                    self._note(line, f"`{name.title()}`: {wanted}", there)

    def _compare_error(self, question: Question, theirs: Response, ours: Response) -> bool:
        """Compare the body of an error. Return whether it has our form."""
        if ours.status < exchange.INVALID:
            return True
        if question.method == "HEAD":
            return False
        self.differences.tried.update(("error-body", "statuses"))
        error, expected = error_of(theirs.body), ours.body["error"]
        if error is None:
            other = shape_of(theirs.body) if theirs.is_json else "no JSON"
            self._note("error-body", shape_of({"error": ERROR}), other)
            return False
        if theirs.status == ours.status:
            self.differences.tried.add("error-codes")
            if error["code"] != expected["code"]:
                phrase = "the reason phrase in snake_case"
                is_code = re.fullmatch(NAME, error["code"])
                self._note("error-codes", phrase, f"`{error['code']}`" if is_code else "`…`")
            blamed, wanted = (
                {plain(it["field"]) for it in each["details"]} for each in (error, expected)
            )
            if blamed < wanted and blamed:
                self._note("all-errors", f"{len(wanted)} at once", f"{len(blamed)}")
            elif blamed != wanted:
                self._note("error-body", "`details` has the field to blame", "others, or none")
        return True

    def _compare_usage(self, question: Question, theirs: Json, ours: Json) -> None:
        tried = self.differences.tried
        self._compare_id(question, theirs)
        self._compare_filter(theirs, ours)
        days = listed_days(theirs)
        if days is None:
            return
        dates = [day for day, _ in days]
        if any(lookups == 0 for _, lookups in days):
            self._note("daily", "days that have lookups", "days without any as well")
        if dates != sorted(dates):
            self._note("daily", "the oldest first", "another order")
        if len(set(dates)) < len(dates):
            self._note("daily", "each day once", "a day twice")
        if len(days) > 1:
            tried.add("daily")
        for beyond, text in ((min, "a negative number"), (max, "more")):
            if days and not 0 <= beyond(lookups for _, lookups in days) <= rules.MAX_LOOKUPS:
                self._note("most-lookups", "0 to 10^12 a day", text)
        if (total := theirs.get("total_lookups")) is not None:
            tried.add("totals")
            if total != sum(lookups for _, lookups in days):
                self._note("totals", "the sum of the days", "another number")
        expected = {it["date"]: it["lookups"] for it in ours["daily"]}
        found = {day: lookups for day, lookups in days if lookups}
        is_known = self._accounts.get(question.account, {}).get("usage") is not None
        if is_known and "?" in question.target and found != expected:
            self._note_days(question, expected, found, ours)

    def _note_days(
        self, question: Question, expected: dict[str, int], found: dict[str, int], ours: Json
    ) -> None:
        """Note the differences in the days of a range."""
        ends = {ours["start_date"], ours["end_date"]} - {None}
        days = expected.keys() | found.keys()
        changed = {day for day in days if expected.get(day) != found.get(day)}
        if not ends:  # the usage may have grown
            if any(found.get(day, 0) < lookups for day, lookups in expected.items()):
                self._note(question.line, "the same days as before", "others")
        elif changed <= ends and not changed & found.keys():
            missing = ", ".join(
                f"without `{name}`" for name in ("start_date", "end_date") if ours[name] in changed
            )
            self._note("range", "with its first and its last day", missing)
        elif changed.isdisjoint(expected):
            self._note(question.line, "days of the range", "others as well")
        else:
            self._note(question.line, "the lookups of the range", "others")

    def _compare_id(self, question: Question, theirs: Json) -> None:
        if theirs.get("fense_account_id", question.account) != question.account:
            self._note(question.line, "the account that was asked for", "another one")

    def _compare_account(self, question: Question, theirs: Json, ours: Json) -> None:
        self._compare_id(question, theirs)
        if question.body is None:  # its values are personal
            return
        sent = rules.parse_json(question.body.encode())
        for name in ours.keys() & sent.keys():
            value = theirs.get(name)
            is_known = type(value) is type(ours[name]) or name == "dispute_account_id"
            if is_known and value != ours[name]:
                self._note(question.line, f"`{name}` as it was sent", "another value")
        times = theirs.get("updated_at"), ours["updated_at"]
        moved, expected = (now != then for now, then in zip(times, self._updated_at, strict=True))
        if question.line in TIMED and moved != expected:
            self._note(question.line, TIMED[question.line], "the other way round")
        self._updated_at = times

    def _compare_filter(self, theirs: Json, ours: Json) -> None:
        for name in ("start_date", "end_date"):
            if name in theirs and theirs[name] != ours[name]:
                other = f"`{name}` is {kind(theirs[name])}"
                self._note("usage-body", "the filter as it was asked for", other)

    def _compare_all(self, question: Question, theirs: Json, ours: Json) -> None:
        tried = self.differences.tried
        self._compare_filter(theirs, ours)
        accounts = theirs.get("accounts")
        if accounts is None:
            return
        ids = [it.get("fense_account_id") for it in accounts]
        if None in ids:
            return
        if not all(0 < number <= rules.MAX_ID for number in ids):
            self._note("ids", "from 1 to 2^53 - 1", "others")
        if len(set(ids)) < len(ids):
            self._note("ids", "each account once", "an id twice")
        if len(ids) > 1:
            tried.add("order")
        if ids != sorted(ids):
            self._note("order", "in order of id", "in another order")
        totals = {it["fense_account_id"]: it.get("total_lookups") for it in accounts}
        if len(totals) == len(ids) and None not in totals.values() and "total_lookups" in theirs:
            tried.add("totals")
            if theirs["total_lookups"] != sum(totals.values()):
                self._note("totals", "the sum of the accounts", "another number")
        for account in ours["accounts"]:
            number, total = account["fense_account_id"], account["total_lookups"]
            known = self._accounts.get(number, {})
            if known.get("usage") is None or ids.count(number) > 1:
                continue
            if number in totals:
                self._compare_total(question, known, total, totals[number], ours)
            elif question.target != ALL.target:
                self._note_missing(known, total)
        tried.update({"all-accounts"} & {question.line})

    def _note_missing(self, account: Json, total: int) -> None:
        reason = "inactive ones" if account.get("is_active") is False else "those without lookups"
        if total and reason == "those without lookups":
            reason = "some"
        self._note("all-accounts", "every account", f"without {reason}")

    def _compare_total(
        self, question: Question, account: Json, expected: int, found: int | None, ours: Json
    ) -> None:
        """Compare the total of an account's lookups in a range."""
        if found is None or found == expected:
            return
        usage = account["usage"]
        at_ends = {name: usage.get(ours[name], 0) for name in ("start_date", "end_date")}
        if question.target == ALL.target:
            # This was requested before the account's days, and the newest may have grown since.
            newest = sum(usage[day] for day in sorted(usage)[-GROWING:])
            if not expected - newest <= found < expected:
                other = "less" if found < expected else "more"
                self._note("totals", "the sum of an account's days", other)
        elif found in subsets(expected, at_ends.values()):
            missing = [name for name, lookups in at_ends.items() if lookups]
            gone = [name for name in missing if found == expected - at_ends[name]] or missing
            self._note("range", "with its first and its last day", f"without `{gone[-1]}`")
        else:
            self._note(question.line, "the lookups of the range", "others")


def read_accounts(asked: Sequence[Asked]) -> dict[int, Json]:
    """Return the accounts that were read, by id, with their usage by day, or None if unknown."""
    shapes = Shapes(Differences())  # differences are noted later
    accounts: dict[int, Json] = {}
    for question, answer in asked:
        schema = {"account": "Account", "usage": "AccountUsage"}.get(question.line, "")
        if schema != question.schema or "?" in question.target:
            continue
        is_read = answer.status == OK and answer.is_json
        body = shapes.read(schema, answer.body) if is_read else None
        account = accounts.setdefault(question.account, {"usage": None})
        if schema == "Account":
            account.update(body or {})
        elif body is not None:
            account["usage"] = known_usage(listed_days(body))
    return accounts


def listed_days(usage: Json) -> list[tuple[str, int]] | None:
    """Return the days of an account's usage with their lookups; None if one is unreadable."""
    daily = usage.get("daily")
    if daily is None or not all("date" in it and "lookups" in it for it in daily):
        return None
    return [(it["date"], it["lookups"]) for it in daily]


def known_usage(days: list[tuple[str, int]] | None) -> dict[str, int] | None:
    """Return the lookups by day for a stand-in; None if it can't have them."""
    if days is None or len(dict(days)) < len(days) or len(days) > MAX_DAYS:
        return None
    if not all(0 <= lookups <= rules.MAX_LOOKUPS for _, lookups in days):
        return None
    return {day: lookups for day, lookups in days if lookups}


def ask_ourselves(questions: Sequence[Question], accounts: list[dict[str, Any]]) -> list[Response]:
    """Return the responses of a stand-in with these accounts, in this process."""
    seed: Any = {"accounts": accounts}
    answers: list[Response] = []
    with StandIn(seed=seed, serve=False) as standin:
        keys = {
            KNOWN: standin.master_key,
            OTHER: standin.service_key,
            UNKNOWN: "unknown",
            MERCHANT: "merchant",
        }
        for question in questions:
            if question.line in TIMED:
                standin.set_clock(datetime.datetime.now(datetime.timezone.utc))
                standin.advance(len(answers))
            answers.append(response_of(standin, question, keys.get(question.key)))
    return answers


def response_of(standin: StandIn, question: Question, key: str | None) -> Response:
    """Return the response of the stand-in to a question with this key."""
    path, _, query = question.path.partition("?")
    body = (question.with_keys("merchant", "other-merchant") or "").encode()
    environ: dict[str, Any] = {
        "REQUEST_METHOD": question.method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_TYPE": question.content_type,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    if key is not None:
        environ["HTTP_X_API_KEY"] = key
    if question.encoding:
        environ["HTTP_CONTENT_ENCODING"] = question.encoding
    wsgiref.util.setup_testing_defaults(environ)
    begun: list[tuple[int, dict[str, str]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> None:
        begun.append((int(status[:3]), {name.lower(): value for name, value in headers}))

    pieces = standin.app(environ, start_response)
    raw = b"".join(pieces)
    getattr(pieces, "close", lambda: None)()
    return read_response(*begun[-1], raw)


def nameless(number: int) -> dict[str, Any]:
    """Return an account for a state document without personal data."""
    return {
        "fense_account_id": number,
        "api_key": f"merchant-key-{number}",
        "name": f"Account {number}",
        "email": f"owner@account-{number}.example",
    }


def before(number: int) -> list[dict[str, Any]]:
    """Return the accounts of a state in which the next id is this one."""
    return [nameless(number - 1)] if number > 1 else []


def error_of(body: Json) -> Json:
    """Return the "error" in the body of an error if it has our form, else None."""
    error: Json = body.get("error") if isinstance(body, dict) and len(body) == 1 else None
    if shape_of(error) not in (shape_of({**ERROR, "details": []}), shape_of(ERROR)):
        return None
    shapes = {*map(shape_of, error["details"])}
    return error if shapes <= {shape_of(ERROR["details"][0])} else None


def schema_of(ours: Json) -> str | None:
    """Return the name of the schema of our body; None for an error, or without a body."""
    names = {"accounts": "AllUsage", "daily": "AccountUsage", "email": "Account"}
    return next((schema for name, schema in names.items() if name in (ours or ())), None)


def is_error(answer: Response) -> bool:
    """Return whether a service rejected a request, maybe with the status 200."""
    if answer.status != OK:
        return answer.status > OK
    shapes = Shapes(Differences())
    return not any(
        shapes.read(name, answer.body) for name in ("Account", "AccountUsage", "AllUsage")
    )


def subsets(total: int, parts: Iterable[int]) -> set[int]:
    """Return all values of a total without some of its parts, at least one."""
    sums = {0}
    for part in parts:
        sums |= {known + part for known in sums}
    return {total - known for known in sums if known}
