"""The forms of the page: what each asks for, and the request of the API that it makes."""

from __future__ import annotations

import calendar
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fense_admin import rules
from fense_admin.exchange import NOT_FOUND, ApiError
from fense_admin.rules import ValidationErrors
from fense_admin.standin import demo
from fense_admin.standin.faults import DROPS
from fense_admin.standin.instances import INSTANCES, ROOT, generated
from fense_admin.standin.page import again, trying
from fense_admin.standin.page.acting import FILE, Field, Form, ask
from fense_admin.standin.page.shown import Shown

Values = dict[str, Any]

OF_ACCOUNTS = {  # the kinds of their fields; all others are text
    "suppress_notifications": "switch",
    "suppress_billing": "switch",
    "is_active": "switch",
    "dispute_account_id": "text_or_null",
}
OF_FAULTS = [
    Field("status", "number", hint="400 to 599"),
    Field("method", "choice", choices=("GET", "HEAD", "POST"), hint="any"),
    Field("path", hint="/accounts/*"),
    Field("times", "number", hint="1; 0: until disarmed"),
    Field("skip", "number"),
    Field("after", "switch"),
    Field("delay_ms", "json", hint="2000 or [100, 2000]"),
    Field("random_seed", "number"),
    Field("drop", "choice", choices=[*DROPS], hint="none"),
    Field("headers", "json", hint='{"Retry-After": "1"}'),
    Field("message"),
    Field("body", "area"),
    Field("content_type", hint="text/html"),
]
OF_INSTANCES = [Field("name", hint="billing.test.ts"), Field("seed", "json", hint='"demo"')]
OF_FILES = [Field(FILE, FILE, label="A state document, such as fense-state.json")]


def asking(method: str, path: str) -> Callable[..., None]:
    """Return the `act` of a form that sends its values as a request. `{}` is the form's id."""

    def act(shown: Shown, values: Values, *groups: str) -> None:
        ask(shown.plane, method, path.format(*groups), values)

    return act


# --- Accounts ----------------------------------------------------------------------------------


def fields_of(names: Iterable[str], account: Mapping[str, Any]) -> list[Field]:
    """Return the fields of an account with these names, and their values."""
    return [
        Field(name, OF_ACCOUNTS.get(name, "text"), "on" if value is True else str(value or ""))
        for name in names
        for value in (account.get(name),)
    ]


def new_account(shown: Shown) -> list[Field]:
    return fields_of(rules.CREATE_RULES, {"api_key": generated("sk_test")})


def known_account(shown: Shown, number: str) -> list[Field]:
    return fields_of(rules.UPDATE_RULES, shown.plane.db.get_account(int(number)))


def create_account(shown: Shown, values: Values) -> str:
    account = ask(shown.plane, "POST", "/accounts", values)
    return f"page/accounts/{account['fense_account_id']}"


def lookups(shown: Shown, number: str) -> list[Field]:
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


# --- Faults, clock, state ----------------------------------------------------------------------


def disarm_fault(shown: Shown, values: Values, number: str) -> None:
    if not shown.plane.faults.disarm_one(int(number)):
        raise ApiError(NOT_FOUND, "this fault is not armed any more")


def end_of_month(day: str) -> str:
    """Return the last second of a day's month."""
    last = calendar.monthrange(int(day[:4]), int(day[5:7]))[1]
    return f"{day[:7]}-{last}T23:59:59Z"


def load_state(shown: Shown, values: Values) -> None:
    with ValidationErrors() as errors:
        if not values:
            errors.add(FILE, "is required")
        document = errors.check(FILE, rules.without_mark, values.get(FILE, b""))
    ask(shown.plane, "PUT", f"{ROOT}/state", document)


def load_demo(shown: Shown, values: Values) -> None:
    ask(shown.plane, "PUT", f"{ROOT}/state", demo.document(shown.plane.db.today()))


# --- The forms ---------------------------------------------------------------------------------

REPLACES = "This replaces every account and all lookups."
TO_THE_SEED = "This goes back to the seed, with no faults, no requests and no instances."
ACCOUNTS, ACCOUNT, FAULTS, SERVICE = (
    f"page/{view}" for view in ("accounts", "accounts/{}", "faults", "service")
)
CLOCK = f"{ROOT}/clock"

# By their paths below /_standin/page/.
FORMS: dict[str, Form] = {
    "accounts/create": Form(
        "Create an account", create_account, "The account was created.",
        new_account, ACCOUNTS,
    ),
    "accounts/([0-9]{1,19})/change": Form(
        "Save changes", asking("POST", "/accounts/{}"), "The changes were saved.",
        known_account, ACCOUNT, is_change=True,
    ),
    "accounts/([0-9]{1,19})/lookups": Form(
        "Add lookups", add_lookups, "The lookups were added.", lookups, ACCOUNT,
    ),
    "faults/arm": Form(
        "Arm a fault", asking("POST", f"{ROOT}/faults"), "The fault is armed.",
        lambda shown: OF_FAULTS, FAULTS,
    ),
    "faults/([0-9]{1,18})/disarm": Form(
        "Disarm", disarm_fault, "The fault was disarmed.", back=FAULTS,
    ),
    "faults/disarm-all": Form(
        "Disarm all", asking("DELETE", f"{ROOT}/faults"), "All faults were disarmed.", back=FAULTS,
    ),
    "requests/clear": Form(
        "Clear the journal", asking("DELETE", f"{ROOT}/requests"), "The journal was cleared.",
        question="This removes every request from the journal.",
    ),
    "clock/stop": Form(
        "Stop the clock", asking("PUT", CLOCK), "The clock was stopped.",
        lambda shown: [Field("now", value=shown.plane.db.now())], SERVICE,
    ),
    "clock/move": Form(
        "Move the clock", asking("PUT", CLOCK), "The clock was moved.",
        lambda shown: [Field("advance_seconds", "number", "86400")], SERVICE,
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
        lambda shown: OF_FILES, SERVICE, REPLACES,
    ),
    "state/demo": Form(
        "Load the demo", load_demo, "The demo was loaded.", back=SERVICE, question=REPLACES,
    ),
    "instances/create": Form(
        "Create an instance", asking("POST", INSTANCES), "The instance was created.",
        lambda shown: OF_INSTANCES, SERVICE,
    ),
    "instances/([0-9a-f]{16})/end": Form(
        "End the instance", asking("DELETE", INSTANCES + "/{}"), "The instance has ended.",
        back=SERVICE, question="This also removes its accounts, faults and requests.",
    ),
    "requests/(again|corrected)/([0-9]{1,18})/send": Form(
        "Send again", again.send_again, "It was sent again.", again.fields, "page/requests/{1}",
    ),
    "documentation/(api|control-plane)/([A-Za-z]{1,40})/try": Form(
        "Try {1}", trying.try_it, "It was sent.", trying.fields, "page/documentation/{0}",
    ),
}  # fmt: skip
