"""The contract's tests also pass over a real socket."""

import re

import pytest
from conftest import CHECKOUT, run_pytest

pytestmark = pytest.mark.slow


def test_the_contract_holds_over_http(start):
    # Takes seconds, as it is the whole contract, one request after another: the only run of --fense-url.
    keys = {"DISPUTE_MASTER_KEY": "a-master-key", "DISPUTE_SERVICE_KEYS": "a-service-key"}
    url = start("--port=0", "--prefix=/admin", **keys).ready()
    output = run_pytest(CHECKOUT, "tests/contract", "--fense-url", url, **keys)
    assert re.search(r"\n[5-9]\d\d passed, [1-9]\d skipped in ", output), output
    assert re.search(r"\n\d+ accounts were created and can't be removed\n", output), output
