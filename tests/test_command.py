"""The command serves until it is stopped; a failed start is reported in one sentence."""

import os
import re
import sys

import pytest
from conftest import CHECKOUT, account_fields, few, sentence
from this_system import STOPS

from fense_admin import __version__
from fense_admin.cli import BEFORE_COMMAND


@pytest.mark.parametrize("signum", few(STOPS))
def test_it_serves_until_a_signal_and_keeps_what_was_written(start, tmp_path, signum):
    service = start("--port", "0")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", service.ready())
    status, account = service.call("/accounts", account_fields())
    assert (status, account["fense_account_id"]) == (201, 1)
    code, rest, log = service.end(signum)
    assert (code, rest) == (0, "")
    assert "no DISPUTE_MASTER_KEY is set: the x-api-key is local-dev-key" in log
    assert sorted(os.listdir(tmp_path)) == ["fense-admin.sqlite3", "stderr"]

    again = start("serve", "--port", "0")
    again.ready()
    assert again.call("/accounts/1") == (200, account)
    assert again.end()[0] == 0


def test_it_runs_from_a_checkout_as_a_script(start):
    service = start("--port=0", command=(sys.executable, CHECKOUT / "fense_admin.py"))
    service.ready()
    assert service.call("/accounts", account_fields())[0] == 201
    assert service.end()[0] == 0


def test_it_prints_its_version_and_its_usage(start, run_command):
    assert start("--version").end(None)[:2] == (0, f"fense-admin {__version__}\n")
    code, output, _ = run_command("--help")
    assert code == 0
    assert "serve" in output
    assert "--database" in output
    code, output, _ = run_command("serve", "--help")
    assert code == 0
    for name in ("HOST", "PORT", "DATABASE", "PREFIX", "THREADS"):
        assert f"FENSE_ADMIN_{name}" in output.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host=no.such.host.invalid"], "no.such.host.invalid is not an address of this machine"),
        (["--host=192.0.2.1"], "can't be used"),
        (["--database=."], ". is a directory: choose a file"),
        (["--database=no/such/folder/x"], "choose a file in a folder that exists"),
        (["--database=/proc/fense"], "choose a file in a folder that exists"),
        (["--database=text"], "text is not an SQLite database"),
    ],
)
def test_a_failed_start_names_the_reason(run_command, tmp_path, arguments, message):
    (tmp_path / "text").write_text("no database " * 100)
    result = run_command("--port=0", *arguments, DISPUTE_MASTER_KEY="a-key")
    assert message in sentence(result)


def test_only_the_first_error_of_a_start_is_reported(run_command, tmp_path):
    """The address, then the keys, then the seed, then the database."""
    (tmp_path / "bad.json").write_text("{")
    arguments = ["--port=0", "--seed=bad.json", "--database=."]
    output = run_command("--host=192.0.2.1.invalid", *arguments, DISPUTE_MASTER_KEY=" ")[2]
    assert "is not an address" in output
    output = run_command(*arguments, DISPUTE_MASTER_KEY=" ")[2]
    assert "DISPUTE_MASTER_KEY" in output
    output = run_command(*arguments, DISPUTE_MASTER_KEY="key")[2]
    assert "the seed bad.json" in output
    output = run_command("--database=.", "--port=0", DISPUTE_MASTER_KEY="key")[2]
    assert ". is a directory" in output


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--port", port] for port in ("99999", "-1", "x", "", "1.5", "65536", " 1", "\u0661")),
        *(["--threads", threads] for threads in ("0", "-1", "x", "1000", "")),
        *(
            ["--prefix", prefix]
            for prefix in ("/a b", "/a//b", "/../x", "/<x>", "/a?b", "/%41", ".")
        ),
        *(["--host", host] for host in ("", " ", "a b")),
        *([flag] for flag in ("--database=", "--prot=1", "--dat=x", "-x", "--port")),
        *(["serve", "more"], ["nonsense"]),
    ],
)
def test_wrong_usage_is_reported(run_command, tmp_path, arguments):
    code, out, log = run_command(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in log
    assert log.startswith("usage: fense-admin")
    assert "error: " in log.splitlines()[-1]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prot", "1"], "unrecognized arguments: --prot; did you mean --port?"),
        (["--prot=1"], "unrecognized arguments: --prot; did you mean --port?"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["--hlep"], "unrecognized arguments: --hlep; did you mean --help?"),
        (["health", "--wiat", "1"], "unrecognized arguments: --wiat; did you mean --wait?"),
        (["health", "--wiat=1"], "unrecognized arguments: --wiat; did you mean --wait?"),
        (["health", "-wait", "1"], "unrecognized arguments: -wait; did you mean --wait?"),
        (["health", "-w", "1"], "unrecognized arguments: -w"),
        (["health", "--port", "1"], "unrecognized arguments: --port; it is a flag of serve"),
        (
            ["record", "--dta", "-1", "1", "1"],
            "unrecognized arguments: --dta; did you mean --date?",
        ),
        (["record", "1", "1", "--dta=x"], "unrecognized arguments: --dta; did you mean --date?"),
        (["record", "--databse", "x", "1", "1"], "--databse; did you mean --database?"),
        (["record", "--seed", "x", "1", "1"], "--seed; it is a flag of serve and exec"),
        (["move", "--databse", "x", "y", "z"], "unrecognized arguments: --databse"),
        (["backup", "--databse", "x", "y"], "--databse; did you mean --database?"),
        (["exec", "--sede", "x", "--", "true"], "--sede; did you mean --seed?"),
        (["exec", "--sede=x", "--", "true", "--prot"], "--sede; did you mean --seed?"),
        (["exec", "--sede", "x"], "--sede; did you mean --seed?"),
        (["exec", "true"], BEFORE_COMMAND),
        (["exec", "node", "--port", "1"], BEFORE_COMMAND),
        (["exec"], BEFORE_COMMAND),
        (["helth"], "unknown command helth; did you mean health?"),
        (["nonsense"], "unknown command nonsense"),
        (["health", "http://u:secret@x"], "needs no password: remove it from the URL"),
    ],
)
def test_wrong_usage_is_reported_with_a_suggestion(run_command, arguments, message):
    code, out, log = run_command(*arguments)
    assert (code, out) == (2, "")
    assert log.endswith(f"{message}\n")
    assert "secret" not in log


def test_record_works_whether_or_not_the_database_is_served(start, run_command):
    service = start("--port=0")
    service.ready()
    service.call("/accounts", account_fields())
    assert start("record", "1", "12", "--date=2026-11-01", name="other").end(None) == (0, "", "")
    assert service.call("/accounts/usage/1")[1]["total_lookups"] == 12
    service.end()
    assert run_command("record", "1", "5") == (0, "", "")
    assert "no account has the fense_account_id 2" in sentence(run_command("record", "2", "5"))
    assert run_command("record", "1", "2", "--date", "-1..0") == (0, "", "")
    assert run_command("record", "1", "2", "--date", "-400") == (0, "", "")
    unknown = run_command("record", "9" * 5_000, "5")
    assert "no account has the fense_account_id 999" in sentence(unknown)
    full = run_command("record", "1", "1000000000000", "--date=2026-11-01")
    assert "the daily maximum" in sentence(full)
    nowhere = run_command("record", "1", "5", "--database=nowhere")
    assert "there is no database file nowhere" in sentence(nowhere)
    strange = run_command("record", "1", "5", "--database=no\x1b\nwhere")
    assert (
        "there is no database file no\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}where"
        in (sentence(strange))
    )
    assert "there is no database" in sentence(
        run_command("record", "1", "5", "--database=:memory:")
    )
    for bad in (["x", "1"], ["1", "-1"], ["1", "1.5"], ["1", "1", "--date=2026-02-30"], ["1"]):
        assert run_command("record", *bad)[0] == 2
    again = start("--port=0")
    again.ready()
    assert again.call("/accounts/usage/1")[1]["total_lookups"] == 23
