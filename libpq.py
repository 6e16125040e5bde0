"""PostgreSQL URLs as libpq reads them, and connections to the first address that responds."""

from __future__ import annotations

import _thread
import contextlib
import ipaddress
import itertools
import math
import os
import random
import re
import socket
import threading
from collections.abc import Iterator

import psycopg
from psycopg import conninfo, pq
from psycopg.pq.abc import PGconn

from fense_admin import systems
from fense_admin.engines import HOST, Waiting, wait_long
from fense_admin.realtime import monotonic
from fense_admin.rules import HIDDEN

LOST = 5  # seconds after which a thread that hasn't started is given up
STEP = 0.25  # seconds after which the next address is tried as well

# Defaults, which the URL, a service file or a PG* variable override.
DEFAULTS = {
    "connect_timeout": "2",  # seconds for each address
    "fallback_application_name": "fense-admin",
    "keepalives_idle": "30",  # seconds
    "keepalives_interval": "5",  # seconds
    "target_session_attrs": "primary",  # not a standby
    "tcp_user_timeout": "3000",  # milliseconds
}
ENCODE = "in a password write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23 and % as %25"

# What a connection attempt waits for.
READING, WRITING = pq.PollingStatus.READING, pq.PollingStatus.WRITING
EVENTS: dict[int, int] = {READING: systems.READ, WRITING: systems.WRITE}

Address = dict[str, str]  # host, hostaddr and port for libpq, at most one of each


class NoResponse(Exception):
    """The server did not respond before the deadline."""


# --- URLs --------------------------------------------------------------------------------------


class URL:
    """A PostgreSQL URL: its parameters for libpq, and a form of it without secrets.

    For libpq a password ends at the first "@" or "/". If the user may have meant a later one,
    everything that may belong to the password is hidden.
    """

    def __init__(self, text: str) -> None:
        self._error, read = "", list[pq.ConninfoOption]()
        try:
            read = pq.Conninfo.parse(as_bytes(text))
        except psycopg.Error as error:
            self._error = first_line(str(error))
        self.given = values_of(read)
        self._secrets = secrets_in(read)
        parts = r"(?s)\A(\w+://)([^@/]*@)?([^?/]*)([^?]*)(.*)"
        scheme, user, hosts, path, query = re.findall(parts, text)[0]
        # A port that isn't a number may be a password whose "@" is missing or comes later.
        is_odd = not all(re.fullmatch(HOST, host) for host in hosts.split(","))
        self._is_ambiguous = "@" in hosts + path or is_odd
        if "@" in query and (self._error or self._is_ambiguous):
            shown = HIDDEN
        elif "@" in hosts + path:
            shown = HIDDEN + (hosts + path)[(hosts + path).rindex("@") :]
        elif is_odd:
            shown = re.sub(r"(?s)([:[]).*", rf"\1{HIDDEN}", hosts)
        else:
            shown = hosts + path
        shown = re.split(r"(?i)\w*(?:password|secret)\s*=", shown)[0]
        self.shown = printable(scheme + re.sub("(?s)[:@].*", "@", user) + shown)
        names_a_parameter = self._error.startswith("invalid URI query parameter")
        if not names_a_parameter or re.search("[@%]|pass|secret", query, re.IGNORECASE):
            # libpq may quote a password.
            self._error = re.sub(r'(?s)(?:| in|:) "(?!\]" in IPv6).*', "", self._error)
        # For the end of a message.
        self.advice = f"; {ENCODE}" if self._error or self._is_ambiguous else ""

    def hide_secrets(self, text: str) -> str:
        """Return the text without anything that may be a password."""
        secrets = {*self._secrets}
        if self._is_ambiguous:
            for name in ("host", "port", "dbname"):
                value = self.given.get(name, "")
                secrets |= {value, *value.split(",")}
        for secret in sorted(secrets - {""}, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        if self._is_ambiguous:  # a server may shorten what it quotes
            text = re.sub('["«»„“][^"«»„“”]*["«»“”]', f'"{HIDDEN}"', text)
        return printable(text)

    def read(self) -> list[pq.ConninfoOption]:
        """Return all parameters that libpq would use, including a service file and PG* variables.

        Raises `ValueError`, whose message has no password.
        """
        if self._error:
            raise ValueError(self._error)
        # libpq reads all parameters, then fails because this sslmode is invalid.
        probe = start(self.given | {"sslmode": "none"})
        if not values_of(probe.info):  # the service file can't be read, say
            raise ValueError(error_of(probe))
        self._secrets |= secrets_in(probe.info)
        return probe.info


def start(parameters: dict[str, str]) -> PGconn:
    """Start a connection."""
    quoted = ((name, re.sub(r"(['\\])", r"\\\1", value)) for name, value in parameters.items())
    return pq.PGconn.connect_start(as_bytes(" ".join(f"{n}='{value}'" for n, value in quoted)))


def error_of(connection: PGconn) -> str:
    return first_line(connection.error_message.decode(errors="replace"))


# A password may be in any encoding, so bytes that aren't UTF-8 are passed through unchanged.


def as_bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def values_of(options: list[pq.ConninfoOption]) -> dict[str, str]:
    """Return the options that have a value."""
    given = ((it.keyword.decode(), it.val) for it in options if it.val is not None)
    return {name: value.decode(errors="surrogateescape") for name, value in given}


def secrets_in(options: list[pq.ConninfoOption]) -> set[str]:
    """Return the values that libpq marks as secret, or as for developers only."""
    return set(values_of([option for option in options if option.dispchar]).values())


def printable(text: str) -> str:
    return text.encode(errors="replace").decode()


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


# --- Connections -------------------------------------------------------------------------------


class Connector:
    """Connects to one of the addresses of a URL. Threads can share it.

    It starts with the address that worked last and soon tries the others as well, so dead ones cost
    little time. While a name server is silent, only one thread waits for it.
    """

    def __init__(self, url: URL) -> None:
        """Raises `ValueError`, `psycopg.Error`."""
        read = url.read()
        known = values_of(read)
        # A variable may set the value that is also libpq's default. (For a service file that can't
        # be detected.)
        unset = {
            option.keyword.decode()
            for option in read
            if option.val == option.compiled and (option.envvar or b"").decode() not in os.environ
        }
        defaults = {n: v for n, v in DEFAULTS.items() if n in unset or n not in known}
        self._takes_default = "target_session_attrs" in defaults.keys() - url.given.keys()
        self._parameters = defaults | url.given | {"client_encoding": "UTF8"}
        self._timeout = conninfo.timeout_from_conninfo({**defaults, **known})
        self.hosts = split_hosts(known)
        self._is_shuffled = known.get("load_balance_hosts") == "random"
        self._worked: Address = {}
        self._look_up: LookUp | None = None
        self._lock = threading.Lock()

    def accept_standby(self) -> bool:
        """Also connect to a standby, unless the user has chosen which servers to use.

        Returns whether it will.
        """
        if self._takes_default:
            self._parameters["target_session_attrs"] = "any"
        return self._takes_default

    def connect(self, deadline: float, waiting: Waiting, last: list[Address]) -> Attempt:
        """Make a connection. The addresses in `last` are tried after all others.

        Raises `psycopg.OperationalError`, `NoResponse`; `RuntimeError` if no thread can be started.
        """
        errors: list[str] = []
        addresses = [host for host in self.hosts if not is_name(host)]
        if len(addresses) < len(self.hosts):
            by = min(deadline, monotonic() + STEP) if addresses else deadline
            try:
                found = self._look_up_names(by, waiting)
                addresses, errors = found.addresses, found.errors
            except NoResponse:
                if not addresses:
                    raise

        def rank(address: Address) -> tuple[bool, float]:  # sorting is stable
            preferred = random.random() if self._is_shuffled else address != self._worked
            return address in last, preferred

        addresses = sorted(addresses, key=rank)
        step = min(STEP, (deadline - monotonic()) / (len(addresses) + 1))
        attempts = (Attempt(address, self._parameters, self._timeout) for address in addresses)
        with contextlib.closing(Race(attempts, errors, step)) as race:
            won = wait_long(race.run, deadline, waiting)
        if won is None:
            raise NoResponse
        self._worked = won.address
        won.connection.nonblocking = 1  # psycopg requires it
        return won

    def _look_up_names(self, deadline: float, waiting: Waiting) -> LookUp:
        """Return a completed look-up: the one in progress if there is one, or a new one."""
        with self._lock:
            if self._look_up is None or not self._look_up.is_pending():
                self._look_up = LookUp(self.hosts)
            look_up = self._look_up
        if not wait_long(look_up.ended.wait, deadline, waiting):
            raise NoResponse("the name server does not respond")
        return look_up


def split_hosts(known: dict[str, str]) -> list[Address]:
    """Return the hosts of comma-separated lists."""
    names = [name for name in ("host", "hostaddr", "port") if known.get(name)]
    lists = {name: known[name].split(",") for name in names}
    count = max((len(lists[name]) for name in names if name != "port"), default=1)
    if len(lists.get("port", ())) == 1:
        lists["port"] *= count
    if any(len(values) != count for values in lists.values()):
        return [{name: known[name] for name in names}]  # libpq rejects it
    return [{name: values[n] for name, values in lists.items()} for n in range(count)]


def is_name(address: Address) -> bool:
    """Return whether a host must be looked up: not an IP address or a Unix socket's folder."""
    host = address.get("host", "")
    if address.get("hostaddr") or not host or host[0] in "/@" or "," in host:
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


class LookUp:
    """Looks up the names among some hosts, in a thread: DNS lookups can't be given a timeout."""

    def __init__(self, hosts: list[Address]) -> None:
        """Raises `RuntimeError` if no thread can be started."""
        self.addresses, self.errors = list[Address](), list[str]()
        self.ended = threading.Event()
        self._lost_at = monotonic() + LOST
        # `threading.Thread.start` hangs if there is no memory for the thread.
        _thread.start_new_thread(self._run, (hosts,))

    def is_pending(self) -> bool:
        """Return whether the thread is still running."""
        return not self.ended.is_set() and monotonic() < self._lost_at

    def _run(self, hosts: list[Address]) -> None:
        self._lost_at = math.inf
        try:
            for host in hosts:
                self._look_up(host)
        finally:
            self.ended.set()

    def _look_up(self, host: Address) -> None:
        name = host.get("host", "")
        if not is_name(host):
            self.addresses.append(host)
        elif "@" in name:  # may be part of a password, which no name server should see
            self.errors.append(f'the host "{name}" must be a name or an address')
        else:
            try:
                found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "it can't be a name"
                self.errors.append(f'can\'t look up the host "{name}": {reason}')
            else:
                self.addresses += [host | {"hostaddr": str(it[4][0])} for it in found]


class Attempt:
    """A connection attempt to one address."""

    def __init__(self, address: Address, parameters: dict[str, str], timeout: float) -> None:
        self.address = address
        self.connection = start(parameters | address)
        is_bad = self.connection.status == pq.ConnStatus.BAD
        self.status: int = pq.PollingStatus.FAILED if is_bad else WRITING
        self.until = monotonic() + timeout

    def error(self) -> str:
        """Return why it failed, or that it timed out."""
        text = error_of(self.connection)  # names the address even before it fails
        is_late = self.status != pq.PollingStatus.FAILED
        return f"{text} timeout expired" if is_late else text


class Race:
    """Attempts that start one after another at intervals of `step`. The first to succeed wins."""

    def __init__(self, attempts: Iterator[Attempt], errors: list[str], step: float) -> None:
        self._attempts = attempts  # an attempt starts when it is created
        self._errors = [*errors]
        self._step = step
        self._next = 0.0  # when the next one starts
        self._running: list[Attempt] = []

    def run(self, seconds: float) -> Attempt | None:
        """Return the attempt that won; None if there is none after this many seconds.

        Raises `psycopg.OperationalError` if all failed.
        """
        until = monotonic() + seconds
        while True:
            if monotonic() >= self._next:
                started = list(itertools.islice(self._attempts, 1))
                self._running += started
                self._next = monotonic() + self._step if started else math.inf
            if not self._running:
                raise psycopg.OperationalError("; ".join(dict.fromkeys(self._errors)))
            self._poll(min(until, self._next, *(attempt.until for attempt in self._running)))
            for attempt in [*self._running]:
                if attempt.status == pq.PollingStatus.OK:
                    self._running.remove(attempt)
                    return attempt
                if attempt.status == pq.PollingStatus.FAILED or monotonic() > attempt.until:
                    self._running.remove(attempt)
                    self._errors.append(attempt.error())
                    attempt.connection.finish()
                    self._next = 0.0
            if monotonic() >= until:
                return None

    def _poll(self, until: float) -> None:
        """Wait for the servers, and continue the attempts whose server has responded."""
        wanted, waiting = dict[int, int](), dict[int, Attempt]()
        for attempt in self._running:
            if attempt.status in EVENTS:
                wanted[attempt.connection.socket] = EVENTS[attempt.status]
                waiting[attempt.connection.socket] = attempt
        if len(waiting) < len(self._running):
            until = 0  # one has already failed
        for number in systems.wait_for(wanted, max(0, until - monotonic())):
            waiting[number].status = waiting[number].connection.connect_poll()

    def close(self) -> None:
        """Abort the attempts that have not succeeded."""
        for attempt in self._running:
            attempt.connection.finish()
