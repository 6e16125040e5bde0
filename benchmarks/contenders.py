"""The compared servers, each in its own process."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PYTHON = sys.executable
sys.path.append(str(HERE.parent / "tests"))
from postgresql_server import PostgreSQL, find_program  # noqa: E402, F401

# Where `make bench` installs it with the driver, which the others do without.
WITH_DRIVER = HERE.parent / ".venv-bench-postgresql" / "bin"
KEYS = ("master_0123456789abcdef", "service_0123456789abcdef")
HEADERS = {"x-api-key": KEYS[0], "Content-Type": "application/json"}


class Contender:
    """A server in its own process, with its log in one file and its data in another."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        database: Path | str | None = None,
        threads: int = 0,
        standin: bool = False,
    ):
        self.name = name
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.database = database or folder / f"{name}.sqlite3"
        port, data = str(self.port), str(self.database)
        uvicorn = [PYTHON, "-m", "uvicorn", "fastapi_app:app", "--port", port]
        ours = [shutil.which("fense-admin", path=Path(PYTHON).parent), "--port", port]
        ours += ["--database", data]
        command = {
            "postgresql": [WITH_DRIVER / "fense-admin", *ours[1:]],
            "ours": ours
            + (["--threads", str(threads)] if threads else [])
            + ["--standin"] * standin,
            "fastapi": uvicorn,
            "naive": [PYTHON, "naive_app.py", port, data],
            "waitress": [PYTHON, "ceiling.py", port],
        }[name]
        environment = os.environ | {
            "DISPUTE_MASTER_KEY": KEYS[0],
            "DISPUTE_SERVICE_KEYS": KEYS[1],
            "API_KEYS": ",".join(KEYS),
            "DATABASE": data,
        }
        with open(folder / f"{name}.log", "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=HERE, env=environment, stdout=log, stderr=log
            )

    def __enter__(self) -> Contender:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            time.sleep(0.0005)
        raise SystemExit(f"{self.name} does not start: see its log")

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("GET", path, headers=HEADERS)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status != 200:
            raise SystemExit(f"{self.name} answered {answer.status} to {path}: {body[:200]!r}")
        return body

    def load(self, kind: str, seconds: int, accounts: int, connections: int = 8) -> dict[str, Any]:
        """Return what wrk reports for a number of seconds of requests; times in milliseconds.

        `cpu` is what the server used for each, in microseconds. Unlike the rate, it hardly depends
        on what else the machine does.
        """
        headers = [part for name, value in HEADERS.items() for part in ("-H", f"{name}: {value}")]
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", *headers]
        command += ["-s", str(HERE / "load.lua"), f"http://127.0.0.1:{self.port}"]
        command += ["--", kind, str(accounts), f"{time.time_ns():x}"]
        os.sync()  # so that none waits for the disk to write what another has left
        used = self.cpu()
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        report = json.loads(printed.splitlines()[-1])
        if report["failed"]:
            raise SystemExit(f"{self.name} failed {report['failed']} requests of {kind}")
        report["cpu"] = (self.cpu() - used) / report["requests"] * 1e6
        return report

    def cpu(self) -> float:
        """Return the CPU time that it has used, in seconds, without its database server."""
        after_name = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, after_name[11:13])) / os.sysconf("SC_CLK_TCK")

    def resident(self, field: str = "VmRSS") -> float:
        """Return its memory in MiB; "VmHWM" is its peak since the last `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{field}:")[2].split()[0]) / 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


ENDLESS = 1_000_000_000  # times
# Asks for a path again and again; prints a line for each response. Reads it piece by piece.
CLIENT = """
import http.client, sys
port, path, key, times = sys.argv[1:]
for _ in range(int(times)):
    connection = http.client.HTTPConnection("127.0.0.1", int(port))
    connection.request("GET", path, headers={"x-api-key": key})
    response = connection.getresponse()
    assert response.status < 500
    while response.read(65536):
        pass
    connection.close()
    print(flush=True)
"""


class Greedy:
    """A client that repeats a request a number of times, or until the block ends."""

    def __init__(self, server: Contender, path: str, times: int = ENDLESS) -> None:
        command = [PYTHON, "-c", CLIENT, str(server.port), path, KEYS[0], str(times)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.responses = 0  # counted at the end

    def __enter__(self) -> Greedy:
        return self

    def works(self) -> bool:
        """Return whether it has requests left to send."""
        return self.process.poll() is None

    def __exit__(self, *_: object) -> None:
        if self.process.poll():
            raise SystemExit("the client that asks for much failed")
        self.process.kill()
        output, _ = self.process.communicate()
        self.responses = len(output)


def p99_beside(server: Contender, path: str, times: int = ENDLESS, seconds: float = 1) -> float:
    """Return how many milliseconds a client waits, at the 99th percentile.

    Another one asks for `path` at the same time, so many times, or for so many seconds.
    """
    took, until = [], time.monotonic() + seconds
    with Greedy(server, path, times) as greedy:
        while greedy.works() and time.monotonic() < until:
            asked = time.perf_counter()
            server.get("/accounts/1")
            took.append((time.perf_counter() - asked) * 1000)
            time.sleep(0.002)
    return sorted(took)[int(len(took) * 0.99)]
