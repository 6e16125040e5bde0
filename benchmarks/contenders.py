"""The servers that are compared, each in a process of its own."""

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
    """A server in a process of its own, its log in a file, its data in another."""

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
        """What wrk reports of so many seconds of such requests; times in milliseconds."""
        headers = [part for name, value in HEADERS.items() for part in ("-H", f"{name}: {value}")]
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", *headers]
        command += ["-s", str(HERE / "load.lua"), f"http://127.0.0.1:{self.port}"]
        command += ["--", kind, str(accounts), f"{time.time_ns():x}"]
        os.sync()  # so that none waits for the disk to write what another has left
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        report = json.loads(printed.splitlines()[-1])
        if report["failed"]:
            raise SystemExit(f"{self.name} failed {report['failed']} requests of {kind}")
        return report

    def resident(self) -> float:
        """The memory it holds, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024
