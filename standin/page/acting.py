"""Read and check the forms that the page sends, and send them on as requests of the API.

A form that is refused is shown again, as it was filled in, with what is wrong beside each field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bottle import request, response

import fense_admin
from fense_admin.exchange import FORBIDDEN, INVALID, KEY_HEADER, NOT_FOUND, ApiError
from fense_admin.reading import read_form
from fense_admin.rules import parse_json
from fense_admin.standin import calling, faults
from fense_admin.standin.instances import ROOT, Plane

if TYPE_CHECKING:
    from fense_admin.standin.page.shown import Shown

FILE = "file"  # the name and the kind of a field whose text has a file's bytes
SEE_OTHER = 303
BY_A_FORM = "fense_admin.by_a_form"  # key of the WSGI environment: a form has sent the request

Sent = dict[str, str]  # the text of each field


class Below(str):
    """HTML to show below the form that was sent, on its own page."""


class Field(NamedTuple):
    """A field of a form. `value` is its initial value."""

    name: str
    kind: str = "text"  # see `KINDS`
    value: str = ""
    choices: Sequence[str] = ()
    hint: str = ""
    label: str = ""  # in place of the name


class Form(NamedTuple):
    """A form. Its functions take a `Shown`, and the groups of its path's pattern.

    `act` takes the values of the fields before those, and returns the view to show then: "" for
    `back`, which is the view that the form belongs to; or what to show `Below` the form. With
    `is_change` it takes only what was changed, else what was filled in. One with a `question` has
    a page of its own.
    """

    title: str
    act: Callable[..., str | None]
    done: str  # what the view then says
    fields: Callable[..., Sequence[Field]] = lambda shown, *groups: ()
    back: str = ""
    question: str = ""
    is_change: bool = False


def as_number(text: str) -> int | str:
    """Return the number; other text as it is, so that the API rejects it."""
    return int(text) if re.fullmatch("-?[0-9]{1,18}", text.strip(), re.ASCII) else text


def as_json(text: str) -> Any:
    """Return the JSON value; other text as it is, so that the API rejects it."""
    try:
        return parse_json(text.encode())
    except ValueError:
        return text


# How the text of a field becomes a value of JSON; `text_or_null` is null where it is empty.
KINDS: dict[str, Callable[[str], Any]] = {
    "text": str,
    "text_or_null": lambda text: text or None,
    "area": lambda text: text.replace("\r\n", "\n"),
    "choice": str,
    "date": str,
    "number": as_number,
    "switch": bool,
    "json": as_json,
    FILE: lambda text: text.encode(errors="surrogateescape"),
}


def find(forms: Mapping[str, Form], path: str) -> tuple[str, Form, tuple[str, ...]]:
    """Return the pattern of this path, its form and groups. Raises `ApiError` (404)."""
    for pattern, form in forms.items():
        if found := re.fullmatch(pattern, path):
            return pattern, form, found.groups()
    raise ApiError(NOT_FOUND, "there is no such view")


def form_name(pattern: str) -> str:
    """Return the name of the form at the paths of this pattern: without the ids in them."""
    return re.sub(r"\(.*?\)/", "", pattern)


def answer(shown: Shown, path: str) -> str:
    """Do what the form at this path asks for, and go to the view that shows it."""
    if BY_A_FORM in request.environ:  # might go on as deep as the body is long
        raise ApiError(FORBIDDEN, "a form can't send another form")
    sent = read_form(shown.plane.app.limits.state_body, FILE)
    shown.plane.guard.refuse_other_forms(sent.pop("token", ""))
    pattern, form, groups = find(shown.forms, path)
    fields = form.fields(shown, *groups)
    try:
        view = form.act(shown, values(fields, sent), *groups)
    except (ApiError, *fense_admin.REFUSALS) as raised:
        error = raised if isinstance(raised, ApiError) else fense_admin.refused(raised)
        response.status = error.status_code
        shown.sent, shown.error = sent, error
        return shown.form_page(path)
    if isinstance(view, Below):
        shown.sent, shown.below = sent, view
        return shown.form_page(path)
    response.status = SEE_OTHER
    where = view or form.back.format(*groups)
    response.set_header("Location", shown.link(where, done=form_name(pattern)))
    return ""


def values(fields: Sequence[Field], sent: Sent) -> dict[str, Any]:
    """Return what was filled in or changed, as values of a JSON body."""
    return {
        field.name: KINDS[field.kind](sent.get(field.name, ""))
        for field in fields
        if sent.get(field.name, "") != sent.get(f"was-{field.name}", "")
    }


def ask(plane: Plane, method: str, path: str, body: Any = None) -> Any:
    """Send a request to the control plane or the API, and return its JSON; None if it has none.

    It has the master key, meets no armed fault, and is not in the journal. `body` is sent as JSON;
    bytes as they are. Raises `ApiError` for a refusal.
    """
    is_control = path.startswith(ROOT + "/")
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    headers = {KEY_HEADER: plane.master_key, "Content-Type": "application/json"}
    app, target = (plane, path) if is_control else (plane.app, plane.app.prefix + path)
    found = calling.send(app, method, target, headers, raw, **{faults.IS_SPARED: True})
    if found.status >= INVALID:
        error = json.loads(found.body)["error"]
        details = [(detail["field"], detail["message"]) for detail in error["details"]]
        raise ApiError(found.status, error["message"], details)
    return json.loads(found.body) if found.body and found.is_whole else None


def beside(error: ApiError | None) -> dict[str, str]:
    """Return the messages to show next to fields, by the fields' names.

    What an error has for a field of a part of the body, such as [0].lookups, is the field's.
    """
    found: dict[str, str] = {}
    for name, message in error.details if error else ():
        found.setdefault(name.rpartition(".")[2], message)
    return found


def above(fields: Sequence[Field], error: ApiError | None) -> str:
    """Return the message to show above these fields, unless they show all of it."""
    if error is None:
        return ""
    beside_fields = "; ".join(f"{name} {message}" for name, message in error.details)
    is_all = re.fullmatch(re.escape(beside_fields) + "(; and [0-9]+ more)?", error.body)
    if is_all and beside(error).keys() <= {field.name for field in fields}:
        return "Nothing was changed."
    return str(error.body)
