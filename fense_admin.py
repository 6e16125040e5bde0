"""Fense's Dispute Integration API as a small service: the HTTP door.

`create_app`, at the end, lists the routes: the API at a glance.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from http.client import responses as REASONS
from importlib.util import find_spec
from typing import Any, NamedTuple
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

from fense_admin import models
from fense_admin.models import Database

__version__ = "0.1.0"

log = logging.getLogger("fense_admin")

MAX_BODY = 64 * 1024  # bytes
MAX_DETAILS = 100  # of the faults of one request, so many are told; then how many more there are
DEVELOPMENT_KEY = "local-dev-key"  # on a loopback address, where no key was configured
OPENAPI_FILE = os.path.join(__path__[0], "openapi.json")


# --- Errors -----------------------------------------------------------------------------------

# The reason phrase in snake case, but for this one: its phrase differs between versions of Python.
CODES = {413: "payload_too_large"}


class ApiError(bottle.HTTPError):
    """An answer in the error shape: raise it anywhere below a handler.

    `details` are the (field, message) pairs to blame; further keywords are headers of the answer.
    `reason` is what the log says, where the message holds words of the client's.
    """

    def __init__(
        self,
        status: int,
        message: str,
        details: Iterable[tuple[str, str]] = (),
        reason: str | None = None,
        **headers: str,
    ) -> None:
        super().__init__(status, message, **headers)
        self.details = details
        self.reason = message if reason is None else reason


class Problems:
    """All that is wrong with one request, raised together as one 400. Use it as a context.

    Of more than `MAX_DETAILS` the first are told; `len` counts them all.
    """

    def __init__(self) -> None:
        self._told: list[tuple[str | None, str]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> Problems:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None and self:
            raise self.error()

    def add(self, field: str | None, text: str) -> None:
        """Note what is wrong with a field; None where no field is to blame."""
        self._count += 1
        if self._count <= MAX_DETAILS:
            self._told.append((field, text))

    def check(self, field: str | None, check: Callable[[Any], Any], value: object) -> Any:
        """What `check` makes of the value; its ValueError is noted, and then None comes back."""
        try:
            return check(value)
        except ValueError as error:
            self.add(field, str(error))

    def error(self, status: int = 400) -> ApiError:
        details = [(field, text) for field, text in self._told if field is not None]
        return ApiError(status, self._message(_legible), details, self._message(_loggable_name))

    def _message(self, shown: Callable[[str], str]) -> str:
        told = [text if name is None else f"{shown(name)} {text}" for name, text in self._told]
        if self._count > MAX_DETAILS:
            told.append(f"and {self._count - MAX_DETAILS} more")
        return "; ".join(told)


def error_body(status: int, message: str, details: Iterable[tuple[str, str]] = ()) -> bytes:
    """The error shape, serialised. The one place that knows it."""
    reason = REASONS.get(status, "Error")
    code = CODES.get(status) or re.sub("[^a-z]+", "_", reason.lower())
    shown = [{"field": field, "message": text} for field, text in details]
    return json.dumps({"error": {"code": code, "message": message, "details": shown}}).encode()


def _legible(field: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in field) or '""'


def _loggable_name(field: str) -> str:
    """The name for the log: one that could be a key, sent in the place of a name, is left out."""
    is_name = re.fullmatch(r"(?:[a-z]*\[\d+\]\.)?[A-Za-z_]{1,40}", field)
    return field if is_name else HIDDEN


# --- Accounts: the rules for each field --------------------------------------------------------

CONTROL = r"\x00-\x1f\x7f-\x9f"
CONTROL_CHARACTER = re.compile(f"[{CONTROL}]")
API_KEY = re.compile(r"[\x21-\x7e]{1,255}")
EMAIL = re.compile(rf"[^@\s{CONTROL}]+@[^@\s{CONTROL}]+")
UUID = re.compile("[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}")


def check_string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be Unicode text: it has half of a surrogate pair") from None
    return value


def check_api_key(value: object) -> str:
    if not API_KEY.fullmatch(check_string(value)):
        raise ValueError("must be 1 to 255 visible ASCII characters")
    return value


def check_name(value: object) -> str:
    if CONTROL_CHARACTER.search(check_string(value)):
        raise ValueError("must have no control characters, nor line breaks")
    if not 1 <= len(name := value.strip()) <= 255:
        raise ValueError("must be 1 to 255 characters, not counting white space around it")
    return name


def check_email(value: object) -> str:
    if not EMAIL.fullmatch(check_string(value)) or len(value) > 254:
        raise ValueError("must be an address as local@domain, at most 254 characters")
    return value


def check_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def check_uuid(value: object) -> str | None:
    if value is None:
        return None
    if not UUID.fullmatch(check_string(value)):
        raise ValueError("must be a UUID of 8-4-4-4-12 hex digits, or null")
    return value.lower()


class Rule(NamedTuple):
    """What a field has to be: `check` gives the value to keep, or raises `ValueError`."""

    check: Callable[[Any], Any]
    required: bool = False


CREATE = {
    "api_key": Rule(check_api_key, required=True),
    "name": Rule(check_name, required=True),
    "email": Rule(check_email, required=True),
    "suppress_notifications": Rule(check_flag),
    "suppress_billing": Rule(check_flag),
    "dispute_account_id": Rule(check_uuid),
}
UPDATE = {
    "api_key": Rule(check_api_key),
    "name": Rule(check_name),
    "suppress_notifications": Rule(check_flag),
    "suppress_billing": Rule(check_flag),
    "is_active": Rule(check_flag),
    "dispute_account_id": Rule(check_uuid),
}


NOT_ON_UPDATE = {"email": "can't be changed"}


def check_fields(
    sent: JsonObject,
    rules: Mapping[str, Rule],
    problems: Problems,
    place: str = "",
    refusals: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The fields that were sent, each as its rule gives it back; `place` is put before names.

    `refusals` has better words than the usual ones for some names that have no rule.
    """
    refusals = refusals or {}
    checked = {}
    for name, rule in rules.items():
        if name in sent:
            checked[name] = problems.check(place + name, rule.check, sent[name])
        elif rule.required:
            problems.add(place + name, "is required")
    for name in sent:
        if name not in rules:
            problems.add(place + name, refusals.get(name, "is not accepted here"))
    for name in sent.doubled:
        problems.add(place + name, "is given twice")
    return checked


# --- What a request brings ---------------------------------------------------------------------


class JsonObject(dict):
    """An object of a JSON text, which remembers the names that it was given twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        seen: set[str] = set()
        self.doubled = []
        if len(self) < len(pairs):
            self.doubled = sorted({name for name, _ in pairs if name in seen or seen.add(name)})


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text, objects as `JsonObject`. Raises `ValueError`: "is not ..."."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number there")

    try:
        return json.loads(raw.decode(), object_pairs_hook=JsonObject, parse_constant=refuse)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        told = str(error).partition(";")[0]  # what follows is advice to a programmer
        raise ValueError(f"is not valid JSON: {told}") from None


def read_input(environ: Mapping[str, Any], limit: int) -> bytes:
    """The request's body, up to a byte more than the limit."""
    length = limit + 1
    # A server that ends the input itself (a chunked body has no length) says so.
    if not environ.get("wsgi.input_terminated"):
        declared = environ.get("CONTENT_LENGTH", "")
        length = min(length, int(declared) if declared.isdecimal() else 0)
    return environ["wsgi.input"].read(length)


def read_json(problems: Problems, kind: type, limit: int = MAX_BODY) -> Any:
    """The body, a `JsonObject` or a `list`, whichever is asked for; None if it isn't, and noted."""
    raw = read_input(request.environ, limit)
    if len(raw) > limit:
        raise ApiError(413, f"the body is over {limit} bytes")
    sent_as = request.environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if sent_as != "application/json":
        problems.add(None, "the body must be sent with Content-Type: application/json")
    coding = request.environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    if coding not in ("", "identity"):
        problems.add(None, "the body must be sent as it is, without Content-Encoding")
        return None
    try:
        body = parse_json(raw)
    except ValueError as error:
        problems.add(None, f"the body {error}")
        return None
    if not isinstance(body, kind):
        name = "object" if kind is JsonObject else "array"
        problems.add(None, f"the body must be a JSON {name}")
        return None
    return body


def read_fields(
    rules: Mapping[str, Rule], problems: Problems, refusals: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The account's fields in the body, checked."""
    body = read_json(problems, JsonObject)
    return {} if body is None else check_fields(body, rules, problems, refusals=refusals)


def read_query(problems: Problems, *documented: str) -> dict[str, str | None]:
    """The query's parameters by name; None for one whose value can't be used, which is noted."""
    query = request.environ.get("QUERY_STRING", "")
    if not query.isascii():
        query = query.encode("latin-1").decode(errors="replace")
    sent: dict[str, str | None] = {}
    told = set()
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in documented:
            fault = "is not accepted here"
        elif name in sent:
            fault = "is given twice"
        elif not value:
            fault = "is empty"
        else:
            sent[name] = value
            continue
        sent[name] = None
        if (name, fault) not in told:
            told.add((name, fault))
            problems.add(name, fault)
    return sent


def read_usage_query(
    problems: Problems, path_id: str | None
) -> tuple[int | Decimal | None, str | None, str | None]:
    """The account asked for (None: all of them), from the path or the query; start and end."""
    query = read_query(problems, "start_date", "end_date", "fense_account_id")
    ids = [
        problems.check("fense_account_id", check_id, text)
        for text in (path_id, query.get("fense_account_id"))
        if text is not None
    ]
    if len(ids) == 2 and None not in ids and ids[0] != ids[1]:
        problems.add("fense_account_id", "differs between path and query: give it once")
    start, end = (
        problems.check(name, models.check_date, query[name]) if query.get(name) else None
        for name in ("start_date", "end_date")
    )
    if "start_date" in query and "end_date" not in query:
        problems.add("end_date", "is required with start_date")
    elif start and end and start > end:
        problems.add("start_date", "must not be after end_date")
    return (ids[0] if ids else None), start, end


def check_id(text: str) -> int | Decimal:
    if not re.fullmatch("-?[0-9]+", text):
        raise ValueError("must be an integer")
    # Of thousands of digits int() takes long, or refuses them; a Decimal compares like any number.
    return int(text) if len(text) < 20 else Decimal(text)


def check_path_id(text: str, problems: Problems) -> int | Decimal:
    """The account's id in the path; 0, which names none, where it can't be used."""
    return problems.check("fense_account_id", check_id, text) or 0


# --- Who may call ------------------------------------------------------------------------------

PUBLIC_KEY_ABROAD = (
    f"{DEVELOPMENT_KEY} is public, so it takes no request of another web page's ({{}}): "
    "to go on, set DISPUTE_MASTER_KEY to a key of your own"
)


class ApiKeyPlugin:
    """Lets the master key and the service keys in: 401 for a stranger, 403 for a merchant."""

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
            if key == DEVELOPMENT_KEY and (blamed := foreign_header(request.environ)):
                raise ApiError(403, PUBLIC_KEY_ABROAD.format(blamed))
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
        """Whether it is one of the keys. Takes as long whichever it is, or if it is none."""
        sent = models.digest(key)
        return True in [hmac.compare_digest(sent, known) for known in self.digests]


def foreign_header(environ: Mapping[str, Any], on_loopback: bool = True) -> str | None:
    """The header that tells of a web page from elsewhere: "Origin", "Host", or None.

    `on_loopback` says that no other machine reaches this service; then a page can do so by a name
    of its own for this address (DNS rebinding).
    """
    host = environ.get("HTTP_HOST", "localhost")
    origin = environ.get("HTTP_ORIGIN")
    # Behind a proxy with TLS the page's own scheme is not the one that arrives here.
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return "Origin"
    return "Host" if on_loopback and not is_loopback(host) else None


def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine by a name that is always its own."""
    name = re.sub(r":[0-9]*\Z", "", host).lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def check_key(key: str) -> str:
    """A key as a header brings it. Raises `ValueError` for one that no header could."""
    if not API_KEY.fullmatch(key.strip()):
        raise ValueError("must be 1 to 255 visible ASCII characters")
    return key.strip()


# --- Keys, taken out of what is told -----------------------------------------------------------

HIDDEN = "\N{HORIZONTAL ELLIPSIS}"
KEY_NAME = re.compile(r"api[\W_]{0,3}keys?|authorization|bearer|token|secret", re.IGNORECASE)
MAX_KEYS_SENT = 4


def hide_keys(text: str, keys: Iterable[str] | None) -> str:
    """The text without these keys; a short one is taken out where it is a word of its own.

    Without the text, where the keys are None.
    """
    if keys is None:
        return HIDDEN
    for key in keys:
        if key and key in text:
            found = re.escape(key) if len(key) >= 8 else rf"(?<!\w){re.escape(key)}(?!\w)"
            text = re.sub(found, HIDDEN, text)
    return text


def cut_at_key_name(text: str) -> str:
    """The text up to the first name of a key in it: behind it may stand a key."""
    found = KEY_NAME.search(text)
    return text[: found.end()] + HIDDEN if found and found.end() < len(text) else text


# --- The database in a request -----------------------------------------------------------------


class DatabasePlugin:
    """Gives each handler `db`, and tells the client in the contract's words what that refuses."""

    name = "database"
    api = 2

    def __init__(self, db: Database) -> None:
        self.db = db

    def close(self) -> None:
        self.db.close_all()

    def apply(self, callback: Callable[..., Any], route: bottle.Route) -> Callable[..., Any]:
        def served(**kwargs: Any) -> Any:
            try:
                self.db.check_place()
                return callback(db=self.db, **kwargs)
            except models.NoSuchAccount:
                raise ApiError(404, "no account has this fense_account_id") from None
            except models.ApiKeyTaken:
                problems = Problems()
                problems.add("api_key", "belongs to another account")
                raise problems.error() from None
            except models.DatabaseError as error:
                if not models.is_unavailable(error):
                    raise
                log.warning("database unavailable: %s id=%s", error, request.environ[REQUEST_ID])
                self.db.close()  # this thread's connection may remember what is mended by now
                raise ApiError(
                    503, "the database can't be used just now; nothing was changed", Retry_After="1"
                ) from None

        return served


# --- Handlers ----------------------------------------------------------------------------------


def create_account(db: Database) -> dict[str, Any]:
    with Problems() as problems:
        read_query(problems)
        fields = read_fields(CREATE, problems)
    account = db.create_account(fields)
    response.status = 201
    path = mount_point() + request.path
    response.set_header("Location", f"{path}/{account['fense_account_id']}")
    return account


def get_account(db: Database, fense_account_id: str) -> dict[str, Any]:
    with Problems() as problems:
        account_id = check_path_id(fense_account_id, problems)
        read_query(problems)
    return db.get_account(account_id)


def update_account(db: Database, fense_account_id: str) -> dict[str, Any]:
    with Problems() as problems:
        account_id = check_path_id(fense_account_id, problems)
        read_query(problems)
        fields = read_fields(UPDATE, problems, NOT_ON_UPDATE)
    return db.update_account(account_id, fields)


def get_usage(db: Database, fense_account_id: str | None = None) -> str:
    with Problems() as problems:
        account_id, start_date, end_date = read_usage_query(problems, fense_account_id)
    response.content_type = "application/json"
    if account_id is None:
        return db.all_usage(start_date, end_date)
    return db.account_usage(account_id, start_date, end_date)


def get_health(db: Database) -> dict[str, Any]:
    db.check()
    return {"status": "ok"}


def mount_point() -> str:
    """The path under which another application has this one, if it has."""
    return quote(request.environ.get("SCRIPT_NAME", "").rstrip("/").encode("latin-1"))


# --- The application ---------------------------------------------------------------------------

REQUEST_ID = "fense_admin.request_id"  # its place in the WSGI environment
ASKED_PATH = "fense_admin.path"  # likewise, as it came
REASON = "fense_admin.reason"  # likewise: why the answer is an error, for the log
KNOWN_WORDS = ("accounts", "usage", "healthz", "openapi.json")  # of which paths are made
MAX_GUESSED = 200  # characters of a path: to guess costs time, and takes no key
MAX_PATH = 300  # characters of it in the log
MAX_REASON = 500  # characters of it in the log
RANDOM = random.Random()  # of our own: a test suite may count on what comes out of the shared one
SANE_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
MAX_QUICK = 200  # characters of path and query
MONTHS = re.compile(r"start_date=(\d{4}-\d\d)-\d\d&end_date=(\d{4}-\d\d)-\d\d", re.ASCII)


class Application(bottle.Bottle):
    """The routes, and around them what every response has in common.

    `keys` are taken out of whatever is logged.
    """

    def __init__(self, db: Database, prefix: str, keys: Iterable[str]) -> None:
        super().__init__()
        self.db = db
        self.prefix = prefix
        self._keys = sorted(keys, key=len, reverse=True)
        # What `GET /` names in development mode.
        self.signposts: dict[str, str] = {}
        self.catchall = False  # what is raised comes out, to be dealt with in `__call__`

    def endpoints(
        self, path: str, handlers: Mapping[str, Callable[..., Any]], **options: Any
    ) -> None:
        """Route a path, its every other method too: a key is asked for before a method is."""
        allow = ", ".join(sorted({*handlers, "HEAD"} if "GET" in handlers else handlers))

        def method_not_allowed(**kwargs: Any) -> None:
            told = f"this path takes {allow}"
            if request.method in ("GET", "HEAD") and path == self.prefix + "/accounts":
                told += f"; GET {path}/usage lists all accounts"
            raise ApiError(405, told, Allow=allow)

        # ANY alone would not do: POST /accounts/usage would find the handler of /accounts/<id>.
        for method in {"GET", "POST", "ANY", *handlers}:
            self.route(path, method, handlers.get(method, method_not_allowed), **options)

    def is_quick(self, method: str, path: str, query: str) -> bool:
        """Whether the answer takes next to no time, whatever there is in the database.

        It is a read of one account, or of its usage in no more than three months.
        """
        one = self.prefix + "/accounts/"
        if method not in ("GET", "HEAD") or not path.startswith(one):
            return False
        if len(path) + len(query) > MAX_QUICK:
            return False
        if not path.startswith(one + "usage"):
            return True
        months = MONTHS.fullmatch(query)
        if months is None or path == one + "usage":
            return False
        return 1 <= models.count_months(*months.groups()) <= 3

    def keys_to_hide(self, sent: str) -> list[str] | None:
        """The keys that are told nobody: those that are configured, and the one that was sent.

        None where more were sent than is worth looking for: then nothing is told.
        """
        keys = dict.fromkeys(sent.split(", "))  # sent twice, a server joins them
        return [*self._keys, *keys] if len(keys) <= MAX_KEYS_SENT else None

    def hide_keys(self, text: str, sent: str) -> str:
        """The text without them."""
        return hide_keys(text, self.keys_to_hide(sent))

    def choose_id(self, sent: str | None, key: str) -> str:
        """The request's own id, if it sent a sane one that is no key, else a new one."""
        chosen = choose_request_id(sent)
        is_key = chosen == sent and self.hide_keys(sent, key) != sent
        return choose_request_id(None) if is_key else chosen

    def default_error_handler(self, error: bottle.HTTPError) -> bytes:
        if not isinstance(error, ApiError):  # the router's own, which knows no such path
            error = ApiError(404, "there is no such path" + self._signpost())
        key = request.environ.get("HTTP_X_API_KEY", "")
        # (Why a key is refused is told in words of ours, in which a short one might occur.)
        reason = error.reason
        if error.status_code != 401:
            reason = self.hide_keys(reason, key)
        request.environ[REASON] = ": " + reason[:MAX_REASON]
        response.content_type = "application/json"
        return error_body(error.status_code, error.body, error.details)

    def _signpost(self) -> str:
        """What to say to whoever asked for a path that is not there."""
        path = request.environ[ASKED_PATH]
        if self.signposts and path in ("/", self.prefix + "/"):
            places = (f"{what} is at {where}" for what, where in self.signposts.items())
            return "; " + ", ".join(places)
        meant = guess_path(path, self.prefix)
        if meant:
            return f"; did you mean {meant}?"
        return f"; the API is under {self.prefix}" if self.prefix else ""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        began = time.perf_counter()
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        environ[ASKED_PATH] = path  # Bottle takes slashes off its own
        key = environ.get("HTTP_X_API_KEY", "")
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
            return start_response(line, headers + common_headers(request_id), exc_info)

        try:
            body = self.wsgi(environ, start)
        except Exception:
            what = self._loggable(method, key), self._loggable(path, key)
            log.exception("internal server error: %s %s id=%s", *what, request_id)
            raw = error_body(500, f"a fault of this service, logged with the id {request_id}")
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(raw)))]
            start("500 Internal Server Error", headers, sys.exc_info())
            body = [] if method == "HEAD" else [raw]
        if log.isEnabledFor(logging.INFO):
            milliseconds = (time.perf_counter() - began) * 1000
            why = environ.get(REASON, "")
            what = self._loggable(method, key), self._loggable(path, key)
            log.info("%s %s %s %.1fms %s%s", *what, status, milliseconds, request_id, why)
        return body

    def _loggable(self, sent: str, key: str) -> str:
        shown = cut_at_key_name(self.hide_keys(sent, key))
        return HIDDEN.join(map(loggable, shown[:MAX_PATH].split(HIDDEN)))[:MAX_PATH]


def choose_request_id(sent: str | None) -> str:
    """The request's own id, if it sent a sane one, else a new one."""
    return sent if sent and SANE_REQUEST_ID.fullmatch(sent) else f"{RANDOM.getrandbits(64):016x}"


def common_headers(request_id: str) -> list[tuple[str, str]]:
    """What every response bears beside its Content-Type."""
    return [("Cache-Control", "no-store"), ("X-Request-Id", request_id)]


def loggable(path: str) -> str:
    """A path as one word of one line, at most 300 characters."""
    return quote(path[:MAX_PATH].encode("latin-1"))[:MAX_PATH]


def guess_path(path: str, prefix: str) -> str | None:
    """The path that was probably meant by one that is not there; None where it can't be told."""
    if len(path) > MAX_GUESSED:
        return None
    words = [word.lower() for word in path.split("/") if word]
    known = [word for word in prefix.lower().split("/") if word]
    while known and words[: len(known)] == known:
        words = words[len(known) :]
    ids = [word for word in words if re.fullmatch("[0-9]{1,19}", word)]
    named = [get_close_matches(word, KNOWN_WORDS, 1, 0.8) for word in words if word not in ids]
    while len(named) > 1 and not named[0]:
        del named[0]  # perhaps a prefix elsewhere
    if [] in named or len(ids) > 1:
        return None
    names = [match for (match,) in named]
    if not ids and names in (["healthz"], ["openapi.json"]):
        return f"/{names[0]}"
    if names not in (["accounts"], ["accounts", "usage"], ["usage"]):
        return None
    usage = ["usage"] * ("usage" in names)
    return prefix + "/" + "/".join(["accounts", *usage, *ids])


def check_prefix(text: str) -> str:
    """A prefix as "" or "/admin": "admin", "/admin/" and "/admin" are one. Raises `ValueError`."""
    prefix = text.strip("/")
    segments = prefix.split("/") if prefix else []
    for segment in segments:
        if not re.fullmatch("[A-Za-z0-9._~-]+", segment) or segment in (".", ".."):
            raise ValueError("must be a path such as /admin, of letters, digits and . _ ~ -")
    return "".join("/" + segment for segment in segments)


def create_app(
    database: str = models.MEMORY,
    *,
    master_key: str | None = None,
    service_keys: Iterable[str] = (),
    prefix: str = "",
) -> Application:
    """The WSGI application over a database of its own; `close()` it when done.

    `database` is a file's path or ":memory:". Raises `ValueError` for a key or a prefix that
    can't be one and where there is no key at all, `models.Unusable` for the database.
    """
    keys = [check_key(key) for key in ([master_key] if master_key is not None else [])]
    keys += [check_key(key) for key in service_keys]
    if not keys:
        raise ValueError("give a master_key or service_keys: without a key nobody gets in")
    prefix = check_prefix(prefix)
    app = Application(Database(database), prefix, keys)
    app.install(DatabasePlugin(app.db))
    app.install(ApiKeyPlugin(keys))

    def get_openapi(db: Database) -> dict[str, Any]:
        with open(OPENAPI_FILE, encoding="utf-8") as file:
            return json.load(file) | {"servers": [{"url": mount_point() + prefix or "/"}]}

    accounts = prefix + "/accounts"
    if DEVELOPMENT_KEY in keys:
        app.signposts.update({"the API": accounts, "its description": "/openapi.json"})
    app.endpoints(accounts, {"POST": create_account})
    app.endpoints(accounts + "/usage", {"GET": get_usage})
    app.endpoints(accounts + "/usage/<fense_account_id>", {"GET": get_usage})
    app.endpoints(accounts + "/<fense_account_id>", {"GET": get_account, "POST": update_account})
    app.endpoints("/healthz", {"GET": get_health}, skip=ApiKeyPlugin)
    app.endpoints("/openapi.json", {"GET": get_openapi}, skip=ApiKeyPlugin)
    return app


if __name__ == "__main__":
    from fense_admin.cli import main

    sys.exit(main())
