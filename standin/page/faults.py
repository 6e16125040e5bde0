"""Faults in words: what they do, and which requests they meet."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fense_admin import Application
from fense_admin.standin.faults import DROPS


def does(fault: Mapping[str, Any]) -> str:
    """What a fault does, in words."""
    delay = f"waits {fault['delay_ms']:,} ms" if fault.get("delay_ms") else ""
    if fault.get("drop"):
        what = DROPS[fault["drop"]].effect.format(status=fault.get("status", 503))
    elif "status" in fault:
        what = f"answers {fault['status']}"
    else:
        what = "lets the request be served"
    words = f"{delay}, then {what}" if delay else what
    if fault.get("headers"):
        words += ", with " + ", ".join(f"{k}: {v}" for k, v in fault["headers"].items())
    return words


def meets(fault: Mapping[str, Any]) -> str:
    """Which requests an armed fault meets, in words."""
    what = f"{fault['method']} requests" if "method" in fault else "requests"
    where = f" to {fault['path']}" if "path" in fault else " to any path"
    if not fault["times"]:
        return f"all {what}{where}, until it is disarmed"
    if fault["times"] == 1:
        what = what[:-1]
    return f"the next {fault['times']:,} {what}{where}".replace("next 1 ", "next ")


def endpoints(fault: Mapping[str, Any], app: Application) -> Iterator[str]:
    """The endpoints of the contract that a fault may meet."""
    glob, method = fault.get("path", "*"), fault.get("method")
    ids = [*re.findall("[0-9]+", glob), "1"]
    for route in app.routes:
        methods = {"GET": ("GET", "HEAD")}.get(route.method, (route.method,))
        if not route.config.get("contract") or (method and method not in methods):
            continue
        path = route.rule.removeprefix(app.prefix)
        if any(fnmatch.fnmatchcase(re.sub("<.*>", id, path), glob) for id in ids):
            yield f"{method or route.method} " + path.replace("<", "{").replace(">", "}")
