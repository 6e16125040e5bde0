"""The command `fense-admin`: its arguments and their rules."""

from __future__ import annotations

import argparse
import io
import itertools
import re
import shlex
import sys
from collections.abc import Callable
from typing import Any

from fense_admin import (
    __version__,
    commands,
    engines,
    models,
    progress,
    rules,
    settings,
    systems,
)

WITHOUT_COMMAND = ("-h", "--help", "--version")
KEYS_FROM = "The key comes from DISPUTE_MASTER_KEY or DISPUTE_SERVICE_KEYS"
BEFORE_COMMAND = "put -- before the command, as in: fense-admin exec -- npm test"


def main(arguments: list[str] | None = None) -> int:
    """Run the command `fense-admin`. Return its exit code: 1 for a failure, 2 for wrong usage."""
    progress.on_stop_signals(progress.stop_at_once)  # PID 1 ignores signals without a handler
    systems.take_console_events()
    if isinstance(sys.stdout, io.TextIOWrapper):  # its encoding may lack characters of a name
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or (arguments[0][:1] == "-" and arguments[0] not in WITHOUT_COMMAND):
        arguments = ["serve", *arguments]
    command: list[str] = []  # for exec
    if arguments[0] == "exec" and "--" in arguments:
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1 :]
    if arguments[0] == "record" and "--date" in arguments[:-1]:  # -7..0 isn't a flag
        at = arguments.index("--date")
        arguments = [*arguments[:at], f"--date={arguments[at + 1]}", *arguments[at + 2 :]]
    parser = build_parser()
    refuse_passwords(arguments, parser)
    refuse_unknown(arguments, parser, needs_command=arguments[0] == "exec" and not command)
    options, unknown = parser.parse_known_args(arguments)
    used: argparse.ArgumentParser = options.parser  # the command's parser
    if options.run is commands.run_command and not command:
        used.error(BEFORE_COMMAND)
    if unknown and options.run is commands.compare:  # don't quote them: one may be a key
        used.error(f"it takes one URL or file. {KEYS_FROM}")
    if unknown:
        used.error(f"unrecognized arguments: {shlex.join(unknown)}")
    options.command = command
    if options.run is not commands.serve:  # serve logs these lines itself
        for line in settings.unknown_variables():
            progress.say(line)
    for name in settings.SWITCHES:
        if name in options:
            try:
                setattr(options, name, settings.switch(name, getattr(options, name)))
            except ValueError as error:
                used.error(str(error))
    try:
        code: int = options.run(options)
        return code
    except commands.WrongUsage as error:
        used.error(str(error))
    except (commands.CommandError, engines.Unusable, engines.DatabaseError) as error:
        progress.say(str(error))
        return 1


def refuse_passwords(arguments: list[str], parser: argparse.ArgumentParser) -> None:
    """Reject a URL with a password in the wrong place: a later message would show it."""
    message = "pass a URL with a password in FENSE_ADMIN_DATABASE or --database"
    if arguments[0] == "move":
        message = "pass the password in PGPASSWORD or ~/.pgpass: ps shows arguments"
    if arguments[0] == "health":
        message = "a health check needs no password: remove it from the URL"
    if arguments[0] == "compare":
        message = f"its URL takes no password. {KEYS_FROM}"
    for before, text in itertools.pairwise(["", *arguments]):
        parts = text.split("=", 1) if text.startswith("--") else [text]
        is_database = "--database" in (before, parts[0])
        if any(map(engines.may_hold_password, parts)) and not is_database:
            parser.error(message)


def refuse_unknown(arguments: list[str], parser: Parser, needs_command: bool) -> None:
    """Reject an unknown command or flag, and suggest the most similar one.

    argparse would first complain about the value after an unknown flag.
    """
    name, *words = arguments
    if name in WITHOUT_COMMAND:
        return
    if name not in parser.commands:
        parser.error(f"unknown command {name}{rules.did_you_mean(name, parser.commands)}")
    flags = {it: set(command._option_string_actions) for it, command in parser.commands.items()}
    for word in itertools.takewhile(lambda word: word != "--", words):
        flag = word.partition("=")[0]
        if flag in flags[name] or not re.match("--?[A-Za-z]", flag):
            continue
        takers = " and ".join(it for it in flags if flag in flags[it])
        meant = f"; it is a flag of {takers}" if takers else rules.did_you_mean(flag, flags[name])
        if needs_command and not meant.endswith("?"):  # it may belong to the command
            parser.commands[name].error(BEFORE_COMMAND)
        parser.commands[name].error(f"unrecognized arguments: {flag}{meant}")


# --- Arguments ---------------------------------------------------------------------------------


def check_day_or_range(text: str) -> str:
    rules.check_days(text, models.now()[:10])
    return text


def check_id_or_dash(text: str) -> str:
    if text != "-":
        rules.check_id(text)
    return text


def typed(
    rule: rules.Rule, variable: str = "", may_be_secret: bool = False
) -> Callable[[str], Any]:
    """Turn a rule into a type for argparse. Its message quotes the value and names the variable.

    A value that `may_be_secret` is never quoted.
    """

    def convert(text: str) -> Any:
        try:
            return rule(text)
        except ValueError as error:
            where = f" (or set in {variable})" if variable else ""
            is_secret = may_be_secret or engines.may_hold_password(text)
            given = "" if is_secret else f", not {text!r}"
            raise argparse.ArgumentTypeError(f"{error}{given}{where}") from None

    return convert


def check_target(text: str) -> str:
    """Return a URL, with a prefix or without, or the path of a file."""
    if not re.match("https?://", text, re.IGNORECASE):
        return text
    return rules.check_public_url(text)


def check_asked_id(text: str) -> int:
    number = rules.check_id(text)
    if not 0 < number <= rules.MAX_ID:
        raise ValueError("must be the fense_account_id of an account")
    return number


def add_settings(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        default, rule, help = settings.SETTINGS[name]
        variable = settings.variable_of(name)
        parser.add_argument(
            f"--{name}",
            type=typed(rule, variable),
            default=settings.default_of(name),
            help=f"{help} (${variable}; default: {default or 'none'})",
        )


def add_quiet(parser: argparse.ArgumentParser, help: str = "print errors only") -> None:
    variable = settings.variable_of("quiet")
    help = f"{help} (${variable}: 1 or 0)"
    parser.add_argument("--quiet", action="store_true", default=None, help=help)


class Parser(argparse.ArgumentParser):
    """A parser whose help ends with the help of `default`, the command that may be left out."""

    default: argparse.ArgumentParser
    commands: dict[str, argparse.ArgumentParser]

    def format_help(self) -> str:
        return f"{super().format_help()}\n{self.default.format_help()}"


def build_parser() -> Parser:
    about = "Fense's Dispute Integration API as a small service."
    parser = Parser(prog="fense-admin", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"fense-admin {__version__}")
    subparsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=argparse.ArgumentParser
    )

    def command(
        name: str, run: Callable[[argparse.Namespace], int], help: str, more: str = ""
    ) -> argparse.ArgumentParser:
        more = more or help
        added = subparsers.add_parser(name, help=help, description=more, allow_abbrev=False)
        added.set_defaults(run=run, parser=added)
        return added

    parser.commands = subparsers.choices
    parser.default = it = command(
        "serve",
        commands.serve,
        "serve until stopped (the default)",
        "Serve until stopped. Keys come only from the environment: DISPUTE_MASTER_KEY, and "
        "DISPUTE_SERVICE_KEYS, separated by commas.",
    )
    add_settings(it, *settings.SETTINGS)
    it.add_argument(
        "--standin",
        action=argparse.BooleanOptionalAction,
        help="the control plane for tests under /_standin (default: with the development key only; "
        f"${settings.variable_of('standin')}: 1 or 0)",
    )
    add_quiet(it, "log warnings and errors only")

    it = command(
        "exec",
        commands.run_command,
        "run a command with a service just for it: exec -- COMMAND",
        "Start a service in memory on a free port, run a command, then stop the service. The "
        "command finds it through FENSE_BASE_URL, FENSE_API_KEY and FENSE_STANDIN_URL. Put the "
        "command and its arguments after --.",
    )
    add_settings(it, "prefix", "seed")
    add_quiet(it, "don't report progress")

    it = command("health", commands.health, "exit with 0 as soon as a service responds, or with 1")
    it.add_argument(
        "--wait", type=typed(settings.check_seconds), default=0, help="seconds to wait for it"
    )
    origin = typed(lambda text: rules.split_url(text)[0])  # the path is ignored
    it.add_argument(
        "url", nargs="?", type=origin, help="its URL (default: the address that serve uses)"
    )

    it = command("record", commands.record, "add lookups to a day of an account")
    it.add_argument(
        "id",
        type=typed(check_id_or_dash),
        help="the fense_account_id; or - to read a list from standard input, in the form that "
        "POST /_standin/usage takes; either all of it is added or nothing",
    )
    it.add_argument(
        "lookups", nargs="?", type=typed(settings.number(rules.check_lookups)), help="how many"
    )
    it.add_argument(
        "--date",
        type=typed(check_day_or_range),
        help="YYYY-MM-DD, days before today such as -7, or FIRST..LAST for each day "
        "(default: today, UTC)",
    )
    add_settings(it, "database")
    add_quiet(it)

    it = command(
        "move",
        commands.move,
        "copy all accounts and their usage to another, empty database",
        "Copy all accounts and their usage from a file to a server, or back, into a database "
        "without accounts. First stop the service that uses the source. A server's password is "
        "read from PGPASSWORD or ~/.pgpass.",
    )
    it.add_argument(
        "source", metavar="FROM", type=typed(engines.check_name), help="the database to copy"
    )
    it.add_argument(
        "target", metavar="TO", type=typed(engines.check_name), help="an empty database"
    )
    add_quiet(it)

    it = command("backup", commands.backup, "copy the database file, even while a service uses it")
    it.add_argument("target", help="path of the copy, which must not exist yet")
    add_settings(it, "database")
    add_quiet(it)

    count = settings.number(rules.whole_number(1, settings.MAX_COMPARED))
    it = command(
        "compare",
        commands.compare,
        "send the same requests to a real Fense and to a stand-in, and print where they differ",
        "Send the same requests to a service and to a stand-in, and print where the responses "
        "differ. It only reads: GET and HEAD, one request at a time, at most "
        f"{settings.MAX_REQUESTS}. {KEYS_FROM}.",
    )
    it.add_argument(
        "target",
        metavar="URL",
        type=typed(check_target, may_be_secret=True),
        help="the service's URL with its prefix, or a file that --record wrote",
    )
    it.add_argument(
        "--accounts",
        type=typed(count, may_be_secret=True),
        default=5,
        metavar="N",
        help="read the first N accounts (default: 5)",
    )
    it.add_argument(
        "--account",
        action="append",
        default=[],
        metavar="ID",
        type=typed(check_asked_id, may_be_secret=True),
        help="read this account instead; can be repeated",
    )
    it.add_argument(
        "--timeout",
        type=typed(settings.check_seconds, may_be_secret=True),
        default=10,
        metavar="SECONDS",
        help="how long a request may take (default: 10)",
    )
    it.add_argument("--ca-file", metavar="FILE", help="trust these certificates (PEM)")
    it.add_argument("--dry-run", action="store_true", help="list the requests without sending them")
    it.add_argument("--json", action="store_true", help="print JSON")
    it.add_argument(
        "--record",
        metavar="FILE",
        help="save the responses to a new file, with personal data replaced",
    )
    it.add_argument(
        "--write",
        action="store_true",
        help="also test creation and updates; the account created can't be removed",
    )
    it.add_argument("--yes", action="store_true", help="don't ask for confirmation of --write")
    add_quiet(it)
    return parser


if __name__ == "__main__":
    sys.exit(main())
