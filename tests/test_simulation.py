"""Windows and macOS, simulated on Linux: see tests/systems, and make test-systems."""

import os
import subprocess
import sys
import types

import pytest
import this_system
from conftest import CHECKOUT, TIMEOUT, WITHOUT_DRIVER, few

pytestmark = pytest.mark.needs("a real Linux")
SYSTEMS = CHECKOUT / "tests" / "systems"


def run(system, *arguments, cwd=None):
    """Run Python on a simulated system, and return its output."""
    environment = os.environ | {
        "SIMULATED_SYSTEM": system,
        "PYTHONPATH": os.pathsep.join([str(SYSTEMS), WITHOUT_DRIVER]),
    }
    ended = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=TIMEOUT,
    )
    return ended.stdout + ended.stderr


@pytest.mark.parametrize("system", few(["windows", "macos"]))
def test_it_serves_stops_and_has_a_control_plane(system):
    assert run(system, SYSTEMS / "smoke.py") == "fine\n"


# How each thing fails on Windows that it does otherwise.
DIFFERENT = """
import os, select, signal, socket, subprocess, sys
def refused(work, *kinds):
    try:
        work()
    except kinds or OSError as error:
        return
    raise AssertionError(work)
read, write = os.pipe()
refused(lambda: select.select([read], [], [], 0))
refused(lambda: select.select([], [], [], 0))
with socket.socket() as sock:
    refused(lambda: os.read(sock.fileno(), 1))
    refused(lambda: select.select([sock] * 513, [], [], 0), ValueError)
refused(lambda: os.open(".", os.O_RDONLY), PermissionError)
with open("file", "wb"):
    refused(lambda: os.replace("file", "other"), PermissionError)
    refused(lambda: os.unlink("file"), PermissionError)
open("other", "wb").close()
refused(lambda: os.rename("file", "other"), FileExistsError)
with open("file", "rb") as file:
    refused(lambda: os.fsync(file))
refused(lambda: open("a:b", "w"))
refused(lambda: subprocess.run("exit 0", shell=True), FileNotFoundError)
refused(lambda: subprocess.run(["x"], start_new_session=True), ValueError)
refused(lambda: signal.signal(1, signal.SIG_DFL), ValueError)
process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
refused(lambda: process.send_signal(signal.SIGINT), ValueError)
process.terminate()
assert process.wait() == 1
for name in "os.fork os.geteuid signal.SIGHUP select.poll select.PIPE_BUF socket.AF_UNIX".split():
    holder, _, attribute = name.partition(".")
    assert not hasattr(sys.modules[holder], attribute), name
refused(lambda: __import__("fcntl"), ImportError)
print(sys.platform, os.name)
"""


def test_the_simulation_behaves_like_windows(tmp_path):
    assert run("windows", "-c", DIFFERENT, cwd=tmp_path) == "win32 nt\n"


def test_the_needs_of_tests_are_named_and_few(monkeypatch):
    def item(*needs, **more):
        marker = pytest.mark.needs(*needs, **more).mark
        return types.SimpleNamespace(nodeid=f"test[{needs}]", iter_markers=lambda name: [marker])

    monkeypatch.setitem(this_system.NEEDS, "wings", False)
    bird = item("wings")
    assert this_system.sort_out([bird, item("fork")])[1] == {"test": "wings"}
    for wrong in (item(), item("something else"), item("wings", reason="it flies")):
        with pytest.raises(pytest.UsageError):
            this_system.sort_out([wrong])
    monkeypatch.setattr(this_system, "MOST_LEFT_OUT", 0)
    with pytest.raises(pytest.UsageError, match="1 tests are left out here, 0 may be"):
        this_system.sort_out([bird])
