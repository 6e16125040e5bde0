"""Fense's Dispute Integration API as a small service: the HTTP application.

`create_app`, at the end, lists all routes of the API.
"""

from __future__ import annotations

import hmac
import logging
import os
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # run as a script, perhaps by a Python that is too old
    if sys.version_info < (3, 10):  # noqa: UP036
        sys.exit(f"fense-admin needs Python 3.10 or later; this is {sys.version.split()[0]}")
    missing = [name for name in ("bottle", "peewee", "waitress") if find_spec(name) is None]
    if missing:
        sys.exit(f"fense-admin needs {', '.join(missing)}: run `make serve`, or `pip install .`")

import bottle
from bottle import request, response

# In a checkout this file is the package, and the files beside it are the package's modules.
__path__ = [os.path.dirname(os.path.abspath(__file__))]

from fense_admin import engines, exchange, models, reading, rules
from fense_admin.databases import Database, open_database
from fense_admin.exchange import ApiError, error_body, invalid, log, log_request, request_key
from fense_admin.masking import Masker, digest, hide
from fense_admin.reading import mount_point, read_fields, read_query
from fense_admin.realtime import monotonic
from fense_admin.rules import ValidationErrors
from fense_admin.settings import Limits

if TYPE_CHECKING:
    from fense_admin import shapes

__version__ = "1.0.0"

Handlers = Mapping[str, Callable[..., Any]]  # by method
StartResponse = Callable[..., Any]  # WSGI's

DEVELOPMENT_KEY = "local-dev-key"  # used on a loopback address if no key is configured
OPENAPI_FILE = os.path.join(__path__[0], "openapi.json")


# --- Keys --------------------------------------------------------------------------------------

LOOPBACK = re.compile(
    r"(?:(?:[^:]+\.)?localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]*)?", re.IGNORECASE
)
CHALLENGE = f'ApiKey header="{exchange.KEY_HEADER}"'
MERCHANTS_KEY = "a merchant's key gives no access to these endpoints"
FOREIGN_PAGE = (
    f"{DEVELOPMENT_KEY} is public, so requests from other web pages are refused ({{}}): "
    "to allow them, set DISPUTE_MASTER_KEY to a key of your own"
)


class ApiKeyPlugin:
    """Accept the master key and the service keys: 401 for an unknown key, 403 for a merchant's."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.digests = [digest(key) for key in keys]
        public = f"; the development key is {DEVELOPMENT_KEY}"
        self.hint = public if self.knows(DEVELOPMENT_KEY) else ""

    def apply(self, callback: Callable[..., Any], route: bottle.Route) -> Callable[..., Any]:
        def guarded(db: Database, **kwargs: Any) -> Any:
            key = request_key(request.environ)
            if not self.knows(key):
                if key and db.is_merchant_key(key):
                    raise ApiError(exchange.FORBIDDEN, MERCHANTS_KEY)
                raise ApiError(exchange.UNKNOWN_KEY, self.why(key), WWW_Authenticate=CHALLENGE)
            if key == DEVELOPMENT_KEY and (header := foreign_header(request.environ)):
                raise ApiError(exchange.FORBIDDEN, FOREIGN_PAGE.format(header))
            return callback(db=db, **kwargs)

        return guarded

    def why(self, key: str) -> str:
        """Explain why an unknown key was rejected."""
        if not key:
            return f"the header {exchange.KEY_HEADER} is missing{self.hint}"
        if ", " in key:  # a server joins two headers like this; no key has a space
            return f"the header {exchange.KEY_HEADER} came twice: send it once"
        return f"{exchange.KEY_HEADER} is not a known key{self.hint}"

    def knows(self, key: str) -> bool:
        """Return whether this is one of the keys. Compares against every key, in constant time."""
        sent = digest(key)
        return True in [hmac.compare_digest(sent, known) for known in self.digests]


def foreign_header(environ: Mapping[str, Any], on_loopback: bool = True) -> str | None:
    """Return the header that shows a request from another site's page: "Origin", "Host", or None.

    A foreign Origin means CSRF. With `on_loopback` (no other machine can reach this service), a
    Host other than a loopback name means DNS rebinding.
    """
    host = environ.get("HTTP_HOST", "localhost")
    sent = environ.get("HTTP_ORIGIN")
    # Behind a proxy, the page's scheme and host differ from those of the request here. (A page of
    # another site can't send X-Forwarded-Host: the browser's preflight would be refused.)
    if sent is not None and sent not in (f"http://{host}", f"https://{host}", reading.origin()):
        return "Origin"
    return "Host" if on_loopback and not LOOPBACK.fullmatch(host) else None


PREFLIGHT = "a CORS preflight: a browser asks whether a web page may send this request; it may not"


def is_preflight(environ: Mapping[str, Any]) -> bool:
    """Return whether this is a CORS preflight, for a page of another origin."""
    headers = ("HTTP_ORIGIN", "HTTP_ACCESS_CONTROL_REQUEST_METHOD")
    return environ["REQUEST_METHOD"] == "OPTIONS" and all(name in environ for name in headers)


# --- The database in a request -----------------------------------------------------------------

REFUSALS = (ValidationErrors, models.NoSuchAccount, models.ApiKeyTaken)


def refused(error: Exception) -> ApiError:
    """Return the response for one of the `REFUSALS`, which the rules or the data raise."""
    if isinstance(error, ValidationErrors):
        return invalid(error)
    if isinstance(error, models.ApiKeyTaken):
        return ApiError(exchange.INVALID, f"api_key {error}", [("api_key", str(error))])
    return ApiError(exchange.NOT_FOUND, "no account has this fense_account_id")


def note_unavailable(db: Database, error: engines.DatabaseError, request_id: str) -> None:
    """Log that the database was unavailable to a request."""
    log.warning("database unavailable: %s id=%s", error, request_id)
    if not db.engine.info.is_server:
        db.engine.close()  # the next request's connection is free of old errors


class DatabasePlugin:
    """Pass `db` to each handler, and turn what the data and the rules raise into an `ApiError`."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def close(self) -> None:
        self.db.engine.close_all()

    def apply(self, callback: Callable[..., Any], route: bottle.Route) -> Callable[..., Any]:
        def served(**kwargs: Any) -> Any:
            try:
                self.db.engine.ensure_same_file()
                return callback(db=self.db, **kwargs)
            except REFUSALS as error:
                raise refused(error) from None
            except engines.DatabaseError as error:
                if not engines.is_unavailable(error):
                    raise
                note_unavailable(self.db, error, request.environ[exchange.REQUEST_ID])
                is_unknown = isinstance(error, engines.CommitUnknown)
                changed = engines.UNKNOWN if is_unknown else "nothing was changed"
                message = f"the database is temporarily unavailable; {changed}"
                raise ApiError(exchange.UNAVAILABLE, message, Retry_After="1") from None

        return served


# --- Handlers ----------------------------------------------------------------------------------


def create_account(db: Database) -> shapes.Account:
    with ValidationErrors() as errors:
        read_query(errors)
        fields = read_fields(errors, rules.CREATE_RULES, required=rules.CREATE_REQUIRED)
    account = db.create_account(fields)
    response.status = 201
    path = mount_point() + request.path
    response.set_header("Location", f"{path}/{account['fense_account_id']}")
    return account


def get_account(db: Database, fense_account_id: str) -> shapes.Account:
    with ValidationErrors() as errors:
        account_id = errors.check("fense_account_id", rules.check_id, fense_account_id)
        read_query(errors)
    return db.get_account(account_id)


def update_account(db: Database, fense_account_id: str) -> shapes.Account:
    with ValidationErrors() as errors:
        account_id = errors.check("fense_account_id", rules.check_id, fense_account_id)
        read_query(errors)
        fields = read_fields(errors, rules.UPDATE_RULES, refusals=rules.UPDATE_REFUSALS)
    return db.update_account(account_id, fields)


def get_usage(db: Database, fense_account_id: str | None = None) -> str | Iterator[str]:
    with ValidationErrors() as errors:
        account_id, start_date, end_date = reading.read_usage_query(errors, fense_account_id)
    response.content_type = "application/json"
    if account_id is None:
        return db.all_usage(start_date, end_date)
    return db.account_usage(account_id, start_date, end_date)


def get_health(db: Database) -> dict[str, Any]:
    db.ping()
    return {"status": "ok"}


def get_openapi(db: Database) -> dict[str, Any]:
    response.set_header("Access-Control-Allow-Origin", "*")  # it is public
    return reading.read_openapi(OPENAPI_FILE, reading.application().prefix)


# --- The application ---------------------------------------------------------------------------

VALID_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
RANDOM = random.Random()  # a separate one, because a test suite may seed the shared one
PLAIN_PATH = r"(?:/accounts|/healthz|/openapi\.json)?(?:/usage)?(?:/[0-9]{1,19})?"
MAX_REASON = 500  # characters of an error's reason in the log
MAX_INLINE = 200  # characters of path and query; a longer request never runs inline
MONTHS = re.compile(r"start_date=(\d{4}-\d\d)-\d\d&end_date=(\d{4}-\d\d)-\d\d", re.ASCII)


class Application(bottle.Bottle):  # type: ignore[misc]
    """The routes, and what all responses have in common.

    All valid keys are masked in the log, the given `keys` among them: see `Masker`. A
    `server.Server` calls the methods under "What the server asks".
    """

    def __init__(
        self, db: Database, prefix: str, keys: Iterable[str], public_url: str, limits: Limits
    ) -> None:
        super().__init__()
        self.db = db
        self.prefix = prefix
        self.limits = limits
        self.public_url = public_url
        self.public_origin = "/".join(public_url.split("/")[:3])
        self.public_path = public_url.removeprefix(self.public_origin)
        self.masker = Masker(keys, db.merchant_keys_among)
        self.masker.plain = re.compile(re.escape(prefix) + PLAIN_PATH)
        # Listed in the response to `GET /` in development mode.
        places = {"the API": f"{prefix}/accounts", "its description": "/openapi.json"}
        self.signposts = places if DEVELOPMENT_KEY in self.masker.own else {}
        self.catchall = False  # `__call__` handles what a handler raises
        self.install(DatabasePlugin(db))

    # Routes

    def contract(self, path: str, **handlers: Callable[..., Any]) -> None:
        """Route a path of the contract: it is under the prefix, and armed faults apply to it."""
        self.endpoint(self.prefix + path, handlers, contract=True)

    def endpoint(
        self, path: str, handlers: Handlers, contract: bool = False, **options: Any
    ) -> None:
        """Route a path. Its other methods are 405, after the key has been checked."""
        allow = ", ".join(sorted({*handlers, "HEAD"} if "GET" in handlers else handlers))

        def method_not_allowed(**kwargs: Any) -> None:
            message = f"this path accepts {allow}"
            if request.method in ("GET", "HEAD") and path == self.prefix + "/accounts":
                message += f"; GET {mount_point()}{path}/usage lists all accounts"
            raise ApiError(exchange.METHOD_NOT_ALLOWED, message, Allow=allow)

        # ANY alone isn't enough: POST /accounts/usage would reach the handler of /accounts/<id>.
        for method in {"GET", "POST", "ANY", *handlers} - set(handlers):
            self.route(path, method, method_not_allowed, **options)
        for method, handler in handlers.items():
            self.route(path, method, handler, contract=contract, **options)

    # What the server asks

    @property
    def may_wait(self) -> bool:
        """Whether looking up a key may have to wait for a database server."""
        return self.db.engine.info.is_server

    def use_spare(self, spare: Callable[[], AbstractContextManager[None]]) -> None:
        """Set the context for long waits of a worker, in which a substitute takes its place.

        The server calls it once, before it serves.
        """
        self.db.engine.while_waiting = spare

    def runs_inline(self, method: str, path: str, query: str) -> bool:
        """Return whether the response is fast, however much is in the database.

        True for reading one account, or its usage over at most three months.
        """
        # A database server may be slow even for a small query.
        if self.may_wait or method not in ("GET", "HEAD") or len(path) + len(query) > MAX_INLINE:
            return False
        one = self.prefix + "/accounts/"
        if not path.startswith(one + "usage"):
            return path.startswith(one)
        months = MONTHS.fullmatch(query) if path != one + "usage" else None
        return months is not None and 1 <= models.count_months(*months.groups()) <= 3

    def body_limit(self, environ: Mapping[str, Any]) -> int | None:
        """Return the maximum size of a body in bytes; None for the server's own limit.

        Called before the body has arrived: `environ` has only PATH_INFO and HTTP_*.
        """
        return None

    def choose_id(self, environ: Mapping[str, Any]) -> str:
        """Return the request's own id if it is valid and contains no key, else a new one.

        `environ` has at least HTTP_*.
        """
        sent = environ.get("HTTP_X_REQUEST_ID")
        keys = self.masker.keys_in([sent], request_key(environ)) if sent else None
        return self.id_without(keys, sent)

    def id_without(self, keys: Iterable[str] | None, sent: str | None) -> str:
        """Return the request's own id if it is valid and contains no key, else a new one."""
        if sent and VALID_REQUEST_ID.fullmatch(sent) and hide(sent, keys) == sent:
            return sent
        return f"{RANDOM.getrandbits(64):016x}"

    def common_headers(self, request_id: str) -> list[tuple[str, str]]:
        """Return the headers of every response, except Content-Type."""
        return [("Cache-Control", "no-store"), ("X-Request-Id", request_id)]

    def release_waiting(self) -> None:
        """End all delays of requests: the server is about to stop."""

    def end_thread(self) -> None:
        """Close what this thread has open, before it ends."""
        self.db.engine.close()

    # Responses

    def default_error_handler(self, res: bottle.HTTPError) -> bytes:
        error = res
        if not isinstance(error, ApiError):  # raised by the router for an unknown path
            error = ApiError(exchange.NOT_FOUND, "there is no such path" + self._signpost())
        if is_preflight(request.environ):  # never has a key, so "missing" would mislead
            error.body = error.reason = PREFLIGHT
        # 401 messages never quote the client; masking a short unknown key could garble our text.
        if error.status_code != exchange.UNKNOWN_KEY:
            fields, key = [field for field, _ in error.details], request_key(request.environ)
            error.reason = hide(error.reason, self.masker.keys_in(fields, key))
        request.environ[exchange.ERROR] = error
        response.content_type = "application/json"
        return error_body(error.status_code, error.body, error.details)

    def _signpost(self) -> str:
        """Return the end of the message for an unknown path: where to look, or what was meant."""
        path = request.environ[exchange.ASKED_PATH]
        if self.signposts and path in ("/", self.prefix + "/"):
            return "; " + ", ".join(f"{what} is at {at}" for what, at in self.signposts.items())
        if meant := reading.guess_path(path, self.prefix):
            return f"; did you mean {mount_point()}{meant}?"
        return f"; the API is under {mount_point()}{self.prefix}" if self.prefix else ""

    def __call__(
        self, environ: dict[str, Any], start_response: StartResponse, request_id: str | None = None
    ) -> Iterable[bytes]:
        """Respond to a WSGI request, under this id or the one that `choose_id` returns."""
        began = monotonic()
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        environ[exchange.ASKED_PATH] = path  # Bottle strips slashes from its own copy
        mount = environ.get("SCRIPT_NAME", "")
        key = request_key(environ)
        environ[exchange.REQUEST_ID] = request_id = request_id or self.choose_id(environ)
        if not path.isascii():
            # Bottle drops bytes that aren't UTF-8, and could then match another path.
            valid = path.encode("latin-1").decode(errors="replace")
            environ["PATH_INFO"] = valid.encode().decode("latin-1")
        status = "-"

        def start(line: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            nonlocal status
            status = line[:3]
            return start_response(line, headers + self.common_headers(request_id), exc_info)

        try:
            body: Iterable[bytes] = self.wsgi(environ, start)
        except Exception:
            what = self.masker.loggable(method, path, mount, key)
            log.exception("internal server error: %s id=%s", what, request_id)
            message = f"internal error; see the log for request id {request_id}"
            error = environ[exchange.ERROR] = ApiError(exchange.INTERNAL_ERROR, message)
            error.reason = ""  # already logged
            raw = error_body(exchange.INTERNAL_ERROR, message)
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(raw)))]
            start(f"{exchange.INTERNAL_ERROR} Internal Server Error", headers, sys.exc_info())
            body = [] if method == "HEAD" else [raw]

        def log_end(problem: Exception | None) -> None:
            if isinstance(problem, engines.DatabaseError) and engines.is_unavailable(problem):
                note_unavailable(self.db, problem, request_id)
            elif problem and not isinstance(problem, ConnectionError):
                log.error("internal server error: id=%s", request_id, exc_info=problem)
            if log.isEnabledFor(logging.INFO):
                what = self.masker.loggable(method, path, mount, key)
                error = environ.get(exchange.ERROR)
                cut_off = "the response was cut off" * bool(problem)
                why = error.reason[:MAX_REASON] if error else cut_off
                log_request(what, status, monotonic() - began, request_id, why)

        if not isinstance(body, list):
            return exchange.Stream(body, environ, log_end)
        log_end(None)
        return body


def create_app(
    database: str = engines.MEMORY,
    *,
    master_key: str | None = None,
    service_keys: Iterable[str] = (),
    prefix: str = "",
    public_url: str = "",
    limits: Limits | None = None,
) -> Application:
    """Return a WSGI application with its own database; `close()` it when done.

    `database` is a file's path, ":memory:", or a URL such as postgresql://host/name. `public_url`
    is the URL that clients use if there is a proxy; `limits` bound what they may use. Raises
    `ValueError` if a key, the prefix or the public URL is malformed, or no key is given, and
    `engines.Unusable` if the database can't be opened.
    """
    with ValidationErrors() as errors:
        # (In a string, each character would be taken for a key.)
        if isinstance(service_keys, str) or not isinstance(service_keys, Iterable):
            errors.add("service_keys", "must be a list of keys")
            service_keys = ()
        keys = [errors.check("service_keys", rules.check_key, key) for key in service_keys]
        if master_key is not None:
            keys.insert(0, errors.check("master_key", rules.check_key, master_key))
        prefix = errors.check("prefix", rules.check_prefix, prefix)
        public_url = errors.check("public_url", rules.check_public_url, public_url)
        errors.check("database", rules.check_string, database)
    if not keys:
        raise ValueError("master_key or service_keys is required")
    app = Application(open_database(database), prefix, keys, public_url, limits or Limits())
    app.install(ApiKeyPlugin(keys))
    app.contract("/accounts", POST=create_account)
    app.contract("/accounts/usage", GET=get_usage)
    app.contract("/accounts/usage/<fense_account_id>", GET=get_usage)
    app.contract("/accounts/<fense_account_id>", GET=get_account, POST=update_account)
    for root in {"", prefix}:  # generated clients ask under the prefix
        app.endpoint(root + "/healthz", {"GET": get_health}, skip=ApiKeyPlugin)
        app.endpoint(root + "/openapi.json", {"GET": get_openapi}, skip=ApiKeyPlugin)
    return app


if __name__ == "__main__":
    from fense_admin.cli import main

    sys.exit(main())
