"""Faults in words: what they do, and which requests they apply to."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fense_admin import Application
from fense_admin.standin.faults import DROPS


def effect(fault: Mapping[str, Any]) -> str:
    """Return in words what a fault does."""
    delay = fault.get("delay_ms")
    times = "{:,} to {:,}".format(*delay) if isinstance(delay, list) else f"{delay or 0:,}"
    parts = ["handles the request"] if fault.get("after") else []
    parts += [f"waits {times} ms"] if delay else []
    if fault.get("drop"):
        real = "of the request" if fault.get("after") else 503
        parts.append(DROPS[fault["drop"]].effect.format(status=fault.get("status", real)))
    elif "status" in fault:
        parts.append(f"responds with {fault['status']}")
    else:
        parts.append("sends its response" if fault.get("after") else "lets the request be served")
    words = ", then ".join(parts)
    if "body" in fault:
        words += f", with a body of {len(fault['body'].encode()):,} bytes"
    if fault.get("headers"):
        words += ", with " + ", ".join(f"{k}: {v}" for k, v in fault["headers"].items())
    return words


def applies_to(fault: Mapping[str, Any]) -> str:
    """Return in words which requests an armed fault applies to."""
    what = f"{fault['method']} requests" if "method" in fault else "requests"
    where = f" to {fault['path']}" if "path" in fault else " to any path"
    if fault.get("skip"):
        where += f", after the first {fault['skip']:,}"
    if not fault["times"]:
        return f"all {what}{where}, until it is disarmed"
    if fault["times"] == 1:
        what = what[:-1]
    return f"the next {fault['times']:,} {what}{where}".replace("next 1 ", "next ")


def endpoints(fault: Mapping[str, Any], app: Application) -> Iterator[str]:
    """Return the endpoints of the contract that a fault may apply to."""
    glob, method = fault.get("path", "*"), fault.get("method")
    ids = [*re.findall("[0-9]+", glob), "1"]
    for route in app.routes:
        methods = {"GET": ("GET", "HEAD")}.get(route.method, (route.method,))
        if not route.config.get("contract") or (method and method not in methods):
            continue
        path = route.rule.removeprefix(app.prefix)
        if any(fnmatch.fnmatchcase(re.sub("<.*>", id, path), glob) for id in ids):
            yield f"{method or route.method} " + path.replace("<", "{").replace(">", "}")
