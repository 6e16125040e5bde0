"""The documentation's forms: each operation of both documents can be tried on the page."""

import json

import pytest
from conftest import MASTER_KEY, SEED, Api
from openapi_document import DOCUMENTS

from fense_admin.standin import StandIn

PATHS = {"contract": "documentation/api", "control": "documentation/control-plane"}
OPERATIONS = [
    pytest.param(name, operation, id=operation["operationId"])
    for name, document in DOCUMENTS.items()
    for _, _, operation in document.operations
]
DEVELOPMENT_KEY = "local-dev-key"


@pytest.fixture
def fense():
    """A stand-in in development mode, whose page asks for no key."""
    with stand_in(DEVELOPMENT_KEY) as fense:
        yield fense


def stand_in(master_key, **options):
    fense = StandIn(SEED, master_key=master_key, serve=False, **options)
    fense.client = Api(fense.app, master_key, None).client
    return fense


def form_of(fense, document, operation_id, root="/_standin"):
    """The form of an operation, on a page of its own."""
    return fense.client.get(f"{root}/page/{PATHS[document]}/{operation_id}/try").form


def outcome(fense, answer):
    """The status of the request that a form made: in the journal, or below the form."""
    if answer.status_int == 303:
        number = fense.app.journal[-1].number
        assert answer.location.startswith(f"/_standin/page/requests/{number}?")
        return fense.app.journal[-1]["status"]
    return int(answer.html.select_one("#answer .status").text)


def body_below(answer):
    """The response that the page shows, as JSON."""
    return json.loads(answer.html.select_one("#answer ~ pre").text)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_documentation_has_the_form_of_each_operation(fense, document):
    view = PATHS[document].removesuffix("/api")
    page = fense.client.get(f"/_standin/page/{view}").html
    for _, _, operation in DOCUMENTS[document].operations:
        name = operation["operationId"]
        (form,) = page.select(f"section:has(#{name}) details form")
        assert form["action"] == f"/_standin/page/{PATHS[document]}/{name}/try"
        names = {tag["name"] for tag in form.select("[name]")}
        parameters = map(DOCUMENTS[document].resolved, operation.get("parameters", []))
        assert names >= {"token", *(f"{field['in']} {field['name']}" for field in parameters)}
        sent = operation.get("requestBody", {"content": {}})["content"].get("application/json")
        fields = {f"body {field}" for field in sent["example"]} if sent else set()
        assert names >= fields or "body" in names
        assert ("x-api-key" in names) is (document == "contract" and "security" not in operation)


@pytest.mark.parametrize(("document", "operation"), OPERATIONS)
def test_the_form_sends_the_example_as_it_opens(fense, document, operation):
    form = form_of(fense, document, operation["operationId"])
    status = outcome(fense, form.submit())
    assert str(status) in operation["responses"]
    assert status < 300 or status == 404


@pytest.mark.parametrize(("document", "operation"), OPERATIONS)
def test_each_parameter_may_be_filled_in_with_its_example(fense, document, operation):
    form = form_of(fense, document, operation["operationId"])
    for tag in form.html.select("input[placeholder]"):
        if tag["name"].startswith(("path ", "query ")):
            form[tag["name"]] = tag["placeholder"]
    if "query wait_ms" in form.fields:
        form["query wait_ms"] = "1"
    status = outcome(fense, form.submit())
    assert str(status) in operation["responses"]
    assert status < 300 or status == 404


def test_what_is_filled_in_is_sent_as_the_kind_it_is(fense):
    form = form_of(fense, "control", "armFault")
    assert (form["body status"].value, form["body headers"].value) == (
        "503",
        '{"Retry-After": "7"}',
    )
    assert [value for value, *_ in form["body method"].options] == ["", "GET", "HEAD", "POST"]
    assert [value for value, *_ in form["body after"].options] == ["", "true", "false"]
    form["body method"], form["body after"], form["body delay_ms"] = "", "true", "[1, 2]"
    form["body message"], form["body times"] = "12", ""
    answer = form.submit()
    assert outcome(fense, answer) == 201
    fault = {
        "status": 503,
        "path": "/accounts/*",
        "after": True,
        "delay_ms": [1, 2],
        "message": "12",
    }
    fault |= {"headers": {"Retry-After": "7"}}
    assert fense.faults() == [fault | {"id": 1, "times": 1, "used": 0}]
    assert body_below(answer) == fense.faults()[0]
    assert answer.form["body message"].value == "12"


def test_the_path_and_the_query_are_told_apart(fense):
    form = form_of(fense, "contract", "getAccountUsage")
    assert form["path fense_account_id"].value == "1"
    form["query fense_account_id"], form["path fense_account_id"] = "1&x=/", "../7 ?#%"
    assert outcome(fense, form.submit()) == 404
    entry = fense.requests()[-1]
    assert entry["path"] == "/accounts/usage/..%2F7%20%3F%23%25"
    assert entry["query"] == "fense_account_id=1%26x%3D%2F"
    form["path fense_account_id"] = ""
    answer = form.submit(status=400)
    assert answer.form["query fense_account_id"].value == "1&x=/"
    assert answer.html.select_one("[aria-invalid]")["name"] == "path fense_account_id"


def test_a_wrong_value_is_refused_by_the_service_itself(fense):
    form = form_of(fense, "contract", "createAccount")
    form["body email"], form["body suppress_billing"], form["body dispute_account_id"] = (
        "",
        "true",
        "1",
    )
    form["body name"] = "\u202e</textarea><script>"
    answer = form.submit()
    assert outcome(fense, answer) == 400
    fields = [field for field, _ in fense.app.journal[-1].details]
    assert fields == ["email", "dispute_account_id"]
    sent = json.loads(fense.app.journal[-1]["body"])
    assert sent["suppress_billing"] is True
    assert (sent["name"], sent["dispute_account_id"]) == ("\u202e</textarea><script>", 1)
    assert len(answer.follow().html.select("script")) == 1


HOSTILE = ["⟨U+D800⟩", "[" * 2_000, "{" * 900, '[{"a":' * 300 + "1" + "}]" * 300, "1" * 10_000, "1e999", "NaN", "\0", "%00", "a\r\nb: c", "\ud7ff"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_that_is_typed_is_a_fault_of_the_service(fense, text):
    for document, operation in (
        ("contract", "createAccount"), ("contract", "getAccountUsage"), ("control", "armFault"),
        ("control", "putState"), ("control", "createInstance"),
    ):  # fmt: skip
        form = form_of(fense, document, operation)
        for name, fields in form.fields.items():
            if name not in (None, "", "token") and fields[0].tag != "select":
                form[name] = text
        answer = form.submit(expect_errors=True)
        if answer.status_int < 400:
            assert 400 <= outcome(fense, answer) < 500
        else:
            assert answer.status_int == 400


def test_a_wait_is_over_when_there_is_what_it_waits_for(fense):
    fense.client.get("/nothing", status=404)
    form = form_of(fense, "control", "getRequests")
    form["query wait_ms"], form["query count"] = "60000", "1"
    (entry,) = body_below(form.submit())["requests"]
    assert entry["path"] == "/nothing"


def test_a_large_response_is_shown_in_part(fense, caplog):
    caplog.set_level("INFO", "fense_admin")
    fields = {"name": "<&Merchant>" * 10, "email": "a@b"}
    fense.load({"accounts": [fields | {"api_key": f"key-{n}"} for n in range(2_100)]})
    fense.fail(503, message="&" * 500_000)
    for operation, end in (("getState", "…"), ("getFaults", "…"), ("getControlOpenapi", "}}}}")):
        answer = form_of(fense, "control", operation).submit()
        assert outcome(fense, answer) == 200
        assert len(answer.body) < 200_000
        shown = answer.html.select_one("#answer ~ pre").text
        assert shown.strip().endswith(end)
        assert len(shown) > 10_000
    # It was produced to its end, and closed: else the log has nothing of it.
    logged = [line for line in caplog.messages if line.startswith("GET /_standin/state 200 ")]
    assert [len(line.split()) for line in logged] == [5]


def test_under_another_key_the_form_asks_for_it_and_the_control_plane_has_it():
    with stand_in(MASTER_KEY) as fense:
        fense.client.authorization = ("Basic", ("me", MASTER_KEY))
        form = form_of(fense, "contract", "getAccount")
        assert form["x-api-key"].value == ""
        assert outcome(fense, form.submit()) == 401
        form["x-api-key"] = MASTER_KEY
        answer = form.submit()
        assert outcome(fense, answer) == 200
        form = form_of(fense, "control", "getFaults")
        assert "x-api-key" not in form.fields
        answer = form.submit()
        assert (outcome(fense, answer), body_below(answer)) == (200, {"faults": []})
        assert MASTER_KEY not in answer.text + form.text
        assert "x-api-key" not in form_of(fense, "contract", "getHealth").fields


def test_an_instance_is_tried_through_its_own_page(fense):
    created = form_of(fense, "control", "createInstance").submit()
    (instance,) = fense.app.instances.values()
    assert body_below(created)["base_url"] == f"http://localhost:80{instance.path}"
    root = f"{instance.path}/_standin"
    answer = form_of(fense, "control", "armFault", root).submit()
    assert body_below(answer)["id"] == 1
    assert fense.faults() == []
    form = form_of(fense, "contract", "updateAccount", root)
    assert form["x-api-key"].value == instance.master_key
    assert form.submit().location.startswith(f"{root}/page/requests/")
    assert instance.plane.journal[-1]["status"] == 503
    answer = form_of(fense, "control", "createInstance", root).submit()
    assert outcome(fense, answer) == 404  # an instance has none


def test_an_operation_that_is_not_there_is_not_found(fense):
    for path in ("api/nothing/try", "nothing/getAccount/try", "api/getState/try"):
        fense.client.get(f"/_standin/page/documentation/{path}", status=404)
