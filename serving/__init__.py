"""Serve an application with waitress: addresses, limits, errors, graceful shutdown, log.

Knows no route. What it asks of an application is in `application.py`.
"""

from fense_admin.serving.addresses import CannotListen, are_loopback, inherited, listen, resolve
from fense_admin.serving.log import log_to_stderr
from fense_admin.serving.server import Server

__all__ = [
    "CannotListen",
    "Server",
    "are_loopback",
    "inherited",
    "listen",
    "log_to_stderr",
    "resolve",
]
