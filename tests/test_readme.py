"""Every command and example in README.md and docs/ works as shown."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import powershell
import pytest
from check_types import MY_APP
from conftest import CHECKOUT, TIMEOUT, account_fields, run_pytest, tools
from documentation import PAGES, TEXT, blocks
from test_examples import PARALLEL

from fense_admin import cli, settings

URL = "http://127.0.0.1:8642"


def timeless(text):
    """Return the text without parts that differ between runs."""
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "<time>", text)
    text = re.sub(r"Date: .* GMT", "Date: <date>", text)
    return re.sub(r"X-Request-Id: \w{16}", "X-Request-Id: <id>", text).replace("\r", "")


CONSOLES = {page: "".join(blocks("console", text)) for page, text in PAGES.items()}


@pytest.mark.needs("a POSIX shell")
@pytest.mark.parametrize("page", [page for page, console in CONSOLES.items() if console])
def test_every_curl_command_returns_what_is_shown(page, start):
    tools("curl")
    service = start("--port=0", "--database=:memory:")
    service.ready()
    shown = re.findall(r"^\$ (curl .*)\n((?:(?!\$ ).*\n)*)", CONSOLES[page], re.M)
    assert len(shown) == CONSOLES[page].count("$ ")
    for command, expected in shown:
        command = command.replace(URL, service.url)
        if "| head" not in command:
            command = shlex.join([*shlex.split(command), "-s"])
        result = subprocess.run(
            command, shell=True, capture_output=True, text=True, timeout=TIMEOUT
        )
        assert result.returncode == 0, result.stderr
        said = timeless(result.stdout).strip().replace(service.url, URL)
        # "..." stands for what is generated.
        pattern = re.escape(timeless(expected).strip()).replace(r"\.\.\.", "[0-9a-f]+")
        assert re.fullmatch(pattern, said), (said, expected)


@pytest.mark.needs("a POSIX shell")
def test_a_fault_is_armed_as_shown(fense):
    """The lines of README that use the variables of `exec`."""
    tools("curl")
    shown = [block for block in blocks("sh", PAGES["README.md"]) if "$FENSE_STANDIN_URL" in block]
    assert len(shown) == 2
    variables = {"FENSE_STANDIN_URL": fense.standin_url, "FENSE_API_KEY": fense.master_key}
    for block in shown:
        subprocess.run(
            ["sh", "-euc", block], env=os.environ | variables, check=True, timeout=TIMEOUT
        )
    outage, lost = fense.faults()
    assert outage.items() >= {"status": 503, "method": "POST", "path": "/accounts"}.items()
    assert lost.items() >= {"drop": "reset", "after": True, "path": "/accounts"}.items()


def test_the_faults_of_the_table_can_be_armed(fense):
    shown = re.findall(r"^\|.*\| `(\{.*\})` \|$", PAGES["docs/failures.md"], re.M)
    assert len(shown) == 10
    for fault in shown:
        assert fense.fail(**json.loads(fault))["used"] == 0


def test_the_ten_lines_of_python_run(start):
    service = start("--port=0", "--database=:memory:")
    service.ready()
    service.call("/accounts", account_fields())
    (client,) = (block for block in blocks("python") if "def fense(" in block)
    client = client.replace(URL, service.url)
    result = subprocess.run(
        [sys.executable, "-c", client], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert (result.stdout, result.stderr) == ("Acme Limited\n", "")


def test_the_examples_of_tests_pass(tmp_path):
    first, longer = (block for block in blocks("python") if "def test_" in block)
    (tmp_path / "my_app.py").write_text(MY_APP)
    (tmp_path / "test_first.py").write_text(first)
    (tmp_path / "test_longer.py").write_text(longer)
    assert "3 passed" in run_pytest(tmp_path)


def test_the_example_of_a_stand_in_runs():
    (example,) = (block for block in blocks("python") if "with StandIn" in block)
    command = [sys.executable, "-c", example]
    result = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=TIMEOUT)
    assert (result.returncode, result.stderr) == (0, "")
    assert "/admin master-" in result.stdout


def test_the_commands_for_any_language_are_those_of_the_examples():
    shown = "".join(blocks("sh"))
    assert "fense-admin exec --seed examples/seed.json -- node examples/billing.mjs" in shown
    script = (CHECKOUT / "examples" / "ci.sh").read_text("utf-8").replace('"$here/', "examples/")
    for line in ("--port 8643 --database :memory: --seed examples/seed.json", "health --wait 30"):
        assert line in shown
        assert line in script.replace('.json"', ".json")


def test_the_examples_that_run_in_parallel_are_run_as_shown():
    shown = "".join(blocks("sh"))
    for command in PARALLEL.values():
        assert f"fense-admin exec --seed examples/seed.json -- {command}" in shown


def test_the_helper_is_used_as_shown():
    (shown,) = blocks("js")
    example = (CHECKOUT / "examples" / "javascript" / "vitest" / "billing.test.mjs").read_text(
        "utf-8"
    )
    for line in shown.splitlines():
        assert line in example


@pytest.mark.parametrize("page", ["README.md", "docs/installing.md", "docs/windows-and-macos.md"])
def test_lines_for_powershell_do_what_lines_for_sh_do(page, tmp_path):
    in_sh = [meaning_in_sh(block) for block in blocks("sh", PAGES[page])]
    in_powershell = blocks("powershell", PAGES[page])
    assert in_powershell
    for block in in_powershell:
        assert meaning_in_powershell(block, tmp_path) in in_sh, block


def meaning_in_sh(block):
    return [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]


def meaning_in_powershell(block, folder):
    """The words that the lines have in sh."""
    lines = re.sub(r"^\$env:(\w+) = '(.*)'$", r"export '\1=\2'", block, flags=re.M)
    meaning = []
    for tokens in powershell.statements(lines, {"TEMP": "temp"}):
        if ("(", "(") in tokens:
            powershell.write(tokens, folder)
            continue
        program, *words = (value for _, value in tokens)
        program = {"py": "python3", "curl.exe": "curl"}.get(program, program)
        if words[-2:-1] == ["--data-binary"]:
            words[-2:] = ["--data-raw", (folder / words[-1].removeprefix("@")).read_text("utf-8")]
        meaning.append([program.replace("\\", "/").replace("Scripts", "bin"), *words])
    return meaning


def test_the_table_of_settings_is_the_commands(start):
    rows = re.findall(r"^\| `--([\w-]+)` \| `(\w+)` \| (\S+) \|", TEXT, re.M)
    output, _, _ = start("serve", "--help").end(None)[1].partition("\0")
    output = " ".join(output.split())
    assert [name for name, _, _ in rows] == re.findall(r" --([\w-]+) [A-Z_]+ ", output)
    for _, variable, default in rows:
        assert f"(${variable}; default: {default.strip('`')})" in output


def test_the_table_has_the_switches_of_the_command():
    rows = re.findall(r"^\| `--([\w-]+)`.* \| `(\w+)` \(1 or 0\) \|", TEXT, re.M)
    assert rows == [(name, settings.variable_of(name)) for name in settings.SWITCHES]
    actions = cli.build_parser().commands["serve"]._actions
    flags = {action.dest for action in actions if action.nargs == 0 and action.dest != "help"}
    assert flags == set(settings.SWITCHES)
    tests = (CHECKOUT / "tests" / "test_settings.py").read_text("utf-8")
    for _, variable in rows:
        assert f'"{variable}": "1"' in tests, f"test_settings.py does not show {variable}"


def test_every_file_it_names_is_there():
    pictures = re.findall(r'(?:="|\()(docs/[\w.-]+)', PAGES["README.md"])
    assert len(pictures) >= 15
    for name in [*re.findall(r"`(\w[\w./]*\.(?:py|sql|json|md))`", TEXT), *pictures]:
        assert (CHECKOUT / name).exists(), name
    assert Path(CHECKOUT / "tests" / "contract").is_dir()


def test_pages_are_short():
    assert len(PAGES["README.md"].splitlines()) <= 200
    assert {page for page, text in PAGES.items() if len(text.splitlines()) > 250} == set()


def test_readme_links_to_each_page():
    linked = set(re.findall(r"\((docs/[\w-]+\.md)\)", PAGES["README.md"]))
    assert linked | {"README.md"} == set(PAGES)
