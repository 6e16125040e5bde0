"""What fense-admin costs, side by side with what one would use instead, on one machine, in one run.

`make bench` (a minute or two) or `make bench FULL=1` (ten or more) runs this. A ratio is one of
medians over rounds in which the contenders take turns, so that a slow moment meets them all.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import http.client
import json
import os
import platform
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from fense_admin import databases, models
from fense_admin.cli import build_parser
from fense_admin.standin import StandIn

HERE = Path(__file__).parent
PYTHON = sys.executable
sys.path.append(str(HERE.parent / "tests"))
from postgresql_server import PostgreSQL, find_program  # noqa: E402

# Where `make bench` installs it with the driver, which the others do without.
WITH_DRIVER = HERE.parent / ".venv-bench-postgresql" / "bin"
KEYS = ("master_0123456789abcdef", "service_0123456789abcdef")
HEADERS = {"x-api-key": KEYS[0], "Content-Type": "application/json"}
LAST_DAY = datetime.date(2026, 11, 22)
MONTH = ("2026-10-24", "2026-11-22")  # 30 days
THREADS = (1, 2, 4, 8)


class Size(NamedTuple):
    """How much of everything: `seconds` of load in each of so many `rounds`."""

    rounds: int
    seconds: int
    accounts: int  # of those whose usage is asked for all at once
    repeats: int  # of what is timed one by one
    requests: int  # before the memory is looked at


QUICK = Size(rounds=3, seconds=1, accounts=1_000, repeats=7, requests=20_000)
FULL = Size(rounds=7, seconds=3, accounts=10_000, repeats=15, requests=100_000)


# --- Contenders --------------------------------------------------------------------------------


class Contender:
    """A server in a process of its own, its log in a file, its data in another."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        database: Path | str | None = None,
        threads: int = 0,
        standin: bool = False,
    ):
        self.name = name
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.database = database or folder / f"{name}.sqlite3"
        port, data = str(self.port), str(self.database)
        uvicorn = [PYTHON, "-m", "uvicorn", "fastapi_app:app", "--port", port]
        ours = [shutil.which("fense-admin", path=Path(PYTHON).parent), "--port", port]
        ours += ["--database", data]
        command = {
            "postgresql": [WITH_DRIVER / "fense-admin", *ours[1:]],
            "ours": ours
            + (["--threads", str(threads)] if threads else [])
            + ["--standin"] * standin,
            "fastapi": uvicorn,
            "naive": [PYTHON, "naive_app.py", port, data],
            "waitress": [PYTHON, "ceiling.py", port],
        }[name]
        environment = os.environ | {
            "DISPUTE_MASTER_KEY": KEYS[0],
            "DISPUTE_SERVICE_KEYS": KEYS[1],
            "API_KEYS": ",".join(KEYS),
            "DATABASE": data,
        }
        with open(folder / f"{name}.log", "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=HERE, env=environment, stdout=log, stderr=log
            )

    def __enter__(self) -> Contender:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            time.sleep(0.0005)
        raise SystemExit(f"{self.name} does not start: see its log")

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("GET", path, headers=HEADERS)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status != 200:
            raise SystemExit(f"{self.name} answered {answer.status} to {path}: {body[:200]!r}")
        return body

    def load(self, kind: str, seconds: int, accounts: int, connections: int = 8) -> dict[str, Any]:
        """What wrk reports of so many seconds of such requests; times in milliseconds."""
        headers = [part for name, value in HEADERS.items() for part in ("-H", f"{name}: {value}")]
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", *headers]
        command += ["-s", str(HERE / "load.lua"), f"http://127.0.0.1:{self.port}"]
        command += ["--", kind, str(accounts), f"{time.time_ns():x}"]
        os.sync()  # so that none waits for the disk to write what another has left
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        report = json.loads(printed.splitlines()[-1])
        if report["failed"]:
            raise SystemExit(f"{self.name} failed {report['failed']} requests of {kind}")
        return report

    def resident(self) -> float:
        """The memory it holds, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


# --- Data --------------------------------------------------------------------------------------

# Each table as its project made it: names of the account's id, there and in the usage.
NAMES = {"ours": ("fense_account_id", "fense_account_id"), "fastapi": ("id", "account_id")}
NAMES["naive"] = NAMES["fastapi"]


@contextlib.contextmanager
def filling(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that is quick at writing much."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -1000000")
    connection.execute("BEGIN")
    yield connection
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def add_accounts(path: Path, count: int) -> None:
    with filling(path) as db:
        db.execute(
            """
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
            INSERT INTO account (name, email, api_key_sha256, api_key_last4, suppress_billing,
                suppress_notifications, is_active, created_at, updated_at)
            SELECT 'Merchant ' || i, 'owner' || i || '@merchant.example', printf('%064x', i),
                '0001', 0, 0, 1, t, t
            FROM n, (SELECT CASE ? WHEN 'ours' THEN '2026-11-01T00:00:00Z'
                ELSE '2026-11-01 00:00:00.000000' END AS t)
            """,
            (count, path.name.split(".")[0].split("-")[0]),
        )


def add_usage(path: Path, name: str, days: range) -> None:
    """Lookups of every account on each of these days, counted back from the last."""
    account_id, in_usage = NAMES[name]
    with filling(path) as db:
        db.execute(
            f"""
            WITH RECURSIVE d(i) AS (SELECT ? UNION ALL SELECT i - 1 FROM d WHERE i > ?)
            INSERT INTO usage ({in_usage}, date, lookups)
            SELECT {account_id}, date(?, '-' || i || ' days'), 1 + ({account_id} * 31 + i * 7) % 100
            FROM account CROSS JOIN d ORDER BY 1, 2
            """,
            (days.stop - 1, days.start, str(LAST_DAY)),
        )
        if name == "ours":
            db.execute("DELETE FROM usage_month")
            db.execute(models.SUM_UP_MONTHS)


def make_ours(path: Path, accounts: int, days: int) -> Path:
    databases.open_database(str(path)).engine.close_all()
    add_accounts(path, accounts)
    if days:
        add_usage(path, "ours", range(days))
    return path


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path)
    yield connection
    connection.close()


def raw_usage(connection: sqlite3.Connection, start: str, end: str) -> bytes:
    """The best SQL over the table of days, and `json.dumps`."""
    rows = connection.execute(
        """
        SELECT fense_account_id, name, dispute_account_id,
            (SELECT COALESCE(SUM(lookups), 0) FROM usage
             WHERE usage.fense_account_id = account.fense_account_id AND date BETWEEN ? AND ?)
        FROM account ORDER BY fense_account_id
        """,
        (start, end),
    )
    keys = ("fense_account_id", "name", "dispute_account_id", "total_lookups")
    accounts = [dict(zip(keys, row, strict=True)) for row in rows]
    total = sum(account["total_lookups"] for account in accounts)
    head = {"start_date": start, "end_date": end, "total_lookups": total}
    return json.dumps(head | {"accounts": accounts}).encode()


# --- Figures -----------------------------------------------------------------------------------


class Figure(NamedTuple):
    """A row of the table. `rounds` has what was measured, by contender, round by round."""

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
    """The first contender's median over the second's; at least the goal, or at `most` that."""
    ours, other = list(rounds.values())[:2]
    value = median(ours) / median(other)
    each = [a / b for a, b in zip(ours, other, strict=True)]
    met = value <= goal if most else value >= goal
    bound = f"{goal:g} or {'less' if most else 'more'}"
    return Figure(name, bound, value, min(each), max(each), met, note=note, rounds=rounds)


def amount(name: str, goal: float, values: list[float], unit: str, note: str = "") -> Figure:
    """A median that is to be no more than the goal."""
    value = median(values)
    goal_told = f"{goal:g} {unit} or less"
    spread = min(values), max(values)
    return Figure(name, goal_told, value, *spread, value <= goal, unit, note, {"ours": values})


def in_turn(rounds: int, measures: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """What each gives in each round, after one round that does not count."""
    results: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            value = measure()
            if number:
                results[name].append(value)
    return results


def timed(work: Callable[..., Any], *arguments: Any) -> Callable[[], float]:
    """The same work, giving the milliseconds that it took."""

    def measure() -> float:
        began = time.perf_counter()
        work(*arguments)
        return (time.perf_counter() - began) * 1000

    return measure


def measure_requests(size: Size, folder: Path) -> Iterator[Figure]:
    """One account read, written, and its usage asked for; 1,000 accounts with 90 days."""
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

        def rates(reports: dict[str, list[dict[str, Any]]], names: list[str]) -> Any:
            return {name: [report["per_second"] for report in reports[name]] for name in names}

        def per_second(reports: dict[str, list[dict[str, Any]]]) -> str:
            each = {n: median(it["per_second"] for it in reports[n]) for n in reports}
            return ", ".join(f"{name} {rate:,.0f}/s" for name, rate in each.items())

        reports = take_turns("account", ["ours", "fastapi", "waitress", "naive"])
        yield ratio(
            "GET an account, over FastAPI",
            6,
            rates(reports, ["ours", "fastapi"]),
            note=per_second(reports),
        )
        yield ratio("GET an account, over bare waitress", 0.5, rates(reports, ["ours", "waitress"]))
        reports = take_turns("create", ["ours", "fastapi", "naive"])
        yield ratio(
            "POST an account on disk, over FastAPI",
            3,
            rates(reports, ["ours", "fastapi"]),
            note=per_second(reports),
        )
        p99 = [report["p99"] for report in reports["ours"]]
        yield amount("POST an account on disk, p99", 20, p99, "ms")
        reports = take_turns("usage", ["ours", "fastapi", "naive"])
        yield ratio(
            "usage of one account, 30 days, over FastAPI",
            5,
            rates(reports, ["ours", "fastapi"]),
            note=per_second(reports),
        )


def measure_engines(size: Size, folder: Path) -> dict[str, Any]:
    """The same on SQLite and on PostgreSQL, in turn; nothing where there is no PostgreSQL."""
    if not find_program("pg_ctl"):
        print("PostgreSQL is not installed: it is not measured", file=sys.stderr)
        return {}
    file = make_ours(folder / "ours-engines.sqlite3", 10_000, 30)
    with contextlib.closing(PostgreSQL("fsync=on")) as server:
        move = [WITH_DRIVER / "fense-admin", "move", file, server.url]
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
                    rows[engine][f"{kind}_p99"] = median(report["p99"] for report in reports)
            path = f"/accounts/usage?start_date={MONTH[0]}&end_date={MONTH[1]}"
            asks = {engine: timed(running[engine].get, path) for engine in names}
            for engine, values in in_turn(size.rounds, asks).items():
                rows[engine]["all"] = median(values)
                rows[engine]["memory"] = running[engine].resident()
    today = str(datetime.date.today())
    return {"date": today, "rows": list(rows.values()), "move": moving / 1000}


def measure_threads(size: Size, folder: Path) -> tuple[list[dict[str, Any]], Figure]:
    """What each number of threads gives, and whether others are served beside a long question."""
    database = make_ours(folder / "ours-threads.sqlite3", 10_000, 30)
    default = int(build_parser().parse_args(["serve"]).threads)
    rows = []
    for threads in THREADS:
        with Contender("ours", folder, database=database, threads=threads) as ours:
            rounds: dict[str, list[float]] = {"get": [], "post": [], "p99": [], "all": []}
            for _ in range(max(size.rounds // 2, 1)):
                rounds["get"].append(ours.load("account", size.seconds, 10_000)["per_second"])
                rounds["post"].append(ours.load("create", size.seconds, 10_000)["per_second"])
                with Greedy(ours) as greedy:
                    rounds["p99"].append(ours.load("mixed", size.seconds + 1, 10_000)["p99"])
                rounds["all"].append(greedy.answered / (size.seconds + 1))
        rows.append({"threads": threads} | {name: median(it) for name, it in rounds.items()})
        if threads == default:
            name = "others' p99 while one client asks for the usage of all of 10,000"
            note = f"{rows[-1]['all']:.0f} answers/s to that one"
            others = amount(name, 50, rounds["p99"], "ms", note)
    return rows, others


class Greedy:
    """A client that asks for the usage of all accounts over and over."""

    def __init__(self, server: Contender) -> None:
        self.answered = 0
        path = f"/accounts/usage?start_date={MONTH[0]}&end_date={MONTH[1]}"
        code = (
            "import http.client, sys\n"
            f"while True:\n"
            f"    c = http.client.HTTPConnection('127.0.0.1', {server.port})\n"
            f"    c.request('GET', {path!r}, headers={HEADERS!r})\n"
            f"    assert len(c.getresponse().read()) > 500_000\n"
            f"    c.close()\n"
            f"    print(flush=True)\n"
        )
        self.process = subprocess.Popen([PYTHON, "-c", code], stdout=subprocess.PIPE)

    def __enter__(self) -> Greedy:
        self.process.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is not None:
            raise SystemExit("the client that asks for all of it failed")
        self.process.kill()
        self.answered = len(self.process.stdout.read())
        self.process.wait()


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
ASK_OVER_AND_OVER = """
import http.client, sys
while True:
    c = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    c.request("GET", sys.argv[2], headers={"x-api-key": sys.argv[3]})
    c.getresponse().read()
    c.close()
"""


def measure_edge(size: Size, folder: Path) -> Iterator[Figure]:
    """How long others wait while one client sends such a request over and over."""
    database = make_ours(folder / "ours-edge.sqlite3", 1, 36_525)
    for standin in (False, True):
        worst: list[float] = []
        with Contender("ours", folder, database=database, standin=standin) as ours:
            for _ in range(size.rounds):
                worst.append(max(p99_beside(ours, path) for path in SLOWEST))
        with_it = ", the control plane on" * standin
        yield amount(f"others' p99 beside the slowest requests of 16 KiB{with_it}", 20, worst, "ms")


def p99_beside(server: Contender, path: str) -> float:
    """The milliseconds for which another client waits in a second, but for one in a hundred."""
    command = [PYTHON, "-c", ASK_OVER_AND_OVER, str(server.port), path, KEYS[0]]
    took, ask = [], timed(server.get, "/accounts/1")
    with subprocess.Popen(command) as greedy:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            took.append(ask())
            time.sleep(0.002)
        greedy.kill()
    return sorted(took)[int(len(took) * 0.99)]


def measure_history(size: Size, folder: Path) -> Iterator[Figure | dict[str, list[float]]]:
    """The usage of all accounts as their history grows: a dict of the points comes last."""
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


# A row of the table of engines: what it is, its key, its unit.
ENGINE_ROWS = (
    ("GET an account", "account", "/s"),
    ("usage of one account, 30 days", "usage", "/s"),
    ("POST an account", "create", "/s"),
    ("POST an account, p99", "create_p99", " ms"),
    ("usage of all of 10,000, 30 days", "all", " ms"),
    ("exec to the first 200", "start", " ms"),
    ("memory", "memory", " MiB"),
)


# --- The report --------------------------------------------------------------------------------


def report(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# What it costs",
        "",
        f"{results['date']}, {results['machine']}: {results['mode']}",
        "",
        ", ".join(f"{name} {number}" for name, number in results["versions"].items()),
        "",
        "| figure | goal | measured | spread | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for it in results["figures"]:
        unit = "" if it["unit"] == "times" else f" {it['unit']}"
        value, spread = f"{it['value']:.2f}{unit}", f"{it['low']:.2f} to {it['high']:.2f}"
        mark = "holds" if it["met"] else "**missed**"
        note = f": {it['note']}" if it["note"] else ""
        lines.append(f"| {it['name']} | {it['goal']} | {value} | {spread} | {mark}{note} |")
    lines += [
        "",
        "How many threads: 8 clients that read, 8 that create, and the p99 of 8 that do both while",
        "one more asks for the usage of all of 10,000 accounts over and over.",
        "",
        "| threads | GET an account | POST an account | others' p99 | answers to that client |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in results["threads"]:
        lines.append(
            f"| {row['threads']} | {row['get']:,.0f}/s | {row['post']:,.0f}/s "
            f"| {row['p99']:.1f} ms | {row['all']:.0f}/s |"
        )
    if engines := results["engines"]:
        lines += [
            "",
            f"One node on PostgreSQL beside SQLite, in turn, {engines['date']}: 10,000 accounts,",
            "30 days, 8 clients, the server on the same machine. Each commit is on disk.",
            "",
            "| | SQLite | PostgreSQL |",
            "| --- | --- | --- |",
        ]
        for name, key, unit in ENGINE_ROWS:
            cells = [f"{row[key]:,.0f}{unit}" for row in engines["rows"]]
            lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
        moving = f"`fense-admin move` from the one to the other takes {engines['move']:.1f} s."
        lines += ["", moving]
    lines += [
        "",
        "![The usage of all accounts, as their history grows](history.svg)",
        "",
    ]
    return "\n".join(lines)


def draw(points: dict[str, list[float]], accounts: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "fense-admin"  # the same picture for the same figures
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    labels = {
        "FastAPI": "FastAPI + SQLAlchemy, its default table",
        "daily table": "the table of days, raw SQL",
        "ours": "fense-admin, days and months",
    }
    for name, label in labels.items():
        axes.plot(points["years"], points[name], marker="o", label=label)
    axes.set(
        title=f"The usage of all of {accounts:,} accounts, whole history",
        xlabel="years of history",
        ylabel="milliseconds",
        yscale="log",
        xticks=points["years"],
    )
    axes.grid(True, which="both", alpha=0.2)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def machine() -> str:
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(": ")[2]
    return f"{os.cpu_count()} cores of {model}, {platform.system()} {platform.release()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="some ten minutes in place of one")
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
        "history": points,
    }
    options.into.mkdir(parents=True, exist_ok=True)
    (options.into / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.into / "RESULTS.md").write_text(report(results))
    draw(points, size.accounts, options.into / "history.svg")
    print(report(results))


if __name__ == "__main__":
    main()
