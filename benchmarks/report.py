"""Write the results as Markdown and as a picture."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from statistics import median
from typing import Any

# A row of the table of engines: what it is, its key, its unit.
ENGINE_ROWS = (
    ("GET an account", "account", "/s"),
    ("usage of one account, 30 days", "usage", "/s"),
    ("POST an account", "create", "/s"),
    ("POST an account, p99", "create_p99", " ms"),
    ("GET an account, CPU of the service", "account_cpu", " µs"),
    ("POST an account, CPU of the service", "create_cpu", " µs"),
    ("usage of all of 10,000, 30 days", "all", " ms"),
    ("exec to the first 200", "start", " ms"),
    ("memory", "memory", " MiB"),
)


def report(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
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
    lines += [
        "",
        f"The usage of all accounts, each with lookups on 30 days, {results['sizes']['date']}:",
        "median times to the first byte and to the last, the service's peak memory over idle, and",
        "another client's p99 during it.",
        "",
        "| accounts | usage | engine | response | first byte | last | memory | other's p99 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["sizes"]["rows"]:
        lines.append(
            f"| {row['accounts']:,} | {row['range']} | {row['engine']} "
            f"| {row['length'] / 1e6:,.1f} MB | {median(row['first']):,.0f} ms "
            f"| {median(row['last']):,.0f} ms | {row['peak']:.1f} MiB | {row['p99']:.1f} ms |"
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
