"""Differences between two services, each once, however many responses show it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# The names that may be shown: in a map by e-mail address, say, they are values.
NAME = "[A-Za-z_][A-Za-z_-]{0,39}[0-9]?"
MOST_SHOWN = 3  # examples of a difference


@dataclass
class Difference:
    """What one line of FIDELITY.md says and the other service does not do."""

    line: str
    ours: str
    theirs: list[str] = field(default_factory=list)  # without repetitions
    seen: set[int] = field(default_factory=set)  # the numbers of the questions that show it


class Differences:
    """All of them, in the order in which they were found."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Difference] = {}
        self.question = 0  # the number of the one whose responses are compared
        self.tried = set[str]()  # the lines that a response has shown

    def note(self, line: str, ours: str, theirs: str) -> None:
        """Note that the response shows `theirs` where a line of FIDELITY.md asks for `ours`."""
        self.tried.add(line)
        known = self._found.setdefault((line, ours), Difference(line, ours))
        known.seen.add(self.question)
        if theirs not in known.theirs:
            known.theirs.append(theirs)

    def of(self, line: str) -> list[Difference]:
        return [it for it in self._found.values() if it.line == line]


def shown_name(name: str) -> str:
    """A name in a body, unless it may be a value."""
    return f"`{name}`" if re.fullmatch(NAME, name) else "`…`"


def shown_digits(text: str) -> str:
    """A time or a day without its value: 0000-00-00T00:00:00Z."""
    masked = re.sub("[0-9]", "0", text)
    return masked if re.fullmatch(r"[0:.TZtz+ -]{1,40}", masked) else "other text"


def shown_value(text: str) -> str:
    """A header's value, if it is one that many services send."""
    return text if re.fullmatch("[a-z0-9 ;/.+=-]{1,60}", text) else "another one"


def kind(value: object) -> str:
    """What a value of JSON is."""
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "an object")
