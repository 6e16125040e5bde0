"""Recordings: the responses of a service, with everything personal replaced."""

from __future__ import annotations

import itertools
import json
import math
import re

from fense_admin import exchange, rules
from fense_admin.comparing.asking import Asked
from fense_admin.comparing.differences import (
    NAME,
    NUMBER,
    TIME,
    is_usual,
    plain_header,
    shown_names,
)
from fense_admin.comparing.questions import KEYS, READS, Question
from fense_admin.comparing.service import COMPARED, CouldNotAsk, Response, is_shallow
from fense_admin.comparing.shape import BODY_LINES, Json, plain, whole
from fense_admin.comparing.writing import WRITTEN

FORMAT = 1
MAX_BYTES = 256 * 1024 * 1024  # of a recording
MAX_VALUES = 10_000_000  # in a recording: each takes memory, however short its text is
MAX_QUESTIONS = 300
LONGEST = 4096  # characters of a text of a question
TARGET = r"/(?!_standin)[A-Za-z0-9/._-]*(?:\{id\})?(?:\?[A-Za-z0-9_={}&.-]*)?"
UUID = re.compile("[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
# Names (without _) whose values are kept: times, and numbers.
TIMES = {"date", "startdate", "enddate", "createdat", "updatedat"}
COUNTS = {"lookups", "totallookups", "status"}
IDS = {"fenseaccountid", "accountid", "id"}


class Replacer:
    """Replaces everything personal, the same value always with the same one."""

    def __init__(self, asked: Asked) -> None:
        ids = self._ids([answer.body for _, answer in asked])
        found = sorted(ids | {question.account for question, _ in asked})
        # Keep the order, so that sorted lists stay sorted, and keep invalid ids invalid.
        valid = [number for number in found if 0 < number <= rules.MAX_ID]
        low = [number for number in found if number <= 0]
        high = found[len(low) + len(valid) :]
        self._numbers = {
            **dict(zip(reversed(low), itertools.count(0, -1), strict=False)),
            **dict(zip(valid, itertools.count(1), strict=False)),
            **dict(zip(high, itertools.count(rules.MAX_ID + 1), strict=False)),
        }
        self._texts: dict[tuple[str, str], str] = {}
        self._count = itertools.count(1)

    def _ids(self, value: Json, name: str = "") -> set[int]:
        """Return the ids of accounts in a body."""
        if isinstance(value, dict):
            return set().union(*(self._ids(it, plain(key)) for key, it in value.items()))
        if isinstance(value, list):
            return set().union(*(self._ids(it, name) for it in value))
        number = whole(value) if name in IDS else None
        return set() if number is None else {number}

    def question(self, question: Question) -> Question:
        return question._replace(account=self._numbers[question.account])

    def answer(self, answer: Response) -> Response:
        return answer._replace(
            body=self._value(answer.body, "", answer.status >= exchange.INVALID),
            headers={name: plain_header(name, text) for name, text in answer.headers.items()},
        )

    def _value(self, value: Json, name: str, is_error: bool) -> Json:
        """Return a value of a body with everything personal replaced."""
        if isinstance(value, dict):
            shown = shown_names(value)
            return {
                self._name(key, shown[key]): self._value(it, plain(key), is_error)
                for key, it in value.items()
            }
        if isinstance(value, list):
            return [self._value(it, name, is_error) for it in value]
        number = whole(value) if name in IDS else None
        if number is not None:
            return type(value)(self._numbers[number])
        if isinstance(value, str):
            return self._text(value, name, is_error)
        if isinstance(value, float):
            is_kept = name in COUNTS and abs(value) < math.inf
            return value if is_kept else 0.5  # ids are whole numbers
        return 0 if type(value) is int and name not in COUNTS else value

    def _name(self, name: str, shown: str) -> str:
        return name if name in shown else f"a name, {self._text(name, 'name', False)}"

    def _text(self, text: str, name: str, is_error: bool) -> str:
        if self._is_plain(text, name, is_error):
            return text
        kind = "uuid" if UUID.fullmatch(text) else name
        known = self._texts.get((kind, text.lower()))
        if known is None:
            known = self._texts[kind, text.lower()] = self._new(kind, text)
        return known.upper() if kind == "uuid" and text != text.lower() else known

    def _is_plain(self, text: str, name: str, is_error: bool) -> bool:
        """Return whether a text has nothing personal."""
        if name in COUNTS and NUMBER.fullmatch(text):
            return True
        if name in TIMES and (TIME.fullmatch(text) or NUMBER.fullmatch(text)):
            return True
        if is_error and name == "code" and re.fullmatch(NAME, text):
            return True
        if is_error and name == "field" and (is_usual(text) or text == "colour"):
            return True
        return text.strip() in WRITTEN  # written by the comparison itself

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
            "response": replacer.answer(answer)._asdict(),
        }
        for question, answer in asked
    ]
    return json.dumps({"recording": FORMAT, "by": version, "questions": questions}, indent=1)


def read(raw: bytes) -> Asked:
    """Parse a recording. Raises `CouldNotAsk` for any other document."""
    try:
        if len(raw) > MAX_BYTES or sum(map(raw.count, (b",", b"[", b"{"))) > MAX_VALUES:
            raise CouldNotAsk("the recording is too large")
        document = rules.parse_json(raw, dict)
        if document["recording"] != FORMAT:
            raise CouldNotAsk("the recording is from another version: record it again")
        entries = document["questions"]
        if not 0 < len(entries) <= MAX_QUESTIONS:
            raise ValueError
        return [read_entry(**entry) for entry in entries]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CouldNotAsk("the file is not a recording of fense-admin compare") from None


def read_entry(response: dict[str, Json], **fields: Json) -> tuple[Question, Response]:
    """Return a question of a recording and its response. Raises `ValueError` or `TypeError`."""
    question, answer = Question(**fields), Response(**response)
    if not (
        all(isinstance(it, str) and len(it) <= LONGEST for it in strings(question))
        and re.fullmatch(TARGET, question.target)
        and question.schema in (*BODY_LINES, "ErrorResponse")
        and question.method in (*READS, "POST")
        and question.key in KEYS
        and type(question.account) is int
        and 0 < question.account <= rules.MAX_ID
        and type(answer.status) is int
        and 100 <= answer.status <= 999
        and isinstance(answer.is_json, bool)
        and (answer.is_json or answer.body is None)
        and is_shallow(answer.body)
    ):
        raise ValueError
    headers = {name: plain_header(name, answer.headers[name]) for name in answer.headers}
    if not headers.keys() <= set(COMPARED):
        raise ValueError
    return question, answer._replace(headers=headers)


def strings(question: Question) -> list[Json]:
    """What is text in a question."""
    return [
        *(question.line, question.target, question.schema, question.method, question.key),
        *(question.content_type, question.encoding, question.body or ""),
    ]
