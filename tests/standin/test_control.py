"""The control plane is off by default, and accepts only the master key."""

import base64

import pytest
from conftest import MASTER_KEY, SERVICE_KEY, Api, few, refusal, state_and_faults
from webtest import TestApp

from fense_admin.standin import StandIn
from fense_admin.standin.control import ControlPlane

ENDPOINTS = [
    ("GET", "/_standin/"),
    ("POST", "/_standin/reset"),
    ("GET", "/_standin/state"),
    ("PUT", "/_standin/state"),
    ("POST", "/_standin/usage"),
    ("GET", "/_standin/faults"),
    ("POST", "/_standin/faults"),
    ("DELETE", "/_standin/faults"),
    ("GET", "/_standin/requests"),
    ("DELETE", "/_standin/requests"),
]

FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": ""},
    *(
        {"Host": host}
        for host in ("evil.example", "127.0.0.1.evil.example", "192.0.2.1:80", "[::2]")
    ),
    *({"Host": host} for host in ("localhost.evil.example", "0.0.0.0", "", "localhost:80:80")),
]

OWN = [
    {"Origin": "http://localhost:80"},
    {"Origin": "https://127.0.0.1:8642", "Host": "127.0.0.1:8642"},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    *({"Host": host} for host in ("localhost", "LocalHost:1", "127.9.9.9", "[::1]", "[::1]:8642")),
]


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_only_the_master_key_opens_it(seeded, seeded_api, method, path):
    merchant = seeded.create_account(api_key="sk_merchant_0001")
    seeded_api.post("/_standin/faults", {"status": 503, "times": 0})
    before = state_and_faults(seeded_api)
    for key, status in (
        (None, 401),
        ("", 401),
        ("who-knows", 401),
        (SERVICE_KEY, 403),
        ("sk_merchant_0001", 403),
    ):
        answer = seeded_api.call(method, path, b"{nonsense", key=key)
        assert (answer.status, list(answer.body)) == (status, ["error"])
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)
        basic_key = basic("x", key or "")
        assert (
            seeded_api.call(method, path, b"{nonsense", key=None, headers=basic_key).status
            == status
        )
    for header in (
        "Basic",
        "Basic !",
        "Basic " + "=" * 9,
        "Bearer " + MASTER_KEY,
        "Basic w6Q6w6Q=",
    ):
        answer = seeded_api.call(method, path, key=None, headers={"Authorization": header})
        assert answer.status == 401
    assert state_and_faults(seeded_api) == before
    assert merchant["fense_account_id"] in [a["fense_account_id"] for a in before[0]["accounts"]]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_pages_of_other_sites_are_rejected(seeded_api, method, path):
    before = state_and_faults(seeded_api)
    for headers in FOREIGN:
        answer = seeded_api.call(method, path, {"status": 503}, headers=headers)
        assert (answer.status, answer.body["error"]["code"]) == (403, "forbidden"), headers
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        assert state_and_faults(seeded_api) == before, headers


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_its_own_page_is_accepted(seeded_api, headers):
    assert seeded_api.get("/_standin/state", headers=headers).status == 200
    headers |= basic("anyone", MASTER_KEY)
    assert seeded_api.get("/_standin/state", key=None, headers=headers).status == 200


LINK = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
NO_LINKS = [
    *({"Sec-Fetch-Dest": dest} for dest in ("iframe", "frame", "embed", "object", "empty", "")),
    *({"Sec-Fetch-Mode": mode} for mode in ("cors", "no-cors", "websocket", "")),
    {"Origin": "http://evil.example"},
    {"Host": "evil.example"},
]


@pytest.mark.parametrize("site", ["cross-site", "same-site", "same-origin", "none"])
def test_a_link_on_another_site_opens_only_the_page(seeded, seeded_api, site):
    link = LINK | {"Sec-Fetch-Site": site}
    app = TestApp(seeded.app)
    for path in ("", "/", "/page/accounts", "/page/requests/99"):
        headers = link | {"x-api-key": MASTER_KEY}
        answer = app.get(f"/_standin{path}", headers=headers, expect_errors=True)
        assert answer.status_code == (404 if "99" in path else 200)
    if site in ("cross-site", "same-site"):
        assert seeded_api.call("HEAD", "/_standin/", headers=link).status == 403
        for method, path in ENDPOINTS:
            if path != "/_standin/":
                assert seeded_api.call(method, path, b"{}", headers=link).status == 403
        for change in NO_LINKS:
            assert seeded_api.get("/_standin/", headers=link | change).status == 403


def test_any_host_is_accepted_if_other_machines_can_reach_it(make_app):
    app = make_app(master_key=MASTER_KEY)
    api = Api(ControlPlane(app, MASTER_KEY, on_loopback=False), MASTER_KEY, None)
    assert api.get("/_standin/state", headers={"Host": "fense.example"}).status == 200
    assert api.get("/_standin/state", headers={"Origin": "http://evil.example"}).status == 403


def test_its_paths_are_unknown_while_it_is_off(make_app):
    app = make_app(master_key=MASTER_KEY)
    api = Api(app, MASTER_KEY, None)
    for method, path in ENDPOINTS:
        answer = api.call(method, path, b"")
        assert (answer.status, answer.body["error"]["code"]) == (404, "not_found")
        assert "X-Standin" not in answer.headers


@pytest.mark.parametrize("path", ["/_standin/nothing", "/_standin/state/", "/_standinx"])
def test_its_unknown_paths_are_not_found(seeded_api, path):
    answer = seeded_api.get(path)
    assert (answer.status, answer.body["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_it_accepts_no_parameters(seeded_api, method, path):
    before = state_and_faults(seeded_api)
    answer = seeded_api.call(method, path + "?all=1", b"{}")
    assert (answer.status, answer.body) == (400, refusal(("all", "is not accepted here")))
    assert state_and_faults(seeded_api) == before


@pytest.mark.parametrize("prefix", ["/_standin", "/_standin/x"])
def test_it_works_with_a_prefix(prefix):
    with pytest.raises(ValueError, match="must not be under /_standin"):
        StandIn(prefix=prefix, serve=False)


def test_a_content_encoding_is_rejected_by_name(seeded_api):
    for method, path in (("POST", "/accounts"), ("PUT", "/_standin/state")):
        answer = seeded_api.call(
            method, path, {"accounts": []}, headers={"Content-Encoding": "gzip"}
        )
        assert answer.status == 400
        assert "Content-Encoding" in answer.body["error"]["message"]
        answer = seeded_api.call(
            method, path, {"accounts": []}, headers={"Content-Encoding": "identity"}
        )
        assert "Content-Encoding" not in str(answer.body)


@pytest.mark.parametrize(
    ("arguments", "environment", "status"),
    few(
        [
            ([], {}, 200),
            ([], {"DISPUTE_MASTER_KEY": "local-dev-key"}, 404),
            (["--standin", "--host=0.0.0.0"], {"DISPUTE_MASTER_KEY": "local-dev-key"}, 200),
            (["--no-standin"], {}, 404),
            (["--standin"], {"DISPUTE_MASTER_KEY": "local-dev-key"}, 200),
        ],
        3,
    ),
)
def test_the_control_plane_is_on_with_the_development_key_or_the_flag(
    start, arguments, environment, status
):
    service = start("--port=0", *arguments, **environment)
    service.ready()
    service.url = service.url.replace("0.0.0.0", "127.0.0.1")
    key = environment.get("DISPUTE_MASTER_KEY", "local-dev-key")
    assert service.call("/_standin/state", key=key)[0] == status
    if "--host=0.0.0.0" in arguments:  # a key that everybody knows takes no DNS rebinding
        expected = 403 if key == "local-dev-key" else 200
        assert service.call("/_standin/state", key=key, Host="fense.example")[0] == expected
        if expected == 403:
            assert service.call("/_standin/", key="", Host="fense.example")[0] == expected


def test_the_control_plane_needs_a_master_key(run_command):
    code, _, log = run_command("--standin", "--port=0", DISPUTE_SERVICE_KEYS="only")
    assert code == 2
    assert "set DISPUTE_MASTER_KEY" in log
