"""What all requests and responses share: the key, ids, errors, the log. Knows no route."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http.client import responses
from typing import Any

import bottle

from fense_admin.rules import HIDDEN, ValidationErrors

log = logging.getLogger("fense_admin")

# Keys of the WSGI environment
REQUEST_ID = "fense_admin.request_id"
RECEIVED = "fense_admin.received"  # monotonic time at which the server had read it
ASKED_PATH = "fense_admin.path"  # with all its slashes
ERROR = "fense_admin.error"  # the `ApiError` of the response
RESET = "fense_admin.reset"  # a function of the server: makes closing the connection a TCP reset

# A list of the server's: hop-by-hop headers for this response, which WSGI forbids applications
HOP_BY_HOP = "fense_admin.hop_by_hop"

KEY_HEADER = "x-api-key"


def request_key(environ: Mapping[str, Any]) -> str:
    """Return the request's key; "" if there is none. Nothing else reads it."""
    return str(environ.get("HTTP_X_API_KEY", ""))


def log_request(what: str, status: object, seconds: float, request_id: str, why: str) -> None:
    """Log a request and its response: `what` is method and path, `why` the error's reason."""
    if log.isEnabledFor(logging.INFO):
        line = f"{what} {status} {seconds * 1000:.1f}ms {request_id}{why and f': {why}'}"
        # Like `log.info`, without the slow search for the caller.
        log.handle(log.makeRecord(log.name, logging.INFO, "", 0, line, (), None))


# --- Streams: responses that are sent while they are produced -----------------------------------

AtEnd = Callable[[Exception | None], None]


class Stream:
    """A WSGI response body that is sent while it is produced.

    An error cuts the connection, so that no client takes a part for the whole. Each function in
    `at_end` is called once at the end, with the error or None; each in `seen` with every piece.
    """

    def __init__(self, pieces: Iterable[bytes], environ: Mapping[str, Any], at_end: AtEnd) -> None:
        self._pieces = pieces
        self._reset = environ.get(RESET, lambda: None)
        self.at_end = [at_end]
        self.seen: list[Callable[[bytes], None]] = []
        self._error: Exception | None = ConnectionAbortedError("the client has gone")

    def __iter__(self) -> Iterator[bytes]:
        try:
            for piece in self._pieces:
                for see in self.seen:
                    see(piece)
                yield piece
            self._error = None
        except Exception as error:
            self._error = error
            self._reset()  # HTTP/1.0 has no other sign that a response is incomplete
            raise ConnectionAbortedError("the response was cut off") from None

    def close(self) -> None:
        """End it, whether complete or not."""
        getattr(self._pieces, "close", lambda: None)()
        while self.at_end:
            self.at_end.pop()(self._error)


def when_over(body: object, call: AtEnd) -> None:
    """Call a function when a response body is complete: now, unless it is a stream."""
    if isinstance(body, Stream):
        body.at_end.append(call)
    else:
        call(None)


# --- Errors -----------------------------------------------------------------------------------

REASONS = responses  # the phrases, by status
# The statuses. Other modules use these names, never a number.
INVALID = 400
UNKNOWN_KEY = 401
FORBIDDEN = 403
NOT_FOUND = 404
METHOD_NOT_ALLOWED = 405
CONFLICT = 409
TOO_LARGE = 413
INTERNAL_ERROR = 500
UNAVAILABLE = 503

# Codes are the reason phrase in snake_case; 413's phrase changed in Python 3.13, so it is fixed.
CODES = {TOO_LARGE: "payload_too_large"}
Details = Sequence[tuple[str, str]]


class ApiError(bottle.HTTPError):  # type: ignore[misc]
    """An error response. Raise it in a handler, or in what a handler calls.

    `details` are (field, message) pairs; further keywords are headers. The log shows the `reason`,
    which is the message, without what it quotes from the client except names of fields.
    """

    def __init__(self, status: int, message: str, details: Details = (), **headers: str) -> None:
        super().__init__(status, message, **headers)
        self.details = details
        self.reason = message


def error_body(status: int, message: str, details: Details = ()) -> bytes:
    """Return an error body as JSON. Nothing else knows its shape."""
    reason = REASONS.get(status, "Error")
    code = CODES.get(status) or re.sub("[^a-z]+", "_", reason.lower())
    shown = [{"field": field, "message": text} for field, text in details]
    return json.dumps({"error": {"code": code, "message": message, "details": shown}}).encode()


def invalid(errors: ValidationErrors, status: int = INVALID) -> ApiError:
    """Return the `ApiError` for these errors."""
    error = ApiError(status, str(errors), errors.details)
    error.reason = errors.message(_loggable_name)
    return error


def _loggable_name(field: str) -> str:
    """Return a field's name for the log; hidden if it doesn't look like the name of a field."""
    return field if re.fullmatch(r"(?:[a-z]*\[\d+\]\.)?[A-Za-z_]{1,40}", field) else HIDDEN
