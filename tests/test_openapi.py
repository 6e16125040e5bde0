"""openapi.json matches the service: routes, rules and responses."""

import contextlib
import json
import re
from unittest.mock import Mock

import openapi_spec_validator
import peewee
import pytest
from conftest import MASTER_KEY, account_fields
from hypothesis import given, settings
from hypothesis import strategies as st
from openapi_document import CONTRACT, CONTROL_PLANE, FORMATS, nodes
from webtest import TestApp

import fense_admin
from fense_admin import create_app, rules
from fense_admin.rules import (
    CREATE_REQUIRED,
    CREATE_RULES,
    UPDATE_RULES,
    JsonObject,
    ValidationErrors,
    validate,
)

DOCUMENT, COMPONENTS, OPERATIONS = CONTRACT.whole, CONTRACT.components, CONTRACT.operations
errors, schema_takes, resolved = CONTRACT.errors, CONTRACT.takes, CONTRACT.resolved
LINK = "6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11"
both = pytest.mark.parametrize("document", [CONTRACT, CONTROL_PLANE], ids=["contract", "control"])


def rule_takes(rule, value):
    problems = ValidationErrors()
    problems.check(None, rule, value)
    return not problems


# --- The document ------------------------------------------------------------------------------


@both
def test_it_is_openapi_of_this_version(document):
    openapi_spec_validator.validate(document.whole)
    assert document.whole["info"]["version"] == fense_admin.__version__


@pytest.mark.parametrize("prefix", ["", "/admin"])
def test_it_has_the_paths_and_methods_of_the_service(prefix):
    with contextlib.closing(create_app(master_key=MASTER_KEY, prefix=prefix)) as app:
        served = TestApp(app).get("/openapi.json").json
        routes = {
            (route.method.lower(), route.rule.replace("<", "{").replace(">", "}"))
            for route in app.routes
            if route.callback.__name__ != "method_not_allowed"
        }
    assert served == DOCUMENT | {"servers": [{"url": f"http://localhost:80{prefix}"}]}
    documented = {(method, prefix + path) for method, path, _ in OPERATIONS}
    assert documented | {("get", "/healthz"), ("get", "/openapi.json")} == routes


@both
def test_every_example_fits_its_schema(document):
    for at, node in nodes(document.whole):
        values = [(node["schema"], node["example"])] if "example" in node else []
        values += [(node, value) for value in node.get("examples", [])]
        for schema, value in values:
            assert document.errors(schema, value) == [], at


@both
def test_every_body_has_an_example(document):
    """Without an example, tools generate values that the service rejects."""
    contents = [node["content"] for _, node in nodes(document.whole) if "content" in node]
    assert len(contents) > 10
    for content in contents:
        assert "example" in content["application/json"]


@both
def test_tools_that_read_less_than_all_of_openapi_understand_it(document):
    for at, node in nodes(document.whole):
        assert "default" not in node, at  # openapi-typescript would require the property
        assert node.get("type") or "const" not in node, at
    for path, item in document.whole["paths"].items():
        assert "parameters" not in item, path  # Swagger UI loses a $ref here
    assert not {"Error", "Date"} & document.components["schemas"].keys()  # names of classes


SIZES = {"int64": 2**63, None: 2**31}  # of the integers in a generated client
STRING_KEYWORDS = {"pattern", "minLength", "maxLength"}


def types(node):
    named = node.get("type", [])
    return named if isinstance(named, list) else [named]


@both
def test_generated_clients_understand_it(document):
    """`make test-clients` runs some; these are the forms that broke one of them."""
    for at, node in nodes(document.whole):
        if "/not" in at or at.endswith("/propertyNames") or "type" not in node:
            continue  # generators ignore these, so they say what breaks a client elsewhere
        if "integer" in types(node):
            size = SIZES[node.get("format")]
            assert -size <= node.get("minimum", -(2**63)) < size, at
            assert -size <= node.get("maximum", 2**63 - 1) < size, at
        if "number" in types(node):
            assert node["format"] == "double", at  # else a float of Go's, which has 7 digits
        if node.get("format") in ("date", "date-time", "uuid"):
            assert not STRING_KEYWORDS & node.keys(), at  # Ruby applies them to its Date or Time
        if "properties" in node:
            assert "additionalProperties" in node, at  # otherwise, Go rejects unknown fields
        # Escapes that RE2, PCRE and Ruby all know; bytes, as PHP sees a text in UTF-8, do as well.
        pattern = node.get("pattern", "")
        assert pattern.isascii(), at
        assert not re.search(r"\\[^x]|\(\?[^:]", pattern), at


@both
def test_null_is_one_of_several_types(document):
    """Go's generator has no name for an `anyOf` with null."""
    for at, node in nodes(document.whole):
        for key in ("anyOf", "oneOf", "allOf"):
            assert {"type": "null"} not in node.get(key, []), at


def test_a_filter_is_a_day_or_null():
    day, day_or_null = COMPONENTS["schemas"]["Day"], COMPONENTS["schemas"]["DayFilter"]
    assert (day["type"], day_or_null["type"]) == ("string", ["string", "null"])
    for key in ("format", "not"):
        assert day_or_null[key] == day[key]


def test_what_both_documents_describe_is_the_same():
    ours, theirs = (document.components["schemas"] for document in (CONTRACT, CONTROL_PLANE))
    shared = ours.keys() & theirs.keys()
    assert shared >= {"ErrorResponse", "Name", "NameSent", "Day", "Timestamp"}
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


# --- Requests: the schemas against the service -------------------------------------------------

CONTROLS = "\0\t\n\v\f\r\x1c\x1d\x1e\x1f\x7f\x80\x85\x9f"
SPACES = "".join(c for c in map(chr, range(0x10000)) if c.isspace() and c not in CONTROLS)
# Neighbouring values that are neither.
NEIGHBOURS = [
    c
    for c in sorted({chr(ord(c) + step) for c in SPACES + "\x1f\x7f\x9f" for step in (-1, 1)})
    if not c.isspace() and c not in "@" and not c < " " and not "\x7f" <= c <= "\x9f"
]
NO_STRINGS = [True, 0, 1.5, [], ["x"], {}]
FLAG = [True, False], [None, 0, 1, 0.0, "", "true", [], [True], {}]
LOCAL = "a" * 241  # with @acme.example: 254
# Of each field, values that are accepted and values that are refused: on both sides of each keyword
# of its schema. That the service refuses them is for tests/contract; here, that the document says so.
VALUES = {
    "api_key": (
        ["!", "~", "k", "x" * 255, '"\\{}'],
        [None, *NO_STRINGS, "", " ", "a b", " k", "k ", "k\n", "\nk", "k\x7f", "ké", "k\xa0",
         "x" * 256, "x" * 255 + "\n"],
    ),
    "name": (
        ["x", "x" * 255, "é" * 255, "😀" * 255, "a b", f"x{' ' * 253}x", "\u200b", "\ufeff",
         f"x{SPACES}x", SPACES + "x" * 255 + SPACES * 20, *(text for c in SPACES for text in (f"{c}x{c}", f"{c}x", f"x{c}")),
         *(text for c in NEIGHBOURS for text in (c, c * 2, f"x{c}x"))],
        [None, *NO_STRINGS, "", " ", SPACES, "x" * 256, f" {'x' * 256} ", "😀" * 256,
         *(text for c in CONTROLS for text in (c, f"x{c}", f"{c}x", f"x{c}x", f" {c}x", f"x {c}"))],
    ),
    "email": (
        ["a@b", "é@ü", "😀@x", ".@.", '"@\\', f"{LOCAL}@acme.example", "é" * 252 + "@x",
         "\u200b@\ufeff", *(f"{c}@{c}" for c in NEIGHBOURS)],
        [None, *NO_STRINGS, "", "@", "a", "a@", "@b", "a@b@c", "a@@b", f"{LOCAL}a@acme.example",
         *(text for c in CONTROLS + SPACES for text in (f"a@b{c}", f"{c}a@b", f"a{c}@b"))],
    ),
    **dict.fromkeys(["suppress_notifications", "suppress_billing", "is_active"], FLAG),
    "dispute_account_id": (
        [LINK, LINK.upper(), "0" * 8 + "-0000-0000-0000-" + "f" * 12, None,
         *("-".join(c * n for n in (8, 4, 4, 4, 12)) for c in "0123456789abcdefABCDEF")],
        [*NO_STRINGS, "", LINK[:-1], LINK + "0", LINK + "\n", " " + LINK, LINK.replace("-", ""),
         "{" + LINK + "}", "urn:uuid:" + LINK, LINK.replace("6", "g"), LINK.replace("6", "\u0666")],
    ),
}  # fmt: skip
UNKNOWN = [("fense_account_id", 1), ("created_at", None), ("Name", "x"), ("name ", "x"), ("", "")]
OPERATION_RULES = {"AccountCreate": CREATE_RULES, "AccountUpdate": UPDATE_RULES}
REQUIRED = {"AccountCreate": CREATE_REQUIRED, "AccountUpdate": ()}
MINIMAL = {"AccountCreate": {"api_key": "k", "name": "x", "email": "a@b"}, "AccountUpdate": {}}


def check_both(schema, body, accepted):
    """Check that the service and the schema both accept or both reject the body."""
    problems = ValidationErrors()
    sent = JsonObject(list(body.items()))
    validate(sent, OPERATION_RULES[schema], problems, required=REQUIRED[schema])
    assert (not problems) is accepted, f"the service and {schema}: {body!r}"
    assert schema_takes(schema, body) is accepted, f"the document's {schema}: {body!r}"


@pytest.mark.parametrize("schema", OPERATION_RULES)
@pytest.mark.parametrize("name", VALUES)
def test_the_document_and_the_service_accept_the_same_values(schema, name):
    accepted, refused = VALUES[name]
    for value in accepted:
        check_both(schema, MINIMAL[schema] | {name: value}, name in OPERATION_RULES[schema])
    for value in refused:
        check_both(schema, MINIMAL[schema] | {name: value}, False)


@pytest.mark.parametrize("schema", OPERATION_RULES)
def test_the_document_and_the_service_require_and_know_the_same_fields(schema):
    minimal = MINIMAL[schema]
    check_both(schema, minimal, True)
    check_both(schema, {name: VALUES[name][0][0] for name in OPERATION_RULES[schema]}, True)
    for missing in minimal:
        check_both(schema, {name: minimal[name] for name in minimal if name != missing}, False)
    for name, value in UNKNOWN:
        check_both(schema, minimal | {name: value}, False)


def test_a_field_that_is_left_out_has_its_documented_default(api):
    account = api.new_account()
    properties = COMPONENTS["schemas"]["AccountCreate"]["properties"]
    described = {
        name: re.search(r"Default: (\w+)\.$", properties[name].get("description", ""))
        for name in properties
    }
    defaults = {name: json.loads(found[1]) for name, found in described.items() if found}
    assert defaults == {name: account[name] for name in CREATE_RULES if name not in CREATE_REQUIRED}


YEARS = {
    d * n for d in range(1, 10) for n in (1, 10, 11, 100, 101, 110, 111, 1000, 1001, 1100, 1111)
}
DAYS = "0001-01-01 9999-12-31 2024-02-29 2000-02-29 1010-10-10 0100-01-01 0010-01-01 2026-11-30"
LATE_DAYS = "2026-02-29 1900-02-29 2026-02-30 2026-04-31".split()  # of months that are shorter
NO_DAYS = (
    "0000-01-01 2026-11-00 2026-11-32 2026-00-01 2026-13-01 2026-11-3 26-11-03 20261103 2026-W45-2 "
    "2026-11-03T00:00:00Z +2026-11-03 -2026-11-03 12026-11-03 2026/11/03 ٢٠٢٦-11-03 today"
).split()
NO_DAYS += ["", " 2026-11-03", "2026-11-03 ", "2026-11-03\n", None, 20261103]


def test_the_document_and_the_service_accept_the_same_days():
    for text in [f"{year:04}-01-01" for year in YEARS] + DAYS.split() + LATE_DAYS + NO_DAYS:
        accepted = text not in LATE_DAYS + NO_DAYS
        assert rule_takes(rules.check_date, text) is accepted, repr(text)
        assert schema_takes("Day", text, FORMATS) is accepted, repr(text)
        assert schema_takes("Day", text) is (text not in NO_DAYS), repr(text)


@pytest.mark.parametrize("name", ["AccountInPath", "AccountInQuery"])
def test_the_document_and_the_service_accept_the_same_ids(name):
    schema = COMPONENTS["parameters"][name]["schema"]
    for value in (0, 1, -1, 2**63, -(10**400), 1.5, True, None, "x", "", [1]):
        text = value if isinstance(value, str) else json.dumps(value)
        assert rule_takes(rules.check_id, text) is (type(value) is int), text[:40]
        assert (errors(schema, value) == []) is (type(value) is int), text[:40]


RULES = {
    "ApiKey": rules.check_api_key,
    "NameSent": rules.check_name,
    "Email": rules.check_email,
    "DisputeAccountIdSent": rules.check_uuid,
    "Day": rules.check_date,
}
PIECES = [*SPACES, *CONTROLS, *"aZ09-!~@@é😀", "\u200b", "\ufeff", "x" * 250, LINK, "2026-11-03"]
STRINGS = [
    st.text(max_size=20),
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.from_regex(r"\A[0-9]{4}-[01][0-9]-[0-3][0-9]\n?\Z"),
]


@pytest.mark.slow
@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(st.one_of(STRINGS))
def test_the_document_and_the_service_accept_the_same_strings(text):
    taken = {name: schema_takes(name, text, FORMATS) for name in RULES}
    assert taken == {name: rule_takes(rule, text) for name, rule in RULES.items()}


# --- Answers -----------------------------------------------------------------------------------


EXAMPLES = CONTRACT.examples()
EXAMPLES["AllUsage"] = DOCUMENT["paths"]["/accounts/usage"]["get"]["responses"]["200"]["content"][
    "application/json"
]["example"]
EXAMPLES["AccountTotal"] = EXAMPLES["AllUsage"]["accounts"][0]
EXAMPLES["DailyLookups"] = EXAMPLES["AccountUsage"]["daily"][0]
EXAMPLES["ErrorBody"] = EXAMPLES["ErrorResponse"]["error"]
EXAMPLES["ErrorDetail"] = {"field": "email", "message": "is required"}


def test_objects_have_only_documented_keys_and_responses_have_all():
    objects = {n: schema for n, schema in COMPONENTS["schemas"].items() if "properties" in schema}
    for name, schema in objects.items():
        assert schema["type"] == "object"
        if name != "OpenapiDocument":
            assert schema["additionalProperties"] is False
        if name in OPERATION_RULES:
            assert schema["properties"].keys() == OPERATION_RULES[name].keys()
        else:
            assert schema["required"] == list(schema["properties"])
        for key in schema["properties"]:
            assert schema_takes(name, EXAMPLES[name])
            assert not schema_takes(name, EXAMPLES[name] | {key: 1.5})  # of no type here


ALWAYS = {
    "DisputeAccountId": [text.lower() for text in VALUES["dispute_account_id"][0] if text] + [None],
    "Timestamp": [f"{d * 4}-{d * 2}-{d * 2}T{d * 2}:{d * 2}:{d * 2}Z" for d in "0123456789"],
    "FenseAccountId": [1],
    "TotalLookups": [0, 28 * rules.MAX_LOOKUPS],
    "Lookups": [1, rules.MAX_LOOKUPS],
    "ApiKeyLast4": ["!~!~", None],
    "ErrorResponse": [
        {"error": {"code": "a_z", "message": "x", "details": [{"field": "", "message": "x"}]}}
    ],
}
NEVER = {
    "FenseAccountId": [0, None],
    "TotalLookups": [-1, None],
    "Lookups": [0, None, rules.MAX_LOOKUPS + 1, 1.5],
    "ApiKeyLast4": ["9f2", "9f2cc", "9f2c\n", "9f2\xa0"],
    "DisputeAccountId": [LINK.upper(), f"{LINK}\n"],
    "Name": ["", " x", "x\u3000", "x" * 256, "x\x85x", "x\n"],
    "Timestamp": ["2026-11-23", "2026-11-23 07:24:00Z", "2026-11-23T07:24:00Z\n", None],
    "ErrorResponse": [
        {"error": {"code": "bad_request", "message": "no", "details": []} | change}
        for change in (
            *({"code": code} for code in ("Bad Request", "a b", " a", "", None, 1)),
            *({"message": message} for message in ("", None, 1)),
            *({"details": details} for details in (None, {}, "x", [1], [{}])),
            *({"details": [{"field": value, "message": "x"}]} for value in (None, 1)),
            *({"details": [{"field": "x", "message": value}]} for value in (None, 1, "")),
        )
    ],
    "AccountUsage": [
        EXAMPLES["AccountUsage"] | {"daily": value}
        for value in (None, [1], [{}], [{"date": "2026-11-03", "lookups": 1, "more": 1}])
    ],
    "AllUsage": [EXAMPLES["AllUsage"] | {"accounts": value} for value in (None, [1], [{}])],
}
# The component of each property of an answer, whichever answer it is in.
PROPERTIES = {
    "fense_account_id": "FenseAccountId",
    "name": "Name",
    "email": "Email",
    "api_key_last4": "ApiKeyLast4",
    "dispute_account_id": "DisputeAccountId",
    "created_at": "Timestamp",
    "updated_at": "Timestamp",
    "start_date": "DayFilter",
    "end_date": "DayFilter",
    "date": "Day",
    "lookups": "Lookups",
    "total_lookups": "TotalLookups",
}
HEADERS = {  # the schema of each, with values that may be sent and values that are not
    "X-Request-Id": (["a", "!", "~" * 128], ["", "x" * 129, "a b", " a", "a ", None, 1]),
    "Cache-Control": (["no-store"], ["no-cache", ""]),
    "Access-Control-Allow-Origin": (["*"], ["null", ""]),
    "Location": (
        ["/accounts/1", "/admin/accounts/90", "/Az.az_09~-/accounts/19"],
        ["/accounts/0", "x/accounts/1", "accounts/1", "/accounts/1x", "/a b/accounts/1", None, 1],
    ),
    "WWW-Authenticate": (["ApiKey"], [None, 1]),
    "Retry-After": ([0, 1], [-1, "1", None, 0.5]),
}


def test_the_document_accepts_all_responses_and_rejects_others():
    for name, values in ALWAYS.items():
        for value in values:
            assert schema_takes(name, value), (name, value)
    for name, values in NEVER.items():
        for value in values:
            assert not schema_takes(name, value), (name, value)
    for date, accepted in (("2026-11-03", True), (None, True), ("today", False)):
        assert schema_takes("DayFilter", date) is accepted, date


def test_a_name_is_returned_as_the_rule_keeps_it():
    for value in (text for texts in VALUES["name"] for text in texts):
        kept = rules.check_name(value) if rule_takes(rules.check_name, value) else None
        assert schema_takes("Name", value) is (kept is not None and kept == value), repr(value)
        assert kept is None or schema_takes("Name", kept), repr(kept)


def test_a_property_of_a_response_uses_the_component_of_its_name():
    for name, schema in COMPONENTS["schemas"].items():
        for at, node in nodes(schema):
            for key, part in (
                node.get("properties", {}).items() if name not in OPERATION_RULES else ()
            ):
                if key in PROPERTIES:
                    assert part == {"$ref": f"#/components/schemas/{PROPERTIES[key]}"}, (
                        name,
                        at,
                        key,
                    )
                elif key in VALUES:
                    assert part == {"type": "boolean"}, (name, at, key)


def test_the_headers_of_a_response_are_the_documented_ones():
    found = {}
    for _, node in nodes(DOCUMENT):
        for name, header in node.get("headers", {}).items():
            if "schema" in header:
                found[name] = header["schema"]
    assert found.keys() == HEADERS.keys()
    for name, (sent, never) in HEADERS.items():
        for value in sent:
            assert errors(found[name], value) == [], (name, value)
        for value in never:
            assert errors(found[name], value) != [], (name, value)


BODY = {"post /accounts": "AccountCreate", "post /accounts/{fense_account_id}": "AccountUpdate"}
IN_PATH, IN_QUERY = ("fense_account_id", "path", True), ("fense_account_id", "query", False)
DATES = [("start_date", "query", False), ("end_date", "query", False)]
PARAMETERS = {
    "get /accounts/{fense_account_id}": [IN_PATH],
    "post /accounts/{fense_account_id}": [IN_PATH],
    "get /accounts/usage": [*DATES, IN_QUERY],
    "get /accounts/usage/{fense_account_id}": [IN_PATH, *DATES, IN_QUERY],
}
ANSWERS = {
    "post /accounts": {"$ref": "#/components/schemas/Account"},
    "get /accounts/{fense_account_id}": {"$ref": "#/components/schemas/Account"},
    "post /accounts/{fense_account_id}": {"$ref": "#/components/schemas/Account"},
    "get /accounts/usage": {
        "oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("AllUsage", "AccountUsage")]
    },
    "get /accounts/usage/{fense_account_id}": {"$ref": "#/components/schemas/AccountUsage"},
    "get /healthz": {"$ref": "#/components/schemas/Health"},
}


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_an_operation_has_its_key_parameters_body_and_responses(method, path, operation):
    name = f"{method} {path}"
    given = [resolved(it) for it in operation.get("parameters", [])]
    assert [(it["name"], it["in"], it.get("required", False)) for it in given] == PARAMETERS.get(
        name, []
    )
    for parameter in given:
        expected = {"type": "integer", "format": "int64"}
        if parameter["name"] != "fense_account_id":
            expected = {"$ref": "#/components/schemas/Day"}
        assert parameter["schema"] == expected
    body = operation.get("requestBody", {"required": None, "content": None})
    schema = {"$ref": f"#/components/schemas/{BODY[name]}"} if name in BODY else None
    assert body["required"] is (True if schema else None)
    if schema:
        (content,) = body["content"].items()
        assert (content[0], content[1]["schema"]) == ("application/json", schema)
    for status, answer in operation["responses"].items():
        (content,) = resolved(answer)["content"].values()
        if status >= "400":
            assert content["schema"] == {"$ref": "#/components/schemas/ErrorResponse"}
        elif name in ANSWERS:
            assert content["schema"] == ANSWERS[name]
        else:
            assert errors(content["schema"], DOCUMENT) == []
            for key in ("openapi", "info", "servers", "paths", "components"):
                assert errors(content["schema"], {k: DOCUMENT[k] for k in DOCUMENT if k != key})
            for value in (None, [], DOCUMENT | {"openapi": "3.0.0"}):
                assert errors(content["schema"], value) != []


def test_the_key_is_sent_in_its_header():
    scheme = COMPONENTS["securitySchemes"]["apiKey"]
    assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "header", "x-api-key")
    assert DOCUMENT["security"] == [{"apiKey": []}]


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_the_responses_are_the_documented_ones(api, inside, monkeypatch, method, path, operation):
    merchant = api.new_account(api_key="merchant-key-7d1e-9f2c", dispute_account_id=LINK)
    api.new_account(name="x" * 255, api_key="short-key")
    for lookups, date in ((1, "2026-11-03"), (rules.MAX_LOOKUPS, "2026-11-09")):
        inside.db.record_lookups(merchant["fense_account_id"], lookups, date)
    statuses = set()

    def ask(account=1, query="", **options):
        body = {"post": account_fields() if path == "/accounts" else {"name": " Acme\u3000"}}
        url = path.replace("{fense_account_id}", str(account)) + query
        answer = api.call(method.upper(), url, **{"body": body.get(method)} | options)
        CONTRACT.assert_documented(answer, operation)
        statuses.add(str(answer.status))

    for account in (1, 2, 3):
        ask(account)
        ask(account, f"?start_date=2026-11-01&end_date=2026-11-30&fense_account_id={account}")
    ask(query="?colour=red", headers={"X-Request-Id": "~" * 128})
    ask(body=b" " * (inside.limits.body + 1))
    for key in (None, "nobody's", "merchant-key-7d1e-9f2c"):
        ask(key=key)
    for fault in (peewee.OperationalError("database is locked"), RuntimeError("a fault of ours")):
        monkeypatch.setattr(inside.db.engine, "execute_sql", Mock(side_effect=fault))
        ask()
    monkeypatch.setattr(fense_admin, "OPENAPI_FILE", "/nowhere")
    ask()
    assert statuses == set(operation["responses"])
    assert ("401" in statuses) is (operation.get("security", DOCUMENT["security"]) != [])
