"""The web page: why a request failed, and what is in the stand-in.

`VIEWS`, at the end, lists what there is to see, `FORMS` in forms.py what can be done. A `StandIn`
imports none of it before it is opened.
"""

from __future__ import annotations

import functools
import json
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

from bottle import request, response

import fense_admin
from fense_admin import __version__, rules, sqlite
from fense_admin.exchange import NOT_FOUND, ApiError
from fense_admin.reading import read_openapi
from fense_admin.rules import ValidationErrors
from fense_admin.standin import document as control_plane
from fense_admin.standin.instances import Plane
from fense_admin.standin.journal import Entry
from fense_admin.standin.page import (
    acting,
    again,
    curl,
    documentation,
    entries,
    fault_words,
    filters,
    trying,
)
from fense_admin.standin.page.forms import FORMS, end_of_month
from fense_admin.standin.page.shown import FILES, Shown, read
from fense_admin.standin.page.text import clip, size
from fense_admin.standin.page.usage import MOST_BARS, Usage, first_day, periods

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
CHANGES = "changes"  # the path that responds once the list of requests has changed
CHANGE_TIMEOUT = 50  # seconds; proxies often give up after 60
# Bytes of HTML. What a client sends is bounded, but a byte of it may take twelve on the page.
MOST_OF_REQUEST = 180_000  # for all that the view of a request shows of it
MOST_OF_CURL = 130_000  # for the curl lines: what is longer is left out
MOST_OF_TITLE = 1_000
ROW = 100  # for the tags of a table's row

STATE_FILE = "state.json"

Body = str | bytes | Iterator[str]
View = tuple[str, dict[str, Any]]  # a title, and the values of the template
Sent = dict[str, Any]  # a view's parameters


# --- Answers -----------------------------------------------------------------------------------


def answer(plane: Plane, path: str) -> Body:
    """Respond to a GET or POST of this path below /_standin/page/; "" is the first view.

    Raises `ApiError` where there is nothing to show, unless the client asked for HTML.
    """
    response.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    is_form = request.method == "POST"
    if path in FILES and not is_form:
        response.content_type = f"{FILES[path]}; charset=utf-8"
        return read(path)
    if path == CHANGES and not is_form:
        spare = plane.db.engine.while_waiting
        if seen := filters.read(filters.OF_CHANGES)["after"]:
            plane.journal.wait_for_change(int(seen), CHANGE_TIMEOUT, request.environ, spare)
        response.content_type = "text/plain; charset=utf-8"
        return f"{plane.journal.changes}"
    response.content_type = "text/html; charset=utf-8"
    shown = Shown(plane, FORMS)
    try:
        return acting.answer(shown, path) if is_form else show(shown, path)
    except (ApiError, *fense_admin.REFUSALS) as raised:
        error = raised if isinstance(raised, ApiError) else fense_admin.refused(raised)
        if "text/html" not in request.get_header("Accept", ""):
            raise error from None
        response.status = error.status_code
        title = "Not found" if error.status_code == NOT_FOUND else "Refused"
        return shown.whole_page(title, "error", error=error)


def show(shown: Shown, path: str) -> Body:
    """Return the view or the form at this path."""
    for pattern, (view, checks) in VIEWS.items():
        if found := re.fullmatch(pattern, path):
            sent = filters.read({**checks, "done": rules.one_of(*DONE)})
            shown.done = DONE.get(sent.pop("done"), "")
            title, values = view(shown, sent, *found.groups())
            return shown.whole_page(title, view.__name__, **values)
    filters.read({})
    if path == STATE_FILE:
        response.content_type = "application/json"
        response.set_header("Content-Disposition", "attachment; filename=fense-state.json")
        return shown.plane.db.state()
    return shown.form_page(path)


def duration(seconds: float) -> str:
    """Return a duration in its largest unit: "42 s", "5 min" or "3 h"."""
    for unit, length in (("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


# --- Requests ----------------------------------------------------------------------------------


def requests(shown: Shown, sent: Sent) -> View:
    changes = shown.plane.journal.changes  # first: those that come in between are asked for again
    journal = shown.newest_first()
    found = [entry for entry in journal if filters.fit(entry, sent)]
    pager = filters.Pager(found, sent.pop("page"))
    methods = {"GET", "POST"} | set(list(dict.fromkeys(entry["method"] for entry in journal))[:20])
    failed = sum(map(entries.has_failed, journal))
    return f"({failed:,} failed) Requests" if failed else "Requests", {
        "changes": shown.link(f"page/{CHANGES}", after=changes),
        "filters": sent,
        "pager": pager,
        "methods": sorted(method for method in methods if len(method) <= 20),
        "count": len(journal),
        "failed": failed,
    }


def one_request(shown: Shown, sent: Sent, number: str) -> View:
    entry = again.find(shown, number)
    lines = curl.repeating(entry, shown.origin, request.get_header("Host", ""))
    block = shown.block(lines, MOST_OF_CURL)
    space = MOST_OF_REQUEST - len(block.encode())
    tenth = space // 10  # messages appear up to three times: above, and beside what they blame
    query = parse_qsl(entry["query"], keep_blank_values=True)
    details = [(field, hinted(field, text)) for field, text in rows_within(tenth, entry.details)]
    messages = messages_by_field(details)
    return clip(f"{entry['method']} {entries.target(entry)}", MOST_OF_TITLE), {
        "entry": entry,
        "details": details,
        "reason": clip(entries.reason(entry), tenth),
        "messages": messages,
        "body": body_within(space // 4, entry, "body", messages),
        "answer": body_within(space // 4, entry, "response", {}),
        "query": rows_within(tenth, query),
        "parameters": len(query),
        "headers": rows_within(tenth, entry["headers"].items()),
        "curl": block,
        "missing": again.missing(entry),
        "meant": again.corrected(entry, again.filled(entry))[1],
        "account": entries.account_of(entry),
        "fault": entry.fault and clip(fault_words.effect(entry.fault), MOST_OF_TITLE),
    }


def rows_within(most: int, rows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the first rows of a table, each cut to half of the HTML that is left of `most`."""
    fitting = []
    for name, value in rows:
        row = clip(name, most // 4), clip(value, most // 4)
        most -= ROW + sum(map(size, row))
        if most < 0:
            break
        fitting.append(row)
    return fitting


def body_within(
    most: int, entry: Entry, which: str, blamed: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return what body.html shows of the "body" or "response" of an entry; None if it has none.

    Its `parts` are (text, message) each. A message is shown next to the first line of its field.
    """
    text, is_cut = entry[which], which in entry.is_cut
    if text is None and which == "body":  # the journal's text leaves zero bytes out
        text = entry.sent_body.decode(errors="replace") or None
    if text is None:
        return None
    messages = dict[str | None, str](blamed.items())
    parts: list[tuple[str, str]] = []
    plain: list[str] = []
    for line in entries.lay_out(text, is_cut):
        if message := messages.pop(line.field, ""):
            parts += [("\n".join(plain), ""), (line.text, message)]
            plain = []
        else:
            plain.append(line.text)
    parts = [part for part in [*parts, ("\n".join(plain), "")] if part[0]]
    is_long = sum(size(text) for text, _ in parts) > most
    if is_long:
        parts = [(clip(text, most), "")]
    return {"parts": parts, "is_cut": is_cut, "is_clipped": is_long and size(text) > most}


def hinted(field: str, message: str) -> str:
    """Return the message; for an unknown name, with the one that was probably meant."""
    is_unknown = message == rules.NOT_ACCEPTED
    return message + (rules.meant_instead(field, rules.KNOWN_NAMES) if is_unknown else "")


def messages_by_field(details: Iterable[tuple[str, str]]) -> dict[str, str]:
    messages: dict[str, str] = {}
    for field, message in details:
        messages[field] = f"{messages[field]}; {message}" if field in messages else message
    return messages


# --- Accounts ----------------------------------------------------------------------------------


def accounts(shown: Shown, sent: Sent) -> View:
    db, today = shown.plane.db, shown.plane.db.today()
    first = first_day(today, "day")
    with db.engine.snapshot():  # one moment: a reset may come in between
        pager = filters.Pager(db.find_accounts(sent["find"] or ""), sent["page"])
        rows = [(db.get_account(id), Usage(db, id, first, today, "day")) for id in pager.rows]
    return "Accounts", {
        "find": sent["find"],
        "pager": pager,
        "rows": rows,
        "first": first,
        "today": today,
        "flag_words": flag_words,
    }


def flag_words(account: Mapping[str, Any]) -> list[str]:
    words = ["active" if account["is_active"] else "inactive"]
    words += ["no billing"] * account["suppress_billing"]
    return words + ["no notifications"] * account["suppress_notifications"]


def one_account(shown: Shown, sent: Sent, number: str) -> View:
    db, today = shown.plane.db, shown.plane.db.today()
    period = sent["by"] or "day"
    end = sent["end_date"] or today
    start = sent["start_date"] or first_day(end, period)
    with ValidationErrors() as errors:
        if start > end:
            errors.add("start_date", "must not be after end_date")
        elif len(periods(start, end, period)) > MOST_BARS[period]:
            most = f"{MOST_BARS[period]} {period}s"
            errors.add("start_date", f"makes more than {most}: choose a shorter range")
    with db.engine.snapshot():
        account = db.get_account(int(number))
        usage = Usage(db, int(number), start, end, period)
    touched = [e for e in shown.newest_first() if entries.account_of(e) == int(number)]
    updates = [e for e in touched if e["method"] == "POST" and e["status"] == 200]
    return account["name"], {
        "account": account,
        "usage": usage,
        "periods": MOST_BARS,
        "touched": touched[: filters.PAGE_LENGTH],
        "count": len(touched),
        "updates": updates[: filters.PAGE_LENGTH],
        "more_updates": max(0, len(updates) - filters.PAGE_LENGTH),
    }


# --- Faults ------------------------------------------------------------------------------------


def faults(shown: Shown, sent: Sent) -> View:
    armed = shown.plane.faults.armed()
    ids = {fault["id"] for fault in armed}
    met: dict[int, list[Entry]] = {}
    for entry in shown.newest_first():
        if entry.fault:
            met.setdefault(entry.fault["id"], []).append(entry)
    used_up = {id: (found[0].fault, found) for id, found in sorted(met.items()) if id not in ids}
    return "Faults", {
        "armed": [(fault, met.get(fault["id"], [])) for fault in armed],
        "used_up": list(used_up.values()),
        "fault_words": fault_words,
    }


# --- The service and its documentation -----------------------------------------------------------


def service(shown: Shown, sent: Sent) -> View:
    plane, info, environ = shown.plane, shown.plane.db.engine.info, request.environ
    reach = "this machine alone" if plane.guard.on_loopback else "other machines, too"
    facts = {
        "API": shown.base_url,
        "Control plane": shown.standin_url,
        "Prefix": plane.app.prefix or "none",
        "Port": f"{environ['SERVER_PORT']}, for {reach}",
        "Database": "in memory: it is lost when the process ends" if info.in_memory else info.name,
        "SQLite": sqlite.VERSION,
        "Python": platform.python_version(),
        "fense-admin": __version__,
    }
    instances = [
        (it.urls(), it.plane, duration(it.age()), duration(it.unused_for()))
        for it in plane.instances.all()
    ]
    return "Service", {
        "facts": facts,
        "instances": instances,
        "end_of_month": end_of_month(plane.db.today()),
        "STATE_FILE": STATE_FILE,
    }


def reference(shown: Shown, sent: Sent, of: str | None) -> View:
    plane, of = shown.plane, of or "api"
    if of == trying.CONTROL_PLANE:
        document, url = control_plane.served(not plane.is_instance), shown.standin_url
    else:
        document, url = read_openapi(fense_admin.OPENAPI_FILE, plane.app.prefix), shown.base_url
    return document["info"]["title"], {
        "of": of,
        "info": document["info"],
        "url": url,
        "endpoints": documentation.endpoints(document, url, shown.is_development),
        "errors": documentation.errors(document),
        "dumps": functools.partial(json.dumps, indent=2, ensure_ascii=False),
    }


# --- The views ---------------------------------------------------------------------------------

# By their path below /_standin/page/; the first is at /_standin/.
VIEWS: dict[str, tuple[Callable[..., View], filters.Checks]] = {
    "": (requests, filters.OF_REQUESTS),
    "requests/([0-9]{1,18})": (one_request, {}),
    "accounts": (accounts, filters.OF_ACCOUNTS),
    "accounts/([0-9]{1,19})": (one_account, filters.OF_USAGE),
    "faults": (faults, {}),
    "service": (service, {}),
    "documentation(?:/(api|control-plane))?": (reference, {}),
}
# What a view says after a form, by its name.
DONE = {acting.form_name(pattern): form.done for pattern, form in FORMS.items()}
