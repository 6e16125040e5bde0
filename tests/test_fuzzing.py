"""Made-up requests, by Schemathesis from openapi.json: each answer is one that is documented."""

import contextlib

import pytest
from conftest import MASTER_KEY, account_fields

from fense_admin import create_app

schemathesis = pytest.importorskip("schemathesis", reason="needs Schemathesis, so Python 3.11")


def fresh_service(environ, start_response):
    """A service with one account, made anew for each request: none hangs on those before it."""
    with contextlib.closing(create_app(master_key=MASTER_KEY)) as app:
        app.db.create_account(account_fields())
        app.db.record_lookups(1, 42, "2026-11-03")
        return list(app(environ, start_response))


# Without the stateful phase: it follows one service through many requests, as tests/contract does.
# (Of the checks, those on deleted resources and on others' resources act in that phase only.)
FUZZING = {
    "headers": {"x-api-key": MASTER_KEY},
    "generation": {"mode": "all", "max-examples": 30, "deterministic": True, "database": "none"},
    "phases": {"coverage": {"generate-duplicate-query-parameters": True}},
}
FUZZED = schemathesis.openapi.from_wsgi(
    "/openapi.json", fresh_service, config=schemathesis.Config.from_dict(FUZZING)
)
# Rules between two parameters, which no schema can state: values good alone may break them.
BETWEEN_PARAMETERS = {
    "is required with start_date",
    "must not be after end_date",
    "differs between path and query: give it once",
}


@FUZZED.parametrize()  # Schemathesis itself leaves out /openapi.json, from where it was loaded
def test_no_request_gets_an_undocumented_answer(case):
    answer = case.call()
    excluded = []
    if answer.status_code == 400:
        message = {detail["message"] for detail in answer.json()["error"]["details"]}
        if message and message <= BETWEEN_PARAMETERS:
            excluded = [schemathesis.checks.positive_data_acceptance]
    case.validate_response(answer, excluded_checks=excluded)
