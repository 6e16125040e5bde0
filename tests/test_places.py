"""Whatever belongs in several places is in all of them: "To change X" in CONTRIBUTING.md.

For what other tests compare, look there: settings (test_settings.py), limits and defaults
(test_documents.py), statuses (test_exchange.py), operations and schemas (test_openapi.py,
test_control_openapi.py), shapes and `StandIn.fail` (test_typing.py), modules (test_imports.py).
"""

import dataclasses
import re
from pathlib import Path

import pytest
from conftest import CHECKOUT
from documentation import TEXT
from openapi_document import CONTRACT, CONTROL_PLANE

import fense_admin
from fense_admin import exchange, models, postgres, reading, rules, sqlite
from fense_admin.settings import Limits
from fense_admin.standin import faults, journal, page
from fense_admin.standin.page import shown
from fense_admin.standin.state import STATE_ACCOUNT_RULES

FIDELITY = (CHECKOUT / "FIDELITY.md").read_text("utf-8")


def text_of(pattern):
    return "".join(file.read_text("utf-8") for file in sorted(CHECKOUT.glob(pattern)))


def listed(*names):
    """The names, as the documents list them."""
    return {f"`{name}`" for name in names}


# --- A field of an account ---------------------------------------------------------------------

COLUMNS = {field.name for field in models.Account._meta.sorted_fields}
BY_SERVICE = {"fense_account_id", "created_at", "updated_at"}
SENT = COLUMNS - BY_SERVICE - {"api_key_sha256", "api_key_last4"} | {"api_key"}


def columns_in(schema_file):
    schema = Path(schema_file).read_text("utf-8")
    created = re.search(r"CREATE TABLE account \(\n(.*?)\n\);", schema, re.S)[1]
    added = re.findall("ALTER TABLE account ADD (?:COLUMN )?([a-z]\\w*)", schema)
    return {*re.findall(r"^ +([a-z]\w*) ", created, re.M), *added}


def fields_of(schema, document=CONTRACT):
    return set(document.components["schemas"][schema]["properties"])


@pytest.mark.parametrize(
    ("place", "fields", "expected"),
    [
        ("schema.sql", columns_in(sqlite.SCHEMA_FILE), COLUMNS),
        ("schema-postgresql.sql", columns_in(postgres.SCHEMA_FILE), COLUMNS),
        ("ACCOUNT_RULES in rules.py", set(rules.ACCOUNT_RULES), SENT),
        ("Account in openapi.json", fields_of("Account"), COLUMNS - {"api_key_sha256"}),
        (
            "AccountCreate and AccountUpdate in openapi.json",
            fields_of("AccountCreate") | fields_of("AccountUpdate"),
            SENT,
        ),
        ("state documents", set(STATE_ACCOUNT_RULES), COLUMNS | {"api_key", "usage"}),
        (
            "StateAccount in standin/openapi.json",
            fields_of("StateAccount", CONTROL_PLANE),
            COLUMNS | {"usage"},
        ),
    ],
)
def test_a_field_of_an_account_is_everywhere(place, fields, expected):
    assert fields == expected, f"the fields of {place} differ from models.Account's"


def test_the_documents_show_an_account_with_all_fields():
    shown = re.findall(r'^\{"fense_account_id": 1, "name".*"updated_at".*\}$', TEXT, re.M)
    assert len(shown) >= 2
    for line in shown:
        assert set(re.findall(r'"(\w+)":', line)) == COLUMNS - {"api_key_sha256"}


@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        ("POST /accounts`", rules.CREATE_RULES),
        ("POST /accounts/{fense_account_id}`", rules.UPDATE_RULES),
    ],
)
def test_fidelity_lists_the_fields_that_an_operation_takes(operation, fields):
    (line,) = re.findall(rf"^- .*?: `{re.escape(operation)}(.*?)(?=^- )", FIDELITY, re.S | re.M)
    assert listed(*fields) == set(re.findall("`.*?`", line))


# --- An endpoint -------------------------------------------------------------------------------

PATHS = sorted({path for _, path, _ in CONTRACT.operations})


@pytest.mark.parametrize("path", PATHS)
def test_an_endpoint_is_known_to_the_log_and_to_guess_path(path):
    words = [word for word in path.split("/") if word and "{" not in word]
    assert set(words) <= set(reading.KNOWN_WORDS), "KNOWN_WORDS in reading.py lacks it"
    plain = re.fullmatch(fense_admin.PLAIN_PATH, re.sub(r"\{.*?\}", "1", path))
    assert plain, "PLAIN_PATH in fense_admin.py lacks it"


def test_an_endpoint_is_tested_and_shown():
    tests = (
        text_of("tests/contract/*.py")
        + text_of("tests/test_health.py")
        + text_of("tests/test_openapi.py")
    )
    for path in PATHS:
        # A path with an id ends in a number, or in a value put in.
        pattern = re.escape(path).replace(r"\{fense_account_id\}", r"(?:\d|\{)")
        assert re.search(pattern, tests), f"tests/contract lacks {path}"
        assert re.search(pattern, TEXT), f"the documents lack {path}"


def test_the_documents_show_a_request_to_each_operation():
    shown = {
        ("post" if " -d " in line else "get", path)
        for line, path in re.findall(r"^(?:\$ )?(curl .*?http://[^/ ]+(/[^?\s']*).*)$", TEXT, re.M)
    }
    for method, path, _ in CONTRACT.operations:
        pattern = re.sub(r"\\{.*?\\}", "[0-9]+", re.escape(path))
        assert any(how == method and re.fullmatch(pattern, where) for how, where in shown), (
            f"the documents lack {method.upper()} {path}"
        )


# --- A limit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [field.name for field in dataclasses.fields(Limits)])
def test_a_limit_is_documented(limit):
    statements = text_of("tests/test_documents.py")
    assert f"LIMITS.{limit}" in statements, "no document names it: see STATEMENTS"


# --- What a fault can do -----------------------------------------------------------------------


def test_the_documents_list_the_keys_of_a_fault():
    table = re.search(r"\n## The keys of a fault\n.*?\n## ", TEXT, re.S)[0]
    assert listed(*faults.FAULT_RULES, *faults.DROPS) <= set(re.findall("`.*?`", table))


def test_the_documents_list_the_arguments_of_fail():
    (comment,) = re.findall(r"# (.*), too\n    fense\.fail\(drop=.*?, times=0\)", TEXT)
    assert {*comment.split(", "), "drop", "times"} == faults.FAULT_RULES.keys()


def test_a_kind_of_drop_is_described_and_tested():
    (schema,) = {
        str(CONTROL_PLANE.components["schemas"][name]["properties"]["drop"]["enum"])
        for name in ("FaultSent", "Fault")
    }
    assert schema == str(list(faults.DROPS))
    for kind in faults.DROPS:
        assert f'"{kind}"' in text_of("tests/standin/test_drops_and_delays.py"), kind


# --- The control plane -------------------------------------------------------------------------


def test_the_documents_list_the_control_plane():
    table = re.search(r"\| under `/_standin` \|.*?\n\n", TEXT, re.S)[0]
    named = set()
    for methods, path in re.findall("((?:`[A-Z]+`, )*`?[A-Z]+) (/[^`]*)`", table):
        named |= {(method.lower(), path) for method in re.findall("[A-Z]+", methods)}
    operations = {(method, path) for method, path, _ in CONTROL_PLANE.operations}
    assert named - {("get", "/")} == operations


def test_the_control_plane_is_tested():
    tests = text_of("tests/standin/*.py")
    for _, path, _ in CONTROL_PLANE.operations:
        assert f"/_standin{path.partition('{')[0]}" in tests, f"tests/standin lacks {path}"


# --- The page for people -----------------------------------------------------------------------


def test_a_template_is_listed_and_exists():
    files = {file.stem for file in (CHECKOUT / "standin/page").glob("*.html")}
    assert set(shown.TEMPLATES) == files


@pytest.mark.parametrize("tests", ["test_page.py", "test_page_curl.py", "test_page_in_browser.py"])
def test_a_view_is_tested(tests):
    source = text_of(f"tests/standin/{tests}")
    lists = " ".join(re.findall(r"^VIEWS \+?= \[(.*)\]$", source, re.M))
    paths = re.findall(r'"(?:page/)?([^"]*)"', lists)
    paths += [
        path.replace("{number}", "1") for path in re.findall(r"page/(requests/[^\"/ ]*)", source)
    ]
    for pattern in page.VIEWS:
        assert any(re.fullmatch(pattern, path) for path in paths), f"VIEWS lacks {pattern!r}"


# --- A header that the journal shows -----------------------------------------------------------


@pytest.mark.parametrize("name", sorted(journal.SHOWN_HEADERS))
def test_a_header_that_the_journal_shows_never_has_a_key(name):
    assert name != exchange.KEY_HEADER
    assert not re.search("auth|cookie|key|token|secret|credential", name)
