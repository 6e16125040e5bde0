"""The service works with the oldest and the newest waitress that pyproject.toml allows.

serving/internals.py lists what is relied on of waitress's internals.
"""

import importlib.metadata
import re
import subprocess
import sys

import pytest
from conftest import CHECKOUT, run_pytest

pytestmark = pytest.mark.slow

ALLOWED = re.search(
    r'"waitress(>=([0-9.]+),<[0-9.]+)"', (CHECKOUT / "pyproject.toml").read_text("utf-8")
)
TESTS = "test_http_syntax test_limits standin/test_drops_and_delays".split()  # use all internals


@pytest.mark.parametrize("wanted", [f"=={ALLOWED[2]}", ALLOWED[1]], ids=["oldest", "newest"])
def test_the_service_works_with_every_allowed_waitress(tmp_path, wanted):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    install = [*pip, "install", "--no-deps", "--target", str(tmp_path), f"waitress{wanted}"]
    if subprocess.run(install, capture_output=True, timeout=100).returncode != 0:
        pytest.skip(f"needs a package index, for waitress{wanted}")
    (found,) = importlib.metadata.distributions(path=[str(tmp_path)])
    if found.version == importlib.metadata.version("waitress"):
        return  # the whole suite runs with this one
    files = [CHECKOUT / "tests" / f"{name}.py" for name in TESTS]
    outcome = run_pytest(CHECKOUT, *files, PYTHONPATH=str(tmp_path))
    assert re.search(r"^[0-9]+ passed in", outcome, re.MULTILINE), outcome
