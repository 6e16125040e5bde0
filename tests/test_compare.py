"""The command compare only reads, reports differences, and fails with one sentence."""

import contextlib
import json
import re
import ssl
import time

import pytest
from conftest import MASTER_KEY, SERVICE_KEY, account_fields, few, run_program, sentence, tools
from other_fense import MASTER_KEY as REAL_KEY
from other_fense import PERSONAL, OtherFense, Request, serving
from ways_to_differ import CHANGES

KEYS = {"DISPUTE_MASTER_KEY": MASTER_KEY, "DISPUTE_SERVICE_KEYS": SERVICE_KEY}


def rows(db):
    """Return everything in a database."""
    tables = ("account", "usage", "usage_month")
    return [db.engine.execute_sql(f"SELECT * FROM {it} ORDER BY 1, 2").fetchall() for it in tables]


def fill(db, accounts):
    for number in range(accounts):
        account = db.create_account(account_fields(api_key=f"merchant-key-{number:06}"))
        for date, lookups in (("2026-02-27", number), ("2026-03-02", 3), ("2026-03-09", 5)):
            db.record_lookups(account["fense_account_id"], lookups, date)


@pytest.mark.parametrize(
    ("engine", "accounts"),
    few(
        [("sqlite", 0), ("sqlite", 9), ("postgresql", 1), ("sqlite", 1000), ("postgresql", 200)], 3
    ),
)
def test_a_comparison_with_ourselves_finds_no_difference_and_writes_nothing(
    app, serve, run_command, accounts
):
    fill(app.db, accounts)
    before = rows(app.db)
    url = f"http://127.0.0.1:{serve(app).server.port}"
    code, out, errors = run_command("compare", url, "--accounts=9", **KEYS)
    assert (code, out.splitlines()[-1].split(", ")[1]) == (0, "0 differ"), out
    assert errors.startswith("fense-admin: at most ")
    assert rows(app.db) == before


def test_a_prefix_is_a_part_of_the_url(make_app, serve, run_command):
    app = make_app(master_key=MASTER_KEY, service_keys=[SERVICE_KEY], prefix="/real/admin")
    fill(app.db, 2)
    url = f"http://127.0.0.1:{serve(app).server.port}/real/admin"
    assert run_command("compare", url, "--quiet", **KEYS)[::2] == (0, "")
    code, _, errors = run_command("compare", url[:-6], "--quiet", **KEYS)
    assert code == 3
    assert "check the URL and its prefix" in errors


def answering(other):
    """Answer for this service."""

    def respond(handler):
        target = handler.requestline.split()[1]  # handler.path lacks a second slash
        path, _, query = target.partition("?")
        request = Request(handler.command, path, query, handler.headers["x-api-key"])
        other.requests.append(request)
        response = other.change(request, other.respond)
        body = json.dumps(response.body).encode()
        handler.send_response(response.status)
        for name, value in {**response.headers, "content-length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return respond


def test_a_difference_is_printed_with_the_deciding_function(run_command, tmp_path):
    other = OtherFense(CHANGES["ids_as_text"][1])
    environment = {"DISPUTE_MASTER_KEY": REAL_KEY}
    recording = tmp_path / "real.json"
    with serving(answering(other)) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        code, out, errors = run_command("compare", url, f"--record={recording}", **environment)
        assert code == 1
        assert "differs    numbers: Ids and lookups are JSON numbers.\n" in out
        assert "ours: whole numbers\n" in out
        assert re.search(
            "theirs: `fense_account_id` is text \\(in [0-9]+ of [0-9]+ responses\\)", out
        )
        assert "decided in models.as_account, " in out
        as_json = run_command("compare", url, "--json", "--quiet", **environment)
    assert as_json[::2] == (1, "")
    differing = [it for it in json.loads(as_json[1])["lines"] if it["result"] == "differs"]
    assert [it["line"] for it in differing] == ["numbers"]
    offline = run_command("compare", str(recording))
    assert offline == (1, out, "")
    assert {request.method for request in other.requests} == {"GET", "HEAD"}
    everything = out + errors + as_json[1] + recording.read_text("utf-8")
    assert not [it for it in (*PERSONAL, REAL_KEY) if it in everything]
    # A recording is never written over.
    code, _, errors = run_command("compare", str(recording), f"--record={recording}")
    assert code == 2
    assert "can't be written: File exists" in errors


def test_accounts_are_chosen_by_number_or_by_id(make_app, serve, run_command):
    app = make_app(master_key=MASTER_KEY)
    fill(app.db, 4)
    url, key = f"http://127.0.0.1:{serve(app).server.port}", {"DISPUTE_MASTER_KEY": MASTER_KEY}
    few = run_command("compare", url, "--accounts=1", **key)
    named = run_command("compare", url, "--account=2", "--account=3", **key)
    assert (few[0], named[0]) == (0, 0)
    assert few[2] != named[2]  # at most so many requests
    code, _, errors = run_command("compare", url, "--account=9", **key)
    assert (code, "account 9 does not exist there" in errors) == (3, True)


def test_a_dry_run_lists_the_requests_and_sends_none(run_command):
    code, out, errors = run_command("compare", "http://127.0.0.1:1", "--dry-run")
    assert (code, errors) == (0, "")
    assert {line.split()[0] for line in out.splitlines()} == {"GET", "HEAD"}
    assert "GET /accounts/usage/ID\n" in out


SECRET = "sk-live-0123456789"


@pytest.mark.parametrize(
    "arguments",
    [
        [f"http://user:{SECRET}@fense.example/"],
        [f"http://fense.example/?key={SECRET}"],
        ["http://fense.example", SECRET],
        [SECRET],
        ["http://fense.example", f"--key={SECRET}"],
        ["http://fense.example", "--key", SECRET],
        ["http://fense.example", "--account", SECRET],
        ["http://fense.example", "--accounts", SECRET],
        ["http://fense.example", "--timeout", SECRET],
        [],
    ],
)
def test_wrong_usage_is_not_repeated(run_command, arguments):
    code, out, errors = run_command("compare", *arguments, **KEYS)
    assert (code, out) == (2, "")
    assert SECRET not in errors


def test_a_key_is_required(run_command):
    code, out, errors = run_command("compare", "http://127.0.0.1:1")
    assert (code, out) == (2, "")
    assert "set DISPUTE_MASTER_KEY" in errors


# --- What is not a Fense -------------------------------------------------------------------------


def send(handler, body, content_type):
    handler.send_response(200)
    handler.send_header("Content-Type", content_type)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def html(handler):
    send(handler, b"<form>Log in</form>", "text/html")


def other_json(handler):
    send(handler, b'{"hello": "world"}', "application/json")


def cut(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"accounts": [')
    handler.close_connection = True


def refuse(handler):
    handler.send_response(401)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def silence(handler):
    time.sleep(3)


def drops(handler):
    """Send a byte from time to time for as long as the client reads."""
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.05)


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b" " * 1_000_000)


@pytest.mark.parametrize(
    ("respond", "reported"),
    [
        (html, "is not JSON"),
        (other_json, "this is not a Fense"),
        (cut, "is incomplete"),
        (refuse, "rejects the key (401)"),
        (silence, "timed out after 0.5 s"),
        (drops, "timed out after 0.5 s"),
    ],
)
def test_another_service_is_reported_in_one_sentence(run_command, respond, reported):
    with serving(respond) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        result = run_command("compare", url, "--quiet", "--timeout=0.5", **KEYS)
    assert reported in sentence(result, code=3)
    assert not [key for key in KEYS.values() if key in result[2]]


def test_an_endless_body_ends_the_comparison(run_command):
    with serving(endless) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        result = run_command("compare", url, "--quiet", **KEYS)
    assert "too large" in sentence(result, code=3)


def test_a_closed_port_is_reported_in_one_sentence(run_command):
    result = run_command("compare", "http://127.0.0.1:1", "--quiet", **KEYS)
    assert "Connection refused" in sentence(result, code=3)


def test_no_key_is_sent_to_the_target_of_a_redirect(run_command):
    asked = []
    with serving(asked.append) as elsewhere:

        def redirect(handler):
            handler.send_response(302)
            handler.send_header("Location", f"http://127.0.0.1:{elsewhere.server_port}/")
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        with serving(redirect) as server:
            url = f"http://127.0.0.1:{server.server_port}"
            result = run_command("compare", url, "--quiet", **KEYS)
    assert "redirects (302)" in sentence(result, code=3)
    assert asked == []


@pytest.mark.needs("the system's certificates")
def test_a_certificate_is_checked_and_can_be_trusted(run_command, tmp_path):
    tools("openssl")
    made = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key", "-out", "ca"]
    run_program("openssl", *made.split(), *names, cwd=tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca", tmp_path / "key")
    other = OtherFense(lambda request, respond: respond(request))
    with serving(answering(other)) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url, key = f"https://localhost:{server.server_port}", {"DISPUTE_MASTER_KEY": REAL_KEY}
        result = run_command("compare", url, "--quiet", **key)
        assert "its certificate is not trusted" in sentence(result, code=3)
        trusted = run_command("compare", url, "--quiet", f"--ca-file={tmp_path / 'ca'}", **key)
        assert trusted[::2] == (0, "")
        wrong = run_command("compare", url, f"--ca-file={tmp_path / 'key'}", **key)
        assert "--ca-file can't be used" in sentence(wrong, code=3)
    plain = run_command("compare", url.replace("https", "http"), "--quiet", **key)
    assert sentence(plain, code=3)
