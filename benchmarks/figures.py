"""Figures: measurements, and whether they meet their goals."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple


class Size(NamedTuple):
    """The amount of load: a number of `rounds` of `seconds` each."""

    rounds: int
    seconds: int
    accounts: int  # of those whose usage is asked for all at once
    repeats: int  # of what is timed one by one
    requests: int  # before the memory is looked at
    grown: tuple[int, ...]  # accounts that all usage is asked for with


QUICK = Size(
    rounds=3,
    seconds=1,
    accounts=1_000,
    repeats=7,
    requests=20_000,
    grown=(10_000, 100_000),
)
FULL = Size(
    rounds=7,
    seconds=3,
    accounts=10_000,
    repeats=15,
    requests=100_000,
    grown=(10_000, 100_000, 1_000_000),
)


class Figure(NamedTuple):
    """A row of the table. `rounds` has the measurements of each contender, by round."""

    name: str
    goal: str
    value: float
    low: float
    high: float
    met: bool
    unit: str = "times"
    note: str = ""
    rounds: dict[str, list[float]] | None = None


def ratio(
    name: str, goal: float, rounds: dict[str, list[float]], *, most: bool = False, note: str = ""
) -> Figure:
    """The ratio of the medians of two contenders; at least the goal, or at `most` the goal."""
    ours, other = list(rounds.values())[:2]
    value = median(ours) / median(other)
    each = [a / b for a, b in zip(ours, other, strict=True)]
    met = value <= goal if most else value >= goal
    bound = f"{goal:g} or {'less' if most else 'more'}"
    return Figure(name, bound, value, min(each), max(each), met, note=note, rounds=rounds)


def amount(name: str, goal: float, values: list[float], unit: str, note: str = "") -> Figure:
    """A median that should not exceed the goal."""
    value = median(values)
    goal_told = f"{goal:g} {unit} or less"
    spread = min(values), max(values)
    return Figure(name, goal_told, value, *spread, value <= goal, unit, note, {"ours": values})


def in_turn(rounds: int, measures: dict[str, Callable[[], Any]]) -> dict[str, list[Any]]:
    """Return the result of each in each round, after a warm-up round."""
    results: dict[str, list[Any]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            value = measure()
            if number:
                results[name].append(value)
    return results


def timed(work: Callable[..., Any], *arguments: Any) -> Callable[[], float]:
    """Wrap a function so that it returns the milliseconds that it took."""

    def measure() -> float:
        began = time.perf_counter()
        work(*arguments)
        return (time.perf_counter() - began) * 1000

    return measure
