"""Serve an application with waitress: addresses, limits, errors, graceful shutdown, log.

Knows no route. What it asks of an application is in `application.py`, which loads no waitress.
"""
