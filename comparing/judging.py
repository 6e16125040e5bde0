"""Compares what a service answered with what this one answers to the same questions."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Sequence
from typing import Any

from fense_admin import exchange, rules
from fense_admin.comparing.differences import Differences, kind, shown_name, shown_value
from fense_admin.comparing.questions import ALL, READS, Question
from fense_admin.comparing.service import Answer, Service
from fense_admin.comparing.shape import Json, Shapes, plain, shape_of
from fense_admin.standin import StandIn

Asked = tuple[Question, Answer]
OK, CREATED = 200, 201
# The lines about the time of an update, and what they say.
TIMED = {"updated-at": "`updated_at` moves", "empty-update": "`updated_at` stays"}
# Where all errors of a status have another one there, that is one difference, of this line.
COMMON_STATUS = {exchange.INVALID: "bad-request", exchange.UNKNOWN_KEY: "unknown-key"}
ERROR: Json = {"code": "", "message": "", "details": [{"field": "", "message": ""}]}
HEADERS = {"www-authenticate": "unknown-key", "allow": "wrong-method", "location": "location"}


class Comparison:
    """What differs between the service that answered these questions and a stand-in.

    The stand-in has the accounts and the lookups that the answers show.
    """

    def __init__(self, asked: Sequence[Asked]) -> None:
        self.differences = Differences()
        self.asked = asked
        self._updated_at: tuple[Json, Json] = None, None  # there and here, in the last response
        shapes = Shapes(self.differences)
        self._bodies: list[Json] = []  # of those that are not errors, in our shape
        for number, (question, answer) in enumerate(asked):
            self.differences.question = number
            is_shown = answer.status in (OK, CREATED) and question.method != "HEAD"
            is_shown = is_shown and question.schema != "ErrorResponse"
            self._bodies.append(shapes.read(question.schema, answer.body) if is_shown else None)
        questions = [question for question, _ in asked]
        is_write = [question.method not in READS for question in questions]
        writes = is_write.index(True) if True in is_write else len(asked)  # from there on
        self._accounts = self._read_accounts(writes)
        self._ours = ask_ourselves(questions[:writes], [*map(self._as_seed, self._accounts)])
        if writes < len(asked):
            self._ours += ask_ourselves(questions[writes:], before(questions[writes].account))
        self._compare()

    # What the answers show

    def _read_accounts(self, count: int) -> dict[int, Json]:
        """The accounts that these first questions read, by id, each with its whole usage by day."""
        accounts: dict[int, Json] = {}
        for (question, _), body in zip(self.asked[:count], self._bodies, strict=False):
            if body is None or "?" in question.target or question.line not in ("account", "usage"):
                continue
            if question.schema == "Account":
                accounts.setdefault(question.account, {}).update(body)
            elif question.schema == "AccountUsage":
                days = {it.get("date"): it.get("lookups") for it in body.get("daily") or ()}
                accounts.setdefault(question.account, {})["usage"] = self._within_limits(days)
        return accounts

    def _within_limits(self, days: dict[Any, Any]) -> dict[str, int]:
        """The days that a stand-in can have."""
        kept = {}
        for day, lookups in days.items():
            if day and lookups:
                self.differences.tried.add("most-lookups")
                if 0 < lookups <= rules.MAX_LOOKUPS:
                    kept[day] = lookups
                else:
                    beyond = "a negative number" if lookups < 0 else "more"
                    self.differences.note("most-lookups", "0 to 10^12 a day", beyond)
        return kept

    def _as_seed(self, number: int) -> dict[str, Any]:
        """An account of a state document that is like the one with this id, but for its names."""
        read = self._accounts[number]
        flags = ("suppress_notifications", "suppress_billing", "is_active")
        return nameless(number) | {
            "dispute_account_id": read.get("dispute_account_id"),
            "usage": read.get("usage", {}),
            **{name: bool(read.get(name, name == "is_active")) for name in flags},
        }

    # Comparing

    def _compare(self) -> None:
        other_status = self._note_common_statuses()
        for number, (question, theirs) in enumerate(self.asked):
            self.differences.question = number
            ours = self._ours[number]
            common = COMMON_STATUS.get(ours.status, question.line)
            self.differences.tried.update(("key", question.line, common))
            status = other_status.get(ours.status, ours.status)
            if theirs.status != status:
                expected = "as a GET" if question.method == "HEAD" else f"{ours.status}"
                self._note(question.line, expected, f"{theirs.status}")
                continue
            has_our_shape = self._compare_error(question, theirs, ours)
            if theirs.status == ours.status:
                self._compare_headers(theirs, ours, has_our_shape)
            body, expected = self._bodies[number], ours.body
            if body is not None and question.schema == "AccountUsage":
                self._compare_usage(question, body, expected)
            elif body is not None and question.schema == "AllUsage":
                self._compare_all(question, body, expected)
            elif body is not None:
                self._compare_account(question, body, expected)

    def _note(self, line: str, ours: str, theirs: str) -> None:
        self.differences.note(line, ours, theirs)

    def _note_common_statuses(self) -> dict[int, int]:
        """Note the statuses that all errors of one kind have there; return them by ours."""
        found = {}
        for status, line in COMMON_STATUS.items():
            numbers = [number for number, ours in enumerate(self._ours) if ours.status == status]
            theirs = {number: self.asked[number][1].status for number in numbers}
            errors = {number: it for number, it in theirs.items() if it >= exchange.INVALID}
            if len(errors) > 1 and len(set(errors.values())) == 1 and status not in errors.values():
                found[status] = next(iter(errors.values()))
                for number in errors:
                    self.differences.question = number
                    self._note(line, f"{status}", f"{found[status]}")
        return found

    def _compare_headers(self, theirs: Answer, ours: Answer, has_our_shape: bool) -> None:
        self.differences.tried.add("content-type")
        expected = ours.headers["content-type"]
        sent = theirs.headers.get("content-type", "none").lower()
        media_type, _, parameters = sent.partition(";")
        if media_type.strip() == expected and parameters:
            self._note("content-type", expected, f"with `;{shown_value(parameters)}`")
        # An error in another shape may have a media type of its own.
        elif media_type.strip() != expected and has_our_shape:
            self._note("content-type", expected, shown_value(sent))
        for name, line in HEADERS.items():
            if name not in ours.headers:
                continue
            self.differences.tried.add(line)
            known, sent = (
                {it.strip().partition(" ")[0].lower() for it in text.split(",")}
                for text in (ours.headers[name], theirs.headers.get(name, ""))
            )
            if name not in theirs.headers:
                self._note(line, f"a header {name.title()}", "none")
            elif name == "allow" and sent != known:
                self._note(line, f"Allow: {ours.headers[name]}", "other methods")
            elif name == "location" and theirs.headers[name] != ours.headers[name]:
                self._note(line, ours.headers[name], shown_value(theirs.headers[name]))

    def _compare_error(self, question: Question, theirs: Answer, ours: Answer) -> bool:
        """Compare the body of an error; whether it has our shape."""
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
                self._note("error-codes", phrase, shown_name(error["code"]))
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
        if theirs.get("fense_account_id") != question.account:
            self._note(question.line, "the account that was asked for", "another one")
        self._compare_filter(theirs, ours)
        days = [(it.get("date"), it.get("lookups")) for it in theirs.get("daily") or ()]
        if not all(day is not None and lookups is not None for day, lookups in days):
            return
        if any(lookups == 0 for _, lookups in days):
            self._note("daily", "days that have lookups", "days without any as well")
        dates = [day for day, _ in days]
        if dates != sorted(dates):
            self._note("daily", "the oldest first", "another order")
        if len(days) > 1:
            tried.add("daily")
        if (total := theirs.get("total_lookups")) is not None:
            tried.add("totals")
            if total != sum(lookups for _, lookups in days):
                self._note("totals", "the sum of the days", "another number")
        expected = {it["date"]: it["lookups"] for it in ours["daily"]}
        found = {day: lookups for day, lookups in days if lookups}
        if "?" in question.target and found != expected:
            self._note_days(question, expected, found, ours)

    def _note_days(
        self, question: Question, expected: dict[str, int], found: dict[str, int], ours: Json
    ) -> None:
        """Note what is wrong with the days of a range."""
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
            self._note("range", "with both its ends", missing)
        elif changed.isdisjoint(expected):
            self._note(question.line, "days of the range", "others as well")
        else:
            self._note(question.line, "the lookups of the range", "others")

    def _compare_account(self, question: Question, theirs: Json, ours: Json) -> None:
        if theirs.get("fense_account_id") != question.account:
            self._note(question.line, "the account that was asked for", "another one")
        if question.body is None:  # its values are somebody's
            return
        for name in ours.keys() & json.loads(question.body).keys():
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
        if len(ids) > 1:
            tried.add("order")
        if ids != sorted(ids):
            self._note("order", "in order of id", "in another order")
        totals = {it["fense_account_id"]: it.get("total_lookups") for it in accounts}
        if theirs.get("total_lookups") is not None and None not in totals.values():
            tried.add("totals")
            if theirs["total_lookups"] != sum(totals.values()):
                self._note("totals", "the sum of the accounts", "another number")
        for account in ours["accounts"]:
            number, total = account["fense_account_id"], account["total_lookups"]
            if number in totals:
                self._compare_total(question, self._accounts[number], total, totals[number], ours)
            elif question.target != ALL.target:
                self._note_missing(self._accounts[number], total)
        tried.update({"all-accounts"} & {question.line})

    def _note_missing(self, account: Json, total: int) -> None:
        reason = "inactive ones" if account.get("is_active") is False else "those without lookups"
        if total and reason == "those without lookups":
            reason = "some"
        self._note("all-accounts", "every account", f"without {reason}")

    def _compare_total(
        self, question: Question, account: Json, expected: int, found: int | None, ours: Json
    ) -> None:
        """Compare the sum of an account's lookups in a range."""
        if found is None or found == expected:
            return
        usage = account.get("usage", {})
        at_ends = {name: usage.get(ours[name], 0) for name in ("start_date", "end_date")}
        if question.target == ALL.target:  # the usage may have grown since
            if found < expected:
                self._note("totals", "the sum of an account's days", "less")
        elif found in subsets(expected, at_ends.values()):
            missing = [name for name, lookups in at_ends.items() if lookups]
            gone = [name for name in missing if found == expected - at_ends[name]] or missing
            self._note("range", "with both its ends", f"without `{gone[-1]}`")
        else:
            self._note(question.line, "the lookups of the range", "others")


def ask_ourselves(questions: Sequence[Question], accounts: list[dict[str, Any]]) -> list[Answer]:
    """What a stand-in with these accounts answers."""
    seed: Any = {"accounts": accounts}
    with StandIn(seed=seed) as standin:
        keys = [standin.master_key, standin.service_key]
        service = Service(standin.url, "", keys, timeout=10, may_write=True)
        answers = []
        for question in questions:
            if question.line in TIMED:
                standin.set_clock(datetime.datetime.now(datetime.timezone.utc))
                standin.advance(len(answers))
            answers.append(service.ask(question))
        return answers


def nameless(number: int) -> dict[str, Any]:
    """An account of a state document without anything that is somebody's."""
    return {
        "fense_account_id": number,
        "api_key": f"merchant-key-{number}",
        "name": f"Account {number}",
        "email": f"owner@account-{number}.example",
    }


def before(number: int) -> list[dict[str, Any]]:
    """The accounts of a state in which the next one gets this id."""
    return [nameless(number - 1)] if number > 1 else []


def error_of(body: Json) -> Json:
    """What is under "error" in the body of an error if it has our shape; None otherwise."""
    error: Json = body.get("error") if isinstance(body, dict) and len(body) == 1 else None
    if shape_of(error) not in (shape_of({**ERROR, "details": []}), shape_of(ERROR)):
        return None
    shapes = {*map(shape_of, error["details"])}
    return error if shapes <= {shape_of(ERROR["details"][0])} else None


def subsets(total: int, parts: Iterable[int]) -> set[int]:
    """What is left of a total without some of its parts, at least one."""
    sums = {0}
    for part in parts:
        sums |= {known + part for known in sums}
    return {total - known for known in sums if known}
