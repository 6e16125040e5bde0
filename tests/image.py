"""The image of the Dockerfile, built and run without a registry: `make test-image`, as root.

Its base is made from Debian's packages, which takes a minute; so this is no part of `make test`.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
from conftest import CHECKOUT, tools

KEY = "image-master-key-1a2b"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
MIRROR = "http://deb.debian.org/debian"
# What a build needs to reach a package index from here.
SETTINGS = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf", "/etc/xdg/pip"]


def run(*command, cwd=None, timeout=300):
    result = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=timeout
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """buildah, with a storage of its own."""
    tools("buildah", "debootstrap")
    folder = tmp_path_factory.mktemp("storage")
    yield ["buildah", "--root", folder / "root", "--runroot", folder / "run",
           "--storage-driver", "vfs"]  # fmt: skip
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def buildah(storage):
    return lambda *words, **options: run(*storage, *words, **options)


@pytest.fixture(scope="module")
def image(buildah, tmp_path_factory):
    """The image's name, built as `docker build .` would from what git knows."""
    base = tmp_path_factory.mktemp("base")
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "stable", base, MIRROR)
    for path in filter(os.path.exists, SETTINGS):
        run("cp", "-rL", "--parents", path, base)
    made = buildah("from", "scratch").strip()
    buildah("add", "--quiet", made, base, "/")
    buildah("commit", "--quiet", made, "localhost/base")
    clone = tmp_path_factory.mktemp("clone")
    for name in run("git", "ls-files", "-co", "--exclude-standard", cwd=CHECKOUT).splitlines():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_bytes((CHECKOUT / name).read_bytes())
    options = "--isolation chroot --format docker --build-arg BASE=localhost/base -t fense-admin"
    buildah("bud", *options.split(), ".", cwd=clone)
    yield "localhost/fense-admin"
    shutil.rmtree(base)


def test_it_is_small_and_runs_as_an_ordinary_user(buildah, image):
    inspected = json.loads(buildah("inspect", "--type", "image", image))
    config = inspected["Docker"]["config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["fense-admin"]
    assert config["Healthcheck"]["Test"] == ["CMD", "fense-admin", "health"]
    assert list(config["Volumes"]) == [config["WorkingDir"]] == ["/data"]
    made = buildah("from", image).strip()
    folder = Path(buildah("mount", made).strip(), "fense-admin")
    size = sum(file.stat().st_size for file in folder.rglob("*") if not file.is_symlink())
    assert size < 6 * 2**20


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def call(url, body=None):
    headers = {"x-api-key": KEY, "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status, json.load(answer)


@pytest.fixture
def container(storage, buildah, image):
    """Starts `fense-admin` in a container of the image; ends it at the end."""
    made = buildah("from", image).strip()
    processes = []

    def start(*arguments):
        command = [*storage, "run", "--isolation", "chroot"]
        command += ["--env", f"DISPUTE_MASTER_KEY={KEY}", made, "--", "fense-admin", *arguments]
        processes.append(subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=30)


def service_of(port):
    """The process id of the service that listens on this port in the container."""
    (pid,) = (
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal()
        and (entry / "cmdline").exists()
        and (entry / "cmdline").read_bytes().startswith(b"/fense-admin/bin/python")
        and f"\0--port\0{port}\0".encode() in (entry / "cmdline").read_bytes()
    )
    return pid


def test_it_serves_and_ends_with_its_file_intact(container):
    port = free_port()
    for expected in (1, 2):  # the second time, over the file of the first
        process = container("--port", str(port))
        assert process.stdout.readline().startswith(b"fense-admin ready url=")
        body = {"api_key": f"key-{expected}", "name": "Acme Ltd", "email": "owner@acme.example"}
        status, account = call(f"http://127.0.0.1:{port}/accounts", body)
        assert (status, account["fense_account_id"]) == (201, expected)
        os.kill(service_of(port), signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    process = container("--port", str(port))
    assert process.stdout.readline().startswith(b"fense-admin ready url=")
    usage = call(f"http://127.0.0.1:{port}/accounts/usage")[1]
    assert [account["fense_account_id"] for account in usage["accounts"]] == [1, 2]
    os.kill(service_of(port), signal.SIGTERM)
    assert process.wait(timeout=30) == 0


def test_it_serves_as_in_compose_yaml(container):
    compose = (CHECKOUT / "compose.yaml").read_text()
    (command,) = (line.partition(":")[2] for line in compose.splitlines() if "command:" in line)
    port = free_port()
    process = container(*json.loads(command), "--port", str(port))
    assert process.stdout.readline().startswith(b"fense-admin ready url=")
    state = call(f"http://127.0.0.1:{port}/_standin/state")[1]
    assert len(state["accounts"]) == 12
    os.kill(service_of(port), signal.SIGTERM)
    assert process.wait(timeout=30) == 0
