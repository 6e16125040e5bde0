"""The files in examples/, run as their first lines say."""

import os
import subprocess

from conftest import CHECKOUT, COMMAND, run_pytest, tools

EXAMPLES = CHECKOUT / "examples"
ENVIRONMENT = os.environ | {"PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}


def run(*command):
    result = subprocess.run(
        command, cwd=CHECKOUT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    return result.returncode, result.stdout, result.stderr


def test_the_pytest_suite_passes():
    assert "3 passed" in run_pytest(CHECKOUT, "examples/test_billing.py")


def test_the_node_script_runs():
    tools("node")
    command = ["fense-admin", "exec", "--seed", "examples/seed.json", "--"]
    code, output, errors = run(*command, "node", "examples/billing.mjs")
    assert (code, output, errors) == (0, "Acme Ltd: billing stopped after 19 lookups\n", "")


def test_the_ci_script_runs():
    tools("curl")
    code, output, errors = run("examples/ci.sh")
    assert code == 0, errors
    assert '"name": "Acme Ltd"' in output
