"""That keys are never told is looked for at the end of every run (conftest): here, that it is found."""

import logging

import pytest
from conftest import KEYS, TOLD, account_fields, keys_told


@pytest.fixture
def told():
    """What is told from here on, and forgotten."""
    known = len(TOLD)
    yield lambda: "\n".join(TOLD[known:])
    del TOLD[known:]


def test_a_key_that_was_told_would_be_found(told, api):
    for key in (api.master_key, account_fields()["api_key"]):
        assert key in KEYS
        assert key not in keys_told()
        logging.getLogger("fense_admin").warning("opened with %s", key)
        assert key in keys_told()


def test_answers_logs_and_tracebacks_are_heard(told, api, inside, start):
    service = start("--port=0")
    service.ready()
    service.call("/accounts/7/heard", **{"X-Request-Id": "heard-in-the-log"})
    service.end()
    inside.db.get_account = None
    api.get("/accounts/1", headers={"X-Request-Id": "heard-in-a-traceback"})
    assert "heard-in-the-log" in told()
    assert "TypeError" in told()
    assert told().count("heard-in-a-traceback") >= 2
