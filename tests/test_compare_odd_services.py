"""compare copes with any service or recording: it reports a difference, or one sentence."""

import copy
import json
import random
import subprocess
import sys

import pytest
from conftest import few, sentence
from other_fense import MASTER_KEY, PERSONAL, SERVICE_KEY, OtherFense, Response, serving

from fense_admin import settings
from fense_admin.comparing import asking, recording, report, writing
from fense_admin.comparing.differences import MAX_KEPT, plain_header
from fense_admin.comparing.judging import Comparison, known_usage
from fense_admin.comparing.questions import ALL, KNOWN
from fense_admin.comparing.service import CouldNotAsk, Service, read_response
from fense_admin.comparing.service import Response as Received

KEYS = {"DISPUTE_MASTER_KEY": MASTER_KEY, "DISPUTE_SERVICE_KEYS": SERVICE_KEY}
CANARY, CANARY_UUID = "canary7q@merchant.example", "cccccccc-cccc-4ccc-8ccc-cccccccccccc"


def ask(change, accounts=5):
    return asking.ask_all(OtherFense(change).ask, (), accounts, has_other_key=True)


def unchanged(request, respond):
    return respond(request)


def that_differ(asked):
    results = report.results(Comparison(asked).differences)
    return [it["line"] for it in results if it["result"] == report.DIFFERS]


# --- While it is asked ---------------------------------------------------------------------------


def test_lookups_added_during_a_comparison_are_not_a_difference():
    other = OtherFense(unchanged)
    days = {"2026-03-01": 2, **dict.fromkeys(["today", "yesterday"], 1)}

    def growing(request, respond):
        for day in (0, -1):
            other.standin.record_lookups(17, days["today"], day)
        return respond(request)

    other.change = growing
    assert that_differ(asking.ask_all(other.ask, (), 5, has_other_key=True)) == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_rejected_later_ends_the_comparison(status):
    count = 0

    def refusing(request, respond):
        nonlocal count
        count += 1
        response = respond(request)
        if count > 10:
            response.status = status
        return response

    with pytest.raises(CouldNotAsk, match=f"has begun to reject the key \\({status}\\)"):
        ask(refusing)


def test_an_account_that_disappears_ends_the_comparison():
    count = 0

    def disappearing(request, respond):
        nonlocal count
        count += request.path in ("/accounts/34", "/accounts/usage/34")
        response = respond(request)
        if count > 3 and "/34" in request.path:
            response.status = 404
        return response

    with pytest.raises(CouldNotAsk, match="disappeared while it was read: try again"):
        ask(disappearing)


def test_an_account_that_disappears_before_it_is_read_ends_the_comparison():
    is_first = True

    def disappearing(request, respond):
        nonlocal is_first
        response = respond(request)
        if "/34" in request.path:
            response.status = 404
        elif not is_first and response.status == 200 and "accounts" in (response.body or ()):
            accounts = response.body["accounts"]
            response.body["accounts"] = [it for it in accounts if it["fense_account_id"] != 34]
        is_first = False
        return response

    with pytest.raises(CouldNotAsk, match="disappeared while it was read: try again"):
        ask(disappearing)


def test_accounts_that_are_listed_but_unreadable_differ():
    def unreadable(request, respond):
        response = respond(request)
        if "/34" in request.path:
            response.status = 404
        return response

    assert that_differ(ask(unreadable)) == ["account", "usage"]


def answering(status, raw, **headers):
    def respond(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    return respond


NO_ACCOUNTS = b'{"start_date":null,"end_date":null,"total_lookups":0,"accounts":[]}'


@pytest.mark.parametrize(
    ("respond", "reported"),
    [
        (answering(429, b"", Retry_After="30"), "(429): try again in 30 s"),
        (answering(503, b"", Retry_After=CANARY), "(503): try again later"),
        (answering(200, b"\x1f\x8b", Content_Encoding="gzip"), "a compressed response"),
        (answering(204, b""), "returned 204"),
        (answering(200, b""), "is not JSON"),
        (answering(200, b"null"), "this is not a Fense"),
        (answering(200, b"[" * 50_000 + b"]" * 50_000), "is not JSON"),
        (answering(200, b'{"a":' * 500 + b"1" + b"}" * 500), "is not JSON"),
        (answering(200, NO_ACCOUNTS.replace(b"0", b"NaN")), "is not JSON"),
        (answering(200, b"9" * 5_000), "is not JSON"),
        (answering(200, b"[" + b"{}," * 6_000_000 + b"{}]"), "too large to compare"),
        (answering(200, NO_ACCOUNTS, X_Long="x" * 70_000), "not valid HTTP"),
    ],
)
def test_a_failed_comparison_is_reported_in_one_sentence(run_command, respond, reported):
    with serving(respond) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        result = run_command("compare", url, "--quiet", **KEYS)
    assert reported in sentence(result, code=3)
    assert CANARY not in result[2]


def test_headers_are_compared_without_personal_parts(run_command, tmp_path):
    values = {
        "Content-Type": f"application/json; owner={CANARY}",
        "WWW-Authenticate": f'Bearer realm="{CANARY}"',
        "Allow": f"GET, {CANARY}",
        "Location": f"https://{CANARY}/\xff\xfe",
    }

    def respond(handler):
        handler.send_response(200)
        for name, value in values.items():
            handler.send_header(name, value)
        handler.send_header("Allow", "\x01\x02")  # twice
        handler.send_header("Content-Length", str(len(NO_ACCOUNTS)))
        handler.end_headers()
        handler.wfile.write(NO_ACCOUNTS)

    with serving(respond) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        code, out, errors = run_command("compare", url, "--record=real.json", **KEYS)
    recorded = (tmp_path / "real.json").read_text("utf-8")
    assert code == 1
    assert "canary" not in out + errors + recorded
    assert "`; another parameter`" in out


def test_a_list_of_many_accounts_is_compared_with_few_requests():
    listed = [
        {"fense_account_id": it, "name": f"{it}", "dispute_account_id": None, "total_lookups": 0}
        for it in range(1000, 20_000)
    ]

    def many(request, respond):
        response = respond(request)
        if response.status == 200 and "accounts" in (response.body or ()):
            response.body["accounts"] += listed
        return response

    assert that_differ(ask(many, accounts=3)) == []


def test_accounts_may_be_repeated_and_are_limited(run_command):
    many = [f"--account={number}" for number in range(1, settings.MAX_COMPARED + 2)]
    code, _, errors = run_command("compare", "http://127.0.0.1:1", *many, **KEYS)
    assert (code, "at most" in errors) == (2, True)
    other = OtherFense(unchanged)
    asking.ask_all(other.ask, (17, 17), 5, has_other_key=True)
    assert [it.path for it in other.requests].count("/accounts/17") == 2  # and ?colour=red


# --- Bodies and recordings at random ---------------------------------------------------------------

VALUES = [
    *(None, True, 0, 1, -5, 17, 1e3, 1.5, 1e300, float("inf"), 2**53, 10**12 + 1, 10**30, ""),
    *("17", "-17", "1_7", "2026-03-01", "2026-02-30", "2999-01-01", "0001-01-01T00:00:00+14:00"),
    *("9999-12-31T23:59:59-14:00", "\ud800", CANARY, CANARY_UUID, f"{CANARY}\x00\x1b[31m"),
    *([], {}, [[]], [None], [CANARY], {CANARY: CANARY}, {"data": CANARY}, {"error": CANARY}),
    {"error": {"code": CANARY, "message": CANARY, "details": []}},
]
NAMES = [CANARY, CANARY_UUID, "data", "fenseAccountId", "id", "", "\ud800", "name", "date", "error"]


def places(value, inside, key):
    yield inside, key
    if isinstance(value, (dict, list)):
        for it in list(value) if isinstance(value, dict) else range(len(value)):
            yield from places(value[it], value, it)


def mutated(body, chance):
    """The body with a few values, names and types changed at random."""
    box = [copy.deepcopy(body)]
    for _ in range(chance.choice([1, 1, 2, 5])):
        inside, key = chance.choice(list(places(box[0], box, 0)))
        what = chance.randrange(6)
        if what < 2:
            inside[key] = copy.deepcopy(chance.choice(VALUES))
        elif what == 2 and isinstance(inside, dict):
            del inside[key]
        elif what == 3 and isinstance(inside, dict):
            inside[chance.choice(NAMES)] = inside.pop(key)
        elif what == 4 and isinstance(inside[key], list):
            inside[key] *= 2
        else:
            inside[key] = chance.choice(
                [[inside[key]], {"data": inside[key]}, {CANARY: inside[key]}]
            )
    return box[0]


def mutated_answer(answer, chance):
    raw = json.dumps(mutated(answer.body, chance)).encode()
    status = answer.status if chance.random() < 0.9 else chance.choice([200, 201, 204, 404, 500])
    return read_response(status, answer.headers, raw)


def check_nothing_personal(text):
    found = [it for it in (*PERSONAL, "canary", CANARY_UUID[:12]) if it.lower() in text.lower()]
    assert not found, text


@pytest.fixture(scope="module")
def asked():
    other = OtherFense(unchanged)
    writing.SECOND, second = 0, writing.SECOND
    try:
        reads = asking.ask_all(other.ask, (), 5, has_other_key=True)
        return reads + writing.put_all(other.ask)
    finally:
        writing.SECOND = second


@pytest.mark.parametrize("seed", few(range(40), 6))
def test_bodies_changed_at_random_are_compared(asked, seed):
    chance = random.Random(seed)
    share = chance.choice([0.05, 0.3, 1])
    changed = [
        (question, mutated_answer(it, chance) if it.is_json and chance.random() < share else it)
        for question, it in asked
    ]
    results = report.results(Comparison(changed).differences)
    check_nothing_personal(json.dumps(results) + "\n".join(report.printed(results, len(asked))))
    recorded = recording.record(changed, "1.0")
    check_nothing_personal(recorded)
    again = Comparison(recording.read(recorded.encode())).differences
    assert report.results(again) == results


@pytest.mark.parametrize("seed", few(range(20), 4))
def test_a_service_that_changes_its_bodies_at_random_is_asked(seed):
    chance = random.Random(seed)
    other = OtherFense(unchanged)

    def put(question):
        answer = other.ask(question)
        return (
            mutated_answer(answer, chance) if answer.is_json and chance.random() < 0.1 else answer
        )

    try:
        Comparison(asking.ask_all(put, (), 5, has_other_key=True))
    except CouldNotAsk as error:
        check_nothing_personal(str(error))
    assert len(other.requests) <= asking.max_requests(3)


@pytest.mark.parametrize("seed", few(range(40), 10))
def test_a_recording_changed_at_random_is_compared_or_rejected(asked, seed):
    chance = random.Random(seed)
    document = json.loads(recording.record(asked[:: 1 + seed % 3], "1.0"))
    for _ in range(chance.choice([1, 10])):
        entry = chance.choice(document["questions"])
        changed = mutated(entry, chance)
        if isinstance(changed, dict):
            entry |= changed
        name = chance.choice(list(entry))
        entry[name] = chance.choice([*VALUES, "POST", "known", "Account", "/accounts/usage/{id}"])
    try:
        results = report.results(
            Comparison(recording.read(json.dumps(document).encode())).differences
        )
    except CouldNotAsk as error:
        check_nothing_personal(str(error))
    else:
        check_nothing_personal("\n".join(report.printed(results, len(asked))))


def recorded(**changes):
    """A recording of one question, changed."""
    answer = Received(200, {"content-type": "application/json"}, json.loads(NO_ACCOUNTS), True)
    entry = json.loads(recording.record([(ALL, answer)], "1.0"))["questions"][0]
    response = entry["response"] | changes.pop("response", {})
    return {"recording": 1, "by": "1.0", "questions": [entry | changes | {"response": response}]}


def test_a_recording_of_one_question_is_compared(run_command, tmp_path):
    (tmp_path / "real.json").write_text(json.dumps(recorded()), "utf-8")
    assert run_command("compare", "real.json")[::2] == (0, "")


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"recording": 1},
        {"recording": 1, "questions": []},
        {"recording": 1, "questions": {"a": 1}},
        {"recording": 1, "questions": recorded()["questions"] * 301},
        recorded(target="/_standin/faults"),
        recorded(target="http://fense.example/"),
        recorded(target="/accounts HTTP/1.1\r\nx: y"),
        recorded(method="DELETE"),
        recorded(schema="Health"),
        recorded(key="another"),
        recorded(key=["known"]),
        recorded(account=0),
        recorded(account=2**53),
        recorded(account=True),
        recorded(line=None),
        recorded(body=7),
        recorded(encoding="x" * 5_000),
        recorded(more=1),
        recorded(response={"status": "200"}),
        recorded(response={"status": 10}),
        recorded(response={"headers": None}),
        recorded(response={"headers": {"allow": 7}}),
        recorded(response={"headers": {"set-cookie": "a"}}),
        recorded(response={"is_json": 1}),
        recorded(response={"is_json": False}),
        recorded(response={"body": json.loads("[" * 100 + "]" * 100)}),
    ],
)
def test_a_damaged_recording_is_reported_in_one_sentence(run_command, tmp_path, document):
    (tmp_path / "real.json").write_text(json.dumps(document), "utf-8")
    message = sentence(run_command("compare", "real.json"), code=3)
    assert "is not a recording of fense-admin compare" in message


@pytest.mark.parametrize(
    ("raw", "reported"),
    [
        (b"", "is not a recording"),
        (b"\xff", "is not a recording"),
        (b"[" * 100_000, "is not a recording"),
        (b'{"recording": 2}', "from another version"),
        (b"[" + b"{}," * 10_000_000 + b"{}]", "too large"),
    ],
)
def test_a_file_that_is_not_a_recording_is_reported_in_one_sentence(
    run_command, tmp_path, raw, reported
):
    (tmp_path / "real.json").write_bytes(raw)
    assert reported in sentence(run_command("compare", "real.json"), code=3)


def test_a_report_may_be_read_in_part(tmp_path):
    (tmp_path / "real.json").write_text(json.dumps(recorded()), "utf-8")
    command = [sys.executable, "-m", "fense_admin", "compare", "real.json", "--json"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == (b"", 0)


def test_a_recording_is_only_compared(run_command):
    for flag in ("--write", "--dry-run"):
        code, out, errors = run_command("compare", "real.json", flag)
        assert (code, out) == (2, "")
        assert "need a URL" in errors


def test_nothing_is_asked_if_the_recording_can_not_be_written(run_command, tmp_path):
    (tmp_path / "real.json").write_text("mine", "utf-8")
    asked = []
    with serving(asked.append) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        for path in ("real.json", "no/such/folder.json"):
            code, _, errors = run_command("compare", url, f"--record={path}", **KEYS)
            assert (code, "the recording can't be written" in errors) == (2, True)
    assert asked == []
    assert [it.name for it in tmp_path.iterdir()] == ["real.json"]


# --- What is shown -------------------------------------------------------------------------------


def test_names_that_may_be_personal_are_not_shown():
    def by_name(request, respond):
        response = respond(request)
        if response.status >= 400 and response.body:
            response.body = {"Miller": {"Zebra": "no"}}
        return response

    results = report.results(Comparison(ask(by_name)).differences)
    (found,) = [it for it in results if it["result"] == report.DIFFERS]
    assert found["differences"][0]["theirs"] == ["{…: {…: text}}"]


def test_the_examples_of_a_difference_are_limited():
    def ever_another(request, respond):
        response = respond(request)
        if response.status == 200 and response.body and "daily" in response.body:
            response.body["daily"] = [
                {"date": "2026-03-01", "lookups": 1, f"field_{'x' * (it % 9)}_{'y' * (it // 9)}": 1}
                for it in range(1, 99)
            ]
        return response

    (found, *_) = [
        it
        for it in report.results(Comparison(ask(ever_another)).differences)
        if it["line"] == "usage-body"
    ]
    assert len(found["differences"][0]["theirs"]) == MAX_KEPT


@pytest.mark.parametrize(
    ("name", "sent", "kept"),
    [
        ("content-type", "Application/JSON", "application/json"),
        ("content-type", 'application/json;charset="UTF-8"', "application/json; charset=utf-8"),
        ("content-type", f"application/json; a={CANARY}", "application/json; another parameter"),
        ("content-type", f"{CANARY}/x", "another type"),
        ("www-authenticate", f"bearer realm={CANARY}", "Bearer"),
        ("www-authenticate", CANARY, "another scheme"),
        ("allow", "head,get", "GET, HEAD"),
        ("allow", f"GET, {CANARY}", "GET, another method"),
        ("location", f"/accounts/{CANARY}", "a path"),
        ("location", f"https://{CANARY}", "a URL"),
    ],
)
def test_only_usual_parts_of_headers_are_kept(name, sent, kept):
    assert plain_header(name, sent) == kept
    assert plain_header(name, kept) == kept  # as a recording has it


def test_codes_and_fields_are_only_recorded_of_errors():
    body = {"code": "Zebra", "field": "Zebra", "total_lookups": float("inf"), "id": 10**30}
    answers = [Received(status, {}, copy.deepcopy(body), True) for status in (200, 400)]
    recorded = json.loads(recording.record([(ALL, it) for it in answers], "1.0"))["questions"]
    success, error = (it["response"]["body"] for it in recorded)
    assert "Zebra" not in (success["code"], success["field"], error["field"])
    assert error["code"] == "Zebra"  # as the report shows it
    assert success["id"] > 2**53 - 1
    assert success["total_lookups"] == 0.5


def test_an_account_with_more_days_than_a_century_is_not_filled_in():
    days = [(f"{number:05}", 1) for number in range(40_001)]
    assert known_usage(days) is None
    assert known_usage(days[1:]) == dict(days[1:])


def test_another_account_than_was_asked_for_differs():
    def another(request, respond):
        response = respond(request)
        if response.status == 200 and "daily" in (response.body or ()):
            response.body["fense_account_id"] = 51
        return response

    assert "usage" in that_differ(ask(another))


def test_a_response_that_is_not_json_differs():
    def html(request, respond):
        return Response(200, "<p>") if request.path == "/accounts/17" else respond(request)

    results = report.results(Comparison(ask(html)).differences)
    (found,) = [it for it in results if it["result"] == report.DIFFERS and "body" in it["line"]]
    assert found["differences"][0]["theirs"] == ["no JSON"]


def test_a_byte_order_mark_is_left_out():
    answer = read_response(200, {}, b"\xef\xbb\xbf" + NO_ACCOUNTS)
    assert answer.body == json.loads(NO_ACCOUNTS)


def test_nothing_is_written_without_permission():
    service = Service("http://127.0.0.1:1", "", ["key"], 1)
    with pytest.raises(CouldNotAsk, match="POST is not sent without --write"):
        service.ask(writing.deactivation(1))


def test_sending_a_key_unencrypted_is_warned_of(run_command):
    code, _, errors = run_command("compare", "http://0.0.0.0:1", **KEYS)
    assert (code, "sends the key unencrypted" in errors) == (3, True)


# --- Writing -------------------------------------------------------------------------------------


def write(change, monkeypatch):
    monkeypatch.setattr(writing, "SECOND", 0)
    other = OtherFense(change)
    return other, lambda: writing.put_all(other.ask)


@pytest.mark.parametrize(
    ("status", "body", "reported"),
    [
        (500, None, "nothing else was written"),
        (201, {"message": "ok"}, "has no id"),
        (201, {"fense_account_id": 2**60}, "has no id"),
    ],
)
def test_a_creation_that_fails_ends_the_writing(monkeypatch, status, body, reported):
    def fails(request, respond):
        response = respond(request)
        response.status, response.body = status, body or response.body
        return response

    other, put_all = write(fails, monkeypatch)
    with pytest.raises(CouldNotAsk, match=reported):
        put_all()
    assert len(other.requests) == 1


@pytest.mark.parametrize("count", [1, 10, 60])
def test_accounts_left_active_are_listed_if_the_service_stops(monkeypatch, count):
    def stops(request, respond):
        if len(other.requests) > count:
            raise CouldNotAsk("it has gone")
        return respond(request)

    other, put_all = write(stops, monkeypatch)
    if count == 60:  # more than there are
        put_all()
        return
    with pytest.raises(CouldNotAsk, match="created and still active: 52"):
        put_all()


def test_a_creation_without_a_response_may_have_created(monkeypatch):
    def stops(request, respond):
        raise CouldNotAsk("it has gone")

    _, put_all = write(stops, monkeypatch)
    with pytest.raises(CouldNotAsk, match="an account may have been created"):
        put_all()


def test_reads_and_writes_together_are_bounded(run_command):
    flags = ["--write", "--yes", f"--accounts={settings.MAX_COMPARED}"]
    code, _, errors = run_command("compare", "http://127.0.0.1:1", *flags, **KEYS)
    assert (code, "more than 200 requests" in errors) == (2, True)
    assert len([*writing.planned()]) <= writing.max_requests()
    code, out, _ = run_command("compare", "http://127.0.0.1:1", "--dry-run", "--write")
    assert (code, out.count("POST /accounts ") > 5) == (0, True)


def test_a_key_is_only_sent_as_it_is_asked():
    other = OtherFense(unchanged)
    answered = asking.ask_all(other.ask, (), 1, has_other_key=False)
    assert {it.key for it, _ in answered} == {KNOWN, "unknown", "none"}
