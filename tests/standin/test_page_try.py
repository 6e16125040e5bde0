"""The documentation's forms: each operation of both documents can be tried on the page."""

import pytest
from conftest import SEED, Api
from openapi_document import DOCUMENTS

from fense_admin.standin import StandIn

PATHS = {"contract": "documentation", "control": "documentation/control-plane"}
OPERATIONS = [
    pytest.param(name, operation, id=operation["operationId"])
    for name, document in DOCUMENTS.items()
    for _, _, operation in document.operations
]
DEVELOPMENT_KEY = "local-dev-key"


@pytest.fixture
def fense():
    """A stand-in in development mode, whose page asks for no key."""
    with StandIn(SEED, master_key=DEVELOPMENT_KEY, serve=False) as fense:
        fense.client = Api(fense.app, DEVELOPMENT_KEY, None).client
        yield fense


def form_of(fense, document, operation_id, **options):
    """The form of an operation, as the documentation shows it."""
    page = fense.client.get(f"/_standin/page/{PATHS[document]}", **options)
    forms = [it for it in page.forms.values() if f"/{operation_id}/" in it.action]
    (form,) = {form.action: form for form in forms}.values()
    return form


def send(form, status=None, **options):
    """The response of the page to a form, and the status that the service answered."""
    answer = form.submit(expect_errors=True, **options)
    assert answer.status_int == status or (status is None and answer.status_int in (200, 303))
    return answer


def outcome(fense, answer):
    """The status of the request that the form made: in the journal, or on the page."""
    if answer.status_int == 303:
        return fense.requests()[-1]["status"]
    return int(answer.html.select_one("#answer .status, #answer + p .status").text.split()[0])


def fill_with_examples(form):
    for inputs in form.fields.values():
        for field in inputs:
            example = field.attrs.get("placeholder")
            if field.name and field.name.startswith(("path ", "query ")) and not field.value:
                field.value = example


@pytest.mark.parametrize(("document", "operation"), OPERATIONS)
def test_each_operation_has_a_form_that_sends_its_example(fense, document, operation):
    form = form_of(fense, document, operation["operationId"])
    status = outcome(fense, send(form))
    assert str(status) in operation["responses"]
    assert status < 300 or status == 404  # "Invalid" is for what no example is


@pytest.mark.parametrize(("document", "operation"), OPERATIONS)
def test_each_parameter_may_be_filled_in(fense, document, operation):
    if not operation.get("parameters"):
        return
    form = form_of(fense, document, operation["operationId"])
    fill_with_examples(form)
    if "query wait_ms" in form.fields:
        form["query wait_ms"] = "1"
    status = outcome(fense, send(form))
    assert str(status) in operation["responses"]
    assert status < 300 or status == 404
