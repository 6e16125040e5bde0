"""exec runs a command with its own service, passes signals on, and returns its exit code."""

import os
import signal
import sys

import pytest
from conftest import COMMAND, SEED_FILE, few, tools
from this_system import ENDS, comes_as, exit_code


@pytest.mark.needs("a POSIX shell")
@pytest.mark.parametrize(
    ("script", "code"),
    few([("exit 7", 7), ("kill -TERM $$", 143), ("exit 0", 0), ("kill -9 $$", 137)], 2),
)
def test_exec_ends_as_the_command_does(start, tmp_path, script, code):
    assert start("exec", "--", "sh", "-c", f"echo out; {script}").end(None) == (code, "out\n", "")
    assert os.listdir(tmp_path) == ["stderr"]


@pytest.mark.needs("a POSIX shell")
def test_exec_passes_the_url_of_the_service_to_the_command(start):
    tools("curl")
    script = (
        'curl -s $FENSE_BASE_URL/accounts/usage -H "x-api-key: $FENSE_API_KEY";'
        'curl -s $FENSE_STANDIN_URL/faults -H "x-api-key: $FENSE_API_KEY"; echo $FENSE_BASE_URL'
    )
    code, out, _ = start(
        "exec", "--prefix=/admin", "--seed", SEED_FILE, "--", "sh", "-c", script
    ).end(None)
    assert code == 0
    assert '"total_lookups": 19' in out
    assert '{"faults": []}' in out
    assert out.endswith("/admin\n")


def test_exec_reports_a_missing_or_broken_command(run_command, tmp_path):
    (tmp_path / "text.exe").write_text("no program")
    runs_no_folder = 127 if sys.platform == "win32" else 126
    for command, code in (("no-such-command", 127), ("./text.exe", 126), (".", runs_no_folder)):
        result = run_command("exec", "--", command, "--flag")
        assert result[:2] == (code, "")
        assert result[2].startswith(f"fense-admin: {command}: ")
        assert result[2].count("\n") == 1
    assert run_command("exec")[0] == 2


@pytest.mark.parametrize("signum", few(ENDS))
def test_exec_passes_a_signal_on(start, signum):
    # Naps: a signal that comes as a long sleep begins would be handled at its end.
    script = "import signal, time; print('up', flush=True); [time.sleep(0.1) for _ in range(300)]"
    trap = f"import signal; signal.signal({int(comes_as(signum))}, lambda *_: exit(9)); " + script
    for code, source in ((9, trap), (exit_code(signum), script)):
        if source == script and (comes_as(signum) == signal.SIGINT or sys.platform == "win32"):
            continue  # Python makes it a KeyboardInterrupt; Windows has a code of its own for it
        service = start("exec", "--", sys.executable, "-c", source)
        assert service.process.stdout.readline() == "up\n"
        assert service.end(signum)[0] == code


EARLY = """
import os, signal, subprocess, sys
from fense_admin import cli
popen = subprocess.Popen
def signalled(*arguments, **options):  # as the command is being started
    os.kill(os.getpid(), signal.SIGTERM)
    return popen(*arguments, **options)
subprocess.Popen = signalled
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.needs("signals of POSIX")
def test_exec_passes_a_signal_on_that_comes_as_its_command_starts(start):
    command = (sys.executable, "-c", EARLY)
    service = start("exec", "--", "sleep", "60", command=command)
    assert service.end(None)[::2] == (128 + signal.SIGTERM, "")


@pytest.mark.needs("a POSIX shell")
def test_the_requests_of_a_failed_command_are_shown(start):
    script = """
        get() { curl -s -o /dev/null -H "x-api-key: $FENSE_API_KEY" "$@"; }
        get $FENSE_BASE_URL/accounts/1
        get -X POST $FENSE_STANDIN_URL/instances
        get $FENSE_STANDIN_URL/faults -H 'Content-Type: application/json' -d '{"status": 500, "path": "/x"}'
        exit $CODE
    """
    tools("curl")
    for code in (3, 0):
        ended = start("exec", "--", "sh", "-c", script, CODE=str(code)).end(None)
        assert ended[:2] == (code, "")
        assert ended[2].splitlines() == ((code and [
            "fense-admin: the command failed. Its requests:",
            "GET /accounts/1 404: no account has this fense_account_id",
            "never used: the armed fault 1 (status=500, path='/x', times=1)",
        ]) or [])  # fmt: skip


LOCAL = "127.0.0.1,localhost"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("upper", "lower", "found"),
    [
        ("", "", f"{LOCAL} {LOCAL}"),
        ("corp.example", "", f"corp.example,{LOCAL} corp.example,{LOCAL}"),
        ("", "corp.example", f"corp.example,{LOCAL} corp.example,{LOCAL}"),
        ("a", "b", f"a,{LOCAL} b,{LOCAL}"),
        ("*", "", "* *"),  # which counts only as the whole value
    ],
)
def test_the_command_bypasses_proxies(start, upper, lower, found):
    script = "import os; print(os.environ['NO_PROXY'], os.environ['no_proxy'])"
    settings = {"NO_PROXY": upper, "no_proxy": lower}
    ended = start("exec", "--", sys.executable, "-c", script, **settings).end(None)
    assert ended[:2] == (0, f"{found}\n")


@pytest.mark.needs("a POSIX shell")
@pytest.mark.parametrize(
    "redirection",
    [
        "2>&-",
        pytest.param("2>/dev/full", marks=[pytest.mark.needs("/dev/full"), pytest.mark.slow]),
    ],
)
def test_the_exit_code_is_the_commands_even_if_reporting_fails(start, redirection):
    tools("curl")
    asks = 'curl -s -o /dev/null -H "x-api-key: $FENSE_API_KEY" $FENSE_BASE_URL/accounts/1; exit 3'
    shell = f"PATH={COMMAND.parent}:$PATH; fense-admin exec -- sh -c '{asks}' {redirection}"
    ended = start(command=["sh", "-c", shell]).end(None)
    assert ended[:2] == (3, "")


def test_a_prefix_that_the_control_plane_needs_is_wrong_usage(run_command):
    code, _, errors = run_command("exec", "--prefix=/_standin", "--", "true")
    assert code == 2
    assert errors.endswith("error: the prefix must not be under /_standin\n")


@pytest.mark.needs("a POSIX shell")
def test_exec_reads_a_seed_once(start):
    script = "fense-admin exec --seed <(echo '{\"accounts\": []}') -- true"
    command = ["bash", "-c", f"PATH={COMMAND.parent}:$PATH; {script}"]
    assert start(command=command).end(None) == (0, "", "")
