"""The documents have the limits and defaults of the service."""

import json
import re
import shlex
from pathlib import Path

import documentation
import pytest
from conftest import CHECKOUT

import fense_admin
from fense_admin import libpq, pool, postgres, rules, settings, sqlite
from fense_admin.exchange import INVALID
from fense_admin.serving.connections import ERRORS
from fense_admin.settings import Limits
from fense_admin.standin import faults, instances, journal

LIMITS = Limits()


def kib(limit):
    assert limit % 1024 == 0
    return f"{limit // 1024} KiB"


def bounds(rule):
    """The lowest and the highest value that a rule of `rules.whole_number` takes."""
    with pytest.raises(ValueError, match="from") as refused:
        rule(None)
    low, high = re.findall("[0-9]+", str(refused.value))
    return f"{int(low):,}", f"{int(high):,}"


def default(name):
    return settings.SETTINGS[name].default


STATUS = bounds(faults.FAULT_RULES["status"])
REQUEST_ID = re.search(r"\{1,([0-9]+)\}", fense_admin.VALID_REQUEST_ID.pattern)[1]
WRITE_TIMEOUT = sqlite.WRITER_TIMEOUT + sqlite.BUSY_TIMEOUT  # seconds
LONGEST = rules.MAX_LOOKUPS, rules.MAX_ID
ADDRESS = f"{default('host')}:{default('port')}"

STATEMENTS = [
    (document, statement)
    for document, statements in {
        "README.md": [
            f"the newest {journal.JOURNAL_LENGTH:,} requests",
            f"http://{ADDRESS}, key: {fense_admin.DEVELOPMENT_KEY}",
            f"listens on {default('host')}, speaks",
        ],
        "docs/testing-in-any-language.md": [
            f"the newest {journal.JOURNAL_LENGTH:,} requests",
            f"with {kib(journal.MAX_TEXT)} of each body",
            f"which there may be {instances.MAX_INSTANCES:,}",
        ],
        "docs/page.md": [
            f"the newest {journal.JOURNAL_LENGTH:,} requests",
            f"the first {kib(journal.MAX_TEXT)} of a body",
        ],
        "docs/data-and-clock.md": [f"takes up to {LIMITS.state_body // 2**20} MiB"],
        "docs/installing.md": [f"Accounts are kept in `{default('database')}`"],
        "docs/testing-in-python.md": [
            f"POST /accounts/1 {INVALID}: supress_billing is not accepted here; did you mean",
        ],
        "docs/command.md": [f"POST /accounts {INVALID} 0.4ms"],
        "docs/failures.md": [
            "the status of the response, {} to {}".format(*STATUS),
            f"up to {kib(faults.MAX_BODY)}, and its type (default `{faults.PLAIN_TEXT}`)",
        ],
        "docs/configuration.md": [
            *(
                f"| `--{name}` | `{settings.variable_of(name)}` | {f'`{value}`' if value else 'none'} |"
                for name, (value, *_) in settings.SETTINGS.items()
            ),
        ],
        "SECURITY.md": [
            f"{kib(LIMITS.header)} of header",
            f"{kib(LIMITS.body)} of body",
            f"Without the master key no body is over {kib(LIMITS.read_body)}",
            f"{LIMITS.connections} connections, {LIMITS.idle} s for a request",
            f"| {LIMITS.connections} connections;",
            f"reads nothing is closed after {LIMITS.idle} s",
            f"A connection has {LIMITS.idle} s to send a whole request",
            f"{default('threads')} requests at a time",
            f"{WRITE_TIMEOUT} s for a write to get its turn",
            f"{rules.MAX_ERRORS} errors reported of one request",
            f"{LIMITS.waiting} requests that wait for a delay",
            f"Listens on {default('host')} by default",
        ],
        "FIDELITY.md": [
            f"413 over {kib(LIMITS.body)}",
            f"the connection's own limit is {kib(LIMITS.read_body)}",
            f"431 over {kib(LIMITS.header)} of headers",
            f"If there are more than {rules.MAX_ERRORS}, the first {rules.MAX_ERRORS} are",
            f"While {LIMITS.waiting} requests wait for a delay",
            f"1 to {REQUEST_ID} visible ASCII characters, and isn't a key",
            "A day's total is at most 10^12",
            "After the id 2^53 - 1 a creation is 503",
            f"{INVALID}, 401, 403, 404 and 500, in one shape",
            f"that is not an integer is {INVALID}",
            f"that another account has is {INVALID}",
            f"Different ids in path and query are {INVALID}",
            f"other than `identity` is {INVALID}",
            f"more than 4,300 digits are {INVALID}",
            f"With `{fense_admin.DEVELOPMENT_KEY}` a request with a foreign `Origin`",
        ],
        "openapi.json": [
            f'"description": "A JSON object in UTF-8 of at most {kib(LIMITS.body)}."',
            f'"The body exceeds {kib(LIMITS.body)}."',
            f"1 to {REQUEST_ID} visible ASCII characters",
        ],
        "standin/openapi.json": [
            f"of at most {LIMITS.state_body // 2**20} MiB",
            f"At most {journal.JOURNAL_LENGTH:,}, oldest first",
            f"The first {kib(journal.MAX_TEXT)}, with keys masked",
            f'"there are {instances.MAX_INSTANCES} instances: end some, or reset"',
            f'"the body exceeds the maximum of {LIMITS.state_body} bytes"',
        ],
        "deploy/README.md": [
            f"the service itself listens on {ADDRESS}",
            f"about {pool.MAX_WAITING} more while the server keeps requests waiting",
            f"| `connect_timeout` | {libpq.DEFAULTS['connect_timeout']} s for each address |",
            f"after {libpq.STEP} s tries the next one as well",
            f"{pool.RELIED_ON['default_transaction_isolation']}'`",
            f"| `target_session_attrs` | `{libpq.DEFAULTS['target_session_attrs']}` |",
            f"| `application_name` | `{libpq.DEFAULTS['fallback_application_name']}` |",
        ],
        "deploy/fense-admin.socket": [f"ListenStream={ADDRESS}"],
        "deploy/nginx.conf": [
            f"server {ADDRESS};",
            f"the body exceeds the maximum of {LIMITS.read_body} bytes",
            f"the request line and headers exceed the maximum of {LIMITS.header} bytes",
            f"client_max_body_size {LIMITS.read_body // 1024}k;",
            f"client_body_buffer_size {LIMITS.read_body // 1024}k;",
            f"it answers what is over {LIMITS.body // 1024}k itself",
            f"large_client_header_buffers 4 {LIMITS.header // 1024}k;",
            f"the service closes idle connections after {LIMITS.idle}",
            f"{{1,{REQUEST_ID}}}",
            ERRORS[501],
        ],
    }.items()
    for statement in statements
]


@pytest.mark.parametrize(("document", "statement"), STATEMENTS)
def test_a_document_names_the_limit_or_the_default_of_the_service(document, statement):
    assert statement in " ".join((CHECKOUT / document).read_text("utf-8").split())


def test_limits_written_as_powers_are_right():
    assert LONGEST == (10**12, 2**53 - 1)
    schemas = json.loads(Path(fense_admin.OPENAPI_FILE).read_text("utf-8"))["components"]["schemas"]
    assert schemas["Lookups"]["maximum"] == rules.MAX_LOOKUPS
    for engine in (sqlite, postgres):
        assert f"BETWEEN 1 AND {rules.MAX_LOOKUPS}" in Path(engine.SCHEMA_FILE).read_text("utf-8")


@pytest.mark.parametrize("document", ["openapi.json", "FIDELITY.md", "SECURITY.md"])
def test_no_document_names_another_size(document):
    """Every other size in KiB in the documents is also one of the limits."""
    named = set(re.findall("[0-9]+ KiB", (CHECKOUT / document).read_text("utf-8")))
    assert named <= {kib(limit) for limit in (LIMITS.body, LIMITS.read_body, LIMITS.header)}


PROOFS = re.findall(
    r'make test ARGS=("[^"]+"|[^`]+)`', (CHECKOUT / "SECURITY.md").read_text("utf-8")
)


@pytest.mark.parametrize("arguments", [proof.strip('"') for proof in PROOFS])
def test_a_promise_names_tests_that_exist(arguments):
    words = shlex.split(arguments)
    files = [word for word in words if word.endswith(".py")]
    tests = [
        name
        for file in files
        for name in re.findall(r"^def (test_\w+)", (CHECKOUT / file).read_text("utf-8"), re.M)
    ]
    assert files
    if "-k" in words:
        chosen = set(re.findall(r"\w+", words[words.index("-k") + 1])) - {"or", "and", "not"}
        assert {word for word in chosen if not any(word in name for name in tests)} == set()


def test_proxies_give_the_service_enough_time():
    """nginx lets go of an idle connection before the service does, systemd waits for the drain."""
    nginx = (CHECKOUT / "deploy/nginx.conf").read_text("utf-8")
    assert int(re.search(r"keepalive_timeout ([0-9]+)s;", nginx)[1]) < LIMITS.idle
    connect, read = (
        float(re.search(rf"proxy_{name}_timeout ([0-9]+)ms;", nginx)[1]) / 1000
        for name in ("connect", "read")
    )
    slowest = max(WRITE_TIMEOUT, postgres.WORKING + postgres.COMMITTING + postgres.CANCELLING)
    assert slowest + 0.5 < read
    assert 2 * connect + read < 5
    for file, pattern in (
        ("deploy/fense-admin.service", "TimeoutStopSec=([0-9]+)"),
        ("compose.yaml", "stop_grace_period: ([0-9]+)s"),
    ):
        unit = (CHECKOUT / file).read_text("utf-8")
        assert int(re.search(pattern, unit)[1]) > float(default("drain")), file
    # Of a length of six digits nginx says 413 itself: the service takes no body that long.
    digits = int(re.search(r'"\\d\{([0-9])\}"', nginx)[1])
    assert len(str(LIMITS.read_body)) == digits
    assert 10 ** (digits - 1) > LIMITS.body


def test_the_documents_name_the_version_of_the_service():
    quoted = r"(?:\bversion=|fense-admin/|fense_admin-|fense-admin@v)([0-9]+\.[0-9]+\.[0-9]+)"
    found = re.findall(quoted, documentation.TEXT)
    assert len(found) >= 6
    assert set(found) == {fense_admin.__version__}
