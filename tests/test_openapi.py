"""openapi.json against the service: its routes, its rules, its answers, and made-up requests."""

import contextlib
import datetime
import json
from pathlib import Path

import openapi_spec_validator
import peewee
import pytest
import schemathesis
from conftest import MASTER_KEY, account_fields
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import fense_admin
from fense_admin import ACCOUNT_FIELDS, Faults, JsonObject, check_account, create_app, models

DOCUMENT = json.loads(Path(fense_admin.OPENAPI_FILE).read_text("utf-8"))
COMPONENTS = DOCUMENT["components"]
OPERATIONS = [
    (method, path, item[method])
    for path, item in DOCUMENT["paths"].items()
    for method in ("get", "post")
    if method in item
]
LINK = "6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11"


def errors(schema, value):
    """What is wrong with the value; `schema` may refer to the document's components."""
    whole = schema | {"components": COMPONENTS}
    checker = Draft202012Validator.FORMAT_CHECKER
    return [e.message for e in Draft202012Validator(whole, format_checker=checker).iter_errors(value)]


def schema_takes(component, value):
    return not errors({"$ref": f"#/components/schemas/{component}"}, value)


def rule_takes(check, value):
    try:
        check(value)
    except ValueError:
        return False
    return True


# --- The document ------------------------------------------------------------------------------


def test_it_is_valid_openapi():
    openapi_spec_validator.validate(DOCUMENT)


def test_it_is_of_this_version():
    assert DOCUMENT["info"]["version"] == fense_admin.__version__


@pytest.mark.parametrize("prefix", ["", "/admin"])
def test_it_has_the_paths_and_methods_of_the_service_and_no_others(prefix):
    with contextlib.closing(create_app(master_key=MASTER_KEY, prefix=prefix)) as app:
        routes = {
            (route.method.lower(), route.rule.replace("<", "{").replace(">", "}"))
            for route in app.routes
            if route.callback.__name__ != "method_not_allowed"
        }
    documented = set()
    for method, path, _ in OPERATIONS:
        # A path's own `servers` stand for the document's: those paths are outside the prefix.
        servers = DOCUMENT["paths"][path].get("servers", [{"url": prefix or "/"}])
        documented.add((method, servers[0]["url"].rstrip("/") + path))
    assert routes == documented


@pytest.mark.parametrize("prefix", ["", "/admin"])
def test_it_is_served_with_the_prefix(prefix):
    with contextlib.closing(create_app(master_key=MASTER_KEY, prefix=prefix)) as app:
        answer = TestApp(app).get("/openapi.json")
    assert answer.json == DOCUMENT | {"servers": [{"url": prefix or "/"}]}


def examples(node, at=""):
    """Every (place, schema, example) below a node of the document."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    elif "schema" in node and "example" in node:
        yield at, node["schema"], node["example"]
    for key, child in node.items():
        if key == "examples":
            yield from ((f"{at}/{n}", node | {key: []}, value) for n, value in enumerate(child))
        elif key != "example" and isinstance(child, dict | list):
            yield from examples(child, f"{at}/{key}")


@pytest.mark.parametrize(
    ("schema", "value"), [pytest.param(*rest, id=at) for at, *rest in examples(DOCUMENT)]
)
def test_each_example_is_one(schema, value):
    assert errors(schema, value) == []


# --- Requests: the schemas against the rules ---------------------------------------------------

SPACES = "".join(c for c in map(chr, range(0x110000)) if c.isspace() and c >= " " and c != "\x85")
CONTROLS = "\0\t\n\v\f\r\x1c\x1f\x7f\x80\x85\x9f"
NO_STRINGS = [True, 0, 1.5, [], ["x"], {}]
NO_FLAGS = [None, 0, 1, 0.0, "", "true", [], [True], {}]
NAMES = ["x", "x" * 255, "é" * 255, "😀" * 255, "a b", "x" + " " * 253 + "x", "\u200b", "\ufeff"]
LOCAL = "a" * 242  # with @acme.example: 254

TAKEN = {
    "api_key": ["!", "~", "k", "x" * 255, '"\\{}'],
    "name": [
        *NAMES, *(f"{c}x{c}" for c in SPACES), SPACES + "x" * 255 + SPACES * 20, "x" + SPACES + "x",
    ],
    "email": [
        "a@b", "é@ü", "😀@x", ".@.", '"@\\', LOCAL + "@acme.example", "é" * 252 + "@x", "\u200b@\ufeff",
    ],
    "suppress_notifications": [True, False],
    "suppress_billing": [True, False],
    "is_active": [True, False],
    "dispute_account_id": [None, LINK, LINK.upper(), "0" * 8 + "-0000-0000-0000-" + "f" * 12],
}  # fmt: skip
REFUSED = {
    "api_key": [
        None, *NO_STRINGS, "", " ", "a b", " k", "k ", "k\n", "\nk", "k\x7f", "ké", "k\xa0", "x" * 256,
        "x" * 255 + "\n",
    ],
    "name": [
        None, *NO_STRINGS, "", " ", SPACES, "x" * 256, " " + "x" * 256 + " ", "😀" * 256,
        *(text for c in CONTROLS for text in (c, f"x{c}", f"{c}x", f"x{c}x", f" {c}x", f"x {c}")),
    ],
    "email": [
        None, *NO_STRINGS, "", "@", "a", "a@", "@b", "a@b@c", "a@@b", LOCAL + "a@acme.example",
        *(text for c in CONTROLS + SPACES for text in (f"a@b{c}", f"{c}a@b", f"a{c}a@b", f"a@{c}b")),
    ],
    "suppress_notifications": NO_FLAGS,
    "suppress_billing": NO_FLAGS,
    "is_active": NO_FLAGS,
    "dispute_account_id": [
        *NO_STRINGS, "", LINK[:-1], LINK + "0", LINK + "\n", " " + LINK, LINK.replace("-", ""),
        "{" + LINK + "}", "urn:uuid:" + LINK, LINK.replace("6", "g"), LINK.replace("6", "\u0666"),
    ],
}  # fmt: skip
VALUES = [(field, value, True) for field in TAKEN for value in TAKEN[field]]
VALUES += [(field, value, False) for field in REFUSED for value in REFUSED[field]]
SCHEMAS = {"create": "AccountCreate", "update": "AccountUpdate"}
LEAST = {"create": {"api_key": "k", "name": "x", "email": "a@b"}, "update": {}}
BODIES = [
    ("create", LEAST["create"], True),
    *[("create", {k: v for k, v in LEAST["create"].items() if k != key}, False)
      for key in LEAST["create"]],
    ("create", {field: values[0] for field, values in TAKEN.items() if field != "is_active"}, True),
    ("update", {field: values[0] for field, values in TAKEN.items() if field != "email"}, True),
    ("create", {}, False),
    ("update", {}, True),
    *[(operation, LEAST[operation] | {field: value}, False)
      for operation in SCHEMAS
      for field, value in [
          ("fense_account_id", 1), ("created_at", None), ("Name", "x"), ("name ", "x"), ("", ""),
      ]],
]  # fmt: skip


def rules_take(operation, body):
    faults = Faults()
    check_account(JsonObject(list(body.items())), operation, faults)
    return not faults


@pytest.mark.parametrize("operation", SCHEMAS)
@pytest.mark.parametrize(("field", "value", "good"), VALUES)
def test_the_schema_takes_what_the_rules_take(operation, field, value, good):
    body = LEAST[operation] | {field: value}
    accepted = good and getattr(ACCOUNT_FIELDS[field], operation) != fense_admin.REFUSED
    assert rules_take(operation, body) is accepted
    assert schema_takes(SCHEMAS[operation], body) is accepted


@pytest.mark.parametrize(("operation", "body", "good"), BODIES)
def test_the_schema_takes_the_bodies_that_the_rules_take(operation, body, good):
    assert rules_take(operation, body) is good
    assert schema_takes(SCHEMAS[operation], body) is good


@pytest.mark.parametrize("body", [None, True, 1, "{}", [], [{}]])
@pytest.mark.parametrize("schema", SCHEMAS.values())
def test_the_schema_takes_only_objects(schema, body):
    assert not schema_takes(schema, body)


DATES = {
    True: "0001-01-01 9999-12-31 2024-02-29 2000-02-29 1010-10-10 0100-01-01 0010-01-01 2026-11-30",
    False: "0000-01-01 2026-02-29 1900-02-29 2026-02-30 2026-04-31 2026-11-00 2026-11-32 2026-00-01 "
    "2026-13-01 2026-11-3 26-11-03 20261103 2026-W45-2 2026-11-03T00:00:00Z +2026-11-03 "
    "-2026-11-03 12026-11-03 2026/11/03 ٢٠٢٦-11-03 2026-11-0３ today",
}
DAYS = [(text, good) for good, texts in DATES.items() for text in texts.split()]
DAYS += [(text, False) for text in ["", " 2026-11-03", "2026-11-03 ", "2026-11-03\n", None, 20261103]]


@pytest.mark.parametrize(("text", "good"), DAYS)
def test_a_day_is_the_same_to_the_schema_and_to_the_rule(text, good):
    assert rule_takes(models.check_date, text) is good
    assert schema_takes("Date", text) is good


@pytest.mark.parametrize("name", ["AccountInPath", "AccountInQuery"])
@pytest.mark.parametrize("value", [0, 1, -1, 2**63, -(10**400), 1.5, True, None, "x", "", [1]])
def test_an_id_is_the_same_to_the_schema_and_to_the_rule(name, value):
    good = type(value) is int
    text = value if isinstance(value, str) else json.dumps(value)
    assert rule_takes(fense_admin.check_id, text) is good
    assert (errors(COMPONENTS["parameters"][name]["schema"], value) == []) is good


STRINGS = {
    "ApiKey": fense_admin.check_api_key,
    "NameSent": fense_admin.check_name,
    "Email": fense_admin.check_email,
    "DisputeAccountIdSent": fense_admin.check_uuid,
    "Date": models.check_date,
}
PIECES = [*SPACES, *CONTROLS, *"aZ09-!~@éß😀", "\u200b", "\ufeff", "x" * 250, LINK, "2026-11-03"]
TEXTS = st.one_of(
    st.text(max_size=20),
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.dates().map(datetime.date.isoformat),
    st.from_regex(r"\A[0-9]{3}[0-9]-[01][0-9]-[0-3][0-9]\Z"),
    st.uuids().map(str),
)


@settings(max_examples=500, derandomize=True, database=None, deadline=None)
@given(TEXTS)
@example("x" * 255 + "\u3000")
def test_any_string_is_the_same_to_the_schema_and_to_the_rule(text):
    taken = {name: schema_takes(name, text) for name in STRINGS}
    assert taken == {name: rule_takes(check, text) for name, check in STRINGS.items()}
