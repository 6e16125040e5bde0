"""Measure the usage of all accounts as their number grows, and `move`, on both engines.

Each account has lookups on 30 days, in two months.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from contenders import HEADERS, WITH_DRIVER, Contender, PostgreSQL, find_program, p99_beside
from data import MONTH, make_ours, make_ours_on, new_schema, reading
from figures import Figure, Size, amount, in_turn, ratio, timed

DAYS = 30
LARGE = 100_000  # accounts
ROUNDS = 3
RANGES = {"all time": "", "30 days": f"?start_date={MONTH[0]}&end_date={MONTH[1]}"}
PIECE = 1 << 16

Row = dict[str, Any]  # of the table of sizes


class Transfer(NamedTuple):
    """A response as its client sees it; times in milliseconds."""

    first: float  # until its first byte
    last: float  # until its last
    length: int
    checksum: int


def transfer(server: Contender, path: str) -> Transfer:
    """Read a whole response, piece by piece."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    connection.request("GET", path, headers=HEADERS)
    response = connection.getresponse()
    piece = response.read(1)
    first = time.perf_counter()
    length = checksum = 0
    while piece:
        length, checksum = length + len(piece), zlib.crc32(piece, checksum)
        piece = response.read(PIECE)
    last = time.perf_counter()
    connection.close()
    if response.status != 200:
        raise SystemExit(f"{server.name} answered {response.status} to {path}")
    return Transfer((first - began) * 1000, (last - began) * 1000, length, checksum)


def measure_sizes(size: Size, folder: Path) -> Iterator[Figure | list[Row]]:
    """Return the figures, followed by the rows that they come from."""
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        server = None
        if find_program("pg_ctl"):
            server = stack.enter_context(contextlib.closing(PostgreSQL("fsync=on")))
        for accounts in size.grown:
            print(f"        ({accounts:,} accounts)", file=sys.stderr)
            file = make_ours(folder / f"ours-{accounts}.sqlite3", accounts, DAYS)
            databases: dict[str, tuple[str, Path | str]] = {"SQLite": ("ours", file)}
            if server:
                url = make_ours_on(server, f"n{accounts}", accounts, DAYS, folder)
                databases["PostgreSQL"] = ("postgresql", url)
            with contextlib.ExitStack() as servers:
                running = {
                    engine: servers.enter_context(Contender(name, folder, database=database))
                    for engine, (name, database) in databases.items()
                }
                rows += measure_size(accounts, running)
            if server and accounts == LARGE:
                yield from measure_move(file, server, folder)
    yield from judge(rows)
    yield rows


def measure_size(accounts: int, running: dict[str, Contender]) -> Iterator[Row]:
    for server in running.values():
        server.load("account", 5, accounts)  # a second may be too short on a cold disk
    idle = {engine: server.resident() for engine, server in running.items()}
    for name, query in RANGES.items():
        path = f"/accounts/usage{query}"
        for server in running.values():
            server.forget_peak()
        asks = {it: functools.partial(transfer, running[it], path) for it in running}
        transfers = in_turn(ROUNDS, asks)
        if len({(it.length, it.checksum) for each in transfers.values() for it in each}) > 1:
            raise SystemExit("the engines answer differently")
        for engine, each in transfers.items():
            row = {"accounts": accounts, "engine": engine, "range": name, "length": each[0].length}
            row |= {"first": [it.first for it in each], "last": [it.last for it in each]}
            times = max(1, round(2_000 / median(row["last"])))  # for 2 seconds at least
            row["p99"] = p99_beside(running[engine], path, times, seconds=600)
            yield row | {"peak": running[engine].resident("VmHWM") - idle[engine]}


def measure_move(file: Path, server: PostgreSQL, folder: Path) -> Iterator[Figure]:
    """Move a file to the server, and back."""
    url, back = new_schema(server, "moved"), folder / "back.sqlite3"
    for name, source, target in (("to PostgreSQL", file, url), ("back", url, back)):
        command = [WITH_DRIVER / "fense-admin", "move", source, target]
        took = timed(subprocess.check_output, [*command, "--quiet"])() / 1000
        name = f"`move` of {LARGE:,} accounts, {LARGE * DAYS:,} days, {name}"
        yield amount(name, 30, [took], "s")
    with reading(file) as one, reading(back) as other:
        count = "SELECT COUNT(*), SUM(lookups) FROM usage"
        if one.execute(count).fetchall() != other.execute(count).fetchall():
            raise SystemExit("what came back differs")


def judge(rows: list[Row]) -> Iterator[Figure]:
    """Return the worst figures of the rows."""
    found = {(it["engine"], it["range"], it["accounts"]): it for it in rows}
    engines = list(dict.fromkeys(it["engine"] for it in rows))
    sizes = sorted({it["accounts"] for it in rows})
    for engine in engines:
        linear = []
        for name in RANGES if sizes[-1] > LARGE else ():
            times = {str(n): found[engine, name, n]["last"] for n in (sizes[-1], LARGE)}
            name = f"usage of all on {engine}, {name}: {sizes[-1]:,} accounts over {LARGE:,}"
            linear.append(ratio(name, 12, times, most=True))
        if linear:
            yield max(linear, key=lambda figure: figure.value)
        firsts = found[engine, "all time", LARGE]["first"]
        yield amount(f"usage of all of {LARGE:,} on {engine}: first byte", 1_000, firsts, "ms")
        for name, key, goal, unit in (
            ("peak memory over idle", "peak", 32, "MiB"),
            ("others' p99 during it", "p99", 20, "ms"),
        ):
            worst = max((it for it in rows if it["engine"] == engine), key=lambda it: it[key])
            note = f"the most, with {worst['accounts']:,} accounts, {worst['range']}"
            yield amount(f"usage of all on {engine}: {name}", goal, [worst[key]], unit, note)
    if "PostgreSQL" in engines:
        ratios = []
        for n, name in itertools.product(sizes, RANGES):
            times = {it: found[it, name, n]["last"] for it in ("PostgreSQL", "SQLite")}
            name = f"usage of all of {n:,}, {name}, PostgreSQL over SQLite"
            ratios.append(ratio(name, 3, times, most=True))
        yield max(ratios, key=lambda figure: figure.value)
