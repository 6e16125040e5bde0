"""Call the control plane with a client generated from standin/openapi.json."""

import os

from control_api import AuthenticatedClient
from control_api.api.clock import set_clock
from control_api.api.faults import arm_fault
from control_api.api.instances import create_instance
from control_api.api.journal import get_requests
from control_api.api.state import get_state, put_state, record_usage, reset
from control_api.models import (
    Clock,
    ClockSent,
    ErrorResponse,
    Fault,
    FaultSent,
    InstanceCreated,
    InstanceSent,
    LookupsSent,
    RequestList,
    State,
    StateSent,
)

client = AuthenticatedClient(
    base_url=os.environ["FENSE_STANDIN_URL"],
    token=os.environ["FENSE_API_KEY"],
    prefix="",
    auth_header_name="x-api-key",
)
account = {"api_key": "sk_test_py_000002", "name": "Beta", "email": "b@x", "usage": {"-1": 5}}
loaded = put_state.sync(client=client, body=StateSent.from_dict({"accounts": [account]}))
assert isinstance(loaded, State)
entry = LookupsSent(fense_account_id=1, date=-1, lookups=2)
record_usage.sync(client=client, body=[entry])
state = get_state.sync(client=client)
assert isinstance(state, State)
lookups = list(state.accounts[0].usage.additional_properties.values())

fault = arm_fault.sync(client=client, body=FaultSent(status=503, path="/accounts/*"))
assert isinstance(fault, Fault)
clock = set_clock.sync(client=client, body=ClockSent(now="2026-11-30T23:59:59Z"))
assert isinstance(clock, Clock)
instance = create_instance.sync(client=client, body=InstanceSent(seed="demo"))
assert isinstance(instance, InstanceCreated)
requests = get_requests.sync(client=client)
assert isinstance(requests, RequestList)
refused = arm_fault.sync(client=client, body=FaultSent())
assert isinstance(refused, ErrorResponse)
reset.sync_detailed(client=client)

print(lookups, fault.times, clock.now.isoformat(), len(instance.id))
print(len(requests.requests), refused.error.message)
