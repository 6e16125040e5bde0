"""Shared fixtures and helpers: a client of the contract, in-process or (--fense-url) over HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import http.client
import json
import logging
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import this_system
from browsing import browser, look  # noqa: F401  (fixtures)
from peewee import sqlite3  # the library that the service itself uses
from postgresql_server import find_program, start_server
from webtest import TestApp

from fense_admin import __version__, cli, create_app, databases, systems
from fense_admin.serving import addresses, log, server
from fense_admin.standin import StandIn

MASTER_KEY = "test-master-key-1a2b"
SERVICE_KEY = "test-service-key-3c4d"
COMMAND = Path(sys.executable).with_name("fense-admin")
CHECKOUT = Path(__file__).parent.parent
# For processes that do without PostgreSQL's driver, as most users: they start faster.
WITHOUT_DRIVER = os.pathsep.join(
    [str(CHECKOUT / "tests" / "without_driver"), *filter(None, [os.environ.get("PYTHONPATH")])]
)
OURS = ("FENSE_ADMIN_", "DISPUTE_")
# What some tests run, and the Debian package that brings it.
TOOLS = dict(
    line.split() for line in Path(__file__).with_name("tools.txt").read_text().splitlines()
)
TIMEOUT = 30  # seconds that anything may take which takes none if all is well
SENT = object()  # "send the key that the client has"
HEAD = f"Host: localhost\r\nx-api-key: {MASTER_KEY}\r\nContent-Type: application/json\r\n"
KEY_HEADER = f"x-api-key: {MASTER_KEY}\r\n".encode()
SEED_FILE = CHECKOUT / "examples" / "seed.json"
SEED = {
    "accounts": [
        {
            "api_key": "sk_test_acme_000001",
            "name": "Acme Ltd",
            "email": "owner@acme.example",
            "suppress_billing": True,
            "is_active": False,
            "usage": {"2026-11-01": 12, "2026-11-02": 7},
        },
        {"api_key": "beta", "name": "Beta", "email": "b@beta.example", "fense_account_id": 7},
    ]
}
FIELDS = {"api_key": "sk_test_models_0001", "name": "Acme Ltd", "email": "owner@acme.example"}

AS_SOMEBODY_ELSE = """
import encodings.idna, os, resource, sys  # now, as Python's own files may be unreadable later
from fense_admin import cli
from fense_admin.serving import addresses, log, server
if os.geteuid() == 0:  # root may read any file
    os.setuid(65534)
sys.exit(cli.main(sys.argv[1:]))
"""

CREATED: list[None] = []  # an entry for each account that a test of the contract created
STAY = pytest.StashKey[int]()  # how many of them remain, with --fense-url
LEFT_OUT = pytest.StashKey[int]()  # how many slow tests this run left out
NOT_HERE = pytest.StashKey[dict[str, str]]()  # the tests that can't run on this system, and why
KEYS = {MASTER_KEY, SERVICE_KEY}  # keys used by the tests; account_fields adds each merchant's
OUTPUT: list[str] = []  # all output seen so far: responses, logs, the journal


class Listening(logging.Handler):
    """Records this process's log, with tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        OUTPUT.append(self.format(record))


@pytest.fixture(scope="session", autouse=True)
def _no_key_is_in_the_output():
    """Check at the end that none of the keys appears in the output."""
    handler = Listening()
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)
    assert keys_in_output() == set()


def keys_in_output() -> set[str]:
    text = "\n".join(OUTPUT)
    words = set(re.findall("sk_[A-Za-z0-9_]+", text))
    return {key for key in KEYS if key in words or (key[:3] != "sk_" and key in text)}


def pytest_addoption(parser):
    parser.addoption(
        "--fense-url",
        metavar="URL",
        help="run tests/contract against this deployment, prefix included; its keys are read from "
        "DISPUTE_MASTER_KEY and DISPUTE_SERVICE_KEYS",
    )
    parser.addoption("--all", action="store_true", help="run the slow tests, too")


def pytest_configure(config):
    """Run slow tests if requested: by --all, -k or -m, or the name of a file."""
    options = config.option
    if hasattr(config, "workerinput"):
        options.all = config.workerinput["all"]
    else:
        is_named = config.args_source is pytest.Config.ArgsSource.ARGS
        options.all = bool(options.all or is_named or options.keyword or options.markexpr)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Pass on to an xdist worker whether to run slow tests."""
    node.workerinput["all"] = node.config.option.all


def pytest_collection_modifyitems(config, items):
    kept, config.stash[NOT_HERE] = this_system.sort_out(items)
    if len(kept) < len(items):
        stay = set(kept)
        config.hook.pytest_deselected(items=[item for item in items if item not in stay])
        items[:] = kept
    slow = [] if config.option.all else [item for item in items if item.get_closest_marker("slow")]
    if slow:
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
    config.stash[LEFT_OUT] = len(slow)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        for key, name in ((LEFT_OUT, "left out"), (NOT_HERE, "not here")):
            session.config.workeroutput[name] = session.config.stash[key]
        session.config.workeroutput["stay"] = len(CREATED)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Note what an xdist worker left out. Each worker collects all tests."""
    output = getattr(node, "workeroutput", {})
    node.config.stash[LEFT_OUT] = output.get("left out", 0)
    node.config.stash[STAY] = node.config.stash.get(STAY, 0) + output.get("stay", 0)
    node.config.stash[NOT_HERE] = output.get("not here", {})


def pytest_generate_tests(metafunc):
    """Run each test of the contract on every engine.

    On PostgreSQL, tests of requests that are rejected early are slow tests.
    """
    is_contract = metafunc.definition.path.parent.name == "contract"
    is_here = metafunc.config.getoption("--fense-url") is None
    if is_contract and is_here and "engine" in metafunc.fixturenames:
        refused = metafunc.definition.path.stem in ("test_keys", "test_paths", "test_refusals")
        metafunc.parametrize("engine", few(["sqlite", "postgresql"], 1 if refused else 2))


def few(values: Any, count: int = 1) -> list[Any]:
    """Return these as parameters of a test; all except the first ones are slow tests."""
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [
        pytest.param(*row, marks=[pytest.mark.slow] if place >= count else [])
        for place, row in enumerate(rows)
    ]


def tools(*names: str) -> list[str]:
    """Return the paths of these programs, or files. Skip the test if any is missing."""
    paths = [next(glob.iglob(n), None) if "/" in n else find_program(n) for n in names]
    missing = [name for name, path in zip(names, paths, strict=True) if path is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    return paths


def free_port() -> int:
    """Return a free port, for programs that can't choose one themselves."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def run_program(*command: Any, cwd: Path, timeout: float = 100) -> str:
    """Run a program, which must succeed, and return its output."""
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=timeout)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def needs_git_checkout() -> None:
    """Skip the test when running from an unpacked sdist."""
    tools("git")
    if not (CHECKOUT / ".git").exists():
        pytest.skip("needs a clone of the repository")


def copy_checkout(folder: Path) -> None:
    """Copy the files in git, so that a build leaves nothing in the checkout."""
    needs_git_checkout()
    listed = run_program("git", "ls-files", "-co", "--exclude-standard", cwd=CHECKOUT)
    for name in listed.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, folder / name)  # with its mode


def npm_install(folder: str) -> Path:
    """Return the node_modules of this folder, installed once per checkout. Skip without a registry."""
    modules = CHECKOUT / folder / "node_modules"
    whole = modules / "whole"  # written last; contains what was installed
    import fcntl  # imported late: missing on Windows

    with open(CHECKOUT / folder / "package.json") as wanted:
        fcntl.flock(wanted, fcntl.LOCK_EX)  # the suite runs in several processes
        text = wanted.read()
        if not whole.exists() or whole.read_text() != text:
            options = "--no-package-lock --no-audit --no-fund --silent".split()
            install = ["npm", "install", *options, "--prefix", folder]
            ended = subprocess.run(
                install, cwd=CHECKOUT, capture_output=True, text=True, timeout=110
            )
            if ended.returncode != 0:
                pytest.skip(f"needs the npm registry: {ended.stdout}{ended.stderr}")
            whole.write_text(text)
    return modules


def pytest_terminal_summary(terminalreporter, config):
    """Print how many slow tests were left out, and how to install what the skipped tests need."""
    stay = config.stash.get(STAY, 0) + len(CREATED)
    if stay and config.getoption("--fense-url"):
        terminalreporter.section("left behind")
        terminalreporter.write_line(f"{stay} accounts were created and can't be removed")
    left_out = config.stash.get(LEFT_OUT, 0)
    if left_out:
        terminalreporter.section("left out")
        terminalreporter.write_line(f"{left_out} slow tests were left out: make test-all")
    not_here = config.stash.get(NOT_HERE, {})
    if not_here:
        terminalreporter.section(f"{len(not_here)} tests can't run on {sys.platform}")
        for reason in sorted(set(not_here.values())):
            terminalreporter.write_line(f"for want of {reason}:")
            for name in [name for name, why in not_here.items() if why == reason]:
                terminalreporter.write_line(f"    {name}")
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", [])]
    needed = {word for reason in reasons for word in re.findall(r"[^\s,]+", reason)}
    packages = sorted({package for name, package in TOOLS.items() if name in needed})
    if packages:
        terminalreporter.section("not run")
        terminalreporter.write_line(f"to run them, too: sudo apt install {' '.join(packages)}")


class Response(NamedTuple):
    status: int
    headers: Any
    body: Any


class Api:
    """Calls the documented paths of the contract, by default with the master key."""

    def __init__(self, wsgi: Any, master_key: str, service_key: str | None, base: str = "") -> None:
        self.client = TestApp(wsgi)
        self.master_key, self.service_key, self.base = master_key, service_key, base

    def call(
        self, method: str, path: str, body: Any = None, *, key: Any = SENT, headers: Any = ()
    ) -> Response:
        """Send `body` as JSON, or unchanged if it is bytes. `key=None` sends no key."""
        sent = {"Content-Type": "application/json"} if body is not None else {}
        key = self.master_key if key is SENT else key
        sent |= {} if key is None else {"x-api-key": key}
        sent |= dict(headers)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.client.request(
            self.base + path,
            method=method,
            headers={name: value for name, value in sent.items() if value is not None},
            body=b"" if body is None else raw,
            expect_errors=True,
        )
        OUTPUT.append(f"{answer.headers} {answer.text}")
        if answer.status_code == 201:
            CREATED.append(None)
        return Response(answer.status_code, answer.headers, answer.json if answer.body else None)

    def get(self, path: str, **options: Any) -> Response:
        return self.call("GET", path, **options)

    def post(self, path: str, body: Any, **options: Any) -> Response:
        return self.call("POST", path, body, **options)

    def new_account(self, **fields: Any) -> dict[str, Any]:
        """Create an account and return it."""
        answer = self.post("/accounts", account_fields(**fields))
        assert answer.status == 201, answer.body
        return answer.body

    def everything(self) -> Any:
        """Return everything that the contract shows, to compare before and after."""
        accounts = self.get("/accounts/usage").body["accounts"]
        newest = accounts[-1]["fense_account_id"] if accounts else 0
        return accounts, self.get(f"/accounts/{newest}").body


def account_fields(**fields: Any) -> dict[str, Any]:
    """Return a body that creates an account with a new key."""
    key = f"sk_test_{uuid.uuid4().hex}"
    KEYS.add(key)
    return {"api_key": key, "name": "Acme Ltd", "email": "owner@acme.example"} | fields


def refusal(*details: tuple[str, str], message: str = "", code: str = "bad_request") -> Any:
    """Return the error body for (field, message) pairs, or for a message without fields."""
    whole = "; ".join([message] * bool(message) + [f"{field} {text}" for field, text in details])
    # What was probably meant is in the message alone.
    shown = [
        {"field": field, "message": text.partition("; did you mean")[0]} for field, text in details
    ]
    return {"error": {"code": code, "message": whole, "details": shown}}


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Cached: creating it takes as long as a request."""
    return ssl.create_default_context()


@contextlib.contextmanager
def forwarding_to(url: urllib.parse.SplitResult) -> Any:
    """Return a WSGI application that forwards each request to a deployment."""

    connect, options = http.client.HTTPConnection, {}
    if url.scheme == "https":
        connect, options["context"] = http.client.HTTPSConnection, tls_context()
    idle: list[Any] = []  # connections to use again

    def application(environ, start_response):
        try:
            connection = idle.pop()
        except IndexError:
            connection = connect(url.netloc, timeout=30, **options)
        path = urllib.parse.quote(environ["PATH_INFO"].encode("latin-1"))
        headers = {k[5:].replace("_", "-"): v for k, v in environ.items() if k.startswith("HTTP_")}
        headers |= {"Content-Type": environ["CONTENT_TYPE"]} if environ.get("CONTENT_TYPE") else {}
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        query = "?" + environ["QUERY_STRING"] if environ.get("QUERY_STRING") else ""
        headers["HOST"] = url.netloc
        connection.request(environ["REQUEST_METHOD"], path + query, body or None, headers)
        answer = connection.getresponse()
        hop_by_hop = ("connection", "transfer-encoding", "keep-alive")
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in hop_by_hop]
        start_response(f"{answer.status} {answer.reason}", kept)
        content = answer.read()
        if answer.will_close:
            connection.close()
        else:
            idle.append(connection)
        return [content]

    try:
        yield application
    finally:
        for connection in idle:
            connection.close()


class Process:
    """The command in a separate folder, without the settings of the user who runs the tests.

    As a context it leaves no process behind, whatever becomes of the test.
    """

    def __init__(
        self, folder, *arguments, command=(COMMAND,), close_fds=True, name="stderr", **environment
    ):
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
        if not any("postgresql" in str(value) for value in (*arguments, *environment.values())):
            inherited["PYTHONPATH"] = WITHOUT_DRIVER
        self.errors = folder / name
        with open(self.errors, "w") as errors:
            self.process = subprocess.Popen(
                [*command, *arguments],
                cwd=folder,
                env=inherited | environment,
                close_fds=close_fds,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                **this_system.APART,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate(timeout=TIMEOUT)

    def ready(self):
        """Wait for the ready line and return its URL."""
        self.line = this_system.read_line(self.process.stdout, TIMEOUT)
        matched = re.fullmatch(r"fense-admin ready url=(\S+) version=(\S+)\n", self.line)
        assert matched, self.errors.read_text("utf-8")
        assert matched[2] == __version__
        self.url = matched[1]
        return self.url

    def call(self, path, body=None, key="local-dev-key", **headers):
        headers = {"x-api-key": key, "Content-Type": "application/json"} | headers
        data = json.dumps(body).encode() if body is not None else None
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, data, headers), timeout=10
            ) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def page(self, path=""):
        """Return the HTML of a view of the page."""
        with urllib.request.urlopen(f"{self.url}/_standin/{path}", timeout=10) as answer:
            return answer.read().decode()

    def end(self, signum=this_system.STOP):
        """Stop it. Return its exit code, its further output, and its log."""
        if signum is not None:
            self.process.send_signal(signum)
        rest, _ = self.process.communicate(timeout=TIMEOUT)
        log = self.errors.read_text("utf-8")
        OUTPUT.append(rest + log)
        return self.process.returncode, rest, log


class Served:
    """An application on a free port, in a thread of this process."""

    def __init__(self, app, threads=4, drain=10):
        self.app = app
        sockets = addresses.listen(addresses.resolve("127.0.0.1", 0))
        self.server = server.Server(app, sockets, threads)
        self.thread = threading.Thread(target=self.server.run, args=(drain,))
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=10)

    def talk(self, raw):
        """Send bytes on a connection. Return everything received until it is closed."""
        with self.connect() as sock:
            sock.sendall(raw)
            answer = b""
            while chunk := sock.recv(65536):
                answer += chunk
        return answer

    def call(self, method, path, body=None, timeout=10):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=timeout)
        headers = {"x-api-key": MASTER_KEY, "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        OUTPUT.append(f"{answer.headers} {content}")
        return answer.status, json.loads(content)

    def stop(self):
        self.server.stop()
        join(self.thread)


def change_limits(holder: Any, **limits: Any) -> None:
    """Set other limits of an application that is not served yet, or of a server's connections."""
    vars(holder)["limits"] = dataclasses.replace(holder.limits, **limits)


def join(*threads: threading.Thread) -> None:
    """Wait for these threads to end."""
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


@contextlib.contextmanager
def in_background(work: Any, count: int = 1, stop: Any = lambda: None) -> Any:
    """Run a function in threads. At the end, always call `stop` and wait for them."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        stop()
        join(*threads)


@contextlib.contextmanager
def locked(path: Path) -> Any:
    """The database file, locked for writing by another connection."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def wait_until(condition: Any) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run_pytest(
    folder: Path,
    *arguments: Any,
    plugins: Any = ("pytest_fense_admin",),
    timeout: float = 100,
    **environment: str,
) -> str:
    """Run pytest separately and return its output. `plugins=None` loads all installed ones."""
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    if plugins is not None:  # the others take longer to load than the run takes
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        plugins = (*plugins, "pytest_timeout")  # pyproject.toml sets its deadline
        command += [part for plugin in plugins for part in ("-p", plugin)]
    result = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": WITHOUT_DRIVER} | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return result.stdout + result.stderr


def sentence(result, code=1):
    """Return the only line that the command wrote to standard error, with this exit code."""
    *ended, log = result
    assert ended == [code, ""], log
    lines = [line for line in log.splitlines() if "the x-api-key is" not in line]
    assert len(lines) == 1, log
    assert lines[0].startswith("fense-admin: ")
    return lines[0]


def connect(port, timeout=10):
    """Connect to a port of this machine."""
    return socket.create_connection(("127.0.0.1", port), timeout=timeout)


def http_request(line, *headers, body=b""):
    """Return a request with the master key, as bytes."""
    more = "".join(f"{header}\r\n" for header in headers)
    return f"{line} HTTP/1.1\r\n{HEAD}{more}\r\n".encode() + body


def http_post(path, body, *headers):
    """Return a POST with the master key and Connection: close, as bytes."""
    head = (
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        % path
    )
    return head + KEY_HEADER + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body


def parse_answer(answer):
    """Return status, headers and JSON of one raw response."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in headers)
    assert "Server" not in headers
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Request-Id"]
    return int(status.split()[1]), headers, json.loads(body) if body else None


def statuses(raw):
    """Return the status of each raw response."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", raw)]


def ids(raw):
    """Return the X-Request-Id of each raw response."""
    return re.findall(rb"X-Request-Id: (\S+)", raw)


def read_all(sock):
    """Read until the connection is closed."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(1 << 20):
            answer += chunk
    return answer


def talk(port, raw):
    """Send bytes on a new connection. Return everything received."""
    with connect(port) as sock:
        sock.sendall(raw)
        return read_all(sock)


def port_of(fense):
    """Return the port on which a stand-in listens."""
    return int(fense.standin_url.split("/")[2].rpartition(":")[2])


def call_standin(fense, method, path, body=None, timeout=10):
    """Send a request on a new connection. Return status, headers and the body."""
    host = fense.standin_url.split("/")[2]
    connection = http.client.HTTPConnection(host, timeout=timeout)
    try:
        connection.request(method, path, json.dumps(body) if body else None, fense.headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def state_and_faults(api):
    """Return everything that the control plane shows, except the journal."""
    return [api.get(f"/_standin/{what}").body for what in ("state", "faults")]


def in_threads(count, work):
    """Run a function in several threads. Return what each call returned or raised."""
    results = []
    go = threading.Barrier(count)

    def run():
        go.wait(TIMEOUT)
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    join(*threads)
    return results


def all_usage(db, start=None, end=None) -> str:
    """Return the usage of all accounts as JSON."""
    return "".join(db.all_usage(start, end))


def daily(db):
    """Return the lookups of the first account, by day."""
    days = json.loads(db.account_usage(1, None, None))["daily"]
    return {day["date"]: day["lookups"] for day in days}


@pytest.fixture
def start(tmp_path):
    """Starts the command with these arguments. It never outlives the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(
            Process(tmp_path, *arguments, **options)
        )


@pytest.fixture
def run_command(tmp_path, monkeypatch, capfd):
    """Runs the command in this process, for everything except serving: an error, or a copy.

    Returns the same as `Process.end`, without the log.
    """
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(log, "log_to_stderr", lambda level: None)

    def run_command(*arguments, **environment):
        with monkeypatch.context() as settings:
            for name, value in environment.items():
                settings.setenv(name, value)
            handlers = {signum: signal.getsignal(signum) for signum in systems.STOP_SIGNALS}
            try:
                code = cli.main(list(arguments))
            except SystemExit as end:
                code = end.code
            finally:
                for signum, handler in handlers.items():
                    signal.signal(signum, handler)
        out, errors = capfd.readouterr()
        OUTPUT.append(out + errors)
        return code, out, errors

    return run_command


@pytest.fixture
def make_app():
    """`create_app`, whose applications are always closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(
            contextlib.closing(create_app(*arguments, **options))
        )


@pytest.fixture(scope="session")
def postgresql():
    """A PostgreSQL server. Skips the test if PostgreSQL isn't installed."""
    tools("pg_ctl")
    with contextlib.closing(start_server()) as server:
        yield server


@pytest.fixture
def engine():
    """The engine of `app`'s database."""
    return "sqlite"


@pytest.fixture(scope="session")
def app_on_postgresql(postgresql):
    """Shared by all tests, because it starts slowly."""
    app = create_app(postgresql.empty(), master_key=MASTER_KEY, service_keys=[SERVICE_KEY])
    with contextlib.closing(app):
        yield app


@pytest.fixture
def app(request, engine, make_app):
    """The application, with an empty database."""
    if engine == "postgresql":
        app = request.getfixturevalue("app_on_postgresql")
        request.getfixturevalue("postgresql").empty()
        return app
    return make_app(":memory:", master_key=MASTER_KEY, service_keys=[SERVICE_KEY])


@pytest.fixture
def api(request, engine):
    """A client of the contract."""
    url = request.config.getoption("--fense-url")
    if url is None:
        yield Api(request.getfixturevalue("app"), MASTER_KEY, SERVICE_KEY)
        return
    parts = urllib.parse.urlsplit(url)
    services = os.environ.get("DISPUTE_SERVICE_KEYS")
    with forwarding_to(parts) as application:
        yield Api(
            application,
            os.environ["DISPUTE_MASTER_KEY"],
            services.split(",")[0] if services else None,
            base=parts.path.rstrip("/"),
        )


@pytest.fixture
def inside(request):
    """The application that `api` calls, for actions without an endpoint."""
    if request.config.getoption("--fense-url"):
        pytest.skip("needs the inside of the service, which --fense-url does not give")
    return request.getfixturevalue("app")


@pytest.fixture
def file_app(tmp_path, make_app):
    """The application with a database in a file."""
    return make_app(str(tmp_path / "fense.sqlite3"), master_key=MASTER_KEY)


@pytest.fixture
def served(file_app):
    """The application on a port, with one account."""
    with Served(file_app) as served:
        served.call("POST", "/accounts", account_fields())
        yield served


@pytest.fixture
def serve():
    """Serves applications until the end of the test."""
    with contextlib.ExitStack() as stack:
        yield lambda app, **options: stack.enter_context(Served(app, **options))


@pytest.fixture
def fense():
    """A stand-in that listens."""
    with StandIn(master_key=MASTER_KEY, service_key=SERVICE_KEY) as fense:
        yield fense


@pytest.fixture(params=["service", "stand-in"])
def port(request):
    """The port of either, with one account."""
    if request.param == "service":
        return request.getfixturevalue("served").server.port
    fense = request.getfixturevalue("fense")
    fense.create_account()
    return port_of(fense)


@pytest.fixture
def seeded():
    """An in-process stand-in, with the accounts of SEED."""
    with StandIn(SEED, master_key=MASTER_KEY, service_key=SERVICE_KEY, serve=False) as fense:
        yield fense


@pytest.fixture
def seeded_api(seeded):
    """A client of `seeded`, including its control plane."""
    return Api(seeded.app, MASTER_KEY, SERVICE_KEY)


@pytest.fixture
def open_database():
    """Opens databases, which are always closed at the end."""
    with contextlib.ExitStack() as stack:

        def open_database(path):
            db = databases.open_database(str(path))
            stack.callback(db.engine.close_all)
            return db

        yield open_database


@pytest.fixture(params=["memory", "file"])
def sqlite_db(request, tmp_path, open_database):
    """A SQLite database without accounts."""
    return open_database(":memory:" if request.param == "memory" else tmp_path / "fense.sqlite3")


@pytest.fixture(params=["memory", "file", "postgresql"])
def db(request, tmp_path, open_database):
    """A database without accounts."""
    if request.param == "postgresql":
        app = request.getfixturevalue("app_on_postgresql")
        request.getfixturevalue("postgresql").empty()
        return app.db
    return open_database(":memory:" if request.param == "memory" else tmp_path / "fense.sqlite3")


@pytest.fixture
def open_folder():
    """A folder that other users can read, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
        os.chmod(folder, 0o755)
