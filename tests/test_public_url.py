"""Behind a proxy, URLs are those that clients use: from its headers, or from --public-url."""

import html
import json
import re

import pytest
from conftest import MASTER_KEY, Api, account_fields, port_of, talk

from fense_admin import create_app, rules
from fense_admin.standin.control import ControlPlane

FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "fense.test"}
HERE = "http://localhost:80"


@pytest.fixture
def api_from():
    """Make a client of a service with its control plane, whose requests come from this address."""
    apps = []

    def api_from(peer, **options):
        app = create_app(**{"master_key": MASTER_KEY} | options)
        apps.append(ControlPlane(app, app.masker.own[0]))
        api = Api(apps[-1], app.masker.own[0], None)
        api.client.extra_environ["REMOTE_ADDR"] = peer
        return api

    yield api_from
    for app in apps:
        app.close()


def urls(api, headers=()):
    """Return the origins of all URLs that the service returns."""
    made = api.call("POST", "/_standin/instances", headers=headers).body
    listed = api.get("/_standin/instances", headers=headers).body["instances"][0]
    documents = [
        api.get(path, headers=headers).body for path in ("/openapi.json", "/_standin/openapi.json")
    ]
    found = [it[name] for it in (made, listed) for name in ("base_url", "standin_url")]
    found += [document["servers"][0]["url"] for document in documents]
    number = api.client.app.journal[0].number
    for view in (
        "",
        f"page/requests/{number}",
        "page/accounts",
        "page/service",
        "page/documentation",
    ):
        page = api.client.get(
            f"/_standin/{view}", headers={"x-api-key": api.master_key, **dict(headers)}
        )
        lines = re.findall("<pre[^>]*curl[^>]*>(.*?)</pre>", html.unescape(page.text), re.DOTALL)
        found += re.findall(r"https?://\S+?(?=[\s'\"<])", " ".join(lines))
    return {re.match(r"https?://[^/]+", url)[0] for url in found}


@pytest.mark.parametrize(
    ("peer", "headers", "origin"),
    [
        ("127.0.0.1", FORWARDED, "https://fense.test"),
        ("127.9.9.9", FORWARDED, "https://fense.test"),
        ("::1", FORWARDED, "https://fense.test"),
        ("::ffff:127.0.0.1", FORWARDED, "https://fense.test"),
        ("127.0.0.1", {"X-Forwarded-Proto": "https"}, "https://localhost:80"),
        ("127.0.0.1", {"X-Forwarded-Proto": "HTTPS", "X-Forwarded-Host": "Fense.Test:8443"}, "https://fense.test:8443"),
        ("127.0.0.1", {"X-Forwarded-Host": "[2001:db8::1]:80"}, "http://[2001:db8::1]:80"),
        ("127.0.0.1", {"X-Forwarded-Proto": "http, https", "X-Forwarded-Host": "evil.test,fense.test"}, "https://fense.test"),
        ("127.0.0.1", {"X-Forwarded-Proto": "javascript", "X-Forwarded-Host": "fense.test"}, "http://fense.test"),
        *(
            ("127.0.0.1", {"X-Forwarded-Host": host}, HERE)
            for host in ("", ",", "a b", "a/b", "u@a", "a..b", "a?b", "a#b", '"a"', "a:x", "[x]", "é")
        ),
        ("192.0.2.1", FORWARDED, HERE),
        ("10.127.0.0", FORWARDED, HERE),
        ("::ffff:192.0.2.1", FORWARDED, HERE),
        ("", FORWARDED, HERE),
    ],
)  # fmt: skip
def test_a_proxy_on_this_machine_says_which_url_clients_use(api_from, peer, headers, origin):
    api = api_from(peer)
    api.new_account()
    assert urls(api, headers) == {origin}


def test_a_proxy_on_this_machine_says_so_over_a_socket(fense):
    head = f"POST /_standin/instances HTTP/1.1\r\nHost: 127.0.0.1:{port_of(fense)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in FORWARDED.items())
    answer = talk(
        port_of(fense), f"{head}x-api-key: {MASTER_KEY}\r\nConnection: close\r\n\r\n".encode()
    )
    made = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert made["base_url"] == f"https://fense.test/_standin/instances/{made['id']}"


def test_a_public_url_is_in_every_url_and_wins_over_headers(api_from):
    api = api_from("127.0.0.1", public_url="https://Public.test:443/base/", prefix="/admin")
    created = api.post("/admin/accounts", account_fields())
    assert created.headers["Location"] == "/base/admin/accounts/1"
    assert urls(api, FORWARDED) == {"https://public.test"}
    assert api.get("/openapi.json").body["servers"] == [{"url": "https://public.test/base/admin"}]
    made = api.call("POST", "/_standin/instances").body
    its = f"https://public.test/base/_standin/instances/{made['id']}"
    assert (made["base_url"], made["standin_url"]) == (f"{its}/admin", f"{its}/_standin")
    inside = Api(api.client.app, made["api_key"], None, base=its.partition("/base")[2] + "/admin")
    location = inside.post("/accounts", account_fields()).headers["Location"]
    assert location == f"{made['base_url']}/accounts/1".removeprefix("https://public.test")
    page = api.client.get("/_standin/", headers={"x-api-key": MASTER_KEY}).text
    assert 'href="/base/_standin/page/accounts"' in page
    assert 'href="/_standin' not in page


def test_the_page_repeats_a_request_at_the_public_url(api_from):
    """Not the Host of the proxy's own request, which the proxy doesn't serve."""
    api = api_from("127.0.0.1")
    api.get("/accounts/1", headers=FORWARDED)
    api.get("/accounts/2", headers=FORWARDED | {"Host": "127.0.0.2"})
    headers = {"x-api-key": MASTER_KEY, **FORWARDED}
    numbers = [entry.number for entry in api.client.app.journal]
    first, second = (
        html.unescape(api.client.get(f"/_standin/page/requests/{number}", headers=headers).text)
        for number in numbers
    )
    assert "curl https://fense.test/accounts/1 " in first
    assert "-H 'host:" not in first
    assert "-H 'host: 127.0.0.2'" in second


@pytest.mark.parametrize("key", [MASTER_KEY, "local-dev-key"])
@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        ("127.0.0.1", {"Origin": "https://fense.test", **FORWARDED}, 200),
        ("127.0.0.1", {"Origin": "https://fense.test"}, 403),
        ("192.0.2.1", {"Origin": "https://fense.test", **FORWARDED}, 403),
        ("127.0.0.1", {"Origin": "https://evil.test", **FORWARDED}, 403),
        # DNS rebinding: the page of evil.test may send any header but another Host.
        ("127.0.0.1", {"Host": "evil.test", "Origin": "https://fense.test", **FORWARDED}, 403),
        ("127.0.0.1", {"Host": "evil.test", "X-Forwarded-Host": "localhost"}, 403),
    ],
)
def test_only_the_page_at_the_forwarded_host_is_its_own(api_from, key, peer, headers, status):
    api = api_from(peer, master_key=key)
    assert api.get("/_standin/state", headers=headers).status == status
    if key == "local-dev-key":
        assert api.get("/accounts/usage", headers=headers).status == status


def test_the_page_at_the_public_url_is_its_own(api_from):
    api = api_from("192.0.2.1", public_url="https://fense.test")
    for origin, status in (("https://fense.test", 200), ("https://evil.test", 403)):
        headers = {"Origin": origin}
        assert api.get("/_standin/state", headers=headers).status == status


@pytest.mark.parametrize(
    "text",
    [
        *("fense.test", "ftp://fense.test", "https://", "https:///base", "https://u@fense.test"),
        *("https://u:p@fense.test", "https://fense.test?x", "https://fense.test/#x", "https://[::1"),
        *("https://fense.test:99999", "https://fense.test:x", "https://a..b", "https://a b", "//a"),
        *("https://fense.test/a b", "https://fense.test/../a", "https://fense.test\n", " https://a"),
    ],
)  # fmt: skip
def test_an_invalid_public_url_is_rejected(make_app, text):
    with pytest.raises(ValueError, match="must be a"):
        make_app(master_key=MASTER_KEY, public_url=text)


def test_a_public_url_is_normalised_as_browsers_do():
    for text, expected in (
        ("", ""),
        ("HTTPS://Fense.Test:443/", "https://fense.test"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://a:443/b/c/", "http://a:443/b/c"),
    ):
        assert rules.check_public_url(text) == expected
