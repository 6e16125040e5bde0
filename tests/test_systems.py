"""systems.py hides the differences between operating systems.

These run as on Linux and, within this process, as on Windows and macOS. tests/systems simulates more.
"""

import importlib.util
import os
import select
import signal
import socket
import sys
import threading
import time

import pytest
from conftest import CHECKOUT, TIMEOUT, wait_until

from fense_admin import programs, settings

NOT_THERE = {"win32": ["poll", "PIPE_BUF", "POLLRDHUP"], "darwin": ["POLLRDHUP"], "linux": []}
# What this system can be like: one that has less than it.
PLATFORMS = [*NOT_THERE][: [*NOT_THERE].index(sys.platform) + 1]


def systems_of(platform, monkeypatch):
    """systems.py as it is there. The test goes on with what there is."""
    monkeypatch.setattr(sys, "platform", platform)
    for name in NOT_THERE[platform]:
        monkeypatch.delattr(select, name, raising=False)
    spec = importlib.util.spec_from_file_location("another_system", CHECKOUT / "systems.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=PLATFORMS)
def systems(request, monkeypatch):
    return systems_of(request.param, monkeypatch)


@pytest.fixture
def windows(monkeypatch):
    return systems_of("win32", monkeypatch)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


# --- Sockets -----------------------------------------------------------------------------------


def test_it_waits_until_a_socket_is_ready(systems, pair):
    ours, theirs = pair
    number, read, write = ours.fileno(), systems.READ, systems.WRITE
    assert systems.wait_for({number: read}, 0) == {}
    assert systems.wait_for({number: read | write}, TIMEOUT) == {number: write}
    theirs.sendall(b"x")
    assert systems.wait_for({number: read}, float("inf")) == {number: read}
    assert systems.wait_for({number: read | write}, TIMEOUT) == {number: read | write}
    assert systems.wait_for({}, 0) == {}
    theirs.close()
    assert systems.wait_for({number: read}, TIMEOUT) == {number: read}


def test_a_connection_that_fails_is_ready_on_windows_too(windows, monkeypatch):
    # There `select` has it in the last of its lists alone.
    monkeypatch.setattr(
        select, "select", lambda readers, writers, others, timeout: ([], [], others)
    )
    assert windows.wait_for({7: windows.WRITE, 8: windows.READ}, 1) == {7: windows.WRITE}


def test_a_disconnected_client_is_noticed(systems, pair):
    ours, theirs = pair
    assert not systems.has_gone(ours)
    theirs.close()
    assert systems.has_gone(ours)
    ours.close()  # as the loop may, while a worker asks
    assert systems.has_gone(ours)


def test_peek_neither_consumes_nor_waits(systems, pair):
    ours, theirs = pair
    assert systems.peek(ours) is None
    theirs.sendall(b"xy")
    assert systems.peek(ours) == systems.peek(ours) == b"x"
    assert not systems.has_gone(ours)
    assert ours.recv(9) == b"xy"
    theirs.close()
    assert systems.peek(ours) == b""
    ours.close()
    assert systems.peek(ours) == b""


def test_windows_serves_no_more_connections_than_select_takes(windows, monkeypatch):
    monkeypatch.setattr(settings, "systems", windows)
    settings.Limits()
    with pytest.raises(ValueError, match=r"^the limit connections must be at most 500 on this"):
        settings.Limits(connections=501)


# --- Output ------------------------------------------------------------------------------------


def read_rest(descriptor):
    with open(descriptor, "rb") as file:
        return file.read()


def test_output_never_blocks(systems):
    reader, writer = os.pipe()
    output = systems.Output(writer)
    line, taken = b"x" * 999 + b"\n", 0
    began = time.monotonic()
    while output.write(line) == len(line):
        taken += 1
        assert taken < 10_000
    output.flush(0.01)
    assert time.monotonic() - began < 5
    rest = []
    reading = threading.Thread(target=lambda: rest.append(read_rest(reader)))
    reading.start()
    wait_until(lambda: output.write(b"end\n", 0.1) == 4)  # there is room again
    output.flush(TIMEOUT)
    os.close(writer)
    reading.join(TIMEOUT)
    assert rest[0].startswith(line * taken)
    assert rest[0].endswith(b"end\n")


def test_failing_output_is_not_fatal(windows):
    reader, writer = os.pipe()
    os.close(reader)
    output = windows.Output(writer)
    assert output.write(b"x") == 1
    output.flush(TIMEOUT)
    assert output.write(b"x") == 1
    os.close(writer)


# --- Processes ---------------------------------------------------------------------------------


def test_closing_the_console_of_windows_comes_as_ctrl_break(windows, monkeypatch):
    import ctypes

    came, handlers, sleeps = [], [], []

    class Library:
        def __init__(self, name):
            assert name == "kernel32"

        def SetConsoleCtrlHandler(self, handler, is_added):
            handlers.append(handler)

    for name, value in (("CTRL_C_EVENT", 0), ("CTRL_BREAK_EVENT", 1), ("SIGBREAK", signal.SIGTERM)):
        monkeypatch.setattr(signal, name, value, raising=False)
    monkeypatch.setattr(ctypes, "WinDLL", Library, raising=False)
    monkeypatch.setattr(ctypes, "WINFUNCTYPE", ctypes.CFUNCTYPE, raising=False)
    sleep, own = time.sleep, threading.current_thread()

    def sleep_or_note(seconds):  # threads of other tests may still be ending
        sleeps.append(seconds) if threading.current_thread() is own else sleep(seconds)

    monkeypatch.setattr(time, "sleep", sleep_or_note)
    before = signal.signal(signal.SIGTERM, lambda signum, _: came.append(signum))
    try:
        windows.take_console_events()
        (handle,) = handlers
        assert handle(0) == handle(1) == 0  # the C library's handler is next
        assert (came, sleeps) == ([], [])
        assert handle(2) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]
    assert sleeps[0] > 5  # until Windows ends the process


def test_the_exit_code_of_a_process_is_passed_on(systems):
    ended, code = (0xC000013A, -1073741510) if sys.platform == "win32" else (-9, 137)
    assert [systems.exit_code(it) for it in (0, 7, ended)] == [0, 7, code]


@pytest.mark.needs("fork")  # as it is where `resource` is
@pytest.mark.parametrize(
    ("soft", "hard", "raised"), [(256, -1, 1024), (256, 512, 512), (256, 4096, 1024), (2048, -1, 0)]
)
def test_macos_lets_a_service_open_files_for_its_connections(monkeypatch, soft, hard, raised):
    import resource

    limits = []
    monkeypatch.setattr(resource, "RLIM_INFINITY", -1)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, both: limits.append(both))
    systems_of("darwin", monkeypatch).allow_open_files()
    assert limits == [(raised, hard)] * bool(raised)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Two folders in PATH, beside the working one, and how names end on Windows."""
    for name in ("here", "one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folders = [str(tmp_path / "one"), f'"{tmp_path / "two"}"']  # quoted, as some are there
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    monkeypatch.setenv("PATHEXT", os.pathsep.join([".COM", ".exe", ".CMD"]))
    return tmp_path


@pytest.mark.parametrize(
    ("files", "name", "found"),
    [
        ("one/npm one/npm.CMD two/npm.exe", "npm", "one/npm.CMD"),  # npm is a script of Unix
        ("one/npm two/npm.exe", "npm", "two/npm.exe"),
        ("one/x.CMD one/x.exe", "x", "one/x.exe"),
        ("one/x.CMD one/x.exe", "x.CMD", "one/x.CMD"),
        ("one/python3.11.exe", "python3.11", "one/python3.11.exe"),
        ("here/x.CMD one/x.CMD", "x", "here/x.CMD"),  # as cmd.exe has it
        ("here/bin/x.CMD one/x.CMD", "bin/x", "here/bin/x.CMD"),
        ("one/x.CMD", "./x", None),
        ("one/x", "x", None),
        ("one/x.CMD/y", "x", None),  # a folder
    ],
)
def test_a_command_is_found_by_the_endings_in_pathext(path, files, name, found):
    for file in files.split():
        (path / file).parent.mkdir(exist_ok=True)
        (path / file).touch()
    assert programs.find(name) == (found and str(path / found))


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        ("plain-1.2", "plain-1.2"),
        ("--grep=x", '"--grep=x"'),
        ("", '""'),
        ("a b", '"a b"'),
        ("a&b", '"a&b"'),
        ("^", '"^"'),
        ("é", '"é"'),
        ('say "x"', '"say ""x"""'),
        ('a\\"b', '"a\\\\""b"'),
        ("C:\\x\\", '"C:\\x\\\\"'),
        ("C:\\x", "C:\\x"),
        ("%PATH%", '"%%cd:~,%PATH%%cd:~,%"'),
    ],
)
def test_a_batch_file_gets_its_arguments_unchanged(argument, quoted):
    line = programs.batch_line("C:\\a b\\npm.cmd", [argument, "x"])
    assert line == f'cmd.exe /d /e:on /v:off /c ""C:\\a b\\npm.cmd" {quoted} x"'


@pytest.mark.parametrize("argument", ["a\nb", "a\rb", "a\0b"])
def test_invalid_arguments_of_a_batch_file_are_rejected(argument):
    with pytest.raises(ValueError, match=r"^a batch file takes no argument with a line break$"):
        programs.batch_line("x.cmd", [argument])


def test_exec_runs_a_batch_file_with_the_shell_of_windows(path, monkeypatch):
    (path / "one" / "npm.CMD").touch()
    monkeypatch.setattr(programs.systems, "FINDS_BY_PATHEXT", True)
    monkeypatch.setenv("COMSPEC", "C:\\Windows\\system32\\cmd.exe")
    started = []
    monkeypatch.setattr(
        programs.subprocess, "Popen", lambda *a, **options: started.append((a, options))
    )
    monkeypatch.setattr(programs.systems, "end_with_this_process", started.append)
    programs.start(["npm", "a b"], {"x": "y"})
    assert started.pop() is None  # what the other one returned
    assert started == [
        (
            (programs.batch_line(str(path / "one" / "npm.CMD"), ["a b"]),),
            {"executable": "C:\\Windows\\system32\\cmd.exe", "env": {"x": "y"}},
        )
    ]
    with pytest.raises(FileNotFoundError):
        programs.start(["no-such-command"], {})


def test_a_console_without_a_character_gets_its_number(start):
    host = "".join(chr(ord(letter) - ord("a") + 0xFF41) for letter in "localhost")  # as in Japan
    service = start("--host", host, "--port=0", "--database=:memory:", PYTHONIOENCODING="ascii")
    line = service.process.stdout.readline()
    assert r"url=http://\uff4c\uff4f\uff43" in line
    assert "Traceback" not in service.end()[2]
    wrong = ("record", "1", "1", "--database=d\xe9mo")
    code, out, errors = start(*wrong, PYTHONIOENCODING="ascii").end(None)
    assert (code, out) == (1, "")
    assert "database file d\xe9mo: " in errors
