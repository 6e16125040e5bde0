"""Access to the control plane: only with the master key, and not from pages of other sites."""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import bottle
from bottle import request

from fense_admin import DEVELOPMENT_KEY, ApiKeyPlugin, foreign_header
from fense_admin.databases import Database
from fense_admin.exchange import FORBIDDEN, UNKNOWN_KEY, ApiError, request_key
from fense_admin.reading import read_query
from fense_admin.rules import ValidationErrors


class ControlGuard:
    """Accept only the master key, and no requests from other sites' pages (CSRF, DNS rebinding)."""

    def __init__(self, master_key: str, service_keys: Iterable[str], on_loopback: bool) -> None:
        self.master = ApiKeyPlugin([master_key])
        self.service = ApiKeyPlugin(service_keys)
        self.page_is_open = master_key == DEVELOPMENT_KEY
        self.on_loopback = on_loopback
        self.token = secrets.token_urlsafe()  # of this page's forms

    def apply(self, callback: Callable[..., Any], route: bottle.Route) -> Callable[..., Any]:
        is_page = route.method in route.config.get("page", ())  # a view, or one of its forms
        # The page's views and the list of requests check what they take.
        takes_query = (is_page and route.method == "GET") or route.config.get("takes_query")

        def guarded(db: Database, **kwargs: Any) -> Any:
            self.refuse_other_sites(request.environ, is_page)
            if not (is_page and self.page_is_open):
                self.refuse_other_keys(request.environ, db)
            if not takes_query:
                with ValidationErrors() as errors:
                    read_query(errors)
            return callback(db=db, **kwargs)

        return guarded

    def refuse_other_sites(self, environ: dict[str, Any], is_page: bool) -> None:
        # If no other machine has access, or the key is public, another Host means DNS rebinding.
        blamed = foreign_header(environ, self.on_loopback or self.page_is_open)
        if blamed == "Origin":
            raise ApiError(
                FORBIDDEN, "the control plane refuses requests from other web pages (Origin)"
            )
        is_own = environ.get("HTTP_SEC_FETCH_SITE", "none") in ("none", "same-origin")
        # A link on another site may open the page: only the user sees it.
        if not is_own and not (is_page and is_navigation(environ)):
            raise ApiError(FORBIDDEN, "the control plane refuses requests from other sites' pages")
        if blamed:
            raise ApiError(
                FORBIDDEN, "the control plane is available at localhost or 127.0.0.1 only (Host)"
            )

    def refuse_other_forms(self, token: str) -> None:
        """Refuse a form that is not of this page: where a browser names no site, that decides."""
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            message = "this form is from before the service started: go back and reload the page"
            raise ApiError(FORBIDDEN, message)

    def takes_large_body(self, path: str, environ: Mapping[str, Any]) -> bool:
        """Whether a request may bring a large one: with the master key, or in an open page's form.

        `environ` has HTTP_* only. No page of another site can send such a Sec-Fetch-Site.
        """
        is_own_form = path.startswith("/page/") and self.page_is_open
        is_own_form &= environ.get("HTTP_SEC_FETCH_SITE") == "same-origin"
        return is_own_form or self.master.knows(control_key(environ))

    def refuse_other_keys(self, environ: dict[str, Any], db: Database) -> None:
        key = control_key(environ)
        if self.master.knows(key):
            return
        if key and (self.service.knows(key) or db.is_merchant_key(key)):
            raise ApiError(FORBIDDEN, "the control plane accepts only the master key")
        message = "the key is not the master key" if key else "the master key is missing"
        message += self.master.hint
        raise ApiError(UNKNOWN_KEY, message, WWW_Authenticate='Basic realm="fense-admin"')


def is_navigation(environ: Mapping[str, Any]) -> bool:
    """Return whether a browser opens the page in a tab, not in a frame of another page."""
    mode, what = environ.get("HTTP_SEC_FETCH_MODE"), environ.get("HTTP_SEC_FETCH_DEST")
    return environ["REQUEST_METHOD"] == "GET" and (mode, what) == ("navigate", "document")


def control_key(environ: Mapping[str, Any]) -> str:
    """Return the key of a request: x-api-key, or the password of HTTP Basic (from browsers)."""
    if key := request_key(environ):
        return key
    scheme, _, credentials = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""
