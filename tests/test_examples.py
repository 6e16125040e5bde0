"""The files in examples/, run as their first lines say."""

import os
import subprocess

import pytest
from conftest import CHECKOUT, COMMAND, npm_install, run_pytest, tools

ENVIRONMENT = os.environ | {
    "PATH": f"{COMMAND.parent}:{os.environ['PATH']}",
    "CGO_ENABLED": "0",  # or Go 1.19 needs a C compiler
}


def run(*command):
    result = subprocess.run(
        command, cwd=CHECKOUT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    return result.returncode, result.stdout, result.stderr


def test_the_pytest_suite_passes():
    assert "5 passed" in run_pytest(CHECKOUT, "examples/test_billing.py")


@pytest.mark.slow
def test_the_node_script_runs():
    tools("node")
    command = ["fense-admin", "exec", "--seed", "examples/seed.json", "--"]
    code, output, errors = run(*command, "node", "examples/billing.mjs")
    assert (code, output, errors) == (0, "Acme Ltd: billing stopped after 19 lookups\n", "")


PARALLEL = {
    "vitest": "npm test --prefix examples/javascript",
    "node": "node --test --test-concurrency=2 examples/javascript/node/*.test.mjs",
    "rspec": "sh -c 'ls examples/rspec/*_spec.rb | xargs -n 1 -P 2 rspec'",
    "go": "sh -c 'cd examples/go && go test -count=1 ./...'",
    "phpunit": "sh -c 'ls examples/phpunit/*Test.php"
    " | xargs -n 1 -P 2 phpunit --do-not-cache-result'",
    "junit": "examples/junit/run.sh",
    "nunit": "examples/nunit/run.sh",
}
NEEDED = {
    "vitest": ["npm"],
    "node": ["node"],
    "rspec": ["rspec"],
    "go": ["go"],
    "phpunit": ["phpunit", "/usr/lib/php/*/curl.so"],
    "junit": [
        "javac",
        "/usr/share/java/junit-platform-console-standalone.jar",
        "/usr/share/java/jackson-databind.jar",
    ],
    "nunit": [
        "mcs",
        "nunit-console",
        "/usr/lib/cli/Newtonsoft.Json-5.0/Newtonsoft.Json.dll",
        "/usr/lib/cli/nunit.framework-2.6.3/nunit.framework.dll",
        "/usr/lib/mono/4.5/System.Net.Http.dll",
    ],
}


HELPERS = {
    "vitest": "javascript/fense.mjs",
    "rspec": "rspec/fense.rb",
    "go": "go/fense_test.go",
    "phpunit": "phpunit/Fense.php",
    "junit": "junit/Fense.java",
    "nunit": "nunit/Fense.cs",
}


@pytest.mark.parametrize("runner", HELPERS)
def test_a_helper_begins_with_how_to_run_it(runner):
    text = (CHECKOUT / "examples" / HELPERS[runner]).read_text("utf-8")
    head = "".join(text.splitlines(keepends=True)[:5])
    assert "copy this file" in head
    assert f"fense-admin exec --seed examples/seed.json -- {PARALLEL[runner]}\n" in head


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runner", "reports"),
    [
        ("vitest", ["Tests  6 passed (6)"]),
        ("node", ["# pass 6"]),
        ("rspec", ["4 examples, 0 failures", "2 examples, 0 failures"]),
        ("go", ["ok  \texample.com/billing"]),
        ("phpunit", ["OK (4 tests", "OK (2 tests"]),
        ("junit", ["6 tests successful"]),
        ("nunit", ["Tests run: 4, Errors: 0, Failures: 0", "Tests run: 2, Errors: 0, Failures: 0"]),
    ],
)
def test_files_that_run_in_parallel_pass(runner, reports):
    tools(*NEEDED[runner])
    if runner == "vitest":
        npm_install("examples/javascript")
    command = f"fense-admin exec --seed examples/seed.json -- {PARALLEL[runner]}"
    code, output, errors = run("bash", "-c", f"NO_COLOR=1 {command}")
    assert (code, errors) == (0, "")
    for report in reports:
        assert report in output


def test_the_ci_script_runs():
    tools("curl")
    code, output, errors = run("examples/ci.sh")
    assert code == 0, errors
    assert '"name": "Acme Ltd"' in output
