"""Made-up requests, by Schemathesis from both documents: each answer is one that is documented.

Run by test_fuzzing.py, in a process: Schemathesis makes up its requests while pytest collects tests.
"""

import contextlib
import re

import schemathesis
from conftest import MASTER_KEY, SEED, account_fields

from fense_admin import create_app
from fense_admin.standin import StandIn


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

# The same of the control plane: rules between two fields or two accounts, or a field and the clock.
# (And to a JSON Schema 1.0 is an integer.)
BETWEEN_FIELDS = re.compile(
    "is not accepted together with api_key|is required, or else|is that of|is the day of|"
    "needs a status|needs a body|needs a pair in delay_ms|is not accepted together with body|must be a pair|"
    "the fault does nothing|needs a stopped clock|would leave the years|must be a whole number"
)


def fresh_standin(environ, start_response):
    # Nothing comes that could be waited for: up to a minute each time.
    environ["QUERY_STRING"] = re.sub(
        r"wait_ms=(?:[0-5]?[0-9]{1,4}|60000)\b", "wait_ms=0", environ["QUERY_STRING"]
    )
    with StandIn(SEED, master_key=MASTER_KEY, serve=False) as fense:
        fense.set_clock("2026-11-26T12:00:00Z")
        return list(fense.app(environ, start_response))


FUZZED_CONTROL = schemathesis.openapi.from_wsgi(
    "/_standin/openapi.json",
    fresh_standin,
    config=schemathesis.Config.from_dict(FUZZING),
    headers=FUZZING["headers"],
)


@FUZZED.parametrize()  # Schemathesis itself leaves out /openapi.json, from where it was loaded
def test_no_request_gets_an_undocumented_answer(case):
    answer = case.call()
    excluded = []
    if answer.status_code == 400:
        message = {detail["message"] for detail in answer.json()["error"]["details"]}
        if message and message <= BETWEEN_PARAMETERS:
            excluded = [schemathesis.checks.positive_data_acceptance]
    case.validate_response(answer, excluded_checks=excluded)


@FUZZED_CONTROL.parametrize()
def test_no_request_to_the_control_plane_gets_an_undocumented_answer(case):
    answer = case.call()
    excluded = [schemathesis.checks.ignored_auth]  # of two ways in, it takes away one at a time
    if answer.status_code == 400 and BETWEEN_FIELDS.search(answer.json()["error"]["message"]):
        excluded.append(schemathesis.checks.positive_data_acceptance)
    case.validate_response(answer, excluded_checks=excluded)
