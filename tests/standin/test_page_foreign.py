"""A page of another origin that a developer happens to visit: it can do nothing, and learns nothing.

The attacks run in Chromium, which really sends them; the service listens on 127.0.0.1.
"""

import http.server
import json
import re
import threading

import pytest
from conftest import SEED, Api

from fense_admin.standin import StandIn
from fense_admin.standin.page.forms import FORMS

pytestmark = pytest.mark.slow

PATHS = ["accounts/create", "accounts/1/change", "accounts/1/lookups", "faults/arm"]
PATHS += ["faults/1/disarm", "faults/disarm-all", "requests/clear", "clock/stop", "clock/move"]
PATHS += ["clock/release", "reset", "state/load", "state/demo", "instances/create"]
PATHS += ["instances/{instance}/end", "requests/again/{number}/send"]
PATHS += ["requests/corrected/{number}/send", "documentation/api/createAccount/try"]
PATHS += ["documentation/control-plane/armFault/try"]
VALUES = {"name": "Evil", "email": "e@evil.example", "api_key": "sk_evil_0001", "status": "503"}
VALUES |= {
    "now": "2026-11-30T00:00:00Z",
    "lookups": "5",
    "advance_seconds": "5",
    "again": "1",
    "token": "x" * 32,
}
# What a page can try, with the URL of the stand-in. Each returns what the page has learned.
ATTACKS = """
async (root, paths, values, token) => {
  const learned = [];
  const body = (more) => new URLSearchParams({...values, ...more});
  const settled = async (what, promise) => {
    try { learned.push([what, await promise]); } catch { learned.push([what, "failed"]); }
  };
  const loaded = (element, attribute, url) => new Promise((done) => {
    element.onload = () => done("loaded");
    element.onerror = () => done("failed");
    element[attribute] = url;
    document.body.append(element);
    setTimeout(() => done("nothing"), 5000);
  });
  const submitted = (path, enctype, more) => new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.name = `frame-${Math.random()}`;
    document.body.append(frame);
    const form = document.createElement("form");
    Object.assign(form, {method: "post", action: `${root}/page/${path}`, target: frame.name, enctype});
    for (const [name, value] of body(more)) {
      const input = document.createElement("input");
      Object.assign(input, {name, value});
      form.append(input);
    }
    document.body.append(form);
    frame.onload = () => {
      let text = "not to be read";
      try { text = frame.contentWindow.document.body.innerText; } catch {}
      if (text !== "") done(text);
    };
    form.submit();
    setTimeout(() => done("nothing"), 5000);
  });
  for (const path of paths) {
    const url = `${root}/page/${path}`;
    for (const more of [{}, {token}]) {
      for (const mode of ["cors", "no-cors"]) for (const method of ["POST", "GET"]) {
        const target = method === "GET" ? `${url}?${body(more)}` : url;
        const options = {method, mode, credentials: "include", body: method === "GET" ? undefined : body(more)};
        await settled(`${mode} ${method}`, fetch(target, options).then((it) => `${it.type} ${it.status}`));
      }
      await settled("form", submitted(path, "application/x-www-form-urlencoded", more));
    }
  }
  await settled("form", submitted("state/load", "multipart/form-data", {token}));
  await settled("form", submitted("accounts/create", "text/plain", {token}));
  for (const path of ["", "page/accounts", "page/state.json", "page/changes?after=0", "page/page.js", "state", "requests"]) {
    const url = `${root}/${path}`;
    await settled("cors GET", fetch(url, {credentials: "include"}).then((it) => it.text()));
    await settled("img", loaded(document.createElement("img"), "src", url));
    await settled("script", loaded(document.createElement("script"), "src", url));
    const style = document.createElement("link");
    style.rel = "stylesheet";
    await settled("stylesheet", loaded(style, "href", url));
    const frame = document.createElement("iframe");
    await loaded(frame, "src", url);
    await settled("iframe", (async () => frame.contentWindow.document.body.innerText)());
    await settled("frames in it", (async () => frame.contentWindow.length)());
  }
  navigator.sendBeacon(`${root}/page/reset`, body({token}));
  await settled("websocket", new Promise((done) => {
    const socket = new WebSocket(`${root.replace("http", "ws")}/`);
    socket.onopen = () => done("opened");
    socket.onerror = () => done("failed");
  }));
  return learned;
}
"""
NOTHING = {
    "cors POST": {"failed"},
    "cors GET": {"failed"},
    "no-cors POST": {"opaque 0"},  # whatever the response was
    "no-cors GET": {"opaque 0"},
    "form": {"not to be read"},
    "img": {"failed"},
    "script": {"failed"},
    "stylesheet": {"failed"},
    "iframe": {"failed"},
    "frames in it": {0},
    "websocket": {"failed"},
}


@pytest.fixture
def elsewhere():
    """The port of a web server with an empty page."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>Elsewhere</title><body></body>")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_every_form_is_tried():
    tried = [path.format(instance="0" * 16, number=1) for path in PATHS]
    assert all(any(re.fullmatch(pattern, path) for path in tried) for pattern in FORMS)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["same-site", "cross-site"])
@pytest.mark.parametrize("key", ["local-dev-key", "another-key-1234"])
def test_a_page_of_another_origin_does_and_learns_nothing(browser, elsewhere, host, key):
    with StandIn(SEED, master_key=key) as fense:
        instance = fense.app.new_instance(fense.app.seed)
        fense.app.instances.add(instance)
        fense.fail(503, path="/accounts/7")
        Api(fense.app, key, None).post("/accounts/1", {"nmae": "Acme"})
        fense.app.clock.stop("2026-11-15T12:00:00Z")
        context = browser.new_context(http_credentials={"username": "me", "password": key})
        context.set_default_timeout(120_000)
        page = context.new_page()
        page.goto(f"{fense.standin_url}/page/accounts")  # from now on it sends the key by itself
        assert "Acme Ltd" in page.inner_text("main")
        page.goto(f"http://{host}:{elsewhere}/")
        before = everything(fense)
        statuses = set()
        page.on(
            "response",
            lambda got: statuses.add(got.status) if fense.standin_url in got.url else None,
        )
        number = fense.app.journal[0].number
        paths = [path.format(instance=instance.id, number=number) for path in PATHS]
        sent = [fense.standin_url, paths, VALUES, fense.app.guard.token]
        learned = page.evaluate(f"({ATTACKS})(...{json.dumps(sent)})")
        found = {}
        for what, outcome in learned:
            found.setdefault(what, set()).add(outcome)
        assert found == NOTHING
        assert statuses == {403}
        assert everything(fense) == before
        context.close()


def everything(fense):
    """All that a form may change."""
    plane = fense.app
    journal = [entry["id"] for entry in fense.requests()]
    return fense.state(), fense.faults(), journal, plane.clock.stopped_at, list(plane.instances)
