"""Differences between two services, each once, however many responses show it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

MAX_SHOWN = 3  # examples of a difference that are printed
MAX_KEPT = 50  # examples of a difference that are kept

# A name in a body may be personal, such as an email address in a map by address: see `shown_names`.
NAME = "[A-Za-z_][A-Za-z_-]{0,39}[0-9]?"
# Numbers, days and times, as text
NUMBER = re.compile("-?[0-9][0-9.eE+-]{0,39}")
TIME = re.compile(
    "[0-9]{4}-?[0-9]{1,2}-?[0-9]{1,2}(?:[T ][0-9:.]{1,20} ?(?:[Zz]|UTC|[+-][0-9:]{2,5})?)?"
)
# Words that are common in names in APIs.
WORDS = frozenset(
    "account accounts active all api at attributes billing body code content correlation count "
    "created current daily data date day days description detail details dispute email end error "
    "errors fense field fields first from has id ids info instance is items key last last4 left "
    "limit links list lookup lookups message messages meta metadata method name names next "
    "notifications number object of offset ok page pages pagination path payload per plan previous "
    "range reason record records request response result results rows self size start state "
    "status success suppress suspended time timestamp title to total totals trace type updated uri "
    "url usage usages uuid value values version".split()
)
CHARSETS = [f"charset={it}" for it in ("utf-8", "utf8", "us-ascii", "iso-8859-1", "windows-1252")]
SCHEMES = ("ApiKey", "Basic", "Bearer", "Digest", "Negotiate")  # of WWW-Authenticate
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@dataclass
class Difference:
    """A difference between a line of FIDELITY.md and the other service."""

    line: str
    ours: str
    theirs: list[str] = field(default_factory=list)  # without duplicates
    seen: set[int] = field(default_factory=set)  # the numbers of the questions that showed it


class Differences:
    """All differences, in the order in which they were found."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Difference] = {}
        self.question = 0  # the number of the current question
        self.tried = set[str]()  # the lines that were tested

    def note(self, line: str, ours: str, theirs: str) -> None:
        """Note that a response has `theirs` where a line of FIDELITY.md requires `ours`."""
        self.tried.add(line)
        known = self._found.setdefault((line, ours), Difference(line, ours))
        known.seen.add(self.question)
        if theirs not in known.theirs and len(known.theirs) < MAX_KEPT:
            known.theirs.append(theirs)

    def of(self, line: str) -> list[Difference]:
        return [it for it in self._found.values() if it.line == line]


def shown_names(names: Iterable[str]) -> dict[str, str]:
    """Map the names in an object to the form in which they may be shown.

    An unknown name is only shown among names that are common in APIs; otherwise it may be personal.
    """
    names = list(names)
    known = {name for name in names if is_usual(name)}
    is_plain = 2 * len(known) >= len(names)
    return {
        name: f"`{name}`" if name in known or (is_plain and re.fullmatch(NAME, name)) else "`…`"
        for name in names
    }


def is_usual(name: str) -> bool:
    """Return whether a name consists of words that are common in APIs, like fenseAccountId."""
    if not re.fullmatch("[A-Za-z0-9_-]{1,40}", name):
        return False
    words = re.findall("[A-Z]*[a-z0-9]+|[A-Z0-9]+", name)
    return bool(words) and all(word.lower() in WORDS for word in words)


def shown_digits(text: str) -> str:
    """Return the format of a time or a day: 0000-00-00T00:00:00Z."""
    is_plain = TIME.fullmatch(text) or NUMBER.fullmatch(text)
    return re.sub("[0-9]", "0", text) if is_plain else "other text"


def plain_header(name: str, text: str) -> str:
    """Return the value of a header without unusual parts, which may be personal."""
    if name == "content-type":
        media_type, *parameters = text.lower().replace('"', "").split(";")
        found = re.fullmatch(
            "(application|image|multipart|text)/[a-z.+-]{1,40}", media_type.strip()
        )
        usual = [it for it in map(str.strip, parameters) if it in CHARSETS]
        others = ["another parameter"] if len(usual) < len(parameters) else []
        return "; ".join([media_type if found else "another type", *usual, *others])
    if name == "www-authenticate":
        scheme = text.partition(" ")[0].lower()
        return next((it for it in SCHEMES if it.lower() == scheme), "another scheme")
    if name == "allow":
        methods = {it.strip().upper() for it in text.split(",") if it.strip()}
        others = ["another method"] if methods.difference(METHODS) else []
        return ", ".join([*(it for it in METHODS if it in methods), *others])
    return "a path" if text.startswith("/") or text == "a path" else "a URL"  # it has an id


def kind(value: object) -> str:
    """Return the kind of a JSON value in words."""
    if value is None:
        return "null"
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number with a point or an exponent",
        str: "text",
        list: "a list",
    }
    return names.get(type(value), "an object")
