"""Serve an application with waitress: addresses, limits, errors, graceful shutdown, log.

Knows no route. `application.py` defines what it needs from an application, and loads no waitress.
"""
