"""What the views of the page share: its files and templates, and where this stand-in is."""

from __future__ import annotations

import functools
import html
import math
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import bottle
from bottle import request

import fense_admin
from fense_admin import __version__, files
from fense_admin.exchange import ApiError
from fense_admin.reading import mount_point, origin
from fense_admin.standin.instances import INSTANCES, ROOT, Plane
from fense_admin.standin.journal import Entry
from fense_admin.standin.page import acting, curl, entries
from fense_admin.standin.page.curl import Lines
from fense_admin.standin.page.text import clip, escape, size

HERE = os.path.dirname(__file__)
FILES = {"page.css": "text/css", "page.js": "text/javascript"}
TEMPLATES = (
    "accounts act answer body chart curl error faults fields form layout list one_account "
    "one_request pager reference requests service"
).split()
MOST_OF_CELL = 600  # bytes of HTML in a list
MOST_OF_MESSAGE = 4_000  # above a form
MOST_OF_BODY = 100_000  # of a response
SHELLS = {"sh": "sh, bash or zsh", "powershell": "PowerShell"}


def read(name: str) -> bytes:
    """Return the content of a file of the page."""
    return files.read(os.path.join(HERE, name))


def read_files() -> None:
    """Read all files of the page, before an update replaces them."""
    for name in [*FILES, *(f"{name}.html" for name in TEMPLATES)]:
        read(name)


@functools.cache
def template(name: str) -> bottle.SimpleTemplate:
    return bottle.SimpleTemplate(read(f"{name}.html").decode(), escape_func=escape)


def prose(text: str) -> str:
    """Return text of an OpenAPI document as HTML: paragraphs, and text in backticks as code."""
    paragraphs = [re.sub("`([^`]+)`", r"<code>\1</code>", escape(p)) for p in text.split("\n\n")]
    return "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs if paragraph)


# The body of the curl line for a first request
KEY = "merchant-key-7d1e-9f2c"
NEW_ACCOUNT = {"api_key": KEY, "name": "Acme Ltd", "email": "owner@acme.example"}


class Shown:
    """What the views and the templates share: where this stand-in is, and its forms."""

    def __init__(self, plane: Plane, forms: Mapping[str, acting.Form]) -> None:
        self.plane, self.forms = plane, forms
        self.done = ""  # what the form that led here has done
        self.sent: acting.Sent | None = None  # a form that was refused, or answered on its page
        self.error: ApiError | None = None  # why
        self.below = ""  # HTML of the response
        self.origin = origin()
        self.root = mount_point() + ROOT
        self.standin_url = self.origin + self.root
        self.base_url = self.origin + mount_point() + plane.app.prefix
        self.is_development = fense_admin.DEVELOPMENT_KEY in plane.app.masker.own
        system = request.get_header("Sec-CH-UA-Platform") or request.get_header("User-Agent", "")
        # The reader's own comes first; who uses another there finds it below.
        self.shells = ["powershell", "sh"] if "Windows" in system else ["sh", "powershell"]
        self.parent = self.root.partition(INSTANCES)[0] + ROOT + "/"

    def newest_first(self) -> list[Entry]:
        """Return the entries of the journal."""
        return list(self.plane.journal)[::-1]

    def whole_page(self, title: str, view: str, **values: Any) -> str:
        content = self.part(view, title=title, **values)
        return self.part("layout", title=title, view=view, content=content)

    def part(self, name: str, **values: Any) -> str:
        """Return a template as HTML."""
        shared = {
            "shown": self,
            "plane": self.plane,
            "entries": entries,
            "prose": prose,
            "clip": clip,
            "MOST_OF_CELL": MOST_OF_CELL,
            "MOST_OF_MESSAGE": MOST_OF_MESSAGE,
            "MOST_OF_BODY": MOST_OF_BODY,
            "NEW_ACCOUNT": NEW_ACCOUNT,
            "version": __version__,
        }
        return str(template(name).render(shared | values))

    def more(self, count: int) -> str:
        """Return the note below a table that leaves out this many rows."""
        return f'<p class="note">and {count:,} more</p>' if count else ""

    def link(self, path: str, /, **query: Any) -> str:
        """Return the path of a view, with the parameters that are given."""
        given = {name: value for name, value in query.items() if value not in (None, "")}
        return f"{self.root}/{path}" + (f"?{urlencode(given)}" if given else "")

    def form(self, path: str, /, button: str = "", ask: tuple[str, ...] = (), **hidden: str) -> str:
        """Return the form at this path below /_standin/page/, filled with what was `sent`.

        With `hidden` values it asks for these fields alone, and else for all.
        """
        _, form, groups = acting.find(self.forms, path)
        fields = form.fields(self, *groups)
        return self.part(
            "form",
            path=path,
            form=form,
            fields=[field for field in fields if not hidden or field.name in ask],
            messages=acting.beside(self.error),
            hidden=hidden,
            button=button or form.title.format(*groups),
            exact=html.escape,  # `escape` would put names in the place of invisible letters
        )

    def form_page(self, path: str) -> str:
        """Return a page with this form alone, and the `error`."""
        _, form, groups = acting.find(self.forms, path)
        message = acting.above(form.fields(self, *groups), self.error)
        shown = {"content": self.form(path), "back": self.link(form.back.format(*groups))}
        return self.whole_page(
            form.title.format(*groups), "act", form=form, message=message, **shown
        )

    def curl(self, method: str, path: str, body: Any = None, base: str | None = None) -> str:
        """Return the curl block of a request to the control plane, or to the API at this base."""
        url = (self.standin_url if base is None else base) + path
        return self.block(curl.by_hand(method, url, self.is_development, body))

    def block(self, lines: Lines, most: float = math.inf) -> str:
        """Return the curl block of these lines, within `most` bytes of HTML."""
        fitting = []
        for shell in self.shells:
            line = getattr(lines, shell)
            most -= size(line)
            if most < 0:
                break
            fitting.append((shell, line))
        return self.part("curl", lines=fitting, names=SHELLS) if fitting else ""
