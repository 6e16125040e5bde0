"""Fense's Dispute Integration API as a small service: the HTTP door.

`create_app`, at the end, lists the routes: the API at a glance.
"""

from __future__ import annotations

import functools
import hmac
import json
import logging
import os
import random
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from http.client import responses as REASONS
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qsl, quote

if __name__ == "__main__":  # run as a script, perhaps by a Python that can't
    if sys.version_info < (3, 10):  # noqa: UP036
        sys.exit(f"fense-admin needs Python 3.10 or later; this is {sys.version.split()[0]}")
    missing = [name for name in ("bottle", "peewee", "waitress") if find_spec(name) is None]
    if missing:
        sys.exit(f"fense-admin needs {', '.join(missing)}: run `make serve`, or `pip install .`")

import bottle
from bottle import request, response

# In a checkout this file is the whole of the package; its siblings are the package's modules.
__path__ = [os.path.dirname(os.path.abspath(__file__))]

from fense_admin import engines, masking, models, rules
from fense_admin.models import Database
from fense_admin.realtime import monotonic
from fense_admin.rules import HIDDEN, JsonObject, ValidationErrors

__version__ = "0.1.0"

log = logging.getLogger("fense_admin")

MAX_BODY = 64 * 1024  # bytes
DEVELOPMENT_KEY = "local-dev-key"  # on a loopback address, where no key was configured
OPENAPI_FILE = os.path.join(__path__[0], "openapi.json")


# --- Errors -----------------------------------------------------------------------------------

# The reason phrase in snake case, but for this one: its phrase differs between versions of Python.
CODES = {413: "payload_too_large"}
KNOWN_FIELDS = {*rules.ACCOUNT_RULES, "fense_account_id", "start_date", "end_date"}


class ApiError(bottle.HTTPError):
    """An answer in the error shape. Raise it in a handler, or in what a handler calls.

    `details` are (field, message) pairs; further keywords are headers of the answer. `reason` is
    what the log says, where the message quotes the client; of what it quotes, too, `quoted` has all
    that may be a key.
    """

    def __init__(
        self,
        status: int,
        message: str,
        details: Iterable[tuple[str, str]] = (),
        reason: str | None = None,
        quoted: Iterable[str] = (),
        **headers: str,
    ) -> None:
        super().__init__(status, message, **headers)
        self.details = details
        self.reason = message if reason is None else reason
        self.quoted = quoted


def error_body(status: int, message: str, details: Iterable[tuple[str, str]] = ()) -> bytes:
    """The error shape, serialised. The one place that knows it."""
    reason = REASONS.get(status, "Error")
    code = CODES.get(status) or re.sub("[^a-z]+", "_", reason.lower())
    shown = [{"field": field, "message": text} for field, text in details]
    return json.dumps({"error": {"code": code, "message": message, "details": shown}}).encode()


def invalid(errors: ValidationErrors, status: int = 400) -> ApiError:
    """The `ApiError` for these errors."""
    unknown = [field for field, _ in errors.details if field not in KNOWN_FIELDS]
    reason = errors.message(_loggable_name)
    return ApiError(status, str(errors), errors.details, reason, unknown)


def _loggable_name(field: str) -> str:
    """A field's name for the log; hidden where it doesn't look like the name of a field."""
    is_name = re.fullmatch(r"(?:[a-z]*\[\d+\]\.)?[A-Za-z_]{1,40}", field)
    return field if is_name else HIDDEN


# --- What a request brings ---------------------------------------------------------------------


def read_input(environ: Mapping[str, Any], limit: int) -> bytes:
    """The request's body, up to a byte more than the limit."""
    length = limit + 1
    # A server that ends the input itself (a chunked body has no length) says so.
    if not environ.get("wsgi.input_terminated"):
        declared = environ.get("CONTENT_LENGTH", "")
        length = min(length, int(declared) if declared.isdecimal() else 0)
    return environ["wsgi.input"].read(length)


def read_json(
    errors: ValidationErrors,
    kind: type = JsonObject,
    limit: int = MAX_BODY,
    may_be_empty: bool = False,
) -> Any:
    """The body, which has to be a `JsonObject` or a `list`; None if it isn't.

    What is wrong with it goes to `errors`. No body at all is an empty one if it `may_be_empty`.
    Raises `ApiError` (413) beyond `limit` bytes.
    """
    raw = read_input(request.environ, limit)
    if len(raw) > limit:
        raise ApiError(413, f"the body is over {limit} bytes")
    if may_be_empty and not raw:
        return kind()
    sent_as = request.environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if sent_as != "application/json":
        errors.add(None, "the body must be sent with Content-Type: application/json")
    coding = request.environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    try:
        if coding not in ("", "identity"):
            raise ValueError("must be sent as it is, without Content-Encoding")
        body = rules.parse_json(raw)
        if isinstance(body, kind):
            return body
        raise ValueError(f"must be a JSON {'object' if kind is JsonObject else 'array'}")
    except ValueError as error:
        errors.add(None, f"the body {error}")
    return None


def read_query(
    errors: ValidationErrors, *documented: str, may_be_empty: bool = False
) -> dict[str, str | None]:
    """The query's parameters by name; None for one that is wrong, which is noted in `errors`.

    One that is empty is wrong, or left out if it `may_be_empty`, as in a form.
    """
    query = request.environ.get("QUERY_STRING", "")
    if not query.isascii():
        query = query.encode("latin-1").decode(errors="replace")
    sent: dict[str, str | None] = {}
    found: dict[tuple[str, str], None] = {}  # each error once, in order
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in documented:
            found[name, "is not accepted here"] = None
        elif name in sent:
            found[name, "is given twice"] = None
        elif not value and may_be_empty:
            continue
        elif not value:
            found[name, "is empty"] = None
        else:
            sent[name] = value
            continue
        sent[name] = None
    for name, message in found:
        errors.add(name, message)
    return sent


def read_usage_query(
    errors: ValidationErrors, path_id: str | None
) -> tuple[int | None, str | None, str | None]:
    """The account's id from the path or the query (None: all accounts), start date and end date."""
    query = read_query(errors, "start_date", "end_date", "fense_account_id")
    ids = [
        errors.check("fense_account_id", rules.check_id, text)
        for text in (path_id, query.get("fense_account_id"))
        if text is not None
    ]
    if len(ids) == 2 and None not in ids and ids[0] != ids[1]:
        errors.add("fense_account_id", "differs between path and query: give it once")
    start, end = (
        errors.check(name, rules.check_date, query[name]) if query.get(name) else None
        for name in ("start_date", "end_date")
    )
    if "start_date" in query and "end_date" not in query:
        errors.add("end_date", "is required with start_date")
    elif start and end and start > end:
        errors.add("start_date", "must not be after end_date")
    return (ids[0] if ids else None), start, end


def read_fields(
    errors: ValidationErrors, field_rules: Mapping[str, rules.Rule], **options: Any
) -> dict[str, Any]:
    """The fields in the body, checked: see `rules.validate`."""
    body = read_json(errors)
    return {} if body is None else rules.validate(body, field_rules, errors, **options)


# --- Keys --------------------------------------------------------------------------------------

LOOPBACK = re.compile(
    r"(?:(?:[^:]+\.)?localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]*)?", re.IGNORECASE
)
FOREIGN_PAGE = (
    f"{DEVELOPMENT_KEY} is public, so it takes no request of another web page's ({{}}): "
    "to go on, set DISPUTE_MASTER_KEY to a key of your own"
)


class ApiKeyPlugin:
    """Lets the master key and the service keys in: 401 for an unknown key, 403 for a merchant's."""

    name = "api_key"
    api = 2

    def __init__(self, keys: Iterable[str]) -> None:
        self.digests = [models.digest(key) for key in keys]
        self.hint = ""
        if self.knows(DEVELOPMENT_KEY):  # which is public
            self.hint = f"; the development key is {DEVELOPMENT_KEY}"

    def apply(self, callback: Callable[..., Any], route: bottle.Route) -> Callable[..., Any]:
        def guarded(db: Database, **kwargs: Any) -> Any:
            key = request.environ.get("HTTP_X_API_KEY", "")
            if not self.knows(key):
                if key and db.is_merchant_key(key):
                    raise ApiError(403, "a merchant's key does not open these endpoints")
                raise ApiError(401, self.why(key), WWW_Authenticate='ApiKey header="x-api-key"')
            if key == DEVELOPMENT_KEY and (header := foreign_header(request.environ)):
                raise ApiError(403, FOREIGN_PAGE.format(header))
            return callback(db=db, **kwargs)

        return guarded

    def why(self, key: str) -> str:
        """Why this key, which is none of the keys, is refused."""
        if not key:
            return "the header x-api-key is missing" + self.hint
        if ", " in key:  # as a server joins two headers; no key has a space
            return "the header x-api-key came twice: send it once"
        return "x-api-key is not a known key" + self.hint

    def knows(self, key: str) -> bool:
        """Whether it is one of the keys. Takes the same time for each of them, and for none."""
        sent = models.digest(key)
        return True in [hmac.compare_digest(sent, known) for known in self.digests]


def foreign_header(environ: Mapping[str, Any], on_loopback: bool = True) -> str | None:
    """The header that shows that another site's page sent the request: "Origin", "Host", or None.

    A foreign Origin is CSRF. With `on_loopback`, which says that no other machine reaches this
    service, a Host that is no loopback name is DNS rebinding.
    """
    host = environ.get("HTTP_HOST", "localhost")
    sent = environ.get("HTTP_ORIGIN")
    # Behind a proxy the page's own scheme and host are not those that arrive here. (A page of
    # another site can't send X-Forwarded-Host: its browser would ask first, and is refused.)
    if sent is not None and sent not in (f"http://{host}", f"https://{host}", origin()):
        return "Origin"
    return "Host" if on_loopback and not LOOPBACK.fullmatch(host) else None


# --- The database in a request -----------------------------------------------------------------


class DatabasePlugin:
    """Gives each handler `db`, and makes an `ApiError` of what the data and the rules raise."""

    name = "database"
    api = 2

    def __init__(self, db: Database) -> None:
        self.db = db

    def close(self) -> None:
        self.db.engine.close_all()

    def apply(self, callback: Callable[..., Any], route: bottle.Route) -> Callable[..., Any]:
        def served(**kwargs: Any) -> Any:
            try:
                self.db.engine.ensure_same_file()
                return callback(db=self.db, **kwargs)
            except ValidationErrors as errors:
                raise invalid(errors) from None
            except models.NoSuchAccount:
                raise ApiError(404, "no account has this fense_account_id") from None
            except models.ApiKeyTaken:
                message = "belongs to another account"
                raise ApiError(400, f"api_key {message}", [("api_key", message)]) from None
            except engines.DatabaseError as error:
                if not engines.is_unavailable(error):
                    raise
                log.warning("database unavailable: %s id=%s", error, request.environ[REQUEST_ID])
                if not self.db.engine.is_server:
                    self.db.engine.close()  # the next request's connection is free of old errors
                is_unknown = isinstance(error, engines.CommitUnknown)
                changed = engines.UNKNOWN if is_unknown else "nothing was changed"
                message = f"the database can't be used just now; {changed}"
                raise ApiError(503, message, Retry_After="1") from None

        return served


# --- Handlers ----------------------------------------------------------------------------------


def create_account(db: Database) -> dict[str, Any]:
    with ValidationErrors() as errors:
        read_query(errors)
        fields = read_fields(errors, rules.CREATE_RULES, required=rules.CREATE_REQUIRED)
    account = db.create_account(fields)
    response.status = 201
    path = mount_point() + request.path
    response.set_header("Location", f"{path}/{account['fense_account_id']}")
    return account


def get_account(db: Database, fense_account_id: str) -> dict[str, Any]:
    with ValidationErrors() as errors:
        account_id = errors.check("fense_account_id", rules.check_id, fense_account_id)
        read_query(errors)
    return db.get_account(account_id)


def update_account(db: Database, fense_account_id: str) -> dict[str, Any]:
    with ValidationErrors() as errors:
        account_id = errors.check("fense_account_id", rules.check_id, fense_account_id)
        read_query(errors)
        fields = read_fields(errors, rules.UPDATE_RULES, refusals=rules.UPDATE_REFUSALS)
    return db.update_account(account_id, fields)


def get_usage(db: Database, fense_account_id: str | None = None) -> str:
    with ValidationErrors() as errors:
        account_id, start_date, end_date = read_usage_query(errors, fense_account_id)
    response.content_type = "application/json"
    if account_id is None:
        return db.all_usage(start_date, end_date)
    return db.account_usage(account_id, start_date, end_date)


def get_health(db: Database) -> dict[str, Any]:
    db.ping()
    return {"status": "ok"}


def get_openapi(db: Database) -> dict[str, Any]:
    return read_openapi(OPENAPI_FILE, request.app.prefix)


def read_openapi(path: str, prefix: str) -> dict[str, Any]:
    """Return the OpenAPI document in this file, as it is served under the prefix."""
    return json.loads(read_data(path)) | {"servers": [{"url": origin() + mount_point() + prefix}]}


@functools.cache
def read_data(path: str) -> bytes:
    """Read a file of the package, which may be in a zip file.

    It is read once: an update may replace it while the service runs.
    """
    return __spec__.loader.get_data(path)


# --- Where clients find the service ------------------------------------------------------------

LOOPBACK_PEER = re.compile(r"(?:::ffff:)?127(?:\.[0-9]{1,3}){3}|::1")


def origin() -> str:
    """Return the scheme and host that clients use, such as "https://fense.example".

    That is the public URL if one is set, else what a proxy on this machine says in
    X-Forwarded-Proto and X-Forwarded-Host, else the Host of the request.
    """
    if request.app.public_origin:
        return request.app.public_origin
    environ = request.environ
    scheme = environ["wsgi.url_scheme"]
    host = environ.get("HTTP_HOST") or f"localhost:{environ['SERVER_PORT']}"  # HTTP/1.0
    if LOOPBACK_PEER.fullmatch(environ.get("REMOTE_ADDR", "")):
        # Each proxy appends to what it received, so the last value is the nearest proxy's.
        sent_scheme, sent_host = (
            environ.get(f"HTTP_X_FORWARDED_{name}", "").rpartition(",")[2].strip().lower()
            for name in ("PROTO", "HOST")
        )
        scheme = sent_scheme if sent_scheme in ("http", "https") else scheme
        host = sent_host if rules.HOST.fullmatch(sent_host) else host
    return f"{scheme}://{host}"


def mount_point() -> str:
    """Return the path in front of this application's own paths; "" if there is none.

    It comes from the public URL, and from another WSGI application that mounts this one.
    """
    mounted_at = request.environ.get("SCRIPT_NAME", "").rstrip("/").encode("latin-1")
    return request.app.public_path + quote(mounted_at)


# --- The application ---------------------------------------------------------------------------

# Keys of the WSGI environment
REQUEST_ID = "fense_admin.request_id"
RECEIVED = "fense_admin.received"  # when the server had read it, by the monotonic clock
ASKED_PATH = "fense_admin.path"  # with all its slashes
REASON = "fense_admin.reason"  # why the answer is an error, for the log

VALID_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
RANDOM = random.Random()  # not the shared one, which a test suite may have seeded
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}
KNOWN_WORDS = ("accounts", "usage", "healthz", "openapi.json")  # of which paths are made
PLAIN_PATH = r"(?:/accounts|/healthz|/openapi\.json)?(?:/usage)?(?:/[0-9]{1,19})?"
MAX_GUESSED = 200  # characters of an unknown path: to guess costs time, and needs no key
MAX_PATH = 300  # characters of it in the log
MAX_REASON = 500  # characters of it in the log
MAX_INLINE = 200  # characters of path and query of a request that may run inline
MONTHS = re.compile(r"start_date=(\d{4}-\d\d)-\d\d&end_date=(\d{4}-\d\d)-\d\d", re.ASCII)


class Application(bottle.Bottle):
    """The routes, and what all responses have in common.

    The `keys` are masked in whatever is logged, like all that are valid: see `masking.Masker`. A
    `server.Server` calls `runs_inline`, `body_limit`, `choose_id`, `common_headers`,
    `release_waiting` and `end_thread`.
    """

    def __init__(
        self,
        db: Database,
        prefix: str,
        keys: Iterable[str],
        public_origin: str = "",
        public_path: str = "",
    ) -> None:
        super().__init__()
        self.db = db
        self.prefix = prefix
        self.public_origin, self.public_path = public_origin, public_path
        self.masker = masking.Masker(keys, self.merchant_keys_among)
        self.masker.plain = re.compile(re.escape(prefix) + PLAIN_PATH)
        # What `GET /` names in development mode.
        self.signposts: dict[str, str] = {}
        if DEVELOPMENT_KEY in self.masker.own:
            self.signposts["the API"] = prefix + "/accounts"
            self.signposts["its description"] = "/openapi.json"
        self.catchall = False  # `__call__` answers what a handler raises
        self.install(DatabasePlugin(db))

    # Routes

    def contract(self, path: str, **handlers: Callable[..., Any]) -> None:
        """Route a path of the contract: it is under the prefix, and armed faults may answer it."""
        self.endpoint(self.prefix + path, handlers, contract=True)

    def endpoint(
        self,
        path: str,
        handlers: Mapping[str, Callable[..., Any]],
        contract: bool = False,
        **options: Any,
    ) -> None:
        """Route a path, and its other methods to a 405: the key is checked before the method."""
        allow = ", ".join(sorted({*handlers, "HEAD"} if "GET" in handlers else handlers))

        def method_not_allowed(**kwargs: Any) -> None:
            message = f"this path takes {allow}"
            if request.method in ("GET", "HEAD") and path == self.prefix + "/accounts":
                message += f"; GET {mount_point()}{path}/usage lists all accounts"
            raise ApiError(405, message, Allow=allow)

        # ANY alone would not do: POST /accounts/usage would find the handler of /accounts/<id>.
        for method in {"GET", "POST", "ANY", *handlers} - set(handlers):
            self.route(path, method, method_not_allowed, **options)
        for method, handler in handlers.items():
            self.route(path, method, handler, contract=contract, **options)

    # What the server asks

    def runs_inline(self, method: str, path: str, query: str) -> bool:
        """Whether the answer takes next to no time, however much is in the database.

        So it is with a read of one account, or of its usage in at most three months.
        """
        if self.db.engine.is_server:
            return False  # however little it is, the server may not answer
        one = self.prefix + "/accounts/"
        if method not in ("GET", "HEAD") or len(path) + len(query) > MAX_INLINE:
            return False
        if not path.startswith(one + "usage"):
            return path.startswith(one)
        months = MONTHS.fullmatch(query)
        if months is None or path == one + "usage":
            return False
        return 1 <= models.count_months(*months.groups()) <= 3

    def body_limit(self, path: str, headers: Mapping[str, str]) -> int | None:
        """How many bytes the server takes of a body; None for its own limit."""
        return None

    def choose_id(self, sent: str | None, key: str) -> str:
        """The id that the request sent, if it is valid and has no key in it; else a new one."""
        return self.id_without(self.masker.keys_in([sent], key) if sent else None, sent)

    def id_without(self, keys: Iterable[str] | None, sent: str | None) -> str:
        """The id that the request sent, if it is valid and has none of the keys; else a new one."""
        if sent and VALID_REQUEST_ID.fullmatch(sent) and masking.hide_keys(sent, keys) == sent:
            return sent
        return f"{RANDOM.getrandbits(64):016x}"

    def common_headers(self, request_id: str) -> list[tuple[str, str]]:
        """The headers of every response, beside Content-Type."""
        return [("Cache-Control", "no-store"), ("X-Request-Id", request_id)]

    def release_waiting(self) -> None:
        """End the delays that requests wait for: the server is about to stop."""

    def end_thread(self) -> None:
        """Close what this thread has open: it ends."""
        self.db.engine.close()

    # What is logged

    def merchant_keys_among(self, digests: Collection[str]) -> set[str] | None:
        """Those of the digests that are of merchants' keys; None if the database can't say."""
        try:
            return self.db.merchant_keys_among(digests)
        except Exception:  # whatever it is, a handler that needs the database reports it
            return None

    def _loggable(self, method: str, path: str, mount: str, key: str) -> str:
        """Method and path as two words of one line, the keys in them masked."""
        begin = masking.beginning(path, MAX_PATH)
        keys: list[str] | None = [*self.masker.own, *key.split(", ")]
        if method not in METHODS or not self.masker.plain.fullmatch(path):
            keys = self.masker.keys_in([method, begin], key)
        shown = masking.truncate_at_key_name(masking.hide_keys(begin, keys))
        shown = mount + masking.cut(shown, MAX_PATH, is_part=begin != path)
        return f"{loggable(masking.hide_keys(method, keys))} {loggable(shown)}"

    # Answers

    def default_error_handler(self, error: bottle.HTTPError) -> bytes:
        if not isinstance(error, ApiError):  # the router's own, which knows no such path
            error = ApiError(404, "there is no such path" + self._signpost())
        # A 401 has no word of the client's in it, and a short key may be part of one of ours.
        reason = error.reason
        if error.status_code != 401:
            key = request.environ.get("HTTP_X_API_KEY", "")
            reason = masking.hide_keys(reason, self.masker.keys_in(error.quoted, key))
        request.environ[REASON] = ": " + reason[:MAX_REASON]
        response.content_type = "application/json"
        return error_body(error.status_code, error.body, error.details)

    def _signpost(self) -> str:
        """What a 404 for an unknown path says next: where things are, or what was meant."""
        path = request.environ[ASKED_PATH]
        if self.signposts and path in ("/", self.prefix + "/"):
            return "; " + ", ".join(f"{what} is at {at}" for what, at in self.signposts.items())
        meant = guess_path(path, self.prefix)
        if meant:
            return f"; did you mean {mount_point()}{meant}?"
        return f"; the API is under {mount_point()}{self.prefix}" if self.prefix else ""

    def __call__(
        self,
        environ: dict[str, Any],
        start_response: Callable[..., Any],
        request_id: str | None = None,
    ) -> Any:
        began = monotonic()
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        environ[ASKED_PATH] = path  # Bottle takes slashes off its own
        mount = environ.get("SCRIPT_NAME", "")
        key = environ.get("HTTP_X_API_KEY", "")
        if request_id is None:
            request_id = self.choose_id(environ.get("HTTP_X_REQUEST_ID"), key)
        environ[REQUEST_ID] = request_id
        if not path.isascii():
            # Bottle drops bytes that are no UTF-8, and so would find what was not asked for.
            valid = path.encode("latin-1").decode(errors="replace")
            environ["PATH_INFO"] = valid.encode().decode("latin-1")
        status = "-"

        def start(line: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            nonlocal status
            status = line[:3]
            return start_response(line, headers + self.common_headers(request_id), exc_info)

        try:
            body = self.wsgi(environ, start)
        except Exception:
            what = self._loggable(method, path, mount, key)
            log.exception("internal server error: %s id=%s", what, request_id)
            raw = error_body(500, f"a fault of this service, logged with the id {request_id}")
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(raw)))]
            start("500 Internal Server Error", headers, sys.exc_info())
            body = [] if method == "HEAD" else [raw]
        if log.isEnabledFor(logging.INFO):
            milliseconds = (monotonic() - began) * 1000
            why = environ.get(REASON, "")
            what = self._loggable(method, path, mount, key)
            log.info("%s %s %.1fms %s%s", what, status, milliseconds, request_id, why)
        return body


def loggable(text: str) -> str:
    """A method or a path as one word of a line, at most 300 characters; `HIDDEN` stays as it is."""
    parts = text[:MAX_PATH].split(HIDDEN)
    return HIDDEN.join(quote(part.encode("latin-1")) for part in parts)[:MAX_PATH]


def guess_path(path: str, prefix: str) -> str | None:
    """The known path that an unknown one probably means; None where there is no such guess."""
    if len(path) > MAX_GUESSED:
        return None
    words = [word for word in path.lower().split("/") if word]
    ids = [word for word in words if re.fullmatch("[0-9]{1,19}", word)]
    near = [get_close_matches(word, KNOWN_WORDS, 1, 0.8) for word in words if word not in ids]
    names = [match[0] if match else "" for match in near]
    while names and not names[0]:
        del names[0]  # a prefix, ours or another
    if names in (["healthz"], ["openapi.json"]) and not ids:
        return f"/{names[0]}"
    if len(ids) > 1 or names not in (["accounts"], ["accounts", "usage"], ["usage"]):
        return None
    return "/".join([prefix, "accounts", *["usage"] * ("usage" in names), *ids])


def create_app(
    database: str = engines.MEMORY,
    *,
    master_key: str | None = None,
    service_keys: Iterable[str] = (),
    prefix: str = "",
    public_url: str = "",
) -> Application:
    """The WSGI application over a database of its own; `close()` it when done.

    `database` is a file's path, ":memory:", or a URL as postgresql://host/name. `public_url` is
    where clients reach it through a proxy. Raises `ValueError` for a key, a prefix or a public URL
    that can't be one and where there is no key at all, `engines.Unusable` for the database.
    """
    with ValidationErrors() as errors:
        # (Of a string each character would be a key.)
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
        raise ValueError("give a master_key or service_keys: without a key nobody gets in")
    public_origin = "/".join(public_url.split("/")[:3])
    public_path = public_url.removeprefix(public_origin)
    app = Application(Database(database), prefix, keys, public_origin, public_path)
    app.install(ApiKeyPlugin(keys))
    app.contract("/accounts", POST=create_account)
    app.contract("/accounts/usage", GET=get_usage)
    app.contract("/accounts/usage/<fense_account_id>", GET=get_usage)
    app.contract("/accounts/<fense_account_id>", GET=get_account, POST=update_account)
    for root in {"", prefix}:  # under the prefix, too, where generated clients ask
        app.endpoint(root + "/healthz", {"GET": get_health}, skip=ApiKeyPlugin)
        app.endpoint(root + "/openapi.json", {"GET": get_openapi}, skip=ApiKeyPlugin)
    return app


if __name__ == "__main__":
    from fense_admin.cli import main

    sys.exit(main())
