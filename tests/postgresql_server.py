"""A PostgreSQL server for tests and benchmarks, which ends with the process that started it."""

from __future__ import annotations

import contextlib
import functools
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import types
import uuid
from pathlib import Path
from typing import Any

from this_system import SIMULATED, read_line

TIMEOUT = 30  # seconds for anything that its own programs do
# Quicker than TRUNCATE, which makes new files.
EMPTY = """
DO $$ BEGIN
    IF to_regclass('account') IS NOT NULL THEN
        DELETE FROM usage_month; DELETE FROM usage; DELETE FROM account;
        PERFORM setval('account_fense_account_id_seq', 1, FALSE);
    END IF;
END $$
"""


def find_program(name: str) -> str | None:
    """The path of a program; Debian keeps some of them out of PATH."""
    folders = [os.environ["PATH"], "/usr/sbin", *glob.glob("/usr/lib/postgresql/*/bin")]
    return shutil.which(name, path=":".join(folders))


class PostgreSQL:
    """A PostgreSQL server on a free port of this machine, with its own folder.

    It is run by an ordinary user, as it refuses root. `settings` are its own: "fsync=on". With a
    `primary` it is a standby of that server, until it is promoted.
    """

    def __init__(self, *settings: str, primary: PostgreSQL | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fense-postgresql-"))
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = sock.getsockname()[1]
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self.user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(self.folder, "nobody", "nogroup")
        self.settings = ["fsync=off", "unix_socket_directories=", "listen_addresses=127.0.0.1"]
        self.settings += [f"port={self.port}", "max_connections=200"]
        self.settings += ["dynamic_shared_memory_type=mmap", *settings]  # within its folder
        self._name()
        if primary is None:
            options = ["-U", "fense", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]
            self._run("initdb", "-D", self.data, "--no-sync", *options)
        else:
            options = ["-d", primary.url, "-R", "-c", "fast"]
            self._run("pg_basebackup", "-D", self.data, "--no-sync", *options)
        self.start()

    def _name(self) -> None:
        self.data = self.folder / "data"
        self.url = f"postgresql://fense@127.0.0.1:{self.port}/postgres"

    def _run(self, name: str, *arguments: Any) -> None:
        with open(self.folder / "output", "a") as output:
            command = [find_program(name), *map(str, arguments)]
            code = subprocess.call(
                command, stdout=output, stderr=output, cwd=self.folder, timeout=TIMEOUT, **self.user
            )
        assert code == 0, (self.folder / "output").read_text()

    def start(self) -> None:
        options = " ".join(f"-c {setting}" for setting in self.settings)
        self._run(
            "pg_ctl", "-D", self.data, "-w", "-o", options, "-l", self.folder / "log", "start"
        )

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def kill(self) -> None:
        """End it as if its machine were lost."""
        file = self.data / "postmaster.pid"
        shared_memory = file.read_text().splitlines()[6].split()[1]
        self.signal(signal.SIGKILL)
        file.unlink()
        subprocess.check_call(["ipcrm", "-m", shared_memory])  # which would outlive it

    def promote(self) -> None:
        """Promote a standby to a primary."""
        self._run("pg_ctl", "-D", self.data, "-w", "promote")

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def signal(self, signum: int) -> None:
        """Send it to the server and all its processes."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for pid in (self.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def freeze(self) -> None:
        """Make it unresponsive until `thaw`."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def execute(self, *statements: str) -> list[Any]:
        """Run statements as its owner. Return the rows of the last one."""
        import psycopg  # late: who starts it may do without

        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def empty(self) -> str:
        """Remove all accounts from its database; return the URL."""
        import psycopg

        try:
            self._owner.execute(EMPTY)
        except psycopg.OperationalError:  # the server was stopped or killed since
            self._disconnect()
            self._owner.execute(EMPTY)
        return self.url

    @functools.cached_property
    def _owner(self) -> Any:
        """A connection that stays open, because hundreds of tests empty the database."""
        import psycopg

        return psycopg.connect(self.url, autocommit=True)

    def _disconnect(self) -> None:
        owner = self.__dict__.pop("_owner", None)
        if owner is not None:
            owner.close()

    def new(self) -> str:
        """The URL of a new schema, without tables."""
        name = f"s{uuid.uuid4().hex}"
        self.execute(f"CREATE SCHEMA {name}")
        return f"{self.url}?options=-csearch_path%3D{name}"

    def close(self) -> None:
        self._disconnect()
        with contextlib.suppress(FileNotFoundError):  # where it was stopped or killed
            self.thaw()
            self.stop()
        shutil.rmtree(self.folder)


class Elsewhere(PostgreSQL):
    """A server started by another process, on real Linux, while this one simulates another system."""

    def __init__(self, *settings: str, primary: PostgreSQL | None = None) -> None:
        more = [f"--primary={primary.url}"] if primary else []
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SIMULATED_")}
        self._process = subprocess.Popen(
            [sys.executable, __file__, *settings, *more],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.port, self.folder = int(self._read()), Path(self._read())
        self._name()

    def _read(self) -> str:
        line: str = read_line(self._process.stdout, TIMEOUT)
        assert line, "no answer from the process that runs PostgreSQL"
        return line.strip()

    def _ask(self, name: str, *arguments: Any) -> None:
        assert self._process.stdin
        print(json.dumps([name, *arguments]), file=self._process.stdin, flush=True)
        assert self._read() == "done"

    def _run(self, name: str, *arguments: Any) -> None:
        self._ask("_run", name, *map(str, arguments))

    def start(self) -> None:
        self._ask("start")

    def stop(self, mode: str = "immediate") -> None:
        self._ask("stop", mode)

    def kill(self) -> None:
        self._ask("kill")

    def promote(self) -> None:
        self._ask("promote")

    def freeze(self) -> None:
        self._ask("freeze")

    def thaw(self) -> None:
        self._ask("thaw")

    def close(self) -> None:
        self._disconnect()
        self._process.communicate(timeout=TIMEOUT)


def serve_elsewhere() -> None:
    """Run a server until standard input ends, and obey the commands from there."""
    settings = [text for text in sys.argv[1:] if not text.startswith("--primary=")]
    urls = [text.partition("=")[2] for text in sys.argv[1:] if text not in settings]
    primary: Any = types.SimpleNamespace(url=urls[0]) if urls else None
    with contextlib.closing(PostgreSQL(*settings, primary=primary)) as server:
        print(server.port, server.folder, sep="\n", flush=True)
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            getattr(server, name)(*arguments)
            print("done", flush=True)


def start_server(*settings: str, primary: PostgreSQL | None = None) -> PostgreSQL:
    """A new server. (One is started as another user, which Windows can't.)"""
    return (Elsewhere if SIMULATED else PostgreSQL)(*settings, primary=primary)


if __name__ == "__main__":
    serve_elsewhere()
