"""Settings (flags, environment variables, defaults) and limits."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from fense_admin import engines, rules, systems

# --- Limits ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """What clients may use. Raises `ValueError` for limits that contradict each other."""

    body: int = 64 * 1024  # bytes of a request body of the contract
    state_body: int = 32 * 1024 * 1024  # bytes of a control plane body, with the master key
    header: int = 16 * 1024  # bytes of request line and headers together
    connections: int = 500  # open at the same time; beyond that, an idle one is closed
    # Delayed requests. With those that wait in the control plane, `connections` must leave room.
    waiting: int = 350
    # Seconds for a connection to send a whole request, or to take a part of a response.
    idle: float = 30

    def __post_init__(self) -> None:
        for low, high in (("body", "state_body"), ("waiting", "connections")):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(f"the limit {low} must be below the limit {high}")
        if self.connections > systems.MAX_CONNECTIONS:
            raise ValueError(
                f"the limit connections must be at most {systems.MAX_CONNECTIONS} on this system"
            )

    @property
    def read_body(self) -> int:
        """Bytes of a body that the server reads: the application rejects more than `body`."""
        return 2 * self.body


MAX_COMPARED = 20  # accounts that a comparison reads
MAX_REQUESTS = 200  # that a comparison sends


# --- Flags with a variable ---------------------------------------------------------------------


def number(rule: rules.Rule) -> rules.Rule:
    """Return a rule for a number in decimal digits, which must pass the given rule."""
    return lambda text: rule(int(text) if re.fullmatch("-?[0-9]{1,18}", text) else text)


def check_seconds(text: str) -> float:
    return float(rules.matching(r"[0-9]{1,6}(\.[0-9]+)?", "must be a number of seconds")(text))


def check_host(text: str) -> str:
    """Return a host without the brackets of an IPv6 address in a URL."""
    host = re.sub(r"^\[(.*)\]$", r"\1", text)
    return rules.matching(r"\S+", "must be an address or a name")(host)


class Setting(NamedTuple):
    """A flag with its environment variable. The text of either must pass the rule."""

    default: str
    rule: rules.Rule
    help: str


SETTINGS = {
    "host": Setting("127.0.0.1", check_host, "address or name to listen on"),
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
        "URL that clients use, such as https://fense.example, if a proxy on another machine is in "
        "front",
    ),
    "threads": Setting(
        "4", number(rules.whole_number(1, 999)), "requests answered at the same time"
    ),
    "seed": Setting("", str, "state document to load into an empty database, or demo"),
    "drain": Setting("10", check_seconds, "seconds to wait for in-flight requests when stopping"),
}
MASTER_KEY, SERVICE_KEYS = "DISPUTE_MASTER_KEY", "DISPUTE_SERVICE_KEYS"  # in the environment alone
PORT = "FENSE_ADMIN_PORT"  # Kubernetes may set it, too
SWITCHES = ("standin", "quiet")  # flags without a value, whose variables are 1 or 0


def variable_of(name: str) -> str:
    return f"FENSE_ADMIN_{name.upper().replace('-', '_')}"


def default_of(name: str) -> str:
    """Return the text of a setting whose flag is not given."""
    variable = variable_of(name)
    default = SETTINGS[name].default
    return default if is_injected(variable) else os.environ.get(variable, default)


def switch(name: str, given: bool | None) -> bool | None:
    """Return the value of the flag, else of its variable; None without either.

    Raises `ValueError` for a variable other than 1 or 0.
    """
    variable = variable_of(name)
    text = os.environ.get(variable)
    if given is not None or text is None:
        return given
    if text not in ("1", "0"):
        raise ValueError(f"{variable} must be 1 or 0")
    return text == "1"


# --- Keys --------------------------------------------------------------------------------------


def keys_from_environment() -> tuple[str | None, list[str]]:
    """Return the master key and the service keys. Raises `ValueError`, whose message has no key."""

    def key_in(variable: str, text: str) -> str:
        try:
            return rules.check_key(text)
        except ValueError as error:
            # A blank variable was meant to be set: refuse to start rather than use another key.
            raise ValueError(f"{variable}: a key {error}; correct it, or unset it") from None

    master_key = key_in(MASTER_KEY, os.environ[MASTER_KEY]) if MASTER_KEY in os.environ else None
    texts = os.environ[SERVICE_KEYS].split(",") if SERVICE_KEYS in os.environ else []
    return master_key, [key_in(SERVICE_KEYS, text) for text in texts]


# --- Injected and misspelt variables ------------------------------------------------------------

# Kubernetes and Docker set these in a container, for a Service or a link whose name begins with
# fense-admin.
INJECTED = re.compile(
    r"FENSE_ADMIN_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?"
    r"|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR|START|END))?)|FENSE_ADMIN_ENV_\w+"
)
# Variables whose values show that Kubernetes or Docker set them.
INJECTED_VALUES = re.compile(
    r"FENSE_ADMIN_(?:\w+_)?PORT=(?:tcp|udp|sctp)://.*|FENSE_ADMIN_(?:\w+_)?NAME=/.*"
)


def is_injected(variable: str) -> bool:
    """Whether Kubernetes or Docker has set this variable."""
    assignment = f"{variable}={os.environ.get(variable, '')}"
    return bool(INJECTED.fullmatch(variable) or INJECTED_VALUES.fullmatch(assignment))


def injected_variables() -> Iterator[str]:
    """Yield a line about injected variables, if there are any. They are ignored."""
    names = sorted(filter(is_injected, os.environ), key=lambda name: (name != PORT, name))
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        advice = "; to choose a port, use --port" if PORT in names else ""
        yield (
            "variables that Kubernetes or Docker set for a service of that name are ignored: "
            f"{names[0]}{more}{advice}"
        )


def unknown_variables() -> Iterator[str]:
    """Yield a line for each unknown variable that seems meant for us, without its value."""
    keys = {"MASTER_KEY": MASTER_KEY, "SERVICE_KEYS": SERVICE_KEYS}
    settings = map(variable_of, (*SETTINGS, *SWITCHES))
    known = keys | {variable.removeprefix("FENSE_ADMIN_"): variable for variable in settings}
    for variable in sorted(os.environ.keys() - known.values()):
        is_ours = variable.startswith("FENSE_ADMIN_")
        if is_injected(variable) or not (is_ours or variable.startswith("DISPUTE_")):
            continue
        word = variable.removeprefix("FENSE_ADMIN_").removeprefix("DISPUTE_")
        # Other programs may use a DISPUTE_HOST: report only what is close to a key's variable.
        candidates, cutoff = (known, 0.6) if is_ours else (keys, 0.8)
        if nearest := difflib.get_close_matches(word, candidates, 1, cutoff):
            yield f"unknown variable {variable} is ignored: did you mean {known[nearest[0]]}?"
        elif is_ours:
            yield f"unknown variable {variable} is ignored: fense-admin serve --help lists all"
