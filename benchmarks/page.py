"""Measure how long a list of the page takes to open: python benchmarks/page.py

With 10,000 accounts, each with lookups on 30 days, and 1,000 requests of 8 KiB. Each list is opened
over HTTP, from the first byte sent to the last one received: the median of 20, and the CPU time
that the service and its client took, which other programs don't change.
"""

from __future__ import annotations

import http.client
import json
import time
from statistics import median
from typing import Any

from fense_admin import DEVELOPMENT_KEY
from fense_admin.standin import StandIn

ACCOUNTS, REQUESTS, BODY, ROUNDS = 10_000, 1_000, 8 * 1024, 20
MOST = 50  # milliseconds
LISTS = {
    "requests": "/_standin/",
    "requests that failed": "/_standin/?failed=1",
    "requests found by a path": "/_standin/?path=accounts",
    "accounts": "/_standin/page/accounts",
    "accounts found by a name": "/_standin/page/accounts?find=merchant+77",
}


def account(number: int) -> dict[str, Any]:
    usage = {f"-{day}": number % 97 + day for day in range(1, 31)}
    name = f"Merchant {number}"
    fields = {"api_key": f"sk_page_{number:08}", "name": name, "email": "owner@merchant.example"}
    return fields | {"usage": usage}


def ask(fense: StandIn, method: str, path: str, body: bytes | None = None) -> tuple[float, float]:
    """Send a request and read the whole response. Return the milliseconds, real and CPU."""
    headers = {"x-api-key": fense.master_key, "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(fense.standin_url.split("/")[2], timeout=60)
    began, busy = time.perf_counter(), time.process_time()
    connection.request(method, path, body, headers)
    connection.getresponse().read()
    took = (time.perf_counter() - began) * 1000, (time.process_time() - busy) * 1000
    connection.close()
    return took


def main() -> None:
    with StandIn(master_key=DEVELOPMENT_KEY) as fense:
        fense.load({"accounts": [account(number) for number in range(ACCOUNTS)]})
        body = json.dumps({"name": 'é"<&' * BODY}, ensure_ascii=False).encode()[: BODY - 2] + b'"}'
        for number in range(REQUESTS):
            ask(fense, "POST", f"/accounts/{number + 1}", body)
        assert len(fense.requests()) == REQUESTS
        for name, path in LISTS.items():
            times = zip(*(ask(fense, "GET", path) for _ in range(ROUNDS)), strict=True)
            took, cpu = map(median, times)
            verdict = f"  more than {MOST} ms" if took > MOST else ""
            print(f"{name:26} {took:6.1f} ms, {cpu:6.1f} ms of CPU{verdict}")


if __name__ == "__main__":
    main()
