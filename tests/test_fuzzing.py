"""Generated requests get only documented responses."""

import re

import pytest
from conftest import CHECKOUT, run_pytest

PLUGINS = ("_hypothesis_pytestplugin", "schemathesis.pytest.plugin")


@pytest.mark.slow
@pytest.mark.timeout(310)
def test_generated_requests_get_only_documented_responses():
    pytest.importorskip("schemathesis", reason="needs Schemathesis, so Python 3.11")
    output = run_pytest(CHECKOUT, "tests/fuzzing.py", plugins=PLUGINS, timeout=300)
    assert re.search(r"^2\d passed in ", output, re.M), output
