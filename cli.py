"""The command `fense-admin`: flags, environment variables, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import http.client
import logging
import os
import re
import shlex
import signal
import sys
import time
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

from fense_admin import (
    DEVELOPMENT_KEY,
    __version__,
    check_id,
    check_key,
    check_prefix,
    create_app,
    models,
)

log = logging.getLogger("fense_admin")

OF_NO_COMMAND = ("-h", "--help", "--version")
SWITCH_INTERVAL = 0.001  # seconds for which a thread at work may keep the others waiting
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(arguments: list[str] | None = None) -> int:
    """The command `fense-admin`. Gives the exit code: 0, or 1 where it can't; 2 is wrong usage."""
    on_stops(stop_at_once)  # from the first moment on, also as the first process of a container
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or (arguments[0][:1] == "-" and arguments[0] not in OF_NO_COMMAND):
        arguments = ["serve", *arguments]
    arguments, command = split_command(arguments)
    options, unknown = build_parser().parse_known_args(arguments)
    if options.run is run_beside and not command:
        options.parser.error("put -- before the command, as in: fense-admin exec -- npm test")
    if unknown:
        flags = re.findall(r"--[\w-]+", options.parser.format_usage())
        nearest = difflib.get_close_matches(unknown[0].partition("=")[0], flags, 1)
        meant = f"; did you mean {nearest[0]}?" if nearest else ""
        options.parser.error(f"unrecognized arguments: {shlex.join(unknown)}{meant}")
    options.command = command
    try:
        return options.run(options)
    except Failed as error:
        print(f"fense-admin: {error}", file=sys.stderr)
        return 1


def split_command(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments of ours, and the command after `--` for exec."""
    if arguments[0] != "exec" or "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def on_stops(handler: Callable[[int, Any], None]) -> None:
    """Let this hear the signals that stop a process, but for a SIGHUP that nohup has ignored."""
    for signum in STOPS:
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, handler)


def stop_at_once(signum: int, _: object) -> None:
    """End before there is anything to finish, cleaning up on the way."""
    raise SystemExit(128 + signum)


class Failed(Exception):
    """It can't be done. The message is one sentence that says what to do."""


# --- Flags -------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """One whose help goes on with that of `default`, the command that may be left out."""

    default: argparse.ArgumentParser

    def format_help(self) -> str:
        return f"{super().format_help()}\n{self.default.format_help()}"


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="fense-admin",
        description="Fense's Dispute Integration API as a small service.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fense-admin {__version__}")
    commands = parser.add_subparsers(
        title="commands",
        metavar="COMMAND",
        required=True,
        parser_class=argparse.ArgumentParser,
    )

    def command(name: str, run: Callable[..., int], help: str, more: str = "") -> Any:
        added = commands.add_parser(name, help=help, description=more or help, allow_abbrev=False)
        added.set_defaults(run=run, parser=added)
        return added

    database = ("database", "fense-admin.sqlite3", check_database, "a file, or :memory:")
    prefix = ("prefix", "", check_prefix, "path to serve the API under, such as /admin")
    seed = ("seed", "", str, "state document to fill an empty database with")

    parser.default = it = command(
        "serve",
        serve,
        "serve until told to stop (the default)",
        "Serve until told to stop. Keys come from the environment alone: DISPUTE_MASTER_KEY, and "
        "DISPUTE_SERVICE_KEYS, separated by commas.",
    )
    add_option(it, "host", "127.0.0.1", check_host, "address or name to listen on")
    add_option(it, "port", "8642", check_port, "port to listen on, 0 for any free one")
    add_option(it, *database)
    add_option(it, *prefix)
    add_option(it, "threads", "4", check_threads, "requests worked on at the same time")
    add_option(it, *seed)
    add_option(
        it, "drain", "10", check_seconds, "seconds that a stop gives requests sent before it"
    )
    it.add_argument(
        "--standin",
        action=argparse.BooleanOptionalAction,
        help="the control plane for tests under /_standin (default: with the development key only)",
    )
    it.add_argument("--quiet", action="store_true", help="log warnings and errors only")

    it = command(
        "exec",
        run_beside,
        "run a command beside a service of its own: exec -- COMMAND",
        "Run a command beside a service of its own, in memory, on a free port. The command finds "
        "it by FENSE_BASE_URL, FENSE_API_KEY and FENSE_STANDIN_URL. It stands after --, with its "
        "arguments.",
    )
    add_option(it, *prefix)
    add_option(it, *seed)

    it = command("health", health, "exit with 0 once a service answers, or 1")
    it.add_argument("--wait", type=typed(check_seconds), default=0, help="seconds to wait for it")
    it.add_argument("url", nargs="?", type=typed(check_url), help="default: that of serve")

    it = command("record", record, "add lookups to an account's day in a database file")
    it.add_argument("id", type=typed(check_id), help="the fense_account_id")
    it.add_argument("lookups", type=typed(check_lookups), help="how many")
    it.add_argument("--date", type=typed(models.check_date), help="YYYY-MM-DD (today, UTC)")
    add_option(it, *database)

    it = command("backup", backup, "copy the database file, while it is served or not")
    it.add_argument("target", help="the copy, a file that is not there yet")
    add_option(it, *database)
    return parser


def typed(check: Callable[[str], Any], variable: str = "") -> Callable[[str], Any]:
    """A check as argparse wants it, which tells what was given, and where it may stand."""

    def convert(text: str) -> Any:
        try:
            return check(text)
        except ValueError as error:
            where = f" (or set in {variable})" if variable else ""
            raise argparse.ArgumentTypeError(f"{error}, not {text!r}{where}") from None

    return convert


def add_option(
    parser: argparse.ArgumentParser,
    name: str,
    default: str,
    check: Callable[[str], Any],
    help: str,
) -> None:
    """A flag with its environment variable; what either gives has to pass the check."""
    variable = f"FENSE_ADMIN_{name.upper()}"
    parser.add_argument(
        f"--{name}",
        type=typed(check, variable),
        default=os.environ.get(variable, default),
        help=f"{help} (${variable}; default: {default or 'none'})",
    )


# What a flag has to be. Each raises `ValueError`.


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


def check_lookups(text: str) -> int:
    return models.check_lookups(int(text) if re.fullmatch("-?[0-9]{1,18}", text) else text)


def check_seconds(text: str) -> float:
    if not re.fullmatch("[0-9]{1,6}(\\.[0-9]+)?", text):
        raise ValueError("must be a number of seconds")
    return float(text)


def check_url(text: str) -> str:
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as http://127.0.0.1:8642")
    return text


# --- serve -------------------------------------------------------------------------------------


def keys_from_environment() -> tuple[str | None, list[str]]:
    """The master key and the service keys. Raises `ValueError`, which never tells a key."""

    def keys(variable: str, text: str, separator: str | None) -> list[str]:
        try:
            return [check_key(key) for key in (text.split(separator) if separator else [text])]
        except ValueError as error:
            # A blank one was meant to be there: better no service than one under another key.
            raise ValueError(f"{variable}: a key {error}; correct it, or unset it") from None

    master = os.environ.get("DISPUTE_MASTER_KEY")
    services = os.environ.get("DISPUTE_SERVICE_KEYS")
    return (
        None if master is None else keys("DISPUTE_MASTER_KEY", master, None)[0],
        [] if services is None else keys("DISPUTE_SERVICE_KEYS", services, ","),
    )


def serve(options: argparse.Namespace) -> int:
    from fense_admin import server  # late: other commands do without waitress

    server.log_to_stderr(logging.WARNING if options.quiet else logging.INFO)
    try:
        host, sockets = options.host, server.inherited()
        if sockets:
            host = sockets[0].getsockname()[0]
            addresses = [(sock.getsockname(),) for sock in sockets]
        else:
            addresses = server.resolve(options.host, options.port)
        on_loopback = server.are_loopback(addresses)
        master_key, service_keys, has_control_plane = choose_keys(options, on_loopback)
        seed = read_seed(options.seed)
        sockets = sockets or server.listen(addresses)
        app = create_app(
            options.database,
            master_key=master_key,
            service_keys=service_keys,
            prefix=options.prefix,
        )
        served = app
        server_options = {"is_quick": app.is_quick, "choose_id": app.choose_id}
        if has_control_plane:
            from fense_admin.control import ControlPlane

            served = ControlPlane(app, master_key, service_keys, seed=seed, on_loopback=on_loopback)
            server_options = served.server_options
        found = app.db.count_accounts()
        if seed is not None and found:
            log.warning("the database has accounts already: %s is left out", options.seed)
        elif seed is not None:
            app.db.replace(*seed)
    except ValueError as error:
        options.parser.error(str(error))
    except (server.CannotListen, models.Unusable, models.DatabaseError) as error:
        raise Failed(error) from error
    sys.setswitchinterval(SWITCH_INTERVAL)
    running = server.Server(served, app.db, sockets, options.threads, **server_options)
    on_stops(running.stop_on_signal)
    log.info("fense-admin %s with SQLite %s", __version__, models.SQLITE)
    tell_of_database(app.db, options.database, found)
    host = f"[{host}]" if ":" in host else host
    origin = f"http://{host}:{running.port}"
    if has_control_plane:
        log.info("the page for people: %s/_standin/", origin)
    url = origin + options.prefix
    try:
        print(f"fense-admin ready url={url} version={__version__}", flush=True)
    except OSError as error:
        raise Failed(f"can't write to standard output: {error.strerror}") from error
    running.run(options.drain)
    app.close()
    return 0


def tell_of_database(db: models.Database, database: str, found: int) -> None:
    """Log where the accounts are and how many; `found` were there before this start."""
    if database == models.MEMORY:
        log.info("the database is in memory, with %s: it goes with the process", accounts(db))
        return
    log.info("the database is %s, with %s", os.path.abspath(database), accounts(db))
    if found:
        log.info("they are from before and stay: to begin anew, name another file by --database")


def accounts(db: models.Database) -> str:
    count = db.count_accounts()
    return "1 account" if count == 1 else f"{count} accounts"


def choose_keys(
    options: argparse.Namespace, on_loopback: bool
) -> tuple[str | None, list[str], bool]:
    """The master key, the service keys, and whether the control plane is on.

    Raises `ValueError` where these are none to serve under.
    """
    master_key, service_keys = keys_from_environment()
    if master_key is None and not service_keys:
        if not on_loopback:
            raise ValueError(
                f"{options.host} can be reached from outside, so it needs a key: "
                "set DISPUTE_MASTER_KEY"
            )
        log.warning("no DISPUTE_MASTER_KEY is set: the x-api-key is %s", DEVELOPMENT_KEY)
        return DEVELOPMENT_KEY, [], options.standin is not False
    if options.standin and master_key is None:
        raise ValueError("--standin takes the master key alone: set DISPUTE_MASTER_KEY")
    return master_key, service_keys, bool(options.standin)


def read_seed(path: str) -> Any:
    """The rows of a seed file; None where none is named. Raises `Failed`."""
    if not path:
        return None
    from fense_admin.state import read_state

    with told_of_seed(path):
        return read_state(path)


@contextlib.contextmanager
def told_of_seed(path: str) -> Iterator[None]:
    """Whatever is wrong with this seed is raised as `Failed`."""
    try:
        yield
    except OSError as error:
        raise Failed(f"can't read the seed {path}: {error.strerror}") from error
    except ValueError as error:
        raise Failed(f"the seed {path}: {error}") from error


# --- exec, health, record, backup --------------------------------------------------------------


def run_beside(options: argparse.Namespace) -> int:
    """Run the command, and end as it ends: with its exit code, or 128 + n for a signal."""
    import subprocess

    from fense_admin.standin import StandIn

    with told_of_seed(options.seed):
        standin = StandIn(seed=options.seed or None, prefix=options.prefix)
    with standin as fense:
        environment = os.environ | {
            "FENSE_BASE_URL": fense.url,
            "FENSE_API_KEY": fense.master_key,
            "FENSE_STANDIN_URL": fense.standin_url,
        }
        process = None
        early: list[int] = []  # signals that came as the command was started

        def pass_on(signum: int, _: object) -> None:
            # A terminal sends its own to the command, too: once is enough.
            if signum != signal.SIGTERM and os.isatty(0):
                return
            early.append(signum) if process is None else process.send_signal(signum)

        on_stops(pass_on)
        try:
            process = subprocess.Popen(options.command, env=environment)
        except FileNotFoundError:
            print(f"fense-admin: {options.command[0]}: no such command", file=sys.stderr)
            return 127
        except OSError as error:
            print(f"fense-admin: {options.command[0]}: {error.strerror}", file=sys.stderr)
            return 126

        for signum in early:
            process.send_signal(signum)
        code = process.wait()
        return code if code >= 0 else 128 - code


def health(options: argparse.Namespace) -> int:
    import urllib.request  # late: the service does without

    environment = os.environ.get
    host = environment("FENSE_ADMIN_HOST", "127.0.0.1")
    url = options.url or f"http://{host}:{environment('FENSE_ADMIN_PORT', '8642')}"
    parts = urllib.parse.urlsplit(url)
    url = f"{parts.scheme}://{parts.netloc}/healthz"  # outside any prefix
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + options.wait
    while True:
        try:
            with opener.open(url, timeout=max(0.5, deadline - time.monotonic())):
                return 0
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() >= deadline:
                raise Failed(f"{url} does not answer: {why(error)}") from error
        time.sleep(0.05)


def why(error: Exception) -> str:
    """The reason in words, without the brackets that Python puts around it."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, OSError):
        error = error.reason
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.sub(r"\[.*?\] | \(_ssl.*\)", "", text)


def record(options: argparse.Namespace) -> int:
    check_exists(options.database)
    try:
        with contextlib.closing(models.Database(options.database)) as db:
            db.record_lookups(options.id, options.lookups, options.date)
    except models.NoSuchAccount:
        raise Failed(f"no account has the fense_account_id {options.id}") from None
    except (ValueError, models.Unusable, models.DatabaseError) as error:
        raise Failed(error) from error
    return 0


def backup(options: argparse.Namespace) -> int:
    check_exists(options.database)
    if options.target == models.MEMORY:
        raise Failed("a backup goes into a file: name one that is not there yet")
    try:
        models.backup(options.database, options.target)
    except OSError as error:
        raise Failed(f"can't write {options.target}: {error.strerror}") from error
    except (models.Unusable, models.DatabaseError) as error:
        raise Failed(error) from error
    return 0


def check_exists(database: str) -> None:
    if database == models.MEMORY or not os.path.exists(database):
        raise Failed(f"there is no database file {database}: name it with --database")


if __name__ == "__main__":
    sys.exit(main())
