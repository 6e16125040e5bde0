"""Type checkers know all returned types: typos are errors, and the examples have none."""

import inspect
import json
import re
import subprocess
import sys
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from check_types import PYRIGHT, Installed, examples, pyright_errors
from conftest import copy_checkout, tools
from openapi_document import CONTRACT, CONTROL_PLANE

from fense_admin import rules, shapes
from fense_admin.standin import StandIn
from fense_admin.standin.faults import FAULT_RULES

# --- A user's tests ----------------------------------------------------------------------------

TYPOS = {  # each with the name that a type checker must complain about
    'fense.fail(pth="/accounts/*")': "pth",
    'fense.fail(503, method="PATCH")': "PATCH",
    'fense.fail(drop="rest")': "rest",
    'fense.create_account(nmae="Acme")': "nmae",
    'fense.create_account()["fense_acount_id"]': "fense_acount_id",
    'fense.requests()[0]["statsu"]': "statsu",
    'fense.faults()[0]["usd"]': "usd",
    'fense.state()["accounts"][0]["usge"]': "usge",
    'fense.load({"accounts": [{"name": "Acme", "email": "a@b", "apikey": "k"}]})': '"load"',
}
HEAD = "from fense_admin.standin import StandIn\n\n\ndef test(fense: StandIn) -> None:\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    copy_checkout(source)
    return Installed(tmp_path_factory.mktemp("installed"), source)


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_typos_are_reported_and_the_examples_have_none(installed, checker):
    typos = installed.folder / "test_typos.py"
    typos.write_text(HEAD + "".join(f"    {line}\n" for line in TYPOS))
    reported = getattr(installed, checker)(typos, *examples(installed.folder / "examples"))
    lines = {}
    for text in reported:
        where = re.match(r".*test_typos\.py:([0-9]+):", text)
        assert where, text
        lines.setdefault(int(where[1]), []).append(text)
    first = HEAD.count("\n") + 1
    assert list(lines) == list(range(first, first + len(TYPOS)))
    for number, name in enumerate(TYPOS.values(), first):
        assert name in " ".join(lines[number])


@pytest.mark.slow
def test_an_editor_resolves_the_imports_of_a_fresh_checkout(tmp_path):
    tools("make")
    copy_checkout(tmp_path)
    made = ["make", "-s", "typings"]
    subprocess.run(made, cwd=tmp_path, check=True, timeout=100)
    command = [
        *PYRIGHT,
        *tmp_path.glob("*.py"),
        tmp_path / "standin",
        tmp_path / "serving",
        tmp_path / "tests/conftest.py",
    ]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert json.loads(ended.stdout)["summary"]["filesAnalyzed"] > 30
    errors = [
        error
        for error in pyright_errors(ended.stdout)
        if re.search("could not be resolved|unknown import symbol", error)
    ]
    # peewee's own stubs leave these out.
    assert [error for error in errors if not re.search('"(sqlite3|__exception.*)"', error)] == []


# --- The shapes are those of the OpenAPI documents -----------------------------------------------

SHAPES = {
    name: shape
    for name, shape in vars(shapes).items()
    if getattr(shape, "__module__", "") == shapes.__name__ and not name.startswith("_")
}
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def described(hint, document):
    """Return the JSON types and values that a hint allows, like `documented` for a schema."""
    if hint in SHAPES.values():
        return {hint.__name__}
    if get_origin(hint) is list:
        return {("array", *described(get_args(hint)[0], document))}
    if get_origin(hint) is dict:
        assert get_args(hint)[0] is str
        return {("object", *described(get_args(hint)[1], document))}
    if get_origin(hint) is Literal:
        return {f"{value!r}" for value in get_args(hint)}
    if get_args(hint):
        return set().union(*(described(part, document) for part in get_args(hint)))
    return {TYPES[hint]}


def documented(schema, document):
    name = schema.get("$ref", "").rpartition("/")[2]
    if name in SHAPES:
        return {name}
    schema = document.resolved(schema)
    if "enum" in schema:
        return {f"{value!r}" for value in schema["enum"]}
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    inner = {"array": schema.get("items"), "object": schema.get("additionalProperties")}
    return {
        (kind, *documented(inner[kind], document)) if inner.get(kind) else kind for kind in types
    }


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - {"NewAccount"}))
def test_each_typed_dict_matches_its_schema(name):
    document = CONTRACT if name in CONTRACT.components["schemas"] else CONTROL_PLANE
    schema, shape = document.components["schemas"][name], SHAPES[name]
    hints = get_type_hints(shape)
    assert hints.keys() == schema["properties"].keys()
    assert shape.__required_keys__ == set(schema.get("required", []))
    for field, part in schema["properties"].items():
        assert described(hints[field], document) == documented(part, document), field


def test_every_object_returned_to_python_has_a_type():
    for document, of_http_alone in (
        (CONTRACT, "AccountCreate AccountUpdate Health OpenapiDocument"),
        (
            CONTROL_PLANE,
            "LookupsSent Recorded FaultList RequestList ClockSent Clock InstanceSent "
            "InstanceCreated Instance InstanceList OpenapiDocument",
        ),
    ):
        schemas = document.components["schemas"]
        objects = {name for name, schema in schemas.items() if schema.get("properties")}
        assert objects - SHAPES.keys() == set(of_http_alone.split())


def test_a_new_account_takes_the_fields_of_the_rules():
    assert get_type_hints(shapes.NewAccount).keys() == rules.ACCOUNT_RULES.keys()
    sent = get_type_hints(shapes.StateAccountSent)
    assert get_type_hints(shapes.NewAccount).items() <= sent.items()
    assert shapes.NewAccount.__required_keys__ == frozenset()


def test_fail_takes_what_a_fault_takes():
    """Its parameters, `FAULT_RULES` and `FaultSent` are the same, each of the same type."""
    names = vars(shapes) | {"shapes": shapes}
    parameters = inspect.signature(StandIn.fail).parameters
    hints = get_type_hints(shapes.FaultSent)
    assert set(parameters) - {"self"} == FAULT_RULES.keys() == hints.keys()
    for name, hint in hints.items():
        assert eval(parameters[name].annotation, names) == hint | None, name


def test_shapes_are_not_imported_before_they_are_used():
    code = "import sys, fense_admin.standin; print('fense_admin.shapes' in sys.modules)"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert output == "False\n"
