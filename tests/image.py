"""The image of the Dockerfile, built and run without a registry: `make test-image`, as root.

Its base is made from Debian's packages, which takes a minute; so this is no part of `make test`.
"""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import CHECKOUT, Process, account_fields, copy_checkout, free_port, run_program, tools

KEY = "image-master-key-1a2b"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
# What a build needs to reach a package index from here.
SETTINGS = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf", "/etc/xdg/pip"]

run = functools.partial(run_program, timeout=300)


@pytest.fixture(scope="module")
def buildah(tmp_path_factory):
    """The command, with a storage of its own."""
    tools("buildah", "debootstrap")
    folder = tmp_path_factory.mktemp("storage")
    root, state = folder / "root", folder / "run"
    yield ["buildah", "--root", root, "--runroot", state, "--storage-driver", "vfs"]
    shutil.rmtree(folder)


def debian_release():
    """The Debian release of this machine and where its packages come from; else the default."""
    lists = ["Identifier: Packages", "Origin: Debian", "Component: main"]
    listing = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", *lists]
    listed = [line.split() for line in run(*listing, cwd="/").splitlines()]
    releases = [pair for pair in listed if "-" not in pair[0]]  # nor its updates
    return releases[0] if releases else ["stable"]


@pytest.fixture(scope="module")
def build(buildah, tmp_path_factory):
    """Makes the image that `docker build .` makes of a clone; gives a container of it."""
    base, clone = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("clone")
    release = debian_release()
    run(
        *("debootstrap", "--variant=minbase", f"--include={PACKAGES}", release[0], base),
        *release[1:],
        cwd=base,
    )
    for path in filter(os.path.exists, SETTINGS):
        run("cp", "-rL", "--parents", path, base, cwd=base)
    made = run(*buildah, "from", "scratch", cwd=base).strip()
    run(*buildah, "add", "--quiet", made, base, "/", cwd=base)
    run(*buildah, "commit", "--quiet", made, "localhost/base", cwd=base)
    shutil.rmtree(base)
    copy_checkout(clone)

    def build(name, *options):
        options = [*options, "--isolation", "chroot", "--format", "docker", "-t", name]
        run(*buildah, "bud", "--build-arg", "BASE=localhost/base", *options, ".", cwd=clone)
        return run(*buildah, "from", f"localhost/{name}", cwd=clone).strip()

    return build


@pytest.fixture(scope="module")
def container(build):
    return build("fense-admin")


class Contained(Process):
    """A command in a container. Signals go to itself, as Docker sends them, not to buildah."""

    def innermost(self):
        pid = self.process.pid
        while children := [
            int(child)
            for thread in Path(f"/proc/{pid}/task").iterdir()
            for child in (thread / "children").read_text().split()
        ]:
            (pid,) = children
        return pid

    def stop(self):
        """Send SIGTERM; gives the exit code."""
        os.kill(self.innermost(), signal.SIGTERM)
        return self.end(None)[0]

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.kill(self.innermost(), signal.SIGKILL)
        super().__exit__(*_)


@pytest.fixture
def start(buildah, container, tmp_path):
    """Starts the command in the container, or in another one."""
    # A container of buildah's has the network of its host.
    common = [f"--env=DISPUTE_MASTER_KEY={KEY}", f"--env=FENSE_ADMIN_PORT={free_port()}"]

    def start(*arguments, container=container, settings=(), name="stderr"):
        inside = [*map(str, buildah), "run", "--isolation", "chroot", *common, *settings, container]
        command = [*inside, "--", "fense-admin"]
        return Contained(tmp_path, *arguments, command=command, name=name)

    return start


def test_it_is_small_and_runs_as_an_ordinary_user(buildah, container, tmp_path):
    inspected = json.loads(run(*buildah, "inspect", container, cwd=tmp_path))
    config = inspected["Docker"]["config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["fense-admin"]
    assert config["Healthcheck"]["Test"] == ["CMD", "fense-admin", "health"]
    assert list(config["Volumes"]) == [config["WorkingDir"]] == ["/data"]
    folder = Path(run(*buildah, "mount", container, cwd=tmp_path).strip(), "fense-admin")
    size = sum(file.stat().st_size for file in folder.rglob("*") if not file.is_symlink())
    assert size < 6 * 2**20


@pytest.fixture
def run_as_docker_does(buildah, container, tmp_path):
    """Starts the image's entry point as process 1, as Docker does; buildah without a runtime can't.

    Returns the process, the exit code of the image's health check, and the image's /data.
    """
    config = json.loads(run(*buildah, "inspect", container, cwd=tmp_path))["Docker"]["config"]
    root = run(*buildah, "mount", container, cwd=tmp_path).strip()
    variables = [*config["Env"], f"DISPUTE_MASTER_KEY={KEY}"]
    mount = f'mount -t proc proc {root}/proc && exec "$@"'
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", mount, "sh"]
    data = Path(root, "data")
    with contextlib.ExitStack() as stack:

        def start(*arguments, user=config["User"]):
            inside = ["chroot", f"--userspec={user}", root]
            inside += ["/usr/bin/env", "-C", config["WorkingDir"], "-i", *variables]
            command = [*namespaces, *inside, *config["Entrypoint"]]
            service = stack.enter_context(Contained(tmp_path, *arguments, command=command))
            service.ready()
            enter = ["nsenter", f"--target={service.innermost()}", "--mount", "--pid"]
            check = [*enter, *inside, *config["Healthcheck"]["Test"][1:]]
            return service, subprocess.run(check, timeout=30).returncode, data

        yield start
    for path in data.iterdir():
        path.unlink()


@pytest.mark.parametrize("flags", [["--port"], ["--host=127.0.0.1", "--quiet", "--port"]])
def test_it_is_healthy_on_a_port_that_a_flag_gives(run_as_docker_does, flags):
    service, health, _ = run_as_docker_does(*flags, str(free_port()))
    assert health == 0
    assert service.stop() == 0


def test_it_runs_as_an_arbitrary_user_of_group_0(run_as_docker_does):
    user = 1_000_660_000  # such as OpenShift chooses
    service, _, data = run_as_docker_does("--port", str(free_port()), user=f"{user}:0")
    assert service.call("/accounts", account_fields(), KEY)[0] == 201
    assert service.stop() == 0
    assert (data / "fense-admin.sqlite3").stat().st_uid == user


def test_it_serves_and_ends_with_its_file_intact(start):
    for accounts in (1, 2):  # the second time, over the file of the first
        with start() as service:
            service.ready()
            assert service.call("/accounts", account_fields(), KEY)[0] == 201
            usage = service.call("/accounts/usage", key=KEY)[1]
            assert len(usage["accounts"]) == accounts
            with start("health", name="health") as health:  # the image's own check
                assert health.end(None)[0] == 0
            assert service.stop() == 0


def test_it_serves_as_in_compose_yaml(start):
    compose = (CHECKOUT / "compose.yaml").read_text()
    (command,) = (line.partition(":")[2] for line in compose.splitlines() if "command:" in line)
    with start(*json.loads(command)) as service:
        service.ready()
        assert len(service.call("/_standin/state", key=KEY)[1]["accounts"]) == 12
        assert service.stop() == 0


def test_with_the_extra_it_serves_a_postgresql_server(start, build, postgresql):
    container = build("fense-admin-postgresql", "--build-arg", "EXTRAS=[postgresql]")
    settings = [f"--env=FENSE_ADMIN_DATABASE={postgresql.empty()}"]
    with start(container=container, settings=settings) as service:
        service.ready()
        assert service.call("/accounts", account_fields(), KEY)[0] == 201
        assert service.stop() == 0
    assert postgresql.execute("SELECT count(*) FROM account") == [(1,)]
