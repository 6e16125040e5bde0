"""The writes of a comparison: it creates an account, changes it, and sends invalid requests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from fense_admin import rules
from fense_admin.comparing.asking import Ask, Asked
from fense_admin.comparing.questions import MERCHANT, Question
from fense_admin.comparing.service import CouldNotAsk
from fense_admin.comparing.shape import plain, whole

NAME, EMAIL = "fense-admin compare", "compare@fense-admin.example"
UUID = "3C2B1A00-1111-4222-8333-444455556666"
OTHER_NAME = f"{NAME} \N{LATIN SMALL LETTER E WITH ACUTE}"
WRITTEN = {NAME, OTHER_NAME, EMAIL, UUID, UUID.lower()}
SECOND = 1.1  # seconds; two times to the second are then sure to differ
CREATED = 201
NEW = {"api_key": "{key}", "name": NAME, "email": EMAIL}
# Creations that should be rejected; the service may accept them.
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("api-key-taken", {**NEW}),
    ("email", {**NEW, "api_key": "{other_key}", "email": "no address"}),
    ("unknown-field", {**NEW, "api_key": "{other_key}", "plan": "gold"}),
    ("is-active", {**NEW, "api_key": "{other_key}", "is_active": True}),
]
WARNING = (
    f'--write creates an account named "{NAME}", changes it and deactivates it. '
    "It can't be removed. "
    f"If the service accepts what this one rejects, it creates up to {len(REFUSED)} more"
)


def creation(line: str, fields: dict[str, Any]) -> Question:
    return Question(line, "/accounts", "Account", method="POST", body=json.dumps(fields))


def update(line: str, number: int, fields: dict[str, Any]) -> Question:
    body = json.dumps(fields)
    return Question(line, "/accounts/{id}", "Account", number, method="POST", body=body)


def about_created(number: int) -> Iterator[Question]:
    """Yield the questions about the account that was created."""
    yield Question("account", "/accounts/{id}", "Account", number)
    yield Question("merchant-key", "/accounts/{id}", "Account", number, key=MERCHANT)
    for name in ("suppress_notifications", "suppress_billing"):
        yield update("update", number, {name: True})
        yield update("update", number, {name: False})
    yield update("name", number, {"name": f"  {OTHER_NAME} "})
    yield update("name", number, {"name": NAME})
    for key in ("{other_key}", "{key}"):
        yield update("update", number, {"api_key": key})
    yield update("update", number, {"is_active": False})
    yield Question("merchant-key", "/accounts/{id}", "Account", number, key=MERCHANT)
    yield update("update", number, {"is_active": True})
    yield update("dispute-account-id", number, {"dispute_account_id": UUID})
    yield update("dispute-account-id", number, {"dispute_account_id": None})
    yield update("updated-at", number, {"name": NAME})
    yield update("empty-update", number, {})
    for required in ("api_key", "name", "email"):
        yield creation("create", {it: value for it, value in NEW.items() if it != required})
    yield creation("create", {})
    for line, fields in REFUSED:
        yield creation(line, fields)
    for line, fields in (
        ("api-key", {"api_key": ""}),
        ("api-key", {"api_key": "with a space"}),
        ("api-key", {"api_key": "x" * 256}),
        ("name", {"name": " "}),
        ("name", {"name": "x" * 256}),
        ("name", {"name": "line\nbreak"}),
        ("email", {"email": EMAIL}),
        ("dispute-account-id", {"dispute_account_id": "no UUID"}),
        ("update", {"suppress_billing": "true"}),
        ("update", {"is_active": None}),
        ("unknown-field", {"plan": "gold"}),
        ("unknown-field", {"fense_account_id": 1}),
    ):
        yield update(line, number, fields)
    empty = update("json", number, {})
    for body in (
        "",
        "[]",
        "\ufeff{}",
        "{",
        '{"name": "a", "name": "b"}',
        '{"suppress_billing": NaN}',
    ):
        yield empty._replace(body=body)
    yield empty._replace(line="json", content_type="text/plain")
    yield empty._replace(line="encoding", encoding="gzip")
    yield update("bad-id", number, {})._replace(target="/accounts/x")


def planned() -> Iterator[Question]:
    """Yield all questions that write, for account 1."""
    yield creation("create", NEW)
    yield from about_created(1)
    yield deactivation(1)


def max_requests() -> int:
    """Return the maximum number of requests that write."""
    return len([*planned()]) + len(REFUSED)  # each of those may create an account to deactivate


def deactivation(number: int) -> Question:
    return update("update", number, {"is_active": False})


def put_all(ask: Ask) -> Asked:
    """Do what `WARNING` says. Raises `CouldNotAsk`."""
    first = creation("create", NEW)
    try:
        answer = ask(first)
    except CouldNotAsk as error:
        raise CouldNotAsk(f"{error}; an account may have been created") from None
    number = id_in(answer.body)
    if answer.status != CREATED:
        raise CouldNotAsk(f"creating an account returned {answer.status}: nothing else was written")
    if number is None:
        raise CouldNotAsk("the response to the creation has no id: the account stays active")
    asked = [(first._replace(account=number), answer)]
    active = {number}
    try:
        for question in about_created(number):
            if question.line in ("updated-at", "empty-update"):
                time.sleep(SECOND)
            answer = ask(question)
            asked.append((question, answer))
            made = id_in(answer.body) if answer.status == CREATED else None
            if made is not None and made != number:
                active.add(made)
                ask(deactivation(made))
                active.remove(made)
        asked.append((deactivation(number), ask(deactivation(number))))
        active.clear()
    finally:
        if active:
            deactivate(ask, active)
    return asked


def deactivate(ask: Ask, active: set[int]) -> None:
    """Deactivate these accounts. Raises `CouldNotAsk`, which lists those still active."""
    try:
        for number in sorted(active):
            ask(deactivation(number))
            active.remove(number)
    except CouldNotAsk as error:
        left = ", ".join(map(str, sorted(active)))
        raise CouldNotAsk(f"{error}; created and still active: {left}") from None


def id_in(body: Any) -> int | None:
    """Return the id of the account in a body of any form."""
    if isinstance(body, dict):
        for name, value in body.items():
            number = whole(value) if plain(name) in ("fenseaccountid", "id") else None
            if number is not None and 0 < number <= rules.MAX_ID:
                return number
        return next(filter(None, map(id_in, body.values())), None)
    return None
