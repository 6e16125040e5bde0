"""Long commands report their progress; a signal leaves nothing half done, and says so."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from conftest import FIELDS, TIMEOUT, account_fields, sentence, wait_until
from this_system import ENDS, STOP, STOPS, comes_as, exit_code

from fense_admin import databases, progress

SECONDS = r"in \d+\.\d s(?: \([\d,]+ (?:days|MiB) a second\))?"
ACCOUNT = "1 account and 2 days of lookups"
# Each command, how it begins to say how far it is, and its last line.
COMMANDS = {
    "move": (["move", "here.sqlite3", "there"], "moving: 1 account, 0 days", f"moved {ACCOUNT}"),
    "record": (
        ["record", "-", "--database=here.sqlite3"],
        "recording: 1 account, 2 days",
        f"recorded {ACCOUNT}",
    ),
    "backup": (
        ["backup", "there", "--database=here.sqlite3"],
        "backing up: checking the copy of 0.1 MiB",
        "backed up 0.1 MiB",
    ),
    "exec": (
        ["exec", "--seed=seed.json", "--", sys.executable, "-c", ""],
        "checking seed.json: 1 account, 2 days",
        f"loaded seed.json: {ACCOUNT}",
    ),
    "serve": (
        ["--port=0", "--database=there", "--seed=seed.json"],
        "checking seed.json: 1 account, 2 days",
        f"loaded seed.json: {ACCOUNT}",
    ),
}
UNCHANGED = {
    "move": "nothing was moved",
    "record": "nothing was added",
    "backup": "no backup was made",
    "exec": "the command was not run",
    "serve": "the seed was not loaded",
}
# The command on list.json, for which a second is a tenth of one, and each step takes so long.
SLOW = """
import sys, time
from fense_admin import cli, progress
def slowly(step):
    def slow(self, *numbers):
        step(self, *numbers)
        time.sleep(float(sys.argv[1]))
    return slow
progress.SILENT, progress.REDRAWN, progress.REPEATED, progress.WRITE_TIMEOUT = 0.1, 0.02, 0.2, 0.2
progress.Progress.show = slowly(progress.Progress.show)
sys.stdin = open("list.json")
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a database, a seed and a list."""
    db = databases.open_database(str(tmp_path / "here.sqlite3"))
    db.create_account(FIELDS)
    db.record_lookups(1, 5, "2026-11-02..2026-11-03")
    db.engine.close_all()
    state = {"accounts": [account_fields(usage={"2026-11-02": 1, "2026-11-03": 1})]}
    (tmp_path / "seed.json").write_text(json.dumps(state))
    entries = [
        {"fense_account_id": 1, "date": f"2026-11-0{day}", "lookups": 1} for day in (2, 2, 3)
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    return tmp_path


@pytest.fixture
def run(folder, run_command, monkeypatch):
    """Runs a command in this process, which is stopped before it serves."""

    def run(name, **environment):
        with open(folder / "list.json") as listed, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", listed)
            return run_command(*COMMANDS[name][0], **environment)

    return run


@contextlib.contextmanager
def moving(folder, stderr):
    """Run a slow move with this standard error; it is ended at the end."""
    command = [sys.executable, "-c", SLOW, "0.3", *COMMANDS["move"][0]]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=stderr) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def start_slow(folder, start):
    """Starts a command that takes so many seconds for each step."""

    def start_slow(name, seconds, *more, **options):
        command = [sys.executable, "-c", SLOW, str(seconds)]
        arguments = COMMANDS[name][0]
        arguments = [*arguments[:1], *more, *arguments[1:]]
        return start(*arguments, command=command, name=f"{name} errors", **options)

    return start_slow


def content(folder):
    """Return the files of a folder, and the content of its database."""
    db = databases.open_database(str(folder / "here.sqlite3"))
    found = db.dump()
    db.engine.close_all()
    return sorted(path.name for path in folder.iterdir() if "errors" not in path.name), found


def total_lookups(path):
    """The lookups of all accounts."""
    db = databases.open_database(str(path))
    accounts = db.dump()["accounts"]
    db.engine.close_all()
    return sum(sum(account["usage"].values()) for account in accounts)


# --- How far it is -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["move", "record", "backup", "exec"])
def test_a_command_shorter_than_a_second_reports_no_progress(run, name):
    code, _, errors = run(name)
    assert (code, errors) == (0, "")


def test_a_command_of_a_second_prints_one_line(run, monkeypatch):
    monkeypatch.setattr(progress.Progress, "show", lambda self, text: time.sleep(0.4))
    monkeypatch.setattr(progress, "SILENT", 0.3)
    code, _, errors = run("backup")
    assert code == 0
    assert re.search(f"^fense-admin: {COMMANDS['backup'][2]} {SECONDS}\n\\Z", errors, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_slow_command_reports_its_progress_repeatedly(start_slow, name):
    process = start_slow(name, 0.5)
    if name == "serve":
        process.ready()
    code, _, errors = process.end(STOP if name == "serve" else None)
    assert code == 0, errors
    _, begins, ends = COMMANDS[name]
    lines = [line.partition(" ")[2] for line in errors.splitlines()]
    assert sum(line.startswith(begins) for line in lines) >= 2, errors
    assert re.search(rf"(?m)^\S+ {ends} {SECONDS}$", errors), errors


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("more", [["--quiet"], []])
def test_a_quiet_command_says_nothing(start_slow, name, more):
    process = start_slow(name, 0.2, *more, **({} if more else {"FENSE_ADMIN_QUIET": "1"}))
    if name == "serve":
        process.ready()
    code, _, errors = process.end(STOP if name == "serve" else None)
    assert code == 0
    assert [line for line in errors.splitlines() if "the x-api-key is" not in line] == []


def test_an_invalid_variable_for_quiet_is_named(run):
    code, _, errors = run("backup", FENSE_ADMIN_QUIET="yes")
    assert code == 2
    assert errors.endswith("error: FENSE_ADMIN_QUIET must be 1 or 0\n")


@pytest.mark.needs("a terminal")
@pytest.mark.slow
def test_on_a_terminal_it_is_one_line_that_is_cleared_at_the_end(folder):
    ours, theirs = os.openpty()
    shown = b""
    with moving(folder, theirs) as process:
        os.close(theirs)
        deadline = time.monotonic() + TIMEOUT
        with contextlib.suppress(OSError):  # it is closed
            while select.select([ours], [], [], deadline - time.monotonic())[0]:
                shown += os.read(ours, 4096)
        os.close(ours)
        assert process.wait(TIMEOUT) == 0
    drawn, last = shown.decode().removesuffix("\r\n").rsplit("\r", 1)
    assert re.fullmatch(f"fense-admin: moved {ACCOUNT} {SECONDS}", last)
    assert "\n" not in drawn
    first, *lines, cleared = drawn.split("\r")
    assert (first, cleared.strip(" ")) == ("", "")
    assert len(cleared) >= len(lines[-1].rstrip())
    assert lines[0].startswith("fense-admin: moving: 1 account, 0 days, ")


# --- Standard error that takes nothing ---------------------------------------------------------


@pytest.mark.needs("a POSIX shell")
@pytest.mark.slow
@pytest.mark.parametrize(
    "redirection",
    [pytest.param("2>/dev/full", marks=pytest.mark.needs("/dev/full")), "2>&-"],
)
@pytest.mark.parametrize("name", ["move", "record", "backup", "exec"])
def test_a_full_or_closed_standard_error_fails_no_command(
    start_slow, folder, start, name, redirection
):
    script = f'exec "$@" {redirection}'
    command = ["sh", "-c", script, "sh", sys.executable, "-c", SLOW, "0.2"]
    code, out, _ = start(*COMMANDS[name][0], command=command).end(None)
    assert (code, out) == (0, "fense-admin moved accounts=1\n" if name == "move" else "")
    wrong = start("record", "7", "1", "--database=here.sqlite3", command=command)
    assert wrong.end(None)[:2] == (1, "")


@pytest.mark.needs("pipes that don't block")
@pytest.mark.slow
def test_a_pipe_that_nobody_reads_delays_no_command(folder):
    unread, pipe = os.pipe()
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 4096)
    os.set_blocking(pipe, True)
    with moving(folder, pipe) as process:
        assert process.communicate(timeout=TIMEOUT)[0] == b"fense-admin moved accounts=1\n"
        assert process.returncode == 0
    os.close(unread)
    os.close(pipe)


# --- Signals -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "signum"),
    [("move", signum) for signum in ENDS if signum != STOPS[-1]]
    + [(name, STOPS[-1]) for name in COMMANDS],
)
def test_a_signal_leaves_nothing_half_done(start_slow, folder, name, signum):
    before = content(folder)
    process = start_slow(name, 60)
    wait_until(lambda: COMMANDS[name][1] in process.errors.read_text("utf-8"))
    code, out, errors = process.end(signum)
    assert (code, out) == (exit_code(signum), "")
    reported = f"fense-admin: stopped by {signal.Signals(comes_as(signum)).name}: {UNCHANGED[name]}"
    assert errors.splitlines()[-1] == reported
    assert "Traceback" not in errors
    if name == "move":  # its target was opened
        assert total_lookups(folder / "there") == 0
        (folder / "there").unlink()
    assert content(folder) == before


@pytest.fixture
def signal_at_commit(monkeypatch):
    """Send SIGINT during the commit."""

    def then_signal(self):
        before_commit(self)
        signal.raise_signal(signal.SIGINT)

    before_commit = progress.Progress.before_commit
    monkeypatch.setattr(progress.Progress, "before_commit", then_signal)


@pytest.mark.usefixtures("signal_at_commit")
@pytest.mark.parametrize("name", ["move", "record", "backup"])
def test_a_signal_during_the_commit_does_not_deny_the_change(run, folder, name):
    code, _, errors = run(name)
    assert code == 128 + signal.SIGINT
    assert errors == "fense-admin: stopped by SIGINT, which came after the work was done\n"
    file = "here.sqlite3" if name == "record" else "there"
    assert total_lookups(folder / file) == (13 if name == "record" else 10)


STOPPED_AT_COMMIT = """
import signal, sys
from fense_admin import cli, progress
before_commit = progress.Progress.before_commit
def then_signal(self):
    before_commit(self)
    signal.raise_signal(signal.SIGTERM)
progress.Progress.before_commit = then_signal
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_signal_during_the_commit_of_a_seed_stops_the_start(start, folder):
    command = (sys.executable, "-c", STOPPED_AT_COMMIT)
    code, out, errors = start(*COMMANDS["serve"][0], command=command).end(None)
    assert (code, out) == (128 + signal.SIGTERM, "")
    assert (
        errors.splitlines()[-1]
        == "fense-admin: stopped by SIGTERM, which came after the work was done"
    )
    assert total_lookups(folder / "there") == 2


STOPPED_AFTER_COMMIT = """
import signal, sys
from fense_admin import cli, commands
commands.read_ahead = lambda has_control_plane: signal.raise_signal(signal.SIGTERM)
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_signal_after_a_seed_is_loaded_stops_the_start(start, folder):
    command = (sys.executable, "-c", STOPPED_AFTER_COMMIT)
    code, out, errors = start(*COMMANDS["serve"][0], command=command).end(None)
    assert (code, out) == (128 + signal.SIGTERM, "")
    assert total_lookups(folder / "there") == 2
    assert errors.splitlines()[-1].endswith(" the x-api-key is local-dev-key")


def test_a_list_with_an_error_prints_only_the_error(run, folder):
    (folder / "list.json").write_text('[{"fense_account_id": 9, "lookups": 1}]')
    assert sentence(run("record")).endswith(
        "nothing was added: [0].fense_account_id is not the id of an account"
    )
