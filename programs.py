"""Start programs for `exec`: find them like a shell, and end them when this process ends."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence

from fense_admin import systems

BATCH_FILES = (".bat", ".cmd")
PLAIN = re.compile(r"[\w#$*+./:?@\\-]+", re.ASCII)  # characters that cmd.exe takes literally
# Replaces "%": an empty expansion, so that cmd.exe doesn't look for a variable.
PERCENT = "%%cd:~,%"


def start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a command. Raises `OSError`; `ValueError` if a batch file can't take an argument."""
    if systems.FINDS_BY_PATHEXT:
        path = find(command[0])
        if path is None:
            raise FileNotFoundError
        if path.lower().endswith(BATCH_FILES):
            line, shell = batch_line(path, command[1:]), os.environ.get("COMSPEC", "cmd.exe")
            process = subprocess.Popen(line, executable=shell, env=environment)
        else:
            process = subprocess.Popen([path, *command[1:]], env=environment)
    else:
        process = subprocess.Popen(command, env=environment)
    systems.end_with_this_process(process)
    return process


def wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process to end. Return its exit code, or 128 + n if signal n ended it."""
    code = systems.exit_code(process.wait())
    systems.let_go(process)
    return code


def find(name: str) -> str | None:
    """Return the path of a program, trying the endings in PATHEXT: `npm` is `npm.cmd`."""
    endings = os.environ.get("PATHEXT", ".COM;.EXE;.BAT;.CMD").split(os.pathsep)
    if name.lower().endswith(tuple(ending.lower() for ending in endings if ending)):
        endings = [""]
    folders = [""]  # the working directory, which cmd.exe searches first
    if not os.path.dirname(name):
        folders += os.environ.get("PATH", "").split(os.pathsep)
    for folder in folders:
        for ending in endings:
            path = os.path.abspath(os.path.join(folder.strip('"'), name + ending))
            if os.path.isfile(path):
                return path
    return None


def batch_line(path: str, arguments: Sequence[str]) -> str:
    """Return the command line for cmd.exe to run a batch file with exactly these arguments.

    Raises `ValueError` for an argument that can't be passed.
    """
    words = [f'"{path}"', *map(quoted_for_batch, arguments)]
    # /d: no AutoRun; /e:on: PERCENT works; /v:off: "!" is itself.
    return f'cmd.exe /d /e:on /v:off /c "{" ".join(words)}"'


def quoted_for_batch(argument: str) -> str:
    if re.search(r"[\0\r\n]", argument):
        raise ValueError("a batch file takes no argument with a line break")
    if PLAIN.fullmatch(argument) and not argument.endswith("\\"):
        return argument
    # Backslashes are doubled before a quotation mark, and quotation marks within quotes.
    text = re.sub(r'(\\*)"', r'\1\1""', argument)
    text = re.sub(r"(\\+)\Z", r"\1\1", text)
    return f'"{text.replace("%", PERCENT)}"'
