"""Call the contract with a client that openapi-python-client generates from openapi.json."""

import datetime
import os

from contract_api import AuthenticatedClient
from contract_api.api.accounts import create_account, get_account, update_account
from contract_api.api.service import get_health
from contract_api.api.usage import get_account_usage, get_usage
from contract_api.models import (
    Account,
    AccountCreate,
    AccountUpdate,
    AccountUsage,
    AllUsage,
    ErrorResponse,
    Health,
)

client = AuthenticatedClient(
    base_url=os.environ["FENSE_BASE_URL"],
    token=os.environ["FENSE_API_KEY"],
    prefix="",
    auth_header_name="x-api-key",
)
body = AccountCreate(api_key="sk_test_py_000001", name="Acme Ltd", email="owner@acme.example")
account = create_account.sync(client=client, body=body)
assert isinstance(account, Account)
read = get_account.sync(account.fense_account_id, client=client)
assert read == account
change = AccountUpdate(suppress_billing=True)
updated = update_account.sync(account.fense_account_id, client=client, body=change)
assert isinstance(updated, Account)
usage = get_account_usage.sync(
    account.fense_account_id,
    client=client,
    start_date=datetime.date(2026, 11, 1),
    end_date=datetime.date(2026, 11, 30),
)
assert isinstance(usage, AccountUsage)
totals = get_usage.sync(client=client)
assert isinstance(totals, AllUsage)
refused = create_account.sync_detailed(client=client, body=body)
assert isinstance(refused.parsed, ErrorResponse)
health = get_health.sync(client=client)
assert isinstance(health, Health)

total = sum(day.lookups for day in usage.daily) + totals.total_lookups
print(account.name, account.dispute_account_id, updated.suppress_billing, total)
print(refused.status_code, refused.parsed.error.details[0].field, health.status)
