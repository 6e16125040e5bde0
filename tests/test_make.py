"""environment.sh, which creates the Makefile's environments: complete, or created again."""

import os
import subprocess
import sys
from pathlib import Path

import pip
import pytest
from conftest import CHECKOUT, run_program

pytestmark = pytest.mark.needs("a POSIX shell")

FAILS = """#!/bin/sh
case "$*" in *{word}*) exit 1 ;; esac
exec {python} "$@"
"""


# As a new environment gets its pip: for these tests from the one that runs them, not by ensurepip,
# which takes seconds. (Each fresh clone makes a real one before its first test.)
LENDS = """#!/bin/sh
[ "$*" = "-m venv env" ] || exec {python} "$@"
{python} -m venv --without-pip env
echo "{packages}" >"$(echo env/lib/python*/site-packages)/lent.pth"
"""


@pytest.fixture
def lending(tmp_path):
    """A Python whose environments find their pip elsewhere."""
    python = tmp_path / "lending"
    packages = Path(pip.__file__).parent.parent
    python.write_text(LENDS.format(python=sys.executable, packages=packages))
    python.chmod(0o755)
    return str(python)


def environment(folder, *what, **settings):
    """Run it in the folder. Return its exit code and its output."""
    result = subprocess.run(
        ["sh", CHECKOUT / "environment.sh", "env", *what],
        cwd=folder,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    return result.returncode, result.stdout


@pytest.mark.slow
def test_an_environment_counts_only_if_complete_and_not_moved(tmp_path, lending):
    folder = tmp_path / "with space and ü"
    folder.mkdir()
    assert environment(folder)[0] == 1
    (folder / "env").mkdir()  # left by one that was stopped
    (folder / "env" / "left").touch()
    # pip's help in the place of a package: nothing is fetched for it.
    code, output = environment(folder, "--help", PYTHON=lending)
    assert code == 0, output
    assert not (folder / "env" / "left").exists()
    assert environment(folder) == (0, "")
    assert environment(folder, "--no-such-option")[0] != 0
    assert environment(folder)[0] == 1  # the last installation failed
    assert environment(folder, "--help", PYTHON=lending)[0] == 0
    folder.rename(tmp_path / "elsewhere")
    assert environment(tmp_path / "elsewhere")[0] == 1


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("version_info", "is too old: name a Python 3.10 or later, as in make PYTHON=python3.12"),
        ("venv", "has no venv module: apt install python3-venv"),
    ],
)
def test_an_unsuitable_python_is_reported_in_a_line(tmp_path, word, message):
    python = tmp_path / "python"
    python.write_text(FAILS.format(word=word, python=sys.executable))
    python.chmod(0o755)
    code, output = environment(tmp_path, "--help", PYTHON=str(python))
    assert code == 1
    assert output.startswith(f"{python} {message}")
    assert output.count("\n") == 1
    assert not (tmp_path / "env").exists()


def test_a_python_without_pip_is_reported_in_a_line(tmp_path):
    python = tmp_path / "python"
    without_pip = 'case "$*" in *ensurepip*|*"import pip"*) exit 1 ;; esac'
    python.write_text(f'#!/bin/sh\n{without_pip}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    expected = f"{python} has no pip: apt install python3-venv\n"
    assert environment(tmp_path, "--help", PYTHON=str(python)) == (1, expected)


def test_a_missing_python_is_reported_in_a_line(tmp_path):
    expected = "no-such-python is missing: apt install python3\n"
    assert environment(tmp_path, "--help", PYTHON="no-such-python") == (1, expected)


@pytest.mark.parametrize(
    ("word", "message"),
    [("version_info", "is too old: brew install python, or name a Python 3.10"),
     ("venv", "has no venv module: brew install python")],
)  # fmt: skip
def test_on_macos_the_advice_names_homebrew(tmp_path, word, message):
    for name, text in (
        ("python3", FAILS.format(word=word, python=sys.executable)),
        ("uname", "#!/bin/sh\necho Darwin\n"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    code, output = environment(tmp_path, "--help", PATH=path, PYTHON="python3")
    assert code == 1
    assert output.startswith(f"python3 {message}")


def test_make_help_lists_each_target():
    output = run_program("make", "help", cwd=CHECKOUT)
    assert "make test-all\trun all tests\n" in output
