"""Only exchange.py knows the statuses of errors, and where the key of a request is."""

import ast
import json
import re
from pathlib import Path

import pytest
from conftest import CHECKOUT
from openapi_document import DOCUMENTS, nodes

import fense_admin
from fense_admin import exchange
from fense_admin.standin.journal import Entry
from fense_admin.standin.page import curl

ROOT = Path(fense_admin.__file__).parent
MODULES = sorted(
    path
    for folder in (".", "standin", "standin/page", "serving")
    for path in (ROOT / folder).glob("*.py")
)
ERRORS = range(400, 600)
STATUSES = {
    value
    for name, value in vars(exchange).items()
    if name.isupper() and isinstance(value, int) and value in ERRORS
}
MAKE_ERRORS = {"ApiError", "invalid", "error_body"}
HOLD_STATUSES = {"status", "status_code", "code"}


def name_of(node):
    return getattr(node, "attr", getattr(node, "id", ""))


def with_a_status(tree):
    """Expressions that should name a status: arguments, what is assigned, what is compared."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node.func) in MAKE_ERRORS:
            yield from [*node.args, *(keyword.value for keyword in node.keywords)]
        elif isinstance(node, ast.Assign) and HOLD_STATUSES & {
            name_of(part) for target in node.targets for part in ast.walk(target)
        }:
            yield node.value
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq):
            yield from (node.left, *node.comparators)
        elif isinstance(node, ast.arg | ast.arguments):
            yield from (default for default in getattr(node, "defaults", []))


def literal_statuses(source):
    return [
        (part.lineno, part.value)
        for node in with_a_status(ast.parse(source))
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and is_status(part.value)
    ]


def is_status(value):
    """A number, or a line such as "404 Not Found"."""
    if isinstance(value, str):
        return bool(re.match(r"[45][0-9]{2} [A-Z]", value))
    return type(value) is int and value in ERRORS


@pytest.mark.parametrize(
    "source",
    [
        "raise ApiError(400, 'text')",
        "invalid(errors, status=404)",
        "exchange.error_body(fault.get('status', 503), message)",
        "response.status = 404",
        "code, reason = 503, 'Service Unavailable'",
        "if error.status_code != 401: pass",
        "def invalid(errors, status=400): pass",
    ],
)
def test_a_status_that_is_a_number_is_found(source):
    assert len(literal_statuses(source)) == 1


def test_modules_name_statuses():
    assert {"fense_admin.py", "control.py"} <= {path.name for path in MODULES}
    found = {
        str(path.relative_to(ROOT)): literals
        for path in MODULES
        if (literals := literal_statuses(path.read_text("utf-8")))
    }
    assert found == {}, "take it from exchange.py"


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_openapi_has_the_statuses_and_codes_of_the_service(document):
    documented = {
        (int(status), node["$ref"])
        for _, _, operation in document.operations
        for status, node in operation["responses"].items()
        if int(status) in ERRORS and "$ref" in node
    }
    assert len(documented) >= 7
    for status, ref in documented:
        assert status in STATUSES, ref
        example = document.resolved({"$ref": ref})["content"]["application/json"]["example"]
        error = example["error"]
        details = [(detail["field"], detail["message"]) for detail in error["details"]]
        assert json.loads(exchange.error_body(status, error["message"], details)) == example
    for at, node in nodes(document.whole):
        for word in re.findall(
            r"(?<!\d to )\b[45][0-9]{2}\b(?! ?(?:bytes|to)\b)", node.get("description", "")
        ):
            assert int(word) in STATUSES, at


def test_a_code_is_the_same_in_every_python():
    """Python 3.13 changed the reason phrases of these statuses."""
    assert STATUSES & {413, 414, 416, 422} <= exchange.CODES.keys(), "add its code to CODES"


def test_the_description_of_a_code_names_those_of_the_contract():
    contract = DOCUMENTS["contract"]
    operations = [operation for _, _, operation in contract.operations]
    statuses = {int(status) for operation in operations for status in operation["responses"]}
    statuses.add(exchange.METHOD_NOT_ALLOWED)  # of a method that no operation has
    codes = {
        json.loads(exchange.error_body(status, "x"))["error"]["code"]
        for status in statuses & set(ERRORS)
    }
    described = contract.components["schemas"]["ErrorBody"]["properties"]["code"]["description"]
    assert set(re.findall("`(.*?)`", described)) == codes


def test_each_status_is_documented():
    whole = "".join(json.dumps(document.whole) for document in DOCUMENTS.values())
    assert [status for status in sorted(STATUSES) if not re.search(rf"\b{status}\b", whole)] == []


def test_one_function_reads_the_key_of_a_request():
    reading = [path.name for path in MODULES if "X_API_KEY" in path.read_text("utf-8")]
    assert reading == ["exchange.py"], "call exchange.request_key"


def test_the_documents_and_the_page_name_each_header_that_may_have_the_key():
    asked = []

    class Environ(dict):
        def get(self, name, default=None):
            asked.append(name.removeprefix("HTTP_").lower().replace("_", "-"))
            return default

    exchange.request_key(Environ())
    assert len(fense_admin.CHALLENGE.split(", ")) == len(asked), "one challenge for each"
    for name, document in DOCUMENTS.items():
        schemes = document.components["securitySchemes"]
        named = [scheme.get("name", "authorization") for scheme in schemes.values()]
        basic = ["authorization"] if name == "control" else []  # see guard.control_key
        assert sorted(named) == sorted({*asked, *basic}), "securitySchemes in openapi.json"
    for header in asked:
        for file in ("docs/api.md", "FIDELITY.md"):
            assert f"`{header}`" in (CHECKOUT / file).read_text("utf-8"), file
        entry = Entry(method="GET", headers={header: "…1a2b"})
        entry.sent_target = "/"
        for line in curl.repeating(entry, "http://localhost", ""):
            assert "FENSE_API_KEY" in line, "curl.py"
