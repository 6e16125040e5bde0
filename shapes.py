"""JSON types for type checkers. Each has the name of its schema in the OpenAPI documents.

    from fense_admin.shapes import AccountUsage

    usage: AccountUsage = httpx.get(f"{fense.url}/accounts/usage/1", headers=fense.headers).json()

Times are text such as "2026-11-23T07:24:00Z", days such as "2026-11-23".
"""

from __future__ import annotations

from typing import Literal, TypedDict

# --- The contract ------------------------------------------------------------------------------


class Account(TypedDict):
    fense_account_id: int
    name: str
    email: str
    api_key_last4: str | None
    suppress_notifications: bool
    suppress_billing: bool
    is_active: bool
    dispute_account_id: str | None
    created_at: str
    updated_at: str


class DailyLookups(TypedDict):
    date: str
    lookups: int


class AccountUsage(TypedDict):
    """The lookups of one account, day by day."""

    fense_account_id: int
    name: str
    dispute_account_id: str | None
    start_date: str | None
    end_date: str | None
    total_lookups: int
    daily: list[DailyLookups]


class AccountTotal(TypedDict):
    fense_account_id: int
    name: str
    dispute_account_id: str | None
    total_lookups: int


class AllUsage(TypedDict):
    """The lookups of every account, one total each."""

    start_date: str | None
    end_date: str | None
    total_lookups: int
    accounts: list[AccountTotal]


class ErrorDetail(TypedDict):
    field: str
    message: str


class ErrorBody(TypedDict):
    code: str
    message: str
    details: list[ErrorDetail]


class ErrorResponse(TypedDict):
    """The body of every error."""

    error: ErrorBody


# --- The control plane -------------------------------------------------------------------------


class NewAccount(TypedDict, total=False):
    """What `StandIn.create_account` takes."""

    api_key: str
    name: str
    email: str
    suppress_notifications: bool
    suppress_billing: bool
    is_active: bool
    dispute_account_id: str | None


class StateAccount(Account):
    """An account with its lookups by day."""

    api_key_sha256: str
    usage: dict[str, int]


class State(TypedDict):
    """All accounts with their usage, as returned."""

    accounts: list[StateAccount]


class _StateAccountOptional(TypedDict, total=False):
    api_key: str
    api_key_sha256: str
    api_key_last4: str | None
    suppress_notifications: bool
    suppress_billing: bool
    is_active: bool
    dispute_account_id: str | None
    fense_account_id: int
    created_at: str
    updated_at: str
    usage: dict[str, int]


class StateAccountSent(_StateAccountOptional):
    """An account to load. It needs either `api_key` or `api_key_sha256`."""

    name: str
    email: str


class StateSent(TypedDict):
    """A state document to load."""

    accounts: list[StateAccountSent]


FaultMethod = Literal["GET", "HEAD", "POST"]
FaultDrop = Literal["reset", "empty", "truncate"]


class _FaultOptional(TypedDict, total=False):
    status: int
    method: FaultMethod
    path: str
    skip: int
    after: bool
    delay_ms: int | list[int]
    random_seed: int
    drop: FaultDrop
    headers: dict[str, str]
    message: str
    body: str
    content_type: str


class FaultSent(_FaultOptional, total=False):
    """A fault to arm."""

    times: int


class Fault(_FaultOptional):
    """An armed fault: the `times` left (0: until disarmed); `used` counts its requests so far."""

    id: int
    times: int
    used: int


class RequestEntry(TypedDict):
    """A request in the journal and its response; None for values that don't exist (yet)."""

    id: str
    at: str
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: str | None
    status: int | None
    response: str | None
    duration_ms: float | None
    fault: int | None
    handled: int | None
