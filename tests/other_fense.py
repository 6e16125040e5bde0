"""A service that differs from this one in one detail, as the real Fense may."""

from __future__ import annotations

import copy
import http.server
import io
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlencode

from webtest import TestApp

from fense_admin.comparing.differences import plain_header
from fense_admin.comparing.judging import TIMED
from fense_admin.comparing.questions import KNOWN, MERCHANT, NONE, OTHER, Question
from fense_admin.comparing.service import COMPARED
from fense_admin.comparing.service import Response as Received
from fense_admin.standin import StandIn

MASTER_KEY, SERVICE_KEY = "real-master-key-77aa", "real-service-key-88bb"
NAMES = ("Zebra Industries", "Miller & Sons", "Acme Ltd")
UUID = "6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11"
SEED = {
    "accounts": [
        {
            "fense_account_id": number * 17,
            "api_key": f"sk-private-{number}-q7w{number}",
            "name": name,
            "email": f"private.person{number}@merchant.example",
            "dispute_account_id": UUID if number == 1 else None,
            "is_active": number != 3,
            "usage": {"2026-03-01": 4, "2026-03-02": 5, "2026-03-09": number} if number < 3 else {},
        }
        for number, name in enumerate(NAMES, 1)
    ]
}
PERSONAL = (*NAMES, "private.person", "merchant.example", UUID, "sk-private", "q7w")
FULL = {**SEED["accounts"][2], "usage": {"2026-03-02": 8}}  # an inactive account with lookups


@dataclass
class Request:
    method: str
    path: str
    query: str
    key: str | None
    body: str | None = None
    content_type: str = "application/json"
    encoding: str = ""

    @property
    def target(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path

    def having(self, **parameters: str) -> Request:
        """The request with these parameters and no others."""
        return replace(self, query=urlencode(parameters))

    @property
    def parameters(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(self.query, True).items()}


@dataclass
class Response:
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


Respond = Callable[[Request], Response]
Change = Callable[[Request, Respond], Response]


class OtherFense:
    """Its responses are changed by `change`."""

    def __init__(self, change: Change, seed: Any = SEED) -> None:
        self.change = change
        self.standin = StandIn(
            seed=copy.deepcopy(seed), master_key=MASTER_KEY, service_key=SERVICE_KEY, serve=False
        )
        self.app = TestApp(self.standin.app)
        self.requests: list[Request] = []

    def respond(self, request: Request) -> Response:
        """Respond as this service does."""
        headers = {} if request.key is None else {"x-api-key": request.key}
        headers |= {"Content-Encoding": request.encoding} if request.encoding else {}
        environ = {"PATH_INFO": request.path, "QUERY_STRING": request.query}
        if request.body is not None:
            raw = request.body.encode()
            environ |= {"CONTENT_TYPE": request.content_type, "CONTENT_LENGTH": str(len(raw))}
            environ["wsgi.input"] = io.BytesIO(raw)
        given = self.app.request(
            "/", method=request.method, headers=headers, environ=environ, expect_errors=True
        )
        kept = {
            name: plain_header(name, given.headers[name])
            for name in COMPARED
            if name in given.headers
        }
        return Response(given.status_int, json.loads(given.body) if given.body else None, kept)

    def ask(self, question: Question) -> Received:
        keys = {KNOWN: MASTER_KEY, OTHER: SERVICE_KEY, NONE: None, MERCHANT: "merchant-key-1"}
        path, _, query = question.path.partition("?")
        body = question.body
        for place, key in (("{key}", "merchant-key-1"), ("{other_key}", "merchant-key-2")):
            body = body and body.replace(place, key)
        request = Request(
            question.method,
            path,
            query,
            keys.get(question.key, "no-key"),
            body,
            question.content_type,
            question.encoding,
        )
        if question.line in TIMED:
            self.standin.set_clock("2030-01-01T00:00:00Z")
            self.standin.advance(len(self.requests))
        self.requests.append(request)
        response = self.change(request, self.respond)
        is_json = not isinstance(response.body, str) and question.method != "HEAD"
        body = response.body if is_json else None
        return Received(response.status, response.headers, body, is_json)


def serving(respond: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Any:
    """A server on a free port, for a `with` block, that calls this for each request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            respond(self)

        do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def __enter__(self) -> Any:
            threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
            return self

        def __exit__(self, *_: object) -> None:
            self.shutdown()
            self.server_close()

        def handle_error(self, *_: Any) -> None:
            pass

    return Server(("127.0.0.1", 0), Handler)
