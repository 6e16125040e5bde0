"""Recordings: what a service answered, with everything personal replaced."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence

from fense_admin import rules
from fense_admin.comparing.asking import Asked
from fense_admin.comparing.differences import NAME
from fense_admin.comparing.questions import Question
from fense_admin.comparing.service import Answer, CouldNotAsk
from fense_admin.comparing.shape import Json, plain
from fense_admin.comparing.writing import WRITTEN

FORMAT = 1
UUID = re.compile("[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
PLAIN_TEXT = re.compile("[A-Za-z][A-Za-z_]{0,39}|[0-9: TZ.+-]{1,40}")  # a code, a day, a number
# Text that may be shown as it is, by its name; and numbers.
CODES = {"code", "field", "date", "startdate", "enddate", "createdat", "updatedat"}
COUNTS = {"lookups", "totallookups", "status"}
IDS = {"fenseaccountid", "accountid", "id"}


class Replacer:
    """Replaces everything personal, the same value by the same one wherever it is."""

    def __init__(self, asked: Asked) -> None:
        ids = self._ids([answer.body for _, answer in asked])
        found = sorted(ids | {question.account for question, _ in asked})
        # In the same order, so that a list in order of id still is.
        self._numbers = {number: place for place, number in enumerate(found, 1)}
        self._texts: dict[tuple[str, str], str] = {}
        self._count = itertools.count(1)

    def _ids(self, value: Json, name: str = "") -> set[int]:
        """The ids of accounts in a body."""
        if isinstance(value, dict):
            return set().union(*(self._ids(it, plain(key)) for key, it in value.items()))
        if isinstance(value, list):
            return set().union(*(self._ids(it, name) for it in value))
        if name in IDS and re.fullmatch("[0-9]{1,19}", str(value)):
            return {int(value)}
        return set()

    def question(self, question: Question) -> Question:
        return question._replace(account=self._numbers[question.account])

    def value(self, value: Json, name: str = "") -> Json:
        """The value of a body, without what is personal in it."""
        if isinstance(value, dict):
            return {self._name(key): self.value(it, plain(key)) for key, it in value.items()}
        if isinstance(value, list):
            return [self.value(it, name) for it in value]
        if name in IDS and re.fullmatch("[0-9]{1,19}", str(value)):
            return type(value)(self._numbers[int(value)])
        if isinstance(value, str):
            return self._text(value, name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name not in COUNTS:
            return type(value)(0)
        return value

    def _name(self, name: str) -> str:
        return name if re.fullmatch(NAME, name) else self._text(name, "name")

    def _text(self, text: str, name: str) -> str:
        is_plain = name in CODES | COUNTS and PLAIN_TEXT.fullmatch(text)
        if is_plain or text.strip() in WRITTEN:  # which the comparison wrote itself
            return text
        kind = "uuid" if UUID.fullmatch(text) else name
        known = self._texts.get((kind, text.lower()))
        if known is None:
            known = self._texts[kind, text.lower()] = self._new(kind, text)
        return known.upper() if kind == "uuid" and text != text.lower() else known

    def _new(self, kind: str, text: str) -> str:
        number = next(self._count)
        if kind == "uuid":
            return f"aaaaaaaa-aaaa-4aaa-8aaa-{number:012x}"
        if kind == "email":
            return f"owner@account-{number}.example"
        return "0000" if len(text) == 4 else f"text {number}"


def record(asked: Asked, version: str) -> str:
    """Return the document of a recording."""
    replacer = Replacer(asked)
    questions = [
        {
            **replacer.question(question)._asdict(),
            "response": {**answer._asdict(), "body": replacer.value(answer.body)},
        }
        for question, answer in asked
    ]
    return json.dumps({"recording": FORMAT, "by": version, "questions": questions}, indent=1)


def read(raw: bytes) -> Asked:
    """Return what a recording has. Raises `CouldNotAsk` for any other document."""
    try:
        document = rules.parse_json(raw)
        if document["recording"] != FORMAT:
            raise CouldNotAsk("the recording is of another version: record it again")
        asked: Asked = []
        for entry in document["questions"]:
            answer = Answer(**entry.pop("response"))
            asked.append((Question(**entry), answer))
        check(asked)
        return asked
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CouldNotAsk("the file is not a recording of fense-admin compare") from None


def check(asked: Sequence[tuple[Question, Answer]]) -> None:
    """Raise `TypeError` where a recording has a value of another type than ours."""
    for question, answer in asked:
        texts = (question.line, question.target, question.schema, question.method, question.key)
        numbers = question.account, answer.status
        headers = [*answer.headers.items()]
        if not all(isinstance(it, str) for it in (*texts, *sum(headers, ()))):
            raise TypeError
        if not all(type(it) is int for it in numbers):
            raise TypeError
