"""Benchmark fense-admin against the alternatives, on one machine, in one run.

`make bench` (six minutes) or `make bench FULL=1` (half an hour) runs this. A ratio is one of
medians over rounds in which the contenders take turns, so that a slow moment meets them all.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from contenders import PYTHON, WITH_DRIVER, Contender, Greedy, PostgreSQL, find_program, p99_beside
from data import MONTH, add_accounts, add_usage, make_ours, raw_usage, reading
from figures import FULL, QUICK, Figure, Size, amount, in_turn, ratio, timed
from report import draw, machine, report
from sizes import measure_sizes

from fense_admin import models
from fense_admin.cli import build_parser
from fense_admin.standin import StandIn

THREADS = (1, 2, 4, 8)


def measure_requests(size: Size, folder: Path) -> Iterator[Figure]:
    """Read and write one account, and query its usage; 1,000 accounts with 90 days."""
    accounts = 1_000
    make_ours(folder / "ours.sqlite3", accounts, 90)
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(Contender(name, folder))
            for name in ("ours", "fastapi", "waitress", "naive")
        }
        for name in ("fastapi", "naive"):  # they made their tables when they started
            add_accounts(running[name].database, accounts)
            add_usage(running[name].database, name, range(90))

        def take_turns(kind: str, names: list[str]) -> dict[str, list[dict[str, Any]]]:
            loads = {n: lambda n=n: running[n].load(kind, size.seconds, accounts) for n in names}
            return in_turn(size.rounds, loads)

        def cpu(reports: dict[str, list[dict[str, Any]]], *names: str) -> dict[str, list[float]]:
            return {name: [report["cpu"] for report in reports[name]] for name in names}

        def each(reports: dict[str, list[dict[str, Any]]], key: str, unit: str) -> str:
            medians = {n: median(it[key] for it in reports[n]) for n in reports}
            return ", ".join(f"{name} {value:,.0f}{unit}" for name, value in medians.items())

        reports = take_turns("account", ["ours", "fastapi", "waitress", "naive"])
        used, rates = each(reports, "cpu", " µs"), each(reports, "per_second", "/s")
        yield amount("GET an account, CPU", 180, cpu(reports, "ours")["ours"], "µs", used)
        name = "GET an account, FastAPI's CPU over ours"
        yield ratio(name, 6, cpu(reports, "fastapi", "ours"), note=rates)
        yield ratio(
            "GET an account, bare waitress's CPU over ours", 0.5, cpu(reports, "waitress", "ours")
        )
        reports = take_turns("create", ["ours", "fastapi", "naive"])
        used, rates = each(reports, "cpu", " µs"), each(reports, "per_second", "/s")
        yield amount("POST an account on disk, CPU", 600, cpu(reports, "ours")["ours"], "µs", used)
        name = "POST an account on disk, FastAPI's CPU over ours"
        yield ratio(name, 3, cpu(reports, "fastapi", "ours"), note=rates)
        p99 = [report["p99"] for report in reports["ours"]]
        yield amount("POST an account on disk, p99", 20, p99, "ms")
        reports = take_turns("usage", ["ours", "fastapi", "naive"])
        used, rates = each(reports, "cpu", " µs"), each(reports, "per_second", "/s")
        name = "usage of one account, 30 days, FastAPI's CPU over ours"
        yield ratio(name, 5, cpu(reports, "fastapi", "ours"), note=f"{used}; {rates}")


def measure_engines(size: Size, folder: Path) -> dict[str, Any]:
    """The same on SQLite and PostgreSQL, alternately; nothing without PostgreSQL."""
    if not find_program("pg_ctl"):
        print("PostgreSQL is not installed: it is not measured", file=sys.stderr)
        return {}
    file = make_ours(folder / "ours-engines.sqlite3", 10_000, 30)
    with contextlib.closing(PostgreSQL("fsync=on")) as server:
        move = [WITH_DRIVER / "fense-admin", "move", "--quiet", file, server.url]
        moving = timed(subprocess.check_output, move)()
        names = {"SQLite": ("ours", file), "PostgreSQL": ("postgresql", server.url)}

        def start(engine: str) -> float:
            name, database = names[engine]
            began = time.perf_counter()
            with Contender(name, folder, database=database) as contender:
                contender.get("/accounts/1")
                return (time.perf_counter() - began) * 1000

        starts = in_turn(size.rounds, {it: lambda it=it: start(it) for it in names})
        with contextlib.ExitStack() as stack:
            running = {
                engine: stack.enter_context(Contender(name, folder, database=database))
                for engine, (name, database) in names.items()
            }
            rows = {engine: {"engine": engine, "start": median(starts[engine])} for engine in names}
            for kind in ("account", "usage", "create"):
                loads = {
                    it: lambda it=it, kind=kind: running[it].load(kind, size.seconds, 10_000)
                    for it in names
                }
                for engine, reports in in_turn(size.rounds, loads).items():
                    rows[engine][kind] = median(report["per_second"] for report in reports)
                    for key in ("p99", "cpu"):
                        rows[engine][f"{kind}_{key}"] = median(report[key] for report in reports)
            path = f"/accounts/usage?start_date={MONTH[0]}&end_date={MONTH[1]}"
            asks = {engine: timed(running[engine].get, path) for engine in names}
            for engine, values in in_turn(size.rounds, asks).items():
                rows[engine]["all"] = median(values)
                rows[engine]["memory"] = running[engine].resident()
    today = str(datetime.date.today())
    return {"date": today, "rows": list(rows.values()), "move": moving / 1000}


def measure_threads(size: Size, folder: Path) -> tuple[list[dict[str, Any]], Figure]:
    """Measure each number of threads, and whether others are served during a long query."""
    database = make_ours(folder / "ours-threads.sqlite3", 10_000, 30)
    default = int(build_parser().parse_args(["serve"]).threads)
    path = f"/accounts/usage?start_date={MONTH[0]}&end_date={MONTH[1]}"
    rows = []
    for threads in THREADS:
        with Contender("ours", folder, database=database, threads=threads) as ours:
            rounds: dict[str, list[float]] = {"get": [], "post": [], "p99": [], "all": []}
            for _ in range(max(size.rounds // 2, 1)):
                rounds["get"].append(ours.load("account", size.seconds, 10_000)["per_second"])
                rounds["post"].append(ours.load("create", size.seconds, 10_000)["per_second"])
                with Greedy(ours, path) as greedy:
                    rounds["p99"].append(ours.load("mixed", size.seconds + 1, 10_000)["p99"])
                rounds["all"].append(greedy.responses / (size.seconds + 1))
        rows.append({"threads": threads} | {name: median(it) for name, it in rounds.items()})
        if threads == default:
            name = "others' p99 while one client asks for the usage of all of 10,000"
            note = f"{rows[-1]['all']:.0f} answers/s to that one"
            others = amount(name, 50, rounds["p99"], "ms", note)
    return rows, others


# The slowest requests that a key and 16 KiB of request can make.
NAMES_ASKED = "&".join(f"{n:x}" for n in range(4_000))[:15_000]
SLOWEST = (
    f"/accounts/1?{NAMES_ASKED}",
    f"/accounts/usage?{NAMES_ASKED}",
    f"/accounts/{'9' * 15_000}",
    f"/accounts/usage/1?fense_account_id={'9' * 15_000}",
    f"/{'%ff' * 5_000}",
    "/accounts/usage/1",  # a hundred years of days
)


def measure_edge(size: Size, folder: Path) -> Iterator[Figure]:
    """Measure how long others wait while one client repeats such a request."""
    database = make_ours(folder / "ours-edge.sqlite3", 1, 36_525)
    for standin in (False, True):
        worst: list[float] = []
        with Contender("ours", folder, database=database, standin=standin) as ours:
            for _ in range(size.rounds):
                worst.append(max(p99_beside(ours, path) for path in SLOWEST))
        with_it = ", the control plane on" * standin
        yield amount(f"others' p99 beside the slowest requests of 16 KiB{with_it}", 20, worst, "ms")


def measure_history(size: Size, folder: Path) -> Iterator[Figure | dict[str, list[float]]]:
    """Measure the usage of all accounts as their history grows; a dict of the points is last."""
    ours = make_ours(folder / "ours-history.sqlite3", size.accounts, 0)
    orm = folder / "fastapi-history.sqlite3"
    with Contender("fastapi", folder, database=orm):
        add_accounts(orm, size.accounts)
    points: dict[str, list[float]] = {"years": [], "ours": [], "daily table": [], "FastAPI": []}
    whole, path = {}, "/accounts/usage"
    for years in range(1, 6):
        print(f"        (a history of {years} years)", file=sys.stderr)
        for database, name in ((ours, "ours"), (orm, "fastapi")):
            add_usage(database, name, range((years - 1) * 365, years * 365))
        with reading(ours) as raw, Contender("ours", folder, database=ours) as server:
            ask = {
                "ours": timed(server.get, path),
                "daily table": timed(raw_usage, raw, models.FIRST_DAY, models.LAST_DAY),
            }
            rounds = in_turn(size.repeats, ask)
        with Contender("fastapi", folder, database=orm) as fastapi:
            rounds |= in_turn(1, {"FastAPI": timed(fastapi.get, path)})
        whole[years] = rounds["ours"]
        points["years"].append(years)
        for name, values in rounds.items():
            points[name].append(median(values))
    with reading(ours) as raw, Contender("ours", folder, database=ours) as server:
        path += f"?start_date={MONTH[0]}&end_date={MONTH[1]}"
        if server.get(path) != raw_usage(raw, *MONTH):
            raise SystemExit("the answers differ")
        ask = {"ours": timed(server.get, path), "raw": timed(raw_usage, raw, *MONTH)}
        month = in_turn(size.repeats * 2, ask)
    note = f"ours {median(month['ours']):.1f} ms over HTTP, raw {median(month['raw']):.1f} ms"
    name = f"usage of all of {size.accounts:,}, 30 days of 5 years, over raw SQL"
    yield ratio(name, 1.3, month, most=True, note=note)
    note = f"{median(whole[5]):.1f} ms, {median(whole[1]):.1f} ms"
    name = f"usage of all of {size.accounts:,}, 5 years over 1 year"
    yield ratio(name, 3, {"5": whole[5], "1": whole[1]}, most=True, note=note)
    yield points


def measure_start(size: Size, folder: Path) -> Figure:
    def start() -> float:
        began = time.perf_counter()
        with Contender("ours", folder, database=folder / "ours-start.sqlite3") as server:
            server.get("/accounts/usage")
            return (time.perf_counter() - began) * 1000

    imports = [PYTHON, "-c", "import bottle, peewee, waitress"]
    rounds = in_turn(size.repeats, {"ours": start, "imports": timed(subprocess.run, imports)})
    note = f"ours {median(rounds['ours']):.0f} ms, imports {median(rounds['imports']):.0f} ms"
    return ratio(
        "exec to the first 200, over importing the three", 1.35, rounds, most=True, note=note
    )


def measure_memory(size: Size, folder: Path) -> Iterator[Figure]:
    make_ours(folder / "ours-memory.sqlite3", 1_000, 90)
    with Contender("ours", folder, database=folder / "ours-memory.sqlite3") as ours:
        readings, done, next_reading = [], 0, size.requests / 4
        while done < size.requests:
            done += ours.load("mixed", 1, 1_000)["requests"]
            if done >= next_reading:
                readings.append(ours.resident())
                next_reading += size.requests / 4
        name = f"memory after {done:,} requests"
        yield amount(name, 45, [readings[-1]], "MiB")
        grown = readings[-1] - readings[0]
        name = "memory gained in the last three quarters of them"
        yield amount(name, 2, [grown], "MiB")


def measure_reset(size: Size) -> Figure:
    def reset() -> float:
        account = fense.create_account()
        fense.record_lookups(account["fense_account_id"], 12, "2026-11-01")
        return timed(fense.reset)()

    with StandIn(serve=False) as fense:
        values = in_turn(size.repeats * 20, {"ours": reset})["ours"]
    return amount("a StandIn reset, in-process", 0.1, values, "ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="half an hour, with a million accounts")
    parser.add_argument("--into", type=Path, required=True, help="folder for the results")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("the load comes from wrk, which is missing: apt-get install wrk")
    size = FULL if options.full else QUICK
    figures: list[Figure] = []

    def show(figure: Figure) -> None:
        figures.append(figure)
        mark = "holds" if figure.met else "MISSED"
        value = f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"
        print(f"{mark:6}  {figure.name}: {value}, goal {figure.goal}", file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="fense-bench-") as name:
        folder = Path(name)
        for figure in measure_requests(size, folder):
            show(figure)
        *history, points = measure_history(size, folder)
        for figure in history:
            show(figure)
        show(measure_start(size, folder))
        for figure in measure_memory(size, folder):
            show(figure)
        show(measure_reset(size))
        for figure in measure_edge(size, folder):
            show(figure)
        threads, others = measure_threads(size, folder)
        show(others)
        engines = measure_engines(size, folder)
        *growth, sizes = measure_sizes(size, folder)
        for figure in growth:
            show(figure)
    packages = ("fense-admin", "bottle", "peewee", "waitress", "fastapi", "sqlalchemy", "uvicorn")
    results = {
        "date": str(datetime.date.today()),
        "machine": machine(),
        "mode": f"{size.rounds} rounds of {size.seconds} s, 8 connections.",
        "versions": {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
        | {package: version(package) for package in packages},
        "figures": [figure._asdict() for figure in figures],
        "threads": threads,
        "engines": engines,
        "sizes": {"date": str(datetime.date.today()), "rows": sizes},
        "history": points,
    }
    options.into.mkdir(parents=True, exist_ok=True)
    (options.into / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.into / "RESULTS.md").write_text(report(results))
    draw(points, size.accounts, options.into / "history.svg")
    print(report(results))


if __name__ == "__main__":
    main()
