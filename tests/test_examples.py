"""The files in examples/, run as their first lines say."""

import os
import subprocess

import pytest
from conftest import CHECKOUT, COMMAND, npm_install, run_pytest, tools

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


PARALLEL = {
    "vitest": "npm test --prefix examples/javascript",
    "node": "node --test --test-concurrency=2 examples/javascript/node/*.test.mjs",
    "rspec": "sh -c 'ls examples/rspec/*_spec.rb | xargs -n 1 -P 2 rspec'",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runner", "passed"),
    [("vitest", "Tests  4 passed (4)"), ("node", "# pass 4"), ("rspec", "2 examples, 0 failures")],
)
def test_files_that_run_in_parallel_pass(runner, passed):
    tools({"vitest": "npm"}.get(runner, runner))
    if runner == "vitest":
        npm_install("examples/javascript")
    command = f"fense-admin exec --seed examples/seed.json -- {PARALLEL[runner]}"
    code, output, errors = run("bash", "-c", f"NO_COLOR=1 {command}")
    assert (code, errors) == (0, "")
    assert output.count(passed) == (2 if runner == "rspec" else 1), output


def test_the_ci_script_runs():
    tools("curl")
    code, output, errors = run("examples/ci.sh")
    assert code == 0, errors
    assert '"name": "Acme Ltd"' in output
