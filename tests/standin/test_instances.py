"""Instances are independent stand-ins: they never see each other's data."""

import contextlib
import json
import threading
import urllib.parse
import urllib.request

import pytest
from conftest import (
    MASTER_KEY,
    SERVICE_KEY,
    TIMEOUT,
    Api,
    account_fields,
    call_standin,
    in_threads,
    port_of,
    refusal,
    talk,
)
from webtest import TestApp

from fense_admin import create_app
from fense_admin.exchange import ApiError
from fense_admin.standin import StandIn, instances
from fense_admin.standin.control import ControlPlane
from fense_admin.standin.state import Seed

NOT_FOUND = refusal(code="not_found", message="no instance has this id, or it has ended")


def make(api, body=None, **options):
    answer = api.call("POST", "/_standin/instances", body, **options)
    assert answer.status == 201, answer.body
    return answer.body


def api_of(api, instance):
    """A client of an instance, through the application of its parent."""
    path = urllib.parse.urlsplit(instance["base_url"]).path
    return Api(api.client.app, instance["api_key"], instance["service_key"], base=path)


def test_an_instance_has_its_parents_seed_but_its_own_data(seeded_api):
    seeded_api.new_account(name="Of the parent")
    made = make(seeded_api)
    assert list(made) == ["id", "name", "base_url", "api_key", "service_key", "standin_url"]
    path = f"/_standin/instances/{made['id']}"
    assert made["base_url"].endswith(f"://localhost:80{path}")
    assert made["standin_url"] == f"{made['base_url']}/_standin"
    its = api_of(seeded_api, made)
    assert [row["name"] for row in its.everything()[0]] == ["Acme Ltd", "Beta"]
    assert its.new_account()["fense_account_id"] == 8
    assert its.get("/accounts/8", key=made["service_key"]).status == 200
    its.post("/_standin/faults", {"status": 503, "times": 0})
    assert its.get("/accounts/1").status == 503
    assert seeded_api.get("/accounts/1").status == 200
    assert [entry["path"] for entry in its.get("/_standin/requests").body["requests"]] == [
        f"{path}{end}" for end in ("/accounts/usage", "/accounts/7", "/accounts", "/accounts/8", "/accounts/1")
    ]  # fmt: skip
    assert [e["path"] for e in seeded_api.get("/_standin/requests").body["requests"]] == [
        "/accounts",
        "/accounts/1",
    ]
    assert its.call("POST", "/_standin/reset").status == 204
    assert its.get("/accounts/8").status == 404
    assert seeded_api.get("/accounts/8").status == 200


def test_the_paths_in_its_responses_are_right(seeded_api):
    its = api_of(seeded_api, make(seeded_api))
    answer = its.post("/accounts", account_fields())
    assert answer.headers["Location"] == f"{its.base}/accounts/8"
    assert its.get("/openapi.json").body["servers"] == [{"url": f"http://localhost:80{its.base}"}]
    assert its.get("/healthz").body == {"status": "ok"}
    message = its.get("/acounts/1").body["error"]["message"]
    assert message == f"there is no such path; did you mean {its.base}/accounts/1?"
    assert answer.headers["X-Standin"]


@pytest.mark.parametrize("prefix", ["", "/admin"])
def test_its_urls_have_the_requests_host_and_the_parents_prefix(prefix):
    with StandIn(master_key=MASTER_KEY, serve=False, prefix=prefix) as fense:
        api = Api(fense.app, MASTER_KEY, None)
        made = make(api, {}, headers={"Host": "127.0.0.1:4711"})
        url = f"http://127.0.0.1:4711/_standin/instances/{made['id']}"
        assert (made["base_url"], made["standin_url"]) == (url + prefix, url + "/_standin")
        listed = api.get("/_standin/instances", headers={"Host": "localhost:1"}).body
        assert listed == {
            "instances": [
                {
                    "id": made["id"],
                    "name": None,
                    "base_url": f"http://localhost:1/_standin/instances/{made['id']}{prefix}",
                    "standin_url": f"http://localhost:1/_standin/instances/{made['id']}/_standin",
                }
            ]
        }
        its = api_of(api, made)
        account = its.new_account()
        assert its.get(f"/accounts/{account['fense_account_id']}").body == account


def test_an_instance_and_its_parent_reject_each_others_keys(seeded_api):
    made = make(seeded_api)
    its = api_of(seeded_api, made)
    for key in (MASTER_KEY, SERVICE_KEY):
        assert its.get("/accounts/1", key=key).status == 401
    standin = Api(seeded_api.client.app, MASTER_KEY, None, base=its.base)
    assert standin.get("/_standin/state").status == 401
    assert its.get("/_standin/state", key=made["service_key"]).status == 403
    for key in (made["api_key"], made["service_key"]):
        assert seeded_api.get("/accounts/1", key=key).status == 401
        assert seeded_api.get("/_standin/state", key=key).status == 401
        assert seeded_api.call("DELETE", f"/_standin/instances/{made['id']}", key=key).status == 401


def test_its_journal_hides_its_keys_and_those_of_its_parent(seeded_api):
    made = make(seeded_api)
    its = api_of(seeded_api, made)
    its.get(f"/accounts/1?a={MASTER_KEY}&b={made['service_key']}")
    journal = json.dumps(its.get("/_standin/requests").body)
    for key in (MASTER_KEY, made["service_key"], made["api_key"]):
        assert key not in journal


def test_its_reset_goes_back_to_its_own_seed(seeded_api):
    seed = {"accounts": [account_fields(name="Its own", usage={"-1": 3})]}
    its = api_of(seeded_api, make(seeded_api, {"seed": seed}))
    its.new_account()
    its.call("POST", "/_standin/reset")
    (account,) = its.get("/accounts/usage").body["accounts"]
    assert (account["name"], account["total_lookups"]) == ("Its own", 3)
    demo = api_of(seeded_api, make(seeded_api, {"seed": "demo"}))
    assert len(demo.get("/accounts/usage").body["accounts"]) == 12


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"seed": None}, "seed", 'must be a state document or "demo"'),
        ({"seed": "examples/seed.json"}, "seed", 'must be a state document or "demo"'),
        ({"seed": {}}, "seed.accounts", "is required"),
        ({"seed": {"accounts": [1]}}, "seed.accounts[0]", "must be an object"),
        ({"sed": {}}, "sed", "is not accepted here; did you mean seed?"),
    ],
)
def test_an_invalid_seed_creates_no_instance(seeded_api, body, field, message):
    answer = seeded_api.post("/_standin/instances", body)
    assert (answer.status, answer.body) == (400, refusal((field, message)))
    assert seeded_api.get("/_standin/instances").body == {"instances": []}


def test_an_ended_instance_is_404_and_its_delayed_requests_write_nothing(seeded, seeded_api):
    made, other = make(seeded_api), make(seeded_api)
    its = api_of(seeded_api, made)
    its.post("/_standin/faults", {"delay_ms": 60_000})
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(its.post("/accounts/1", {})))
    waiting.start()
    plane = seeded.app.instances[made["id"]].plane
    deadline = threading.Event()
    while plane.faults.armed():
        assert not deadline.wait(0.01)
    assert seeded_api.call("DELETE", f"/_standin/instances/{made['id']}").status == 204
    waiting.join(10)
    assert [answer.status for answer in answers] == [503]
    assert plane.db.engine._connections == set()
    for path in ("/accounts/1", "/_standin/state", "/", "/accounts/%0a"):
        answer = its.get(path)
        assert (answer.status, answer.body) == (404, NOT_FOUND)
    for id in (made["id"], "none"):
        answer = seeded_api.call("DELETE", f"/_standin/instances/{id}")
        assert (answer.status, answer.body) == (404, NOT_FOUND)
    assert api_of(seeded_api, other).get("/accounts/1").status == 200


def test_its_keys_are_not_in_its_parents_log(seeded_api, caplog):
    caplog.set_level("INFO", "fense_admin")
    made = make(seeded_api)
    for path in (f"/_standin/instances/{made['api_key']}/x", f"/accounts/{made['service_key']}"):
        seeded_api.get(path)
    assert make(seeded_api)
    for key in ("api_key", "service_key"):
        assert made[key] not in caplog.text
    seeded_api.call("POST", "/_standin/reset")
    seeded_api.get(f"/accounts/{made['api_key']}")  # which isn't a key any more
    assert made["api_key"] in caplog.text


def test_delayed_requests_of_instances_count_for_the_parents_limit(seeded, seeded_api):
    plane = seeded.app
    made = make(seeded_api)
    assert plane.instances[made["id"]].plane.faults._slots is plane.faults._slots


def test_a_failed_seed_leaves_nothing_open(seeded, seeded_api):
    seed = {"accounts": [account_fields(usage={"-400": 1})]}
    parent = ControlPlane(
        create_app(master_key=MASTER_KEY), MASTER_KEY, seed=Seed(seed, "2026-11-26T00:00:00Z")
    )
    with contextlib.closing(parent):
        api = Api(parent, MASTER_KEY, None)
        api.call("PUT", "/_standin/clock", {"now": "0001-01-01T00:00:00Z"})
        before = len(threading.enumerate()), len(parent.instances)
        answer = api.call("POST", "/_standin/instances")
        message = "is before 0001-01-01, the earliest date"
        fault = refusal(("accounts[0].usage.-400", message))
        assert (answer.status, answer.body) == (400, fault)
        assert (len(threading.enumerate()), len(parent.instances)) == before


def test_no_instance_is_created_after_the_parent_has_stopped(seeded, seeded_api):
    late = seeded.app.new_instance(seeded.app.seed)
    seeded.app.close()
    with pytest.raises(ApiError):
        seeded.app.instances.add(late)
    assert late.plane.db.engine._connections == set()


def test_a_client_without_a_host_gets_localhost_urls(fense):
    request = f"POST /_standin/instances HTTP/1.0\r\nx-api-key: {fense.master_key}\r\n\r\n"
    answer = talk(port_of(fense), request.encode())
    assert f'"base_url": "http://localhost:{port_of(fense)}/'.encode() in answer


def test_requests_of_an_ended_instance_stay_in_the_report(seeded, seeded_api):
    its = api_of(seeded_api, make(seeded_api))
    its.get("/accounts/99")
    its.post("/_standin/faults", {"status": 503, "path": "/never"})
    expected = [
        f"{its.base.rpartition('/')[2]}:",
        "  GET /accounts/99 404: no account has this fense_account_id",
        "  never used: the armed fault 1 (status=503, path='/never', times=1)",
    ]
    assert seeded.report().splitlines() == expected
    seeded_api.call("DELETE", its.base)
    assert seeded.report().splitlines() == expected
    seeded.reset()
    assert seeded.report() == ""


def test_a_reset_of_the_parent_ends_all(seeded_api):
    instances = [make(seeded_api) for _ in range(3)]
    assert api_of(seeded_api, instances[0]).call("POST", "/_standin/reset").status == 204
    assert len(seeded_api.get("/_standin/instances").body["instances"]) == 3
    assert seeded_api.call("POST", "/_standin/reset").status == 204
    assert seeded_api.get("/_standin/instances").body == {"instances": []}
    assert [api_of(seeded_api, it).get("/accounts/1").status for it in instances] == [404] * 3


def test_an_instance_has_no_instances(seeded_api):
    its = api_of(seeded_api, make(seeded_api))
    for method in ("GET", "POST"):
        assert its.call(method, "/_standin/instances").status == 404


def test_the_number_of_instances_is_limited(seeded_api, monkeypatch):
    assert instances.MAX_INSTANCES == 1_000
    monkeypatch.setattr(instances, "MAX_INSTANCES", 2)
    first, _ = make(seeded_api), make(seeded_api)
    answer = seeded_api.call("POST", "/_standin/instances")
    message = "there are 2 instances: end some, or reset"
    assert (answer.status, answer.body) == (409, refusal(code="conflict", message=message))
    seeded_api.call("DELETE", f"/_standin/instances/{first['id']}")
    make(seeded_api)


def test_its_page_opens_as_its_parents_does(make_app):
    for master_key, status in (("local-dev-key", 200), (MASTER_KEY, 401)):
        plane = ControlPlane(make_app(master_key=master_key), master_key)
        with contextlib.closing(plane):
            api = Api(plane, master_key, None)
            made = make(api)
            page = api.client.get(f"/_standin/instances/{made['id']}/_standin/", expect_errors=True)
            assert page.status_int == status


def test_pages_of_other_sites_can_not_reach_it(seeded_api):
    its = api_of(seeded_api, make(seeded_api))
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        assert its.get("/_standin/state", headers=headers).status == 403
        assert seeded_api.call("POST", "/_standin/instances", headers=headers).status == 403


def test_a_large_state_requires_its_master_key(fense):
    _, _, body = call_standin(fense, "POST", "/_standin/instances")
    made = json.loads(body)
    path = urllib.parse.urlsplit(made["standin_url"]).path
    state = {"accounts": [account_fields() for _ in range(2_000)]}
    assert len(json.dumps(state)) > 128 * 1024
    assert call_standin(fense, "PUT", f"{path}/state", state)[0] == 413
    request = urllib.request.Request(
        f"{made['standin_url']}/state",
        json.dumps(state).encode(),
        fense.headers | {"x-api-key": made["api_key"]},
        method="PUT",
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        assert len(json.load(answer)["accounts"]) == 2_000


@pytest.mark.slow
def test_two_hundred_instances_under_load_are_isolated(fense):
    def use_a_new_one():
        status, _, body = call_standin(fense, "POST", "/_standin/instances")
        assert status == 201
        made = json.loads(body)
        its = Api(
            fense.app, made["api_key"], None, base=urllib.parse.urlsplit(made["base_url"]).path
        )
        name = f"Account of {made['id']}"
        assert its.new_account(name=name)["fense_account_id"] == 1
        state = its.get("/_standin/state").body["accounts"]
        assert [account["name"] for account in state] == [name]
        assert len(its.get("/_standin/requests").body["requests"]) == 1
        return made["id"]

    made = in_threads(200, use_a_new_one)
    assert len(set(made)) == 200
    assert len(fense.app.instances) == 200
    assert fense.state() == {"accounts": []}
    assert fense.requests() == []


def test_leaving_the_parent_closes_all(tmp_path):
    with StandIn(master_key=MASTER_KEY) as fense:
        call_standin(fense, "POST", "/_standin/instances")
        (instance,) = fense.app.instances.values()
    assert instance.plane.db.engine._connections == set()
    assert fense.app.instances == {}


def test_instances_are_off_with_the_control_plane(make_app):
    api = Api(make_app(master_key=MASTER_KEY), MASTER_KEY, None)
    assert api.call("POST", "/_standin/instances").status == 404


def test_an_unused_instance_ends_after_a_day(seeded, seeded_api, monkeypatch):
    old, used = make(seeded_api), make(seeded_api)
    page = TestApp(seeded.app, extra_environ={"HTTP_X_API_KEY": MASTER_KEY})
    day, now = 24 * 3_600, instances.monotonic()

    def pass_time(seconds):
        nonlocal now
        now += seconds
        monkeypatch.setattr(instances, "monotonic", lambda: now)

    pass_time(day - 100)
    api_of(seeded_api, used).get("/accounts/1")
    pass_time(61)
    shown = page.get("/_standin/page/service").text
    assert "2 instances. An instance that is unused for a day ends." in shown
    assert shown.count('data-label="Age">') == shown.count('data-label="Unused for">') == 2
    assert '"Age">23 h<' in shown
    assert '"Unused for">1 min<' in shown
    assert seeded_api.get("/_standin/instances").body["instances"][0]["id"] == old["id"]
    pass_time(61)
    ids = [instance["id"] for instance in seeded_api.get("/_standin/instances").body["instances"]]
    assert ids == [used["id"]]
    assert api_of(seeded_api, old).get("/accounts/1").status == 404


def test_a_name_is_shown_in_place_of_the_id(seeded, seeded_api, caplog):
    seeded_api.get("/accounts/1")
    for name in ("billing.test.ts", "usage ü test", None):
        made = seeded_api.post("/_standin/instances", {"name": name})
        assert (made.status, made.body["name"]) == (201, name)
        its = api_of(seeded_api, made.body)
        with caplog.at_level("INFO"):
            its.get("/accounts/99?x=1")
        shown = f"[{name}] GET /accounts/99 400 " if name else f"GET {its.base}/accounts/99 400 "
        assert shown in caplog.text
    its.post("/_standin/faults", {"status": 503, "path": "/never"})
    listed = seeded_api.get("/_standin/instances").body["instances"]
    assert [it["name"] for it in listed][:2] == ["billing.test.ts", "usage ü test"]
    assert seeded.report().splitlines() == [
        "GET /accounts/1 200",
        "billing.test.ts:",
        "  GET /accounts/99?x=1 400: x is not accepted here",
        "usage ü test:",
        "  GET /accounts/99?x=1 400: x is not accepted here",
        f"{listed[2]['id']}:",
        "  GET /accounts/99?x=1 400: x is not accepted here",
        "  never used: the armed fault 1 (status=503, path='/never', times=1)",
    ]


def test_a_name_with_a_key_in_it_is_masked_in_log_and_report(seeded, seeded_api, caplog):
    its = api_of(seeded_api, seeded_api.post("/_standin/instances", {"name": MASTER_KEY}).body)
    with caplog.at_level("INFO"):
        its.get("/accounts/99")
    assert MASTER_KEY not in caplog.text + seeded.report()
