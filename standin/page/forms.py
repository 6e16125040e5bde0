"""The forms of the page: what each asks for, and the request of the API that it makes."""

from __future__ import annotations

import calendar
from collections.abc import Callable, Mapping
from typing import Any

from fense_admin import rules
from fense_admin.exchange import NOT_FOUND, ApiError
from fense_admin.rules import ValidationErrors
from fense_admin.standin import demo
from fense_admin.standin.faults import DROPS, FAULT_RULES
from fense_admin.standin.instances import INSTANCES, ROOT, generated
from fense_admin.standin.page.acting import FILE, Field, Form, ask
from fense_admin.standin.page.shown import Shown

Values = dict[str, Any]

# Kinds of fields, by name; any other is text.
SWITCHES = ("suppress_notifications", "suppress_billing", "is_active")
OF_ACCOUNTS = dict.fromkeys(SWITCHES, "switch") | {"dispute_account_id": "text_or_null"}
OF_FAULTS = {
    **dict.fromkeys(("status", "times", "skip", "random_seed"), "number"),
    **dict.fromkeys(("method", "drop"), "choice"),
    **dict.fromkeys(("delay_ms", "headers"), "json"),
    "after": "switch",
    "body": "area",
}
CHOICES = {"method": ("", "GET", "HEAD", "POST"), "drop": ("", *DROPS)}
HINTS = {
    "status": "400 to 599",
    "path": "/accounts/*",
    "times": "1; 0: until disarmed",
    "delay_ms": "2000 or [100, 2000]",
    "headers": '{"Retry-After": "1"}',
    "content_type": "text/html",
}


def asking(method: str, path: str) -> Callable[..., None]:
    """What a form does that sends its values on as a request. `{}` stands for the form's id."""

    def act(shown: Shown, values: Values, *groups: str) -> None:
        ask(shown.plane, method, path.format(*groups), values)

    return act


# --- Accounts ----------------------------------------------------------------------------------


def fields_of_new_account(shown: Shown) -> list[Field]:
    made_up = {"api_key": generated("sk_test")}
    return [
        Field(name, OF_ACCOUNTS.get(name, "text"), made_up.get(name, ""))
        for name in rules.CREATE_RULES
    ]


def create_account(shown: Shown, values: Values) -> str:
    account = ask(shown.plane, "POST", "/accounts", values)
    return f"page/accounts/{account['fense_account_id']}"


def fields_of_account(shown: Shown, number: str) -> list[Field]:
    account: Mapping[str, Any] = shown.plane.db.get_account(int(number))
    is_on = {name: "on" if account.get(name) else "" for name in SWITCHES}
    return [
        Field(name, OF_ACCOUNTS.get(name, "text"), is_on.get(name, account.get(name) or ""))
        for name in rules.UPDATE_RULES
    ]


def fields_of_lookups(shown: Shown, number: str) -> list[Field]:
    shown.plane.db.get_account(int(number))
    return [
        Field("date", "date", shown.plane.db.today()),
        Field("last", "date", label="to, if it is a range"),
        Field("lookups", "number", label="lookups, each day"),
    ]


def add_lookups(shown: Shown, values: Values, number: str) -> None:
    last = values.pop("last", None)
    days = [values.pop("date", None)]
    if last:
        with ValidationErrors() as errors:
            today = shown.plane.db.today()
            days = errors.check("last", lambda it: rules.check_days(it, today), (days[0], last))
    entry = {"fense_account_id": int(number), **values}
    entries = [entry | ({"date": day} if day else {}) for day in days]
    ask(shown.plane, "POST", f"{ROOT}/usage", entries)


# --- Faults and requests -----------------------------------------------------------------------


def fields_of_fault(shown: Shown) -> list[Field]:
    return [
        Field(name, OF_FAULTS.get(name, "text"), "", CHOICES.get(name, ()), HINTS.get(name, ""))
        for name in FAULT_RULES
    ]


def disarm_fault(shown: Shown, values: Values, number: str) -> None:
    if not shown.plane.faults.disarm_one(int(number)):
        raise ApiError(NOT_FOUND, "this fault is not armed any more")


# --- Clock, state, instances -------------------------------------------------------------------


def end_of_month(day: str) -> str:
    """The last second of a day's month."""
    last = calendar.monthrange(int(day[:4]), int(day[5:7]))[1]
    return f"{day[:7]}-{last}T23:59:59Z"


def fields_of_clock(shown: Shown) -> list[Field]:
    return [Field("now", value=shown.plane.db.now())]


def load_state(shown: Shown, values: Values) -> None:
    with ValidationErrors() as errors:
        if not values:
            errors.add(FILE, "is required")
        document = errors.check(FILE, rules.without_mark, values.get(FILE, b""))
    ask(shown.plane, "PUT", f"{ROOT}/state", document)


def load_demo(shown: Shown, values: Values) -> None:
    ask(shown.plane, "PUT", f"{ROOT}/state", demo.document(shown.plane.db.today()))


def fields_of_move(shown: Shown) -> list[Field]:
    return [Field("advance_seconds", "number", "86400")]


def fields_of_instance(shown: Shown) -> list[Field]:
    return [Field("name", hint="billing.test.ts"), Field("seed", "json", hint='"demo"')]


# --- The forms ---------------------------------------------------------------------------------

OF_FILE = [Field(FILE, FILE, label="A state document, such as fense-state.json")]
REPLACES = "This replaces every account and all lookups. It can't be undone."
TO_THE_SEED = (
    "This goes back to the seed: accounts, lookups, faults, requests, clock and instances. "
    "It can't be undone."
)
FORGETS = "This removes all requests from the journal. It can't be undone."
ENDS = "Its accounts, faults and requests go with it. It can't be undone."
ACCOUNTS, ACCOUNT, FAULTS, SERVICE = (
    f"page/{view}" for view in ("accounts", "accounts/{}", "faults", "service")
)
CLOCK = f"{ROOT}/clock"

# By their paths below /_standin/page/.
FORMS: dict[str, Form] = {
    "accounts/create": Form(
        "Create an account", create_account, "The account was created.",
        fields_of_new_account, ACCOUNTS,
    ),
    "accounts/([0-9]{1,19})/change": Form(
        "Save changes", asking("POST", "/accounts/{}"), "The changes were saved.",
        fields_of_account, ACCOUNT, is_change=True,
    ),
    "accounts/([0-9]{1,19})/lookups": Form(
        "Add lookups", add_lookups, "The lookups were added.", fields_of_lookups, ACCOUNT,
    ),
    "faults/arm": Form(
        "Arm a fault", asking("POST", f"{ROOT}/faults"), "The fault is armed.",
        fields_of_fault, FAULTS,
    ),
    "faults/([0-9]{1,18})/disarm": Form(
        "Disarm", disarm_fault, "The fault was disarmed.", back=FAULTS,
    ),
    "faults/disarm-all": Form(
        "Disarm all", asking("DELETE", f"{ROOT}/faults"), "All faults were disarmed.", back=FAULTS,
    ),
    "requests/clear": Form(
        "Clear the journal", asking("DELETE", f"{ROOT}/requests"), "The journal was cleared.",
        question=FORGETS,
    ),
    "clock/stop": Form(
        "Stop the clock", asking("PUT", CLOCK), "The clock was stopped.", fields_of_clock, SERVICE,
    ),
    "clock/move": Form(
        "Move the clock", asking("PUT", CLOCK), "The clock was moved.", fields_of_move, SERVICE,
    ),
    "clock/release": Form(
        "Release the clock", asking("DELETE", CLOCK), "The clock runs again.", back=SERVICE,
    ),
    "reset": Form(
        "Reset", asking("POST", f"{ROOT}/reset"), "The stand-in was reset.",
        back=SERVICE, question=TO_THE_SEED,
    ),
    "state/load": Form(
        "Load a state", load_state, "The state was loaded.",
        lambda shown: OF_FILE, SERVICE, REPLACES,
    ),
    "state/demo": Form(
        "Load the demo", load_demo, "The demo was loaded.", back=SERVICE, question=REPLACES,
    ),
    "instances/create": Form(
        "Create an instance", asking("POST", INSTANCES), "The instance was created.",
        fields_of_instance, SERVICE,
    ),
    "instances/([0-9a-f]{16})/end": Form(
        "End the instance", asking("DELETE", INSTANCES + "/{}"), "The instance has ended.",
        back=SERVICE, question=ENDS,
    ),
}  # fmt: skip
