"""What each command of `fense-admin` does."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import fense_admin
from fense_admin import engines, files, models, programs, rules, settings, sqlite, systems
from fense_admin.databases import Database, copy, open_database
from fense_admin.exchange import ApiError, log
from fense_admin.progress import Progress, on_stop_signals, say
from fense_admin.realtime import monotonic
from fense_admin.settings import Limits

if TYPE_CHECKING:
    from fense_admin.standin.control import ControlPlane
    from fense_admin.standin.state import Seed

MIB = 1024 * 1024  # bytes
SWITCH_INTERVAL = 0.001  # seconds that a thread keeps the GIL while others wait for it


class CommandError(Exception):
    """A user error. The message says how to fix it."""


class WrongUsage(Exception):
    """A flag, a variable or an argument is invalid. The message names it."""


# --- serve -------------------------------------------------------------------------------------


def serve(options: argparse.Namespace) -> int:
    # Imported late: other commands don't need waitress.
    from fense_admin.serving import addresses, server
    from fense_admin.serving.log import log_to_stderr

    systems.allow_open_files()
    sockets: list[socket.socket] = []
    served: fense_admin.Application | ControlPlane
    try:
        log_to_stderr(logging.WARNING if options.quiet else logging.INFO)
        for line in (*settings.injected_variables(), *settings.unknown_variables()):
            log.warning(line)
        host, sockets = options.host, addresses.inherited()
        if sockets:
            host = sockets[0].getsockname()[0]
            places = [(sock.getsockname(),) for sock in sockets]
        else:
            places = addresses.resolve(options.host, options.port)
        on_loopback = addresses.are_loopback(places)
        keys, has_control_plane = choose_keys(options, on_loopback)
        loading = Progress("the seed was not loaded", options.quiet, log.info)
        with loading:
            seed = read_seed(options.seed, loading)
        sockets = sockets or addresses.listen(places)
        app = served = fense_admin.create_app(
            options.database,
            prefix=options.prefix,
            public_url=options.public_url,
            limits=Limits(),
            **keys,
        )
        if has_control_plane:
            from fense_admin.standin.control import ControlPlane

            systems.give_back_memory()
            served = ControlPlane(app, **keys, seed=seed, on_loopback=on_loopback)
        found = app.db.count_accounts()
        if seed is not None:
            load_seed(app.db, seed, options.seed, loading)
        del seed  # only a control plane still needs it
        read_ahead(has_control_plane)
    except ValueError as error:
        raise WrongUsage(str(error)) from None
    except (addresses.CannotListen, engines.Unusable, engines.DatabaseError) as error:
        for sock in sockets:
            sock.close()
        raise CommandError(error) from error
    sys.setswitchinterval(SWITCH_INTERVAL)
    running = server.Server(served, sockets, options.threads)
    on_stop_signals(running.stop_on_signal)
    origin = origin_of(host, running.port)
    log.info("fense-admin %s with %s", fense_admin.__version__, app.db.engine.info.product)
    log_database(app.db, options.database, found)
    if has_control_plane:
        log.info("web page: %s/_standin/", options.public_url or origin)
    try:
        version = fense_admin.__version__
        print(f"fense-admin ready url={origin}{options.prefix} version={version}", flush=True)
    except OSError as error:
        raise CommandError(f"can't write to standard output: {error.strerror}") from error
    running.run(options.drain)
    served.close()
    return 0


def read_ahead(has_control_plane: bool) -> None:
    """Read files that are needed later, before an update of the package can replace them."""
    files.read(fense_admin.OPENAPI_FILE)
    if has_control_plane:
        from fense_admin.standin import document
        from fense_admin.standin.page import shown

        document.read()
        shown.read_files()


def origin_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def log_database(db: Database, database: str, found: int) -> None:
    """Log where the accounts are, and how many; `found` is their number before the start."""
    count, info = db.count_accounts(), db.engine.info
    accounts = "1 account" if count == 1 else f"{count} accounts"
    if info.in_memory:
        log.info("the database is in memory, with %s: it is lost when the process ends", accounts)
        return
    name = info.name if info.is_server else os.path.abspath(database)
    log.info("the database is %s, with %s", name, accounts)
    if info.warning:
        log.warning("%s", info.warning)
    if found and not info.is_server:
        log.info("accounts of earlier runs are kept: to start empty, choose another --database")


def choose_keys(options: argparse.Namespace, on_loopback: bool) -> tuple[dict[str, Any], bool]:
    """Return the keys, as arguments of `create_app`, and whether the control plane is on.

    Raises `ValueError` if a key is required and none is set.
    """
    master_key, service_keys = settings.keys_from_environment()
    is_on = bool(options.standin)  # None: by default
    is_server = engines.is_server(options.database)
    if is_on and is_server:
        raise ValueError(
            "--standin needs SQLite: on a server, its reset would delete what other processes use"
        )
    if master_key is None and not service_keys:
        if not on_loopback:
            raise ValueError(
                f"{options.host} can be reached from other machines, so it needs a key: "
                "set DISPUTE_MASTER_KEY"
            )
        master_key = fense_admin.DEVELOPMENT_KEY
        log.warning("no DISPUTE_MASTER_KEY is set: the x-api-key is %s", master_key)
        if is_server and options.standin is None:
            log.warning("the control plane is off: it needs SQLite")
        is_on = options.standin is not False and not is_server
    if is_on and master_key is None:
        raise ValueError("--standin needs a master key: set DISPUTE_MASTER_KEY")
    return {"master_key": master_key, "service_keys": service_keys}, is_on


def read_seed(path: str, loading: Progress) -> Seed | None:
    """Return the `Seed` of this path, or "demo"; None for "". Raises `CommandError`."""
    if not path:
        return None
    from fense_admin.standin.state import Seed

    loading.begin(f"checking {path}")
    try:
        return Seed(path, models.now(), report=loading)
    except OSError as error:
        raise CommandError(f"can't read the seed {path}: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(f"the seed {path}: {error}") from error


def load_seed(db: Database, seed: Seed, path: str, loading: Progress) -> None:
    with loading:
        loading.begin(f"loading {path}")
        if db.seed(*seed.at(db.now()), loading):
            loading.end_of_days(f"loaded {path}:")
        else:
            log.warning(
                "the database already has accounts: %s is not loaded; to load it, choose an empty "
                "--database",
                path,
            )


# --- exec, health, record, move, backup, compare -------------------------------------------------


def run_command(options: argparse.Namespace) -> int:
    """Run the command. Returns its exit code, or 128 + n if signal n ended it."""
    from fense_admin.standin import StandIn

    loading = Progress("the command was not run", options.quiet)
    try:
        with loading:
            seed = read_seed(options.seed, loading)
            if seed is not None:
                loading.begin(f"loading {options.seed}")
            standin = StandIn(seed=seed, prefix=options.prefix)
            if seed is not None:
                loading.end_of_days(f"loaded {options.seed}:")
    except ValueError as error:
        raise WrongUsage(str(error)) from None
    read_ahead(has_control_plane=True)
    systems.allow_open_files()
    with standin as fense:
        environment = os.environ | {
            "FENSE_BASE_URL": fense.url,
            "FENSE_API_KEY": fense.master_key,
            "FENSE_STANDIN_URL": fense.standin_url,
            **without_proxy("127.0.0.1", "localhost"),
        }
        process = None
        early: list[int] = []  # signals received before the process was started

        def pass_on(signum: int, _: object) -> None:
            # A terminal sends SIGINT and SIGHUP to the command itself.
            if systems.PROCESSES_SHARE_SIGNALS or (signum != signal.SIGTERM and os.isatty(0)):
                return
            early.append(signum) if process is None else process.send_signal(signum)

        on_stop_signals(pass_on)
        try:
            process = programs.start(options.command, environment)
        except ValueError as error:
            raise CommandError(f"{options.command[0]}: {error}") from error
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError)
            say(f"{options.command[0]}: {'no such command' if is_missing else error.strerror}")
            return 127 if is_missing else 126
        for signum in early:
            process.send_signal(signum)
        code = programs.wait(process)
        if code != 0 and (report := fense.report()) and sys.stderr:
            with contextlib.suppress(OSError):  # the exit code doesn't depend on it
                print(f"fense-admin: the command failed. Its requests:\n{report}", file=sys.stderr)
        return code


def without_proxy(*hosts: str) -> dict[str, str]:
    """Return NO_PROXY and no_proxy (some clients prefer that) with these hosts added."""
    names = ("NO_PROXY", "no_proxy")
    known = [os.environ.get(name, "") for name in names]
    values = [text or "".join(known) for text in known]  # if one isn't set, use the other
    return {
        name: text if text.strip() == "*" else ",".join(filter(None, [text, *hosts]))
        for name, text in zip(names, values, strict=True)
    }


def health(options: argparse.Namespace) -> int:
    origin = options.url or default_origin()
    deadline = monotonic() + options.wait
    while problem := check_health(origin, timeout=max(0.5, deadline - monotonic())):
        if monotonic() >= deadline:
            raise CommandError(f"{origin}/healthz {problem}")
        time.sleep(0.05)
    return 0


def flags_of_process_1() -> dict[str, str | None]:
    """Return --host and --port of a service that is process 1, as in a container, or its child.

    A container's health check has the variables of the service, but not its flags.
    """
    with contextlib.suppress(OSError), open("/proc/1/cmdline", "rb") as file:
        words = os.fsdecode(file.read()).split("\0")
        names = [os.path.basename(word) for word in words]
        if "fense-admin" in names:
            parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
            for name in ("host", "port"):
                parser.add_argument(f"--{name}", nargs="?", default="")
            return vars(parser.parse_known_args(words[names.index("fense-admin") + 1 :])[0])
    return {}


def default_origin() -> str:
    """Return the URL of a service started by `serve` with the same variables."""
    values, flags = [], flags_of_process_1()
    for name in ("host", "port"):
        text = flags.get(name) or settings.default_of(name)
        try:
            values.append(settings.SETTINGS[name].rule(text))
        except ValueError as error:
            raise WrongUsage(f"{settings.variable_of(name)} {error}") from None
    host, port = values
    url = origin_of({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host) or host, port)
    with contextlib.suppress(ValueError):
        origin, rest = rules.split_url(url)
        if not rest:
            return origin
    raise WrongUsage(f"{settings.variable_of('host')} must be an address or a name")


def check_health(origin: str, timeout: float) -> str | None:
    """Return what is wrong with the service at this URL; None if it is healthy."""
    scheme, _, host = origin.partition("://")
    connect = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    try:
        with contextlib.closing(connect(host, timeout=timeout)) as connection:
            connection.request("GET", "/healthz")  # needs no prefix
            status = connection.getresponse().status
    except OSError as error:
        text = error.strerror or str(error) or type(error).__name__
        # Without the brackets that Python puts around the reason.
        return "does not respond: " + re.sub(r"\[.*?\] | \(_ssl.*\)", "", text)
    except http.client.HTTPException:
        return "does not speak HTTP"
    except UnicodeError:
        return "can't be reached: check its name"
    return None if status == 200 else f"returned {status}"


def record(options: argparse.Namespace) -> int:
    is_list, has_lookups = options.id == "-", options.lookups is not None
    if is_list and (has_lookups or options.date):
        raise WrongUsage(
            "a list on standard input takes neither lookups nor --date: it has its own"
        )
    if not is_list and not has_lookups:
        raise WrongUsage("the following arguments are required: lookups")
    check_exists(options.database, "choose it with --database")
    recording = Progress("nothing was added", options.quiet)
    with recording, use_database(options.database) as db:
        if is_list:
            record_list(db, recording)
            return 0
        try:
            number = rules.check_id(options.id)
            db.record_lookups(number, options.lookups, options.date, recording)
        except models.NoSuchAccount:
            raise CommandError(f"no account has the fense_account_id {options.id}") from None
        except ValueError as error:
            raise CommandError(error) from error
    return 0


def record_list(db: Database, recording: Progress) -> None:
    """Add a list of lookups from standard input. Raises `CommandError`."""
    from fense_admin.standin import state

    raw = sys.stdin.buffer.read()
    recording.begin("checking the list")
    try:
        entries = rules.instance(list, "a JSON array")(rules.parse_json(rules.without_mark(raw)))
    except ValueError as error:
        raise CommandError(f"standard input {error}") from None
    try:
        with rules.ValidationErrors() as errors:
            rows = state.check_usage(entries, errors, db.today())
        recording.begin("recording")
        state.record_usage(db, rows, long_running=True, report=recording)
        recording.end_of_days("recorded")
    except rules.ValidationErrors as errors:
        raise CommandError(f"nothing was added: {errors}") from None
    except ApiError as error:
        raise CommandError(f"nothing was added: {error.body}") from None


def move(options: argparse.Namespace) -> int:
    check_exists(options.source, "choose one that exists")
    if options.target == engines.MEMORY:
        raise CommandError("a database in memory is lost when the process ends: choose a file")
    with contextlib.suppress(OSError):  # one is a server, or doesn't exist yet
        if os.path.samefile(options.source, options.target):  # A.sqlite3 may be a.sqlite3, too
            raise CommandError(
                f"{options.target} is {options.source} itself: choose a new database"
            )
    moving = Progress("nothing was moved", options.quiet)
    with moving, use_database(options.source, read_only=True) as source:
        moving.begin("moving")
        if not has_accounts(options.target):  # else it isn't migrated either
            with use_database(options.target) as target:
                if copy(source, target, moving):
                    moving.end_of_days("moved")
                    print(f"fense-admin moved accounts={moving.accounts}")
                    return 0
    raise CommandError(f"{options.target} already has accounts: choose an empty database")


def has_accounts(database: str) -> bool:
    """Return whether a database has accounts. Doesn't change it, whatever its version."""
    with contextlib.suppress(engines.Unusable), use_database(database, read_only=True) as db:
        return db.count_accounts() > 0
    return False


def backup(options: argparse.Namespace) -> int:
    if engines.is_server(options.database):
        raise CommandError("back up a server with its own tool: run pg_dump --format=custom")
    check_exists(options.database, "choose it with --database")
    if options.target == engines.MEMORY:
        raise CommandError("a backup needs a file: choose one that does not exist yet")
    copying = Progress("no backup was made", options.quiet)
    size = 0.0

    def report(done: int, total: int) -> None:
        nonlocal size
        size = max(total / MIB, 0.1)
        part = f"{done * 100 // total}%" if done < total else "checking the copy"
        copying.show(f"{part} of {size:,.1f} MiB")

    try:
        with copying:
            copying.begin("backing up")
            sqlite.backup(options.database, options.target, report, copying.before_commit)
            copying.end(f"backed up {size:,.1f} MiB", size, "MiB")
    except OSError as error:
        raise CommandError(f"can't write {options.target}: {error.strerror}") from error
    except engines.DatabaseError as error:
        where = f"{options.database} to {options.target}"
        raise CommandError(f"can't copy {where}: {error}") from error
    return 0


def compare(options: argparse.Namespace) -> int:
    """Compare a service with a stand-in. Return 0 if they are the same, 1 if not, 3 if it can't.

    No message quotes an argument, which may be a key by mistake.
    """
    from fense_admin import comparing

    try:
        return comparing.run(options, lambda text: None if options.quiet else say(text))
    except comparing.WrongUsage as error:
        raise WrongUsage(str(error)) from None
    except comparing.CouldNotAsk as error:
        say(str(error))
        return 3


def check_exists(database: str, hint: str) -> None:
    """Raise `CommandError` if the database is a file that doesn't exist."""
    if engines.is_server(database) or (database != engines.MEMORY and os.path.exists(database)):
        return
    raise CommandError(f"there is no database file {database}: {hint}")


@contextlib.contextmanager
def use_database(database: str, read_only: bool = False) -> Iterator[Database]:
    """Open a database, and close it at the end of the block."""
    db = open_database(database, read_only)
    try:
        yield db
    finally:
        db.engine.close_all()
