"""The command `compare`: send the same requests to a service and a stand-in, and compare."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator

import fense_admin
from fense_admin import disk, rules, settings
from fense_admin.comparing import asking, recording, report, writing
from fense_admin.comparing.asking import Asked
from fense_admin.comparing.judging import Comparison
from fense_admin.comparing.service import CouldNotAsk, Service

NO_KEY = "set DISPUTE_MASTER_KEY or DISPUTE_SERVICE_KEYS to a key of the service"
ALL_SAME, SOME_DIFFER = 0, 1  # exit codes


class WrongUsage(Exception):
    """An argument or a variable is invalid. The message quotes neither."""


def run(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Compare, print the result, and return the exit code.

    Raises `WrongUsage`, and `CouldNotAsk` if the comparison can't be made.
    """
    if not is_url(options.target) and (options.write or options.dry_run):
        raise WrongUsage("--write and --dry-run need a URL, not a recording")
    if len(set(options.account)) > settings.MAX_COMPARED:
        raise WrongUsage(f"--account can be given at most {settings.MAX_COMPARED} times")
    if options.dry_run:
        return list_requests(options)
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(new_file(options.record)) if options.record else None
        asked = ask(options, say) if is_url(options.target) else read_recording(options.target)
        if write:
            write(recording.record(asked, fense_admin.__version__) + "\n")
    results = report.results(Comparison(asked).differences)
    if options.json:
        document = {
            "version": fense_admin.__version__,
            "responses": len(asked),
            "lines": results,
        }
        show(json.dumps(document, indent=1))
    else:
        show("\n".join(report.printed(results, len(asked))))
    return SOME_DIFFER if any(it["result"] == report.DIFFERS for it in results) else ALL_SAME


def is_url(target: str) -> bool:
    return re.match("https?://", target, re.IGNORECASE) is not None


def list_requests(options: argparse.Namespace) -> int:
    """Print the requests that would be sent."""
    planned = [*asking.planned(), *(writing.planned() if options.write else ())]
    shown = [it._replace(target=it.target.replace("{id}", "ID")) for it in planned]
    show("\n".join(map(str, shown)))
    return ALL_SAME


def show(text: str) -> None:
    """Print a text. A pipe (to head, for example) may close early."""
    try:
        print(text, flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EINVAL):  # Windows
            raise
        # Otherwise Python would report it again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def ask(options: argparse.Namespace, say: Callable[[str], None]) -> Asked:
    try:
        master_key, service_keys = settings.keys_from_environment()
    except ValueError as error:
        raise WrongUsage(str(error)) from None
    keys = [*([master_key] if master_key else []), *service_keys]
    if not keys:
        raise WrongUsage(NO_KEY)
    origin, prefix = rules.split_url(options.target)
    most = len(set(options.account)) or options.accounts
    reads, writes = asking.max_requests(most), writing.max_requests() if options.write else 0
    if reads + writes > settings.MAX_REQUESTS:
        raise WrongUsage(
            f"--write with {most} accounts takes more than {settings.MAX_REQUESTS} requests: read "
            "fewer"
        )
    if options.write:
        confirm(options.yes, say)
    service = Service(
        origin, prefix, keys, options.timeout, options.ca_file, may_write=options.write
    )
    if not service.is_private:
        say("http:// sends the key unencrypted: use https:// if you can")
    more = f", then at most {writes} that write" if options.write else ""
    say(f"at most {reads} requests that only read (GET and HEAD){more}")
    asked = asking.ask_all(service.ask, options.account, most, len(keys) > 1)
    return asked + writing.put_all(service.ask) if options.write else asked


def confirm(is_confirmed: bool, say: Callable[[str], None]) -> None:
    """Print what `--write` leaves behind, and ask for confirmation. Raises `WrongUsage`."""
    if is_confirmed:
        say(writing.WARNING)
        return
    if not sys.stdin or not sys.stdin.isatty():
        raise WrongUsage("--write needs --yes, or a terminal to ask at")
    # Standard output is for the report.
    print(f"{writing.WARNING}.\nGo on? [y/N] ", end="", file=sys.stderr, flush=True)
    with contextlib.suppress(EOFError):
        if input().strip().lower() in ("y", "yes"):
            return
    raise WrongUsage("nothing was written")


def read_recording(path: str) -> Asked:
    try:
        with open(path, "rb") as file:
            raw = file.read(recording.MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not a valid path"
        raise WrongUsage(
            f"the recording can't be read: {why} (a URL begins with https://)"
        ) from None
    return recording.read(raw)


@contextlib.contextmanager
def new_file(path: str) -> Iterator[Callable[[str], None]]:
    """Yield a function that writes a text to a new file, which appears when it is complete."""

    def write(text: str) -> None:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        disk.rename_to_new(temporary, path)

    try:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        with disk.temporary_beside(path) as temporary:
            yield write
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not a valid path"
        raise WrongUsage(f"the recording can't be written: {why}") from None


__all__ = ["CouldNotAsk", "WrongUsage", "run"]
