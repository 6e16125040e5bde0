"""The command `fense-admin`: flags, environment variables, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import http.client
import itertools
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from fense_admin import (
    DEVELOPMENT_KEY,
    OPENAPI_FILE,
    __version__,
    create_app,
    databases,
    engines,
    files,
    models,
    rules,
    sqlite,
)
from fense_admin.exchange import ApiError
from fense_admin.realtime import monotonic

log = logging.getLogger("fense_admin")

WITHOUT_COMMAND = ("-h", "--help", "--version")
BEFORE_COMMAND = "put -- before the command, as in: fense-admin exec -- npm test"
SWITCH_INTERVAL = 0.001  # seconds that a thread keeps the GIL while others wait for it
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class CommandError(Exception):
    """It can't be done. The message is one sentence that says what to do."""


def main(arguments: list[str] | None = None) -> int:
    """The command `fense-admin`. Returns the exit code: 0, 1 where it can't, 2 for wrong usage."""
    on_stop_signals(stop_at_once)  # which PID 1 of a container would otherwise ignore
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or (arguments[0][:1] == "-" and arguments[0] not in WITHOUT_COMMAND):
        arguments = ["serve", *arguments]
    command: list[str] = []  # for exec
    if arguments[0] == "exec" and "--" in arguments:
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1 :]
    if arguments[0] == "record" and "--date" in arguments[:-1]:  # -7..0 is no flag
        at = arguments.index("--date")
        arguments = [*arguments[:at], f"--date={arguments[at + 1]}", *arguments[at + 2 :]]
    parser = build_parser()
    refuse_passwords(arguments, parser)
    refuse_unknown(arguments, parser, needs_command=arguments[0] == "exec" and not command)
    options, unknown = parser.parse_known_args(arguments)
    if options.run is run_command and not command:
        options.parser.error(BEFORE_COMMAND)
    if unknown:
        options.parser.error(f"unrecognized arguments: {shlex.join(unknown)}")
    options.command = command
    if options.run is not serve:  # which has a log
        for line in unknown_variables():
            print(f"fense-admin: {rules.printable(line)}", file=sys.stderr)
    try:
        return options.run(options)
    except CommandError as error:
        print(f"fense-admin: {error}", file=sys.stderr)
        return 1


def refuse_passwords(arguments: list[str], parser: argparse.ArgumentParser) -> None:
    """Refuse a URL with a password where none belongs: a message would show it."""
    message = "a URL with a password belongs in FENSE_ADMIN_DATABASE, or to --database"
    if arguments[0] == "move":
        message = "a password belongs in PGPASSWORD or ~/.pgpass: arguments show in ps"
    if arguments[0] == "health":
        message = "a check of health needs no password: leave it out of the URL"
    for before, text in itertools.pairwise(["", *arguments]):
        is_database = before == "--database" or text.startswith("--database=")
        if engines.may_hold_password(text) and not is_database:
            parser.error(message)


def refuse_unknown(arguments: list[str], parser: Parser, needs_command: bool) -> None:
    """Refuse an unknown command or flag, and name the nearest.

    argparse itself would first complain about the value that comes after an unknown flag.
    """
    name, *words = arguments
    if name in WITHOUT_COMMAND:
        return
    if name not in parser.commands:
        parser.error(f"unknown command {name}{did_you_mean(name, parser.commands)}")
    flags = {it: set(command._option_string_actions) for it, command in parser.commands.items()}
    for word in itertools.takewhile(lambda word: word != "--", words):
        flag = word.partition("=")[0]
        if flag in flags[name] or not re.match("--?[A-Za-z]", flag):
            continue
        takers = " and ".join(it for it in flags if flag in flags[it])
        meant = f"; it is a flag of {takers}" if takers else did_you_mean(flag, flags[name])
        if needs_command and not meant.endswith("?"):  # it may be a flag of the command
            parser.commands[name].error(BEFORE_COMMAND)
        parser.commands[name].error(f"unrecognized arguments: {flag}{meant}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: "" if none of those known is near."""
    nearest = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def on_stop_signals(handler: Callable[[int, Any], None]) -> None:
    """Handle the signals that stop a process, except a SIGHUP that nohup has ignored."""
    for signum in STOP_SIGNALS:
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, handler)


def stop_at_once(signum: int, _: object) -> None:
    """End the process while there is nothing to finish yet, cleaning up on the way."""
    raise SystemExit(128 + signum)


# --- Settings ----------------------------------------------------------------------------------


def number(rule: rules.Rule) -> rules.Rule:
    """The rule for the digits of a number that this rule takes."""
    return lambda text: rule(int(text) if re.fullmatch("-?[0-9]{1,18}", text) else text)


def check_seconds(text: str) -> float:
    return float(rules.matching(r"[0-9]{1,6}(\.[0-9]+)?", "must be a number of seconds")(text))


def check_day_or_range(text: str) -> str:
    rules.check_days(text, models.now()[:10])
    return text


def check_id_or_dash(text: str) -> str:
    if text != "-":
        rules.check_id(text)
    return text


def check_url(text: str) -> str:
    """The scheme and host of a URL: all that a check of health takes."""
    return rules.split_url(text)[0]


def check_host(text: str) -> str:
    """A host, without the brackets that an IPv6 address has in a URL."""
    host = re.sub(r"^\[(.*)\]$", r"\1", text)
    return rules.matching(r"\S+", "must be an address or a name")(host)


class Setting(NamedTuple):
    """A flag with its environment variable; the text that either gives has to pass the rule."""

    default: str
    rule: rules.Rule
    help: str


SETTINGS = {
    "host": Setting(
        "127.0.0.1",
        check_host,
        "address or name to listen on",
    ),
    "port": Setting(
        "8642", number(rules.whole_number(0, 65535)), "port to listen on, 0 for any free one"
    ),
    "database": Setting(
        "fense-admin.sqlite3",
        engines.check_name,
        "a file, :memory:, or the URL of a PostgreSQL server",
    ),
    "prefix": Setting("", rules.check_prefix, "path to serve the API under, such as /admin"),
    "public-url": Setting(
        "",
        rules.check_public_url,
        "URL that clients use, such as https://fense.example, where a proxy on another machine is "
        "in front",
    ),
    "threads": Setting(
        "4", number(rules.whole_number(1, 999)), "requests answered at the same time"
    ),
    "seed": Setting("", str, "state document to load into an empty database, or demo"),
    "drain": Setting("10", check_seconds, "seconds that a stop waits for in-flight requests"),
}
MASTER_KEY, SERVICE_KEYS = "DISPUTE_MASTER_KEY", "DISPUTE_SERVICE_KEYS"  # in the environment alone
PORT = "FENSE_ADMIN_PORT"  # which Kubernetes sets as well
SWITCHES = ("standin", "quiet")  # flags without a value, whose variables are 1 or 0


def add_settings(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        default, rule, help = SETTINGS[name]
        variable = variable_of(name)
        parser.add_argument(
            f"--{name}",
            type=typed(rule, variable),
            default=default_of(name),
            help=f"{help} (${variable}; default: {default or 'none'})",
        )


def variable_of(name: str) -> str:
    return f"FENSE_ADMIN_{name.upper().replace('-', '_')}"


def default_of(name: str) -> str:
    """Return the text of a setting for which no flag is given."""
    variable = variable_of(name)
    default = SETTINGS[name].default
    return default if is_injected(variable) else os.environ.get(variable, default)


def switch(options: argparse.Namespace, name: str) -> bool | None:
    """Return what the flag or else its variable says; None if neither is given."""
    variable = variable_of(name)
    given, text = getattr(options, name), os.environ.get(variable)
    if given is not None or text is None:
        return given
    if text not in ("1", "0"):
        options.parser.error(f"{variable} must be 1 or 0")
    return text == "1"


# What Kubernetes and Docker set in a container: the addresses of a Service, or of a link, that is
# called fense-admin or fense-admin-db.
INJECTED = re.compile(
    r"FENSE_ADMIN_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?"
    r"|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR|START|END))?)|FENSE_ADMIN_ENV_\w+"
)
# Variables whose values show who has set them.
INJECTED_VALUES = re.compile(
    r"FENSE_ADMIN_(?:\w+_)?PORT=(?:tcp|udp|sctp)://.*|FENSE_ADMIN_(?:\w+_)?NAME=/.*"
)


def is_injected(variable: str) -> bool:
    """Whether Kubernetes or Docker has set this variable."""
    assignment = f"{variable}={os.environ.get(variable, '')}"
    return bool(INJECTED.fullmatch(variable) or INJECTED_VALUES.fullmatch(assignment))


def injected_variables() -> str | None:
    """Return a line about the injected variables, which are ignored; None if there are none."""
    names = sorted(filter(is_injected, os.environ), key=lambda name: (name != PORT, name))
    if not names:
        return None
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    advice = "; to choose a port, use --port" if PORT in names else ""
    return (
        "variables that Kubernetes or Docker set for a service of that name are ignored: "
        f"{names[0]}{more}{advice}"
    )


def unknown_variables() -> Iterator[str]:
    """Yield a line about each variable that seems to be meant for us. (Its value may be secret.)"""
    keys = {"MASTER_KEY": MASTER_KEY, "SERVICE_KEYS": SERVICE_KEYS}
    settings = map(variable_of, (*SETTINGS, *SWITCHES))
    known = keys | {variable.removeprefix("FENSE_ADMIN_"): variable for variable in settings}
    for variable in sorted(os.environ.keys() - known.values()):
        is_ours = variable.startswith("FENSE_ADMIN_")
        if is_injected(variable) or not (is_ours or variable.startswith("DISPUTE_")):
            continue
        word = variable.removeprefix("FENSE_ADMIN_").removeprefix("DISPUTE_")
        # Other programs may have a DISPUTE_HOST: only what is nearly a key's variable is named.
        candidates, cutoff = (known, 0.6) if is_ours else (keys, 0.8)
        if nearest := difflib.get_close_matches(word, candidates, 1, cutoff):
            yield f"unknown variable {variable} is ignored: did you mean {known[nearest[0]]}?"
        elif is_ours:
            yield f"unknown variable {variable} is ignored: fense-admin serve --help lists all"


def typed(rule: rules.Rule, variable: str = "") -> Callable[[str], Any]:
    """A rule as a type for argparse, whose message names what was given and the variable."""

    def convert(text: str) -> Any:
        try:
            return rule(text)
        except ValueError as error:
            where = f" (or set in {variable})" if variable else ""
            given = "" if engines.may_hold_password(text) else f", not {text!r}"
            raise argparse.ArgumentTypeError(f"{error}{given}{where}") from None

    return convert


# --- Commands ----------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """A parser whose help ends with that of `default`, the command that may be left out."""

    default: argparse.ArgumentParser
    commands: dict[str, argparse.ArgumentParser]

    def format_help(self) -> str:
        return f"{super().format_help()}\n{self.default.format_help()}"


def build_parser() -> argparse.ArgumentParser:
    about = "Fense's Dispute Integration API as a small service."
    parser = Parser(prog="fense-admin", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"fense-admin {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=argparse.ArgumentParser
    )

    def command(name: str, run: Callable[..., int], help: str, more: str = "") -> Any:
        added = commands.add_parser(name, help=help, description=more or help, allow_abbrev=False)
        added.set_defaults(run=run, parser=added)
        return added

    parser.commands = commands.choices
    parser.default = it = command(
        "serve",
        serve,
        "serve until stopped (the default)",
        "Serve until stopped. Keys come from the environment alone: DISPUTE_MASTER_KEY, and "
        "DISPUTE_SERVICE_KEYS, separated by commas.",
    )
    add_settings(it, *SETTINGS)
    it.add_argument(
        "--standin",
        action=argparse.BooleanOptionalAction,
        help="the control plane for tests under /_standin (default: with the development key only; "
        f"${variable_of('standin')}: 1 or 0)",
    )
    it.add_argument(
        "--quiet",
        action="store_true",
        default=None,
        help=f"log warnings and errors only (${variable_of('quiet')}: 1 or 0)",
    )

    it = command(
        "exec",
        run_command,
        "run a command beside a service of its own: exec -- COMMAND",
        "Run a command beside a service of its own, in memory, on a free port. The command finds "
        "it by FENSE_BASE_URL, FENSE_API_KEY and FENSE_STANDIN_URL. It stands after --, with its "
        "arguments.",
    )
    add_settings(it, "prefix", "seed")

    it = command("health", health, "exit with 0 once a service answers, or 1")
    it.add_argument("--wait", type=typed(check_seconds), default=0, help="seconds to wait for it")
    it.add_argument("url", nargs="?", type=typed(check_url), help="default: that of serve")

    it = command("record", record, "add lookups to an account's day in a database")
    it.add_argument(
        "id",
        type=typed(check_id_or_dash),
        help="the fense_account_id; or - for a list on standard input, as POST /_standin/usage "
        "takes it, of which all is added or nothing",
    )
    it.add_argument("lookups", nargs="?", type=typed(number(rules.check_lookups)), help="how many")
    it.add_argument(
        "--date",
        type=typed(check_day_or_range),
        help="YYYY-MM-DD, days before today such as -7, or FIRST..LAST for each day "
        "(default: today, UTC)",
    )
    add_settings(it, "database")

    it = command(
        "move",
        move,
        "copy all accounts and their usage to another, empty database",
        "Copy all accounts and their usage from a file to a server, or back, into a database "
        "without accounts. Stop what serves the first one before. A server's password is read from "
        "PGPASSWORD or ~/.pgpass.",
    )
    it.add_argument("source", metavar="FROM", type=typed(engines.check_name), help="a database")
    it.add_argument("target", metavar="TO", type=typed(engines.check_name), help="the other")

    it = command("backup", backup, "copy the database file, while it is served or not")
    it.add_argument("target", help="the copy, a file that is not there yet")
    add_settings(it, "database")
    return parser


# --- serve -------------------------------------------------------------------------------------


def serve(options: argparse.Namespace) -> int:
    from fense_admin import serving  # late: other commands do without waitress

    options.standin = switch(options, "standin")
    serving.log_to_stderr(logging.WARNING if switch(options, "quiet") else logging.INFO)
    for line in (injected_variables(), *unknown_variables()):
        if line:
            log.warning(line)
    sockets: list[Any] = []
    try:
        host, sockets = options.host, serving.inherited()
        if sockets:
            host = sockets[0].getsockname()[0]
            addresses = [(sock.getsockname(),) for sock in sockets]
        else:
            addresses = serving.resolve(options.host, options.port)
        on_loopback = serving.are_loopback(addresses)
        keys, has_control_plane = choose_keys(options, on_loopback)
        seed = read_seed(options.seed)
        sockets = sockets or serving.listen(addresses)
        prefix, public_url = options.prefix, options.public_url
        app = served = create_app(options.database, prefix=prefix, public_url=public_url, **keys)
        if has_control_plane:
            from fense_admin.standin.control import ControlPlane

            served = ControlPlane(app, **keys, seed=seed, on_loopback=on_loopback)
        found = app.db.count_accounts()
        if seed is not None and not app.db.seed(*seed.at(app.db.now())):
            log.warning(
                "the database has accounts already: %s is not loaded; to load it, name an empty "
                "--database",
                options.seed,
            )
        read_ahead(has_control_plane)
    except ValueError as error:
        options.parser.error(str(error))
    except (serving.CannotListen, engines.Unusable, engines.DatabaseError) as error:
        for sock in sockets:
            sock.close()
        raise CommandError(error) from error
    sys.setswitchinterval(SWITCH_INTERVAL)
    running = serving.Server(served, sockets, options.threads)
    on_stop_signals(running.stop_on_signal)
    origin = origin_of(host, running.port)
    log.info("fense-admin %s with %s", __version__, app.db.engine.info.product)
    log_database(app.db, options.database, found)
    if has_control_plane:
        log.info("the page for people: %s/_standin/", options.public_url or origin)
    try:
        print(f"fense-admin ready url={origin}{options.prefix} version={__version__}", flush=True)
    except OSError as error:
        raise CommandError(f"can't write to standard output: {error.strerror}") from error
    running.run(options.drain)
    served.close()
    return 0


def read_ahead(has_control_plane: bool) -> None:
    """Read what is otherwise read once it is needed: an update may replace the files until then."""
    files.read(OPENAPI_FILE)
    if has_control_plane:
        from fense_admin.standin import document, page

        document.read()
        page.read_files()


def origin_of(host: str, port: int | str) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def log_database(db: models.Database, database: str, found: int) -> None:
    """Log where the accounts are and how many; `found` were there before the start."""
    count = db.count_accounts()
    accounts = "1 account" if count == 1 else f"{count} accounts"
    info = db.engine.info
    if info.in_memory:
        log.info("the database is in memory, with %s: it goes with the process", accounts)
        return
    if info.is_server:
        log.info("the database is %s, with %s", info.name, accounts)
        if info.warning:
            log.warning("%s", info.warning)
        return
    log.info("the database is %s, with %s", os.path.abspath(database), accounts)
    if found:
        log.info("accounts of earlier runs are kept: to start empty, name another --database")


def keys_from_environment() -> tuple[str | None, list[str]]:
    """The master key and the service keys. Raises `ValueError`, whose message has no key."""

    def key_in(variable: str, text: str) -> str:
        try:
            return rules.check_key(text)
        except ValueError as error:
            # A blank variable was meant to be set: better no service than one with another key.
            raise ValueError(f"{variable}: a key {error}; correct it, or unset it") from None

    has_master, has_services = MASTER_KEY in os.environ, SERVICE_KEYS in os.environ
    master_key = key_in(MASTER_KEY, os.environ[MASTER_KEY]) if has_master else None
    texts = os.environ[SERVICE_KEYS].split(",") if has_services else []
    return master_key, [key_in(SERVICE_KEYS, text) for text in texts]


def choose_keys(options: argparse.Namespace, on_loopback: bool) -> tuple[dict[str, Any], bool]:
    """The keys, as `create_app` takes them, and whether the control plane is on.

    Raises `ValueError` where a key is needed and none is set.
    """
    master_key, service_keys = keys_from_environment()
    is_on = bool(options.standin)
    is_server = engines.is_server(options.database)
    if is_on and is_server:
        raise ValueError(
            "--standin needs SQLite: its control plane is one process's, and would reset what all "
            "processes on a server share"
        )
    if master_key is None and not service_keys:
        if not on_loopback:
            raise ValueError(
                f"{options.host} can be reached from outside, so it needs a key: "
                "set DISPUTE_MASTER_KEY"
            )
        log.warning("no DISPUTE_MASTER_KEY is set: the x-api-key is %s", DEVELOPMENT_KEY)
        if is_server and options.standin is None:
            log.warning("the control plane is off: it is for SQLite alone")
        master_key, is_on = DEVELOPMENT_KEY, options.standin is not False and not is_server
    if is_on and master_key is None:
        raise ValueError("--standin takes the master key alone: set DISPUTE_MASTER_KEY")
    return {"master_key": master_key, "service_keys": service_keys}, is_on


def read_seed(path: str) -> Any:
    """The `Seed` of this path, or "demo"; None if there is no path. Raises `CommandError`."""
    if not path:
        return None
    from fense_admin.standin.state import Seed

    with naming_seed(path):
        return Seed(path, models.now())


@contextlib.contextmanager
def naming_seed(path: str) -> Iterator[None]:
    """Raise `CommandError` for whatever is wrong with this seed."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"can't read the seed {path}: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(f"the seed {path}: {error}") from error


# --- exec, health, record, move, backup --------------------------------------------------------


def run_command(options: argparse.Namespace) -> int:
    """Run the command. Returns its exit code, or 128 + n if signal n ended it."""
    from fense_admin.standin import StandIn

    try:
        standin = StandIn(seed=read_seed(options.seed), prefix=options.prefix)
    except ValueError as error:
        options.parser.error(str(error))
    read_ahead(has_control_plane=True)
    with standin as fense:
        environment = os.environ | {
            "FENSE_BASE_URL": fense.url,
            "FENSE_API_KEY": fense.master_key,
            "FENSE_STANDIN_URL": fense.standin_url,
        }
        environment |= without_proxy("127.0.0.1", "localhost")
        process = None
        early: list[int] = []  # signals that came before the process was there

        def pass_on(signum: int, _: object) -> None:
            # A terminal sends SIGINT and SIGHUP to the command itself.
            if signum != signal.SIGTERM and os.isatty(0):
                return
            early.append(signum) if process is None else process.send_signal(signum)

        on_stop_signals(pass_on)
        try:
            process = subprocess.Popen(options.command, env=environment)
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError)
            why = "no such command" if is_missing else error.strerror
            print(f"fense-admin: {options.command[0]}: {why}", file=sys.stderr)
            return 127 if is_missing else 126
        for signum in early:
            process.send_signal(signum)
        code = process.wait()
        if code != 0 and (report := fense.report()) and sys.stderr:
            with contextlib.suppress(OSError):  # the exit code is the command's, all the same
                print(f"fense-admin: the command failed. Its requests:\n{report}", file=sys.stderr)
        return code if code >= 0 else 128 - code


def without_proxy(*hosts: str) -> dict[str, str]:
    """NO_PROXY and no_proxy, which some clients look at first, with these hosts added to them."""
    names = ("NO_PROXY", "no_proxy")
    known = [os.environ.get(name, "") for name in names]
    values = [text or "".join(known) for text in known]  # one that is not set is as the other
    return {
        name: text if text.strip() == "*" else ",".join(filter(None, [text, *hosts]))
        for name, text in zip(names, values, strict=True)
    }


def health(options: argparse.Namespace) -> int:
    origin = options.url or default_origin(options.parser)
    deadline = monotonic() + options.wait
    while problem := check_health(origin, timeout=max(0.5, deadline - monotonic())):
        if monotonic() >= deadline:
            raise CommandError(f"{origin}/healthz {problem}")
        time.sleep(0.05)
    return 0


def flags_of_process_1() -> dict[str, str]:
    """Return --host and --port of the service if it is process 1 or its child, as in a container.

    A container's health check has the service's variables, but not its flags.
    """
    with contextlib.suppress(OSError, UnicodeDecodeError), open("/proc/1/cmdline") as file:
        words = file.read().split("\0")
        names = [os.path.basename(word) for word in words]
        if "fense-admin" in names:
            parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
            for name in ("host", "port"):
                parser.add_argument(f"--{name}", nargs="?", default="")
            return vars(parser.parse_known_args(words[names.index("fense-admin") + 1 :])[0])
    return {}


def default_origin(parser: argparse.ArgumentParser) -> str:
    """Return the URL of what `serve` starts with the same variables."""
    values, flags = {}, flags_of_process_1()
    for name in ("host", "port"):
        text, variable = flags.get(name) or default_of(name), variable_of(name)
        try:
            values[name] = SETTINGS[name].rule(text)
        except ValueError as error:
            parser.error(f"{variable} {error}")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(values["host"], values["host"])
    url = origin_of(host, values["port"])
    with contextlib.suppress(ValueError):
        origin, rest = rules.split_url(url)
        if not rest:
            return origin
    return parser.error(f"{variable_of('host')} must be an address or a name")


def check_health(origin: str, timeout: float) -> str | None:
    """Return what is wrong with the service at this URL, after its URL; None if it is healthy."""
    scheme, _, host = origin.partition("://")
    is_secure = scheme == "https"
    connect = http.client.HTTPSConnection if is_secure else http.client.HTTPConnection
    try:
        with contextlib.closing(connect(host, timeout=timeout)) as connection:
            connection.request("GET", "/healthz")  # outside any prefix
            status = connection.getresponse().status
    except OSError as error:
        text = error.strerror or str(error) or type(error).__name__
        # Without the brackets that Python puts around the reason.
        return "does not answer: " + re.sub(r"\[.*?\] | \(_ssl.*\)", "", text)
    except http.client.HTTPException:
        return "does not answer in HTTP"
    except UnicodeError:
        return "can't be reached: check its name"
    return None if status == 200 else f"returned {status}"


def record(options: argparse.Namespace) -> int:
    is_list = options.id == "-"
    if is_list and (options.lookups is not None or options.date):
        options.parser.error("a list on standard input has its own lookups and dates")
    if not is_list and options.lookups is None:
        options.parser.error("the following arguments are required: lookups")
    check_exists(options.database, "name it with --database")
    with told(), opened(options.database) as db:
        if is_list:
            record_list(db)
            return 0
        try:
            db.record_lookups(rules.check_id(options.id), options.lookups, options.date)
        except models.NoSuchAccount:
            raise CommandError(f"no account has the fense_account_id {options.id}") from None
    return 0


def record_list(db: models.Database) -> None:
    """Add the lookups that standard input lists. Raises `CommandError`."""
    from fense_admin.standin import state

    try:
        entries = rules.instance(list, "a JSON array")(rules.parse_json(sys.stdin.buffer.read()))
    except ValueError as error:
        raise CommandError(f"standard input {error}") from None
    try:
        with rules.ValidationErrors() as errors:
            rows = state.check_usage(entries, errors, db.today())
        state.record_usage(db, rows, patient=True)
    except rules.ValidationErrors as errors:
        raise CommandError(f"nothing was added: {errors}") from None
    except ApiError as error:
        raise CommandError(f"nothing was added: {error.body}") from None


def move(options: argparse.Namespace) -> int:
    check_exists(options.source, "name one that is there")
    if options.target == engines.MEMORY:
        raise CommandError("what is moved into memory goes with the process: name a file")
    with told(), opened(options.source, read_only=True) as source:
        if not has_accounts(options.target):  # else it isn't migrated either
            with opened(options.target) as target:
                if models.copy(source, target):
                    print(f"fense-admin moved accounts={target.count_accounts()}")
                    return 0
    raise CommandError(f"{options.target} has accounts already: name an empty database")


def has_accounts(database: str) -> bool:
    """Whether it is a database with accounts. It stays as it is, of whatever version."""
    with contextlib.suppress(engines.Unusable), opened(database, read_only=True) as db:
        return db.count_accounts() > 0
    return False


def backup(options: argparse.Namespace) -> int:
    if engines.is_server(options.database):
        raise CommandError("a server is backed up by its own tool: run pg_dump --format=custom")
    check_exists(options.database, "name it with --database")
    if options.target == engines.MEMORY:
        raise CommandError("a backup goes into a file: name one that is not there yet")
    with told():
        try:
            sqlite.backup(options.database, options.target)
        except OSError as error:
            raise CommandError(f"can't write {options.target}: {error.strerror}") from error
        except engines.DatabaseError as error:
            where = f"{options.database} to {options.target}"
            raise CommandError(f"can't copy {where}: {error}") from error
    return 0


def check_exists(database: str, hint: str) -> None:
    """Raise `CommandError` if it is a file, and there is none."""
    if engines.is_server(database) or (database != engines.MEMORY and os.path.exists(database)):
        return
    raise CommandError(f"there is no database file {database}: {hint}")


@contextlib.contextmanager
def opened(database: str, read_only: bool = False) -> Iterator[models.Database]:
    """The database, which is closed at the end."""
    db = databases.open_database(database, read_only)
    try:
        yield db
    finally:
        db.engine.close_all()


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Raise `CommandError` for whatever is wrong with a database."""
    try:
        yield
    except (ValueError, engines.Unusable, engines.DatabaseError) as error:
        raise CommandError(error) from error


if __name__ == "__main__":
    sys.exit(main())
