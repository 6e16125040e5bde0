"""What a comparison prints: each line of FIDELITY.md, and where it differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fense_admin.comparing.differences import MAX_SHOWN, Differences
from fense_admin.comparing.lines import Line, read_lines
from fense_admin.comparing.questions import DATA, NEEDS_TWO_KEYS, WRITES

SAME, DIFFERS, NOT_TRIED = "same", "differs", "not tried"
WIDTH = 88  # characters of a line's text that are printed


def results(differences: Differences) -> list[dict[str, Any]]:
    """Return the result for each line of FIDELITY.md, as --json prints it."""
    return [result_of(line, differences) for line in read_lines()]


def result_of(line: Line, differences: Differences) -> dict[str, Any]:
    found = differences.of(line.name)
    tried = line.name in differences.tried
    result: dict[str, Any] = {
        "line": line.name,
        "text": line.text,
        "documented": line.is_documented,
        "result": DIFFERS if found else SAME if tried else NOT_TRIED,
    }
    if found:
        result["differences"] = [
            {"ours": it.ours, "theirs": it.theirs, "responses": len(it.seen)} for it in found
        ]
        result["decided_in"] = line.places
    elif not tried:
        result["why"] = why_not_tried(line.name)
    return result


def why_not_tried(name: str) -> str:
    if name in WRITES:
        return "only a write shows it: add --write"
    if name in DATA:
        return "needs accounts that have lookups"
    if name in NEEDS_TWO_KEYS:
        return "needs two keys: set DISPUTE_MASTER_KEY and DISPUTE_SERVICE_KEYS"
    return "a comparison can't test it"


def printed(results: list[dict[str, Any]], total: int) -> Iterator[str]:
    """Yield the lines of the report; `total` is the number of responses."""
    for is_documented, title in ((True, "Documented by Fense:"), (False, "Assumed here:")):
        yield title
        for result in results:
            if result["documented"] is is_documented:
                yield from printed_line(result, total)
    counts = {it: sum(result["result"] == it for result in results) for it in (SAME, DIFFERS)}
    not_tried = len(results) - sum(counts.values())
    yield f"{counts[SAME]} same, {counts[DIFFERS]} differ, {not_tried} not tried"


def printed_line(result: dict[str, Any], total: int) -> Iterator[str]:
    text = result["text"]
    short = text if len(text) <= WIDTH else text[: WIDTH - 1].rstrip() + "…"
    yield f"  {result['result']:9}  {result['line']}: {short}"
    for it in result.get("differences", ()):
        theirs = "; ".join(it["theirs"][:MAX_SHOWN])
        more = len(it["theirs"]) - MAX_SHOWN
        theirs += f"; and {more} more" if more > 0 else ""
        count = it["responses"]
        yield f"             ours: {it['ours']}"
        of_all = f"all {total}" if count == total else f"{count} of {total}"
        yield f"             theirs: {theirs} (in {of_all} responses)"
    if result.get("decided_in"):
        yield f"             decided in {', '.join(result['decided_in'])}"
    if "why" in result:
        yield f"             {result['why']}"
