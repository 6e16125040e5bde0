"""Calls WSGI applications in-process, from within a request or another application."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bottle import request, response

CONTEXT = [(request, "environ")]
CONTEXT += [(response, f"_{name}") for name in ("status_line", "status_code", "cookies", "headers")]
CONTEXT += [(response, "body")]


@contextlib.contextmanager
def own_context() -> Iterator[None]:
    """Keep Bottle's request and response: another Bottle application may be calling this one."""
    try:
        outer = [getattr(local, name) for local, name in CONTEXT]
    except RuntimeError:  # there is none yet in this thread
        outer = []
    try:
        yield
    finally:
        for (local, name), value in zip(CONTEXT, outer, strict=False):
            setattr(local, name, value)
