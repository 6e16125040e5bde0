"""Soak test: mixed traffic, faults, stops and kills for minutes, with an audit after each restart.

    python tests/soak.py --minutes 10

Prints what it counted. The exit code is 1 where anything was lost, half-written, invented, left
unanswered or otherwise not as it should be. The short forms of it are in test_crash.py and
test_shutdown.py.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import http.client
import json
import os
import random
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from this_system import APART, KILL, KILLED, NEEDS, STOPS, read_line

COMMAND = Path(sys.executable).with_name("fense-admin")
KEYS = ("soak-master-key-1a2b", "soak-service-key-3c4d", "soak-service-key-5e6f")
MERCHANT = "sk_soak_"  # how every api_key begins, for the log to be searched for one
SECRETS = (*KEYS, MERCHANT)
CLIENTS = 8
CHUNKED = b"Transfer-Encoding: chunked"
TIMEOUT = 20  # seconds, of whatever could hang
DRAIN = 10  # seconds after which a stop gives up on a request; here it never should have to
SERVES_AGAIN = 5  # seconds, at most, after a start and after the end of a fault
DISK = 64  # MiB of the disk that gets filled
ENOUGH = 100  # accounts of one client, who then hardly makes another: the answers stay of one size
FLAT = {"MiB of memory": 12, "descriptors": 20, "threads": 4}  # how much a long life may vary

# How often each kind of request is sent; the names are methods of `Client`.
WRITES = {"create": 1, "update": 3}
MIXED = {
    "create": 15,
    "create_slowly": 1,
    "update": 40,
    "read": 30,
    "ask_usage": 10,
    "send_bad": 6,
    "break_off": 3,
    "give_up": 2,
    "pipeline": 3,
    "read_nothing": 1,
    "hold_half": 1,
    "send_endless_chunk": 1,
}
# What happens in turn; the names are methods of `Run`. No kill and no stop in the last third of the
# time: that is one long life, which shows whether what the service holds is flat.
ROUNDS = ("kill", "kill", "kill", "stop", "lock", "fill")


# --- What is sent, and what is to be there for it ------------------------------------------------


def new_fields() -> dict[str, Any]:
    """Return a creation with a new key, sometimes with all fields."""
    word = uuid.uuid4().hex
    fields = {"api_key": MERCHANT + word, "name": f"Ämter {word}", "email": f"{word}@acme.example"}
    more = ["suppress_notifications", "suppress_billing", "dispute_account_id"]
    return fields | {name: any_value(name) for name in random.sample(more, random.randrange(4))}


def some_changes() -> dict[str, Any]:
    """An update of one to all fields."""
    names = ["api_key", "name", "suppress_notifications", "suppress_billing", "is_active"]
    names += ["dispute_account_id"]
    return {name: any_value(name) for name in random.sample(names, random.randint(1, len(names)))}


def any_value(name: str) -> Any:
    """A value that the field can take."""
    if name == "api_key":
        return MERCHANT + uuid.uuid4().hex
    if name == "name":
        return f"Renamed {uuid.uuid4().hex}"
    if name == "dispute_account_id":
        return random.choice((None, str(uuid.uuid4())))
    return random.choice((True, False))


def as_kept(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields as columns: instead of the key, its digest and last four characters."""
    kept = dict(fields)
    if "api_key" in kept:
        key = kept.pop("api_key")
        kept["api_key_sha256"] = hashlib.sha256(key.encode()).hexdigest()
        kept["api_key_last4"] = key[-4:]
    return kept


UNSENT = {
    "suppress_notifications": False,
    "suppress_billing": False,
    "is_active": True,
    "dispute_account_id": None,
}


@dataclasses.dataclass
class Account:
    """An account as its client knows it, as columns."""

    acknowledged: dict[str, Any]  # empty until its creation is
    pending: dict[str, Any] | None  # by a write that has no answer: it may have happened or not
    before: dict[str, Any] = dataclasses.field(default_factory=dict)  # one acknowledgement earlier

    @property
    def id(self) -> int | None:
        return self.acknowledged.get("fense_account_id")

    def acknowledge(self, answer: dict[str, Any]) -> None:
        """Note that the pending write happened, with this response."""
        self.before = self.acknowledged
        self.acknowledged = self.acknowledged | self.pending | answer
        self.pending = None

    def may_be(self, row: dict[str, Any]) -> bool:
        """Return whether the row is as acknowledged, or as changed by the pending write."""
        if self.acknowledged and is_like(row, self.acknowledged):
            return True
        if self.pending is None:
            return False
        unchanged = {k: v for k, v in self.acknowledged.items() if k != "updated_at"}
        return is_like(row, unchanged | self.pending)


def is_like(row: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Return whether the row has all expected values."""
    return all(row[name] == value for name, value in expected.items())


# --- The service ---------------------------------------------------------------------------------


class Service:
    """`fense-admin serve` on one file, life after life, always on the same port."""

    def __init__(self, folder: Path, file: Path, *arguments: str) -> None:
        self.file, self.log = file, folder / "service.log"
        self.port = choose_port()
        self.command = [COMMAND, "serve", f"--port={self.port}", f"--database={file}", *arguments]
        self.process: Any = None

    def start(self) -> float:
        """Start it. Return the seconds until it served."""
        began = time.monotonic()
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=log, env=environment(), **APART
            )
        line = read_line(self.process.stdout, TIMEOUT) or b""
        if not line.startswith(b"fense-admin ready"):
            self.process.kill()
            self.wait()
            raise RuntimeError(f"it did not start: {self.log.read_text()[-1000:]}")
        return time.monotonic() - began

    def wait(self, seconds: float = DRAIN + 2) -> int | None:
        """Return its exit code; None if it did not end in time and was killed."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None
        finally:
            self.process.stdout.close()

    def measure(self) -> dict[str, int]:
        """Return its current resources, by the names of `FLAT`."""
        if not NEEDS["/proc"]:
            return {}
        process = Path("/proc") / str(self.process.pid)
        lines = (line.split() for line in (process / "status").read_text().splitlines())
        status = {words[0]: words[1] for words in lines if len(words) > 1}
        return {
            "MiB of memory": int(status["VmRSS:"]) // 1024,
            "descriptors": len(os.listdir(process / "fd")),
            "threads": int(status["Threads:"]),
        }


def environment() -> dict[str, str]:
    """Return this process's environment with our keys and no other settings of the service."""
    ours = ("FENSE_ADMIN_", "DISPUTE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    folders = [str(Path(__file__).with_name("without_driver")), kept.get("PYTHONPATH", "")]
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, folders))  # it starts faster
    return kept | {"DISPUTE_MASTER_KEY": KEYS[0], "DISPUTE_SERVICE_KEYS": ",".join(KEYS[1:])}


def choose_port() -> int:
    """Return a free port below those of outgoing connections, so that it stays free between lives."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


# --- The clients ---------------------------------------------------------------------------------


def raw_request(method: str, path: str, fields: dict[str, Any] | None = None) -> bytes:
    """Return the bytes of a request."""
    body = b"" if fields is None else json.dumps(fields).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: soak\r\nx-api-key: {random.choice(KEYS)}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)


def read_answer(sock: socket.socket) -> tuple[int | None, Any]:
    """Return status and body of a connection's only response, or None and None."""
    with sock, http.client.HTTPResponse(sock) as answer:
        try:
            answer.begin()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            return None, None


def reset(sock: socket.socket) -> None:
    """Reset the connection instead of closing it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def in_pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 40):
        time.sleep(0.05)
        yield data[start : start + 40]


class Client:
    """Sends one request after another, and remembers the responses. Used by one thread."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.accounts: list[Account] = []
        self.counts: Counter[str] = Counter()
        self.acknowledged = self.refused = self.at_stops = self.unanswered = 0
        self.worst_wait = 0.0  # seconds, for an answer outside of faults and stops
        self.held = contextlib.ExitStack()  # connections left open for a while
        self.sent_at: float | None = None  # when the request at hand had been sent as a whole
        self.connection = http.client.HTTPConnection("127.0.0.1", run.service.port, timeout=TIMEOUT)

    def live(self) -> None:
        """Send requests until the service has ended."""
        with contextlib.closing(self.connection), self.held:
            while not self.run.over.is_set():
                kind = self.choose()
                self.sent_at = None
                try:
                    getattr(self, kind)()
                except (OSError, http.client.HTTPException) as error:
                    self.connection.close()
                    self.note_no_answer(kind, error)
                self.counts[kind] += 1

    def choose(self) -> str:
        (kind,) = random.choices(list(self.run.traffic), self.run.traffic.values())
        has_enough = len(self.accounts) > ENOUGH and random.random() < 0.98
        return "update" if has_enough and kind in ("create", "give_up") else kind

    def note_no_answer(self, kind: str, error: Exception) -> None:
        if self.run.ended_by is None:
            self.run.tell(f"{kind}: no answer from a service that nobody ended ({error!r})")
        elif self.was_sent_before_a_stop():
            self.unanswered += 1
            self.run.tell(f"{kind}: no answer, though sent before the stop ({error!r})")
        self.run.over.set()

    def was_sent_before_a_stop(self) -> bool:
        is_stop = self.run.ended_by in STOPS
        return is_stop and self.sent_at is not None and self.sent_at < self.run.ended_at

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        key: str | None = None,
        slowly: bool = False,
    ) -> tuple[int, Any]:
        """Return status and body of the response. Raises if there is none."""
        self.sent_at, amid_fault = None, self.run.amid_fault
        data = b"" if body is None else json.dumps(body).encode()
        headers = {
            "x-api-key": key or random.choice(KEYS),
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
        }
        self.connection.request(method, path, in_pieces(data) if slowly else data, headers)
        self.sent_at = time.monotonic()
        answer = self.connection.getresponse()
        content = json.loads(answer.read())
        if not (amid_fault or self.run.amid_fault or self.run.ended_by):
            self.worst_wait = max(self.worst_wait, time.monotonic() - self.sent_at)
        self.at_stops += self.was_sent_before_a_stop()
        if answer.status == 503 and method == "POST" and (amid_fault or self.run.amid_fault):
            self.refused += 1
        elif answer.status >= 500:
            self.run.tell(f"{method} {path} was answered {answer.status}: {content}")
        return answer.status, content

    def any_account(self) -> Account | None:
        """Return a random account, or None if its state is unknown."""
        account = random.choice(self.accounts) if self.accounts else None
        return account if account and account.id and account.pending is None else None

    # Writes. One without an answer stays pending, and its account alone, until the next audit.

    def expect(self, fields: dict[str, Any]) -> Account:
        self.accounts.append(Account({}, UNSENT | as_kept(fields)))
        return self.accounts[-1]

    def settle(self, account: Account, status: int, answer: Any, done: int) -> None:
        """Note the response to a write."""
        if status == done:
            shown = {name: account.pending[name] for name in account.pending if name in answer}
            if not is_like(answer, shown):
                self.run.tell(f"{shown} was sent, and acknowledged as {answer}")
            account.acknowledge(answer)
            self.acknowledged += 1
            return
        if status != 503:
            self.run.tell(f"a good write was answered {status}: {answer}")
        account.pending = None
        if not account.acknowledged:
            self.accounts.remove(account)

    def create(self, slowly: bool = False) -> int | None:
        fields = new_fields()
        account = self.expect(fields)
        status, answer = self.send("POST", "/accounts", fields, slowly=slowly)
        self.settle(account, status, answer, 201)
        return status

    def create_slowly(self) -> None:
        self.create(slowly=True)

    def update(self) -> None:
        if account := self.any_account():
            changes = some_changes()
            account.pending = as_kept(changes)
            status, answer = self.send("POST", f"/accounts/{account.id}", changes)
            self.settle(account, status, answer, 200)

    def give_up(self) -> None:
        """Send a creation without waiting for the response."""
        fields = new_fields()
        self.expect(fields)
        with connect(self.run.service.port) as sock:
            sock.sendall(raw_request("POST", "/accounts", fields))
            reset(sock)

    # Reads

    def read(self) -> None:
        if account := self.any_account():
            status, answer = self.send("GET", f"/accounts/{account.id}")
            if status != 200 or not is_like(account.acknowledged, answer):
                self.run.tell(f"{account.acknowledged} was read as {status} {answer}")

    def ask_usage(self) -> None:
        known = {account.id for account in self.accounts if account.id}
        status, answer = self.send("GET", "/accounts/usage")
        totals = {it["fense_account_id"]: it["total_lookups"] for it in answer["accounts"]}
        if not known <= totals.keys() or sum(totals.values()) != answer["total_lookups"]:
            self.run.tell(f"the usage of all was answered {status} {str(answer)[:200]}")
        if known:
            status, answer = self.send("GET", f"/accounts/usage/{random.choice(list(known))}")
            if sum(day["lookups"] for day in answer["daily"]) != answer["total_lookups"]:
                self.run.tell(f"the usage of one was answered {status} {answer}")

    # What must change nothing. Its keys are no account's: one made all the same is an invented one.

    def send_bad(self) -> None:
        account = self.any_account()
        path = f"/accounts/{account.id if account else 1}"
        flag = {"suppress_billing": "yes"}
        status, *request = random.choice(
            [
                (400, "POST", "/accounts", new_fields() | {"email": "nobody"}),
                (400, "POST", path, {"name": "Changed by a bad request"} | flag),
                (400, "POST", path, ["name", "Changed by a bad request"]),
                (400, "GET", "/accounts/usage?start_date=2026-02-30&end_date=2026-03-01"),
                (401, "POST", "/accounts", new_fields(), MERCHANT + "nobody"),
                (404, "GET", "/accounts/999999999"),
                (405, "DELETE", path),
                (413, "POST", "/accounts", new_fields() | {"name": "x" * 70_000}),
            ]
        )
        answered, _ = self.send(*request)
        if answered != status:
            self.run.tell(f"a bad {request[0]} {request[1]} was answered {answered}, not {status}")

    def break_off(self) -> None:
        data = raw_request("POST", "/accounts", new_fields())
        with connect(self.run.service.port) as sock:
            sock.sendall(data[: random.randrange(1, len(data))])
            if random.random() < 0.5:
                reset(sock)

    # What is meant to hold others up. Of those left open no more than a few are kept.

    def hold(self, data: bytes) -> None:
        if random.random() < 0.2:
            self.held.close()
        sock = self.held.enter_context(connect(self.run.service.port))
        sock.sendall(data)

    def read_nothing(self) -> None:
        self.hold(raw_request("GET", "/accounts/usage") * 20)

    def hold_half(self) -> None:
        data = raw_request("POST", "/accounts", new_fields())
        self.hold(data[: random.randrange(1, len(data))])

    def send_endless_chunk(self) -> None:
        head = raw_request("POST", "/accounts").replace(b"Content-Length: 0", CHUNKED)
        with contextlib.suppress(ConnectionError):  # it is closed, as it should be
            self.hold(head + random.choice((b"1", b"1;x=", b"0\r\nX: ")) + b"1" * 60_000)

    def pipeline(self) -> None:
        """Some reads, and a write with Expect: 100-continue, on one connection."""
        account = self.any_account()
        if account is None:
            return
        reads = random.choices(("/accounts/usage", f"/accounts/{account.id}"), k=5)
        data = b"".join(raw_request("GET", path) for path in reads)
        last = raw_request("POST", f"/accounts/{account.id}", {})
        data += last[:-2].replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
        with connect(self.run.service.port) as sock:
            sock.sendall(data)
            answers = b""
            while answers.count(b"HTTP/1.1 ") < len(reads) + 1 and (chunk := sock.recv(1 << 20)):
                answers += chunk
            sock.sendall(b"{}")
            while answers.count(b"HTTP/1.1 ") < len(reads) + 2 and (chunk := sock.recv(1 << 20)):
                answers += chunk
        answered = re.findall(rb"HTTP/1\.1 (\d{3})", answers)
        if answered != [b"200"] * len(reads) + [b"100", b"200"] and not self.run.disturbs(answers):
            self.run.tell(f"a pipeline was answered {answered}")

    # Many requests at once, for a stop to answer

    def send_burst(self, count: int) -> list[tuple[socket.socket, Account | None]]:
        """Send requests, fast ones and others, each on a new connection."""
        sent = []
        for number in range(count):
            sock, account = connect(self.run.service.port), None
            if number % 3:
                path = ("/accounts/1", "/accounts/usage")[number % 2]
                sock.sendall(raw_request("GET", path))
            else:
                fields = new_fields()
                account = self.expect(fields)
                sock.sendall(raw_request("POST", "/accounts", fields))
            sent.append((sock, account))
        return sent

    def read_burst(self, sent: list[tuple[socket.socket, Account | None]]) -> None:
        for sock, account in sent:
            status, answer = read_answer(sock)
            self.at_stops += 1
            self.unanswered += status is None
            if account and status is not None:
                self.settle(account, status, answer, 201)


# --- Other processes on the same file ------------------------------------------------------------


class Neighbour:
    """Records lookups, is sometimes killed while it does so, and makes backups."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.counts: Counter[str] = Counter()
        self.recorded: Counter[tuple[int, str]] = Counter()  # by account and day
        self.pending: Counter[tuple[int, str]] = Counter()  # by a process that was killed

    def live(self) -> None:
        while not self.run.over.wait(0.3):
            self.record()
            if random.random() < 0.2:
                self.back_up()

    def command(self, *arguments: str, kill_after: float = TIMEOUT) -> tuple[int, str]:
        """Return exit code and standard error of a command on the database."""
        process = subprocess.Popen(
            [COMMAND, *arguments, f"--database={self.run.service.file}"],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            _, errors = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
        return process.returncode, errors

    def record(self) -> None:
        account = random.choice(self.run.clients).any_account()
        if account is None:
            return
        day = datetime.date(2026, 11, 30) - datetime.timedelta(days=random.randrange(100))
        place, lookups = (account.id, str(day)), random.randrange(1, 1000)
        amid_fault = self.run.amid_fault
        code, errors = self.command(
            *("record", str(account.id), str(lookups), f"--date={day}"),
            kill_after=random.uniform(0, 0.5) if random.random() < 0.3 else TIMEOUT,
        )
        self.counts[f"records that ended with {code}"] += 1
        if code == 0:
            self.recorded[place] += lookups
        elif code == KILLED:
            self.pending[place] += lookups
        elif code != 1 or not (amid_fault or self.run.amid_fault):
            self.run.tell(f"fense-admin record ended with {code}: {errors}")

    def back_up(self) -> None:
        known = {it.id for client in self.run.clients for it in list(client.accounts) if it.id}
        target = self.run.folder / "backup.sqlite3"
        amid_fault = self.run.amid_fault
        code, errors = self.command("backup", str(target))
        if code == 0:
            self.counts["backups"] += 1
            for ill in ills(target):
                self.run.tell(f"a backup: {ill}")
            if missing := known - {row["fense_account_id"] for row in read_accounts(target)}:
                self.run.tell(f"a backup lacks the accounts {sorted(missing)}")
            target.unlink()
        elif not (amid_fault or self.run.amid_fault):
            self.run.tell(f"fense-admin backup ended with {code}: {errors}")


# --- The database, seen from outside -------------------------------------------------------------


def read_accounts(file: Path) -> list[dict[str, Any]]:
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute("SELECT * FROM account")]


def read_lookups(file: Path) -> dict[tuple[int, str], int]:
    with contextlib.closing(sqlite3.connect(file)) as db:
        rows = db.execute("SELECT fense_account_id, date, lookups FROM usage").fetchall()
    return {(fense_account_id, date): lookups for fense_account_id, date, lookups in rows}


def ills(file: Path) -> list[str]:
    """Return the inconsistencies of a database."""
    with contextlib.closing(sqlite3.connect(file)) as db:
        found = [row[0] for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
        found += [f"broken reference {row}" for row in db.execute("PRAGMA foreign_key_check")]
        days = db.execute(
            "SELECT fense_account_id, substr(date, 1, 7) AS month, SUM(lookups) FROM usage"
            " GROUP BY fense_account_id, month ORDER BY fense_account_id, month"
        ).fetchall()
        months = db.execute(
            "SELECT fense_account_id, month, lookups FROM usage_month"
            " ORDER BY fense_account_id, month"
        ).fetchall()
    return found + ["the months are not the sums of the days"] * (days != months)


HOLD_WRITE_LOCK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def write_lock(file: Path) -> Iterator[None]:
    """Another process holds the database's write lock, then ends abruptly."""
    command = [sys.executable, "-c", HOLD_WRITE_LOCK, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if process.stdout.readline() != b"held\n":
            raise RuntimeError("the write lock can't be acquired")
        yield
        process.stdin.close()  # what it waits for; leaving the context waits for its end


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """The disk of the folder is completely full."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    yield
    filler.unlink()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk on the folder. Return whether that worked."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, stderr=subprocess.DEVNULL, timeout=TIMEOUT).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True, timeout=TIMEOUT)


# --- The run -------------------------------------------------------------------------------------


class Run:
    """A service with its clients: started, ended and audited repeatedly. Use it as a context."""

    def __init__(
        self, folder: Path, file: Path, traffic: dict[str, int], *, neighbour: bool = False
    ) -> None:
        self.folder, self.traffic = folder, traffic
        self.service = Service(folder, file)
        self.clients = [Client(self) for _ in range(CLIENTS)]
        self.probe = Client(self)  # this thread's own
        self.neighbour = Neighbour(self)
        self.lives_of = [*self.clients, self.neighbour] if neighbour else self.clients
        self.threads: list[threading.Thread] = []
        self.wrong: list[str] = []  # sentences
        self.counts: Counter[str] = Counter()  # kills, stops, faults, and what audits found
        self.slowest_stop = self.slowest_start = 0.0  # seconds
        self.lives: list[list[dict[str, int]]] = []  # what it held, round after round
        self.over = threading.Event()
        self.ended_by: int | None = None  # the signal that this life was ended by
        self.ended_at = 0.0
        self.amid_fault = False

    def __enter__(self) -> Run:
        self.service.start()
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended_by = KILL
        self.service.process.kill()
        self.service.wait()
        self.join()
        self.probe.connection.close()

    def tell(self, sentence: str) -> None:
        """Note that something is wrong."""
        self.wrong.append(sentence)
        print(f"WRONG: {sentence[:500]}", flush=True)

    def disturbs(self, answers: bytes) -> bool:
        """Return whether a fault or a stop explains missing responses or 503."""
        return self.amid_fault or self.ended_by is not None or b"HTTP/1.1 503" in answers

    def total(self, name: str) -> int:
        """Return the sum of a counter over all clients."""
        return sum(getattr(client, name) for client in [*self.clients, self.probe])

    # Lives

    def begin(self) -> None:
        self.over.clear()
        self.lives.append([])
        self.ended_by, self.ended_at = None, 0.0

        def live(it: Client | Neighbour) -> None:
            try:
                it.live()
            except Exception:
                self.tell(traceback.format_exc())

        self.threads = [
            threading.Thread(target=live, args=(it,), daemon=True) for it in self.lives_of
        ]
        for thread in self.threads:
            thread.start()

    def join(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(2 * TIMEOUT)
            if thread.is_alive():
                self.tell("a client does not come to its end")
        self.threads = []

    def end(self, signum: int, burst: int = 0, frozen: bool = False) -> None:
        """End this life by a signal, in the midst of the traffic, and begin the next.

        A frozen service has read nothing of the burst when the signal comes.
        """
        self.lives[-1].append(self.service.measure())
        if frozen:
            self.service.process.send_signal(signal.SIGSTOP)
        sent = self.probe.send_burst(burst)
        self.ended_at, self.ended_by = time.monotonic(), signum
        if signum == KILL:
            self.service.process.kill()
        else:
            self.service.process.send_signal(signum)
        if frozen:
            self.service.process.send_signal(signal.SIGCONT)
        self.probe.read_burst(sent)
        code = self.service.wait()
        seconds = time.monotonic() - self.ended_at
        self.slowest_stop = max(self.slowest_stop, seconds)
        if seconds >= DRAIN:
            self.tell(f"it took {seconds:.1f} s to stop")
        self.probe.connection.close()
        self.join()
        if code != (KILLED if signum == KILL else 0):
            self.tell(f"signal {signum} ended it with {code}")
        self.note_serving(self.service.start())
        self.audit()
        self.begin()

    def note_serving(self, seconds: float) -> None:
        self.slowest_start = max(self.slowest_start, seconds)
        if seconds > SERVES_AGAIN:
            self.tell(f"it took {seconds:.1f} s to serve again")

    def wait_for_writes(self, count: int) -> None:
        """Wait until this many more writes are acknowledged."""
        enough, deadline = self.total("acknowledged") + count, time.monotonic() + TIMEOUT
        while self.total("acknowledged") < enough and time.monotonic() < deadline:
            time.sleep(0.01)

    # Rounds

    def kill(self) -> None:
        self.end(KILL)

    def stop(self) -> None:
        signum = random.choice(STOPS)
        self.end(signum, burst=90, frozen=random.choice((True, False)))

    def lock(self) -> None:
        self.bear(write_lock(self.service.file), 5)

    def fill(self) -> None:
        self.bear(full_disk(self.service.file.parent), 3)

    def bear(self, fault: contextlib.AbstractContextManager[None], seconds: float) -> None:
        """Cause a fault for this long. Afterwards it must serve again without a restart."""
        self.amid_fault = True
        with fault:
            time.sleep(seconds)
        began = time.monotonic()
        self.probe.connection.close()  # which may have been idle for too long
        while self.probe.create() != 201 and time.monotonic() < began + 2 * SERVES_AGAIN:
            time.sleep(0.02)
        self.note_serving(time.monotonic() - began)
        self.amid_fault = False
        self.lives[-1].append(self.service.measure())

    # Audits: while nobody writes, of a service that has started on what the last life left

    def audit(self) -> None:
        """Compare the database with the requests and responses of the clients."""
        file = self.service.file
        for ill in ills(file):
            self.tell(ill)
        rows = {row["fense_account_id"]: row for row in read_accounts(file)}
        ids = {row["api_key_sha256"]: row["fense_account_id"] for row in rows.values()}
        for client in [*self.clients, self.probe]:
            for account in list(client.accounts):
                row = rows.pop(account.id or ids.get(account.pending["api_key_sha256"]), None)
                self.audit_account(account, row)
                if row is None:
                    client.accounts.remove(account)
        for row in rows.values():
            self.found("invented", row)
        self.audit_lookups(read_lookups(file))

    def audit_account(self, account: Account, row: dict[str, Any] | None) -> None:
        if row is None:
            if account.id:
                self.found("lost", account)
            return
        if not account.may_be(row):
            is_older = account.before and is_like(row, account.before)
            self.found("lost" if is_older else "half-written", (account, row))
        account.acknowledged, account.pending = row, None

    def audit_lookups(self, days: dict[tuple[int, str], int]) -> None:
        neighbour = self.neighbour
        for place in days.keys() | neighbour.recorded.keys():
            least, counted = neighbour.recorded[place], days.get(place, 0)
            if counted < least:
                self.found("lost", f"{least - counted} lookups of {place}")
            elif counted > least + neighbour.pending[place]:
                self.found("invented", f"{counted - least} lookups of {place}")
            neighbour.recorded[place] = counted
        neighbour.pending.clear()

    def found(self, kind: str, what: object) -> None:
        self.counts[kind] += 1
        self.tell(f"{kind}: {what}")

    def audit_long_life(self) -> None:
        """Check that its resources stayed constant in the second half of the last life but one."""
        measures = self.lives[-2]
        for name, most in FLAT.items():
            values = [measure[name] for measure in measures[len(measures) // 2 :]]
            if max(values) - min(values) > most:
                self.tell(f"{name} in the long life: {values}")

    def audit_log(self) -> None:
        """Check that the log has no internal error and no key."""
        with open(self.service.log, errors="replace") as log:
            for line in log:
                if "Traceback" in line or any(secret in line for secret in SECRETS):
                    self.tell(f"the log has: {line.rstrip()}")

    def report(self) -> dict[str, object]:
        """Return the counts by name."""
        kinds = sum((client.counts for client in self.clients), Counter())
        ends = [measures[-1] for measures in self.lives if measures]
        held = {name: sorted(measure[name] for measure in ends) for name in FLAT}
        return {
            **{f"requests: {kind}": count for kind, count in sorted(kinds.items())},
            **dict(sorted(self.neighbour.counts.items())),
            "refused amid a fault (503)": self.total("refused"),
            "acknowledged writes": self.total("acknowledged"),
            **{name: self.counts[name] for name in ("lost", "half-written", "invented")},
            **{f"rounds: {name}": self.counts[name] for name in ("kill", "stop", "lock", "fill")},
            "sent before a stop": self.total("at_stops"),
            "of those unanswered": self.total("unanswered"),
            "seconds a client waited, at worst": f"{max(it.worst_wait for it in self.clients):.2f}",
            "seconds to stop, at worst": f"{self.slowest_stop:.2f}",
            "seconds to serve again, at worst": f"{self.slowest_start:.2f}",
            **{f"{name} at a life's end": f"{v[0]} to {v[-1]}" for name, v in held.items()},
        }


def soak(minutes: float, folder: Path) -> bool:
    """Run for this long, print the counts, and return whether everything was right."""
    deadline = time.monotonic() + minutes * 60
    disk = folder / "disk"
    disk.mkdir()
    with (
        small_disk(disk) as has_disk,
        Run(folder, disk / "fense.sqlite3", {"create": 1}, neighbour=True) as run,
    ):
        run.wait_for_writes(CLIENTS * ENOUGH)
        run.traffic = MIXED
        rounds: list[str] = []
        while (left := deadline - time.monotonic()) > 0:
            # Dealt like cards: each kind has its turn in a short run, too.
            rounds = rounds or random.sample(ROUNDS, len(ROUNDS))
            name = rounds.pop()
            is_long_life = left < minutes * 60 / 3
            if (name == "fill" and not has_disk) or (is_long_life and name in ("kill", "stop")):
                continue
            time.sleep(random.uniform(1, 3))
            getattr(run, name)()
            run.counts[name] += 1
            print(f"{name}: {run.total('acknowledged'):,} writes acknowledged so far", flush=True)
        run.stop()
        run.counts["stop"] += 1
        run.audit_long_life()
        run.audit_log()
    if run.total("unanswered"):
        run.tell("a stop left requests unanswered that had been sent before it")
    print()
    for name, value in run.report().items():
        print(f"{name:<44}{value if isinstance(value, str) else format(value, ','):>12}")
    if not has_disk:
        print("\nLEFT OUT: the full disk, as only root can mount one that is small enough to fill")
    print(f"\n{len(run.wrong)} things are wrong" if run.wrong else "\nall is as it should be")
    return not run.wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and tidies up
    with tempfile.TemporaryDirectory() as folder:
        return 0 if soak(options.minutes, Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
