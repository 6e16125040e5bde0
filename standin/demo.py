"""The demo state: a realistic set of accounts, and thirteen months of their usage."""

from __future__ import annotations

import datetime
import zlib
from typing import Any

from fense_admin.rules import JsonObject, days_before

DAYS = 396  # of usage, up to today: thirteen months
WEEKDAYS = (100, 108, 110, 106, 92, 46, 38)  # percent of the usual lookups, from Monday on
NOISE = 30  # maximum variation of a day's lookups in percent
QUIET = 29  # about one day in 29 has no lookups
LINK = "6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d"  # with two more digits, a dispute_account_id

# name, email, age in days, lookups on a usual day, growth in percent a year, further fields
ACCOUNTS: list[tuple[str, str, int, int, int, dict[str, Any]]] = [
    ("Acme Ltd", "owner@acme.example", 940, 320, 35, {"dispute_account_id": LINK + "01"}),
    ("Blue Heron Books", "accounts@blueheron.example", 812, 45, 10, {}),
    ("Café Zoë", "zoe@cafe-zoe.example", 700, 18, -15, {"suppress_notifications": True}),
    ("Дом и сад", "pay@dom-i-sad.example", 655, 130, 60, {"dispute_account_id": LINK + "04"}),
    ("株式会社さくら", "billing@sakura.example", 590, 510, 20, {"dispute_account_id": LINK + "05"}),
    ("Old Mill Outlet", "info@oldmill.example", 580, 60, -40, {"is_active": False}),
    ("متجر النخيل", "orders@nakheel.example", 470, 95, 80, {}),
    ("Nordlys Cykler ApS", "kontakt@nordlys.example", 402, 70, 25, {"suppress_billing": True}),
    ("Sample & Sons", "sales@sample-sons.example", 300, 40, 0,
     {"suppress_notifications": True, "suppress_billing": True}),
    ("한빛 상점", "help@hanbit.example", 210, 150, 120, {"dispute_account_id": LINK + "10"}),
    ("Trial Shop", "trial@shop.example", 95, 6, 0, {"is_active": False, "suppress_billing": True}),
    ("Zephyr Outdoor GmbH", "buchhaltung@zephyr.example", 12, 25, 300, {}),
]  # fmt: skip


def document(today: str) -> JsonObject:
    """Return the state document of a day, YYYY-MM-DD. It is always the same for the same day."""
    end = datetime.date.fromisoformat(today)
    accounts = []
    for number, (name, email, age, usual, growth, fields) in enumerate(ACCOUNTS, 1):
        created = days_before(end, age)
        account = {
            "fense_account_id": number,
            "api_key": f"sk_demo_{number:04}_{zlib.crc32(email.encode()):08x}",
            "name": name,
            "email": email,
            **fields,
            "created_at": f"{created}T{8 + number % 9:02}:{number * 7 % 60:02}:00Z",
            "usage": usage(number, max(created, days_before(end, DAYS - 1)), end, usual, growth),
        }
        accounts.append(JsonObject(list(account.items())))
    return JsonObject([("accounts", accounts)])


def usage(
    account: int, first: datetime.date, last: datetime.date, usual: int, growth: int
) -> JsonObject:
    """Return the lookups of each day that has any. `usual` and `growth` apply to the last day."""
    days = []
    for before in range((last - first).days, -1, -1):
        day = last - datetime.timedelta(before)
        # Not a random generator, whose numbers may depend on the version of Python.
        chance = zlib.crc32(f"{account} {day}".encode())
        if chance % QUIET == 0 or (day.month, day.day) in ((12, 25), (1, 1)):
            continue
        trend = max(0.0, 100 - growth * before / 365)
        noise = 100 - NOISE + chance // QUIET % (2 * NOISE + 1)
        lookups = round(usual * (trend * WEEKDAYS[day.weekday()] * noise) / 10**6)
        days += [(str(day), lookups)] if lookups else []
    return JsonObject(days)
