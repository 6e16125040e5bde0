"""The command `compare`: asks a service and a stand-in the same, and prints what differs."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Callable

import fense_admin
from fense_admin import rules, settings
from fense_admin.comparing import asking, recording, report, writing
from fense_admin.comparing.asking import Asked
from fense_admin.comparing.judging import Comparison
from fense_admin.comparing.service import CouldNotAsk, Service

NO_KEY = "set DISPUTE_MASTER_KEY, or DISPUTE_SERVICE_KEYS, to a key of the service"
ALL_SAME, SOME_DIFFER = 0, 1  # exit codes


def run(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Compare, and print the result. Returns the exit code of one that could be made.

    Raises `ValueError` for wrong usage, `CouldNotAsk` if the service can't be asked.
    """
    asked = ask(options, say) if is_url(options.target) else read_recording(options.target)
    if options.record:
        write_recording(options.record, asked)
    comparison = Comparison(asked)
    results = report.results(comparison.differences, len(asked))
    if options.json:
        print(json.dumps({"version": fense_admin.__version__, "lines": results}, indent=1))
    else:
        for line in report.printed(results):
            print(line)
    return SOME_DIFFER if any(it["result"] == report.DIFFERS for it in results) else ALL_SAME


def is_url(target: str) -> bool:
    return re.match("https?://", target, re.IGNORECASE) is not None


def list_requests(options: argparse.Namespace) -> int:
    """Print what would be asked."""
    for question in asking.planned():
        print(question._replace(target=question.target.replace("{id}", "ID")))
    return ALL_SAME


def ask(options: argparse.Namespace, say: Callable[[str], None]) -> Asked:
    master_key, service_keys = settings.keys_from_environment()
    keys = [*([master_key] if master_key else []), *service_keys]
    if not keys:
        raise ValueError(NO_KEY)
    origin, prefix = rules.split_url(options.target)
    if options.write:
        confirm(options.yes, say)
    service = Service(
        origin, prefix, keys, options.timeout, options.ca_file, may_write=options.write
    )
    most = len(options.account) or options.accounts
    more = "; then --write" if options.write else ""
    say(f"at most {asking.most_requests(most)} requests, by GET and HEAD alone{more}")
    asked = asking.ask_all(service.ask, options.account, most, len(keys) > 1)
    return asked + writing.put_all(service.ask) if options.write else asked


def confirm(is_confirmed: bool, say: Callable[[str], None]) -> None:
    """Say what `--write` leaves behind, and ask. Raises `ValueError` where it is not wanted."""
    say(writing.WARNING)
    if is_confirmed:
        return
    if not sys.stdin or not sys.stdin.isatty():
        raise ValueError("--write needs --yes, or a terminal to ask at")
    with contextlib.suppress(EOFError):
        if input("Go on? [y/N] ").strip().lower() in ("y", "yes"):
            return
    raise ValueError("nothing was written")


def read_recording(path: str) -> Asked:
    try:
        with open(path, "rb") as file:
            return recording.read(file.read())
    except OSError as error:
        raise ValueError(f"the recording can't be read: {error.strerror}") from None


def write_recording(path: str, asked: Asked) -> None:
    text = recording.record(asked, fense_admin.__version__)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        raise ValueError(f"the recording can't be written: {error.strerror}") from None


__all__ = ["CouldNotAsk", "list_requests", "run"]
