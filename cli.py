"""The command `fense-admin`: flags, environment variables, exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from fense_admin import (
    DEVELOPMENT_KEY,
    __version__,
    check_key,
    check_prefix,
    create_app,
    models,
)

log = logging.getLogger("fense_admin")

OF_NO_COMMAND = ("-h", "--help", "--version")


def main(arguments: list[str] | None = None) -> int:
    """The command `fense-admin`. Gives the exit code: 0, or 1 where it can't start; 2 is usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or (arguments[0][:1] == "-" and arguments[0] not in OF_NO_COMMAND):
        arguments = ["serve", *arguments]
    options = build_parser().parse_args(arguments)
    return options.run(options)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fense-admin",
        description="Fense's Dispute Integration API as a small service.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fense-admin {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser(
        "serve",
        help="serve until told to stop (the default)",
        description="Serve until told to stop. Keys come from the environment alone: "
        "DISPUTE_MASTER_KEY, and DISPUTE_SERVICE_KEYS, separated by commas.",
        allow_abbrev=False,
    )
    command.set_defaults(run=serve, parser=command)
    add_option(command, "host", "127.0.0.1", check_host, "address or name to listen on")
    add_option(command, "port", "8642", check_port, "port to listen on, 0 for any free one")
    add_option(command, "database", "fense-admin.sqlite3", check_database, "a file, or :memory:")
    add_option(command, "prefix", "", check_prefix, "path to serve the API under, such as /admin")
    add_option(command, "threads", "4", check_threads, "requests worked on at the same time")
    return parser


def add_option(
    parser: argparse.ArgumentParser,
    name: str,
    default: str,
    check: Callable[[str], Any],
    help: str,
) -> None:
    """A flag with its environment variable; what either gives has to pass the check."""
    variable = f"FENSE_ADMIN_{name.upper()}"

    def checked(text: str) -> Any:
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"{error}, not {text!r} (or set in {variable})"
            ) from None

    parser.add_argument(
        f"--{name}",
        type=checked,
        default=os.environ.get(variable, default),
        help=f"{help} (${variable}; default: {default or 'none'})",
    )


def check_host(text: str) -> str:
    if not text or text.split() != [text]:
        raise ValueError("must be an address or a name")
    return text


def check_port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError("must be a port from 0 to 65535")
    return int(text)


def check_database(text: str) -> str:
    if not text:
        raise ValueError("must be a file's name or :memory:")
    return text


def check_threads(text: str) -> int:
    if not re.fullmatch("[0-9]{1,3}", text) or int(text) == 0:
        raise ValueError("must be a number of threads from 1 to 999")
    return int(text)


def keys_from_environment() -> tuple[str | None, list[str]]:
    """The master key and the service keys. Raises `ValueError`, which never tells a key."""

    def keys(variable: str, text: str, separator: str | None) -> list[str]:
        try:
            return [check_key(key) for key in (text.split(separator) if separator else [text])]
        except ValueError as error:
            # A blank one was meant to be there: better no service than one under another key.
            raise ValueError(f"{variable}: a key {error}; mend it, or unset it") from None

    master = os.environ.get("DISPUTE_MASTER_KEY")
    services = os.environ.get("DISPUTE_SERVICE_KEYS")
    return (
        None if master is None else keys("DISPUTE_MASTER_KEY", master, None)[0],
        [] if services is None else keys("DISPUTE_SERVICE_KEYS", services, ","),
    )


def serve(options: argparse.Namespace) -> int:
    from fense_admin import server  # late: other commands do without waitress

    server.log_to_stderr()
    try:
        master_key, service_keys = keys_from_environment()
        addresses = server.resolve(options.host, options.port)
        if master_key is None and not service_keys:
            if not server.are_loopback(addresses):
                raise ValueError(
                    f"{options.host} can be reached from outside, so it needs a key: "
                    "set DISPUTE_MASTER_KEY"
                )
            master_key = DEVELOPMENT_KEY
            log.warning("no DISPUTE_MASTER_KEY is set: the x-api-key is %s", DEVELOPMENT_KEY)
        sockets = server.listen(addresses)
        app = create_app(
            options.database,
            master_key=master_key,
            service_keys=service_keys,
            prefix=options.prefix,
        )
    except ValueError as error:
        options.parser.error(str(error))
    except (server.CannotListen, models.Unusable) as error:
        print(f"fense-admin: {error}", file=sys.stderr)
        return 1
    running = server.Server(app, app.db, sockets, options.threads)
    running.stop_on_signals()
    host = f"[{options.host}]" if ":" in options.host else options.host
    url = f"http://{host}:{running.port}{options.prefix}"
    print(f"fense-admin ready url={url} version={__version__}", flush=True)
    running.run()
    app.close()
    return 0
