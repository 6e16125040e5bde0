"""The image of the Dockerfile, built and run by a Docker daemon without a registry: `make test-image`.

The daemon is started here, as root; it needs no other and disturbs none. The image's base is made of
Debian's packages, which takes a minute, so this is not part of `make test`.
"""

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import (
    CHECKOUT,
    TIMEOUT,
    account_fields,
    copy_checkout,
    npm_install,
    run_program,
    tools,
)
from postgresql_server import start_server

from fense_admin import __version__

KEY = "image-master-key-1a2b"
DOCKER = "/usr/bin/docker"  # of the daemon's package: there may be others
(BASE,) = re.findall("^ARG BASE=(.*)", (CHECKOUT / "Dockerfile").read_text(), re.M)
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# In memory: dpkg waits for the disk after each file. The copies are what pip needs to reach an index.
MAKE_BASE = """
set -e
mkdir base
mount -t tmpfs tmpfs base
debootstrap --variant=minbase --include="$1" "$2" base $3
for path in /etc/ssl/certs/ca-certificates.crt /etc/pip.conf /etc/xdg/pip; do
  [ ! -e $path ] || cp -rL --parents $path base
done
cp -r clone base/source
download='chroot base python3 -m pip --quiet download --dest /wheels'
$download --requirement /source/release/libraries.txt
$download --constraint /source/release/postgresql.txt '/source[postgresql]' 'setuptools>=77'
rm -rf base/source base/etc/xdg base/var/lib/apt/lists base/var/cache/apt
printf '[global]\\nno-index = true\\nfind-links = /wheels\\n' >base/etc/pip.conf
tar --create --file base.tar --directory base .
"""

# All that it keeps is in memory: an image's layers are copied often.
NAMESPACES = "unshare --mount --net --pid --fork --kill-child --mount-proc".split()
DAEMON = """
set -e
mkdir -p /etc/docker
mount -t tmpfs tmpfs /etc/docker
mount -t tmpfs tmpfs /run
ip link set lo up
dockerd --data-root=/run/data --host="unix://$PWD/socket" --cgroup-parent="$1" >log 2>&1 &
exec cat
"""

run = functools.partial(run_program, timeout=300)


class Docker:
    """A Docker daemon with mounts, a network and processes of its own.

    They go once its standard input is closed, by `close` or because this process has ended.
    """

    def __init__(self, folder):
        self.folder, self.host = folder, f"unix://{folder}/socket"
        self.group = f"fense-admin-{os.getpid()}"
        command = [*NAMESPACES, "sh", "-c", DAEMON, "sh", f"/{self.group}"]
        self.process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE)

    def wait_until_ready(self):
        deadline = time.monotonic() + TIMEOUT
        command = [DOCKER, "--host", self.host, "version"]
        while subprocess.run(command, capture_output=True, timeout=TIMEOUT).returncode:
            assert self.process.poll() is None
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.1)

    def __call__(self, *arguments, cwd=CHECKOUT):
        """Run a command of Docker; return what it prints."""
        return run(DOCKER, "--host", self.host, *arguments, cwd=cwd).strip()

    def inside(self, *command, cwd=CHECKOUT, **variables):
        """Run a program in the daemon's network, where its ports are; return what it prints."""
        variables |= {"DOCKER_HOST": self.host}
        settings = [f"{name}={value}" for name, value in variables.items()]
        enter = ["nsenter", f"--net=/proc/{self.process.pid}/ns/net"]
        return run(*enter, "env", *settings, *command, cwd=cwd)

    def call(self, path, body=None, key=KEY):
        """Call the service, which has to succeed; return its JSON."""
        sent = ["-H", "Content-Type: application/json", "-d", json.dumps(body)] if body else []
        url = f"http://127.0.0.1:8642{path}"
        return json.loads(self.inside("curl", "-fsS", "-H", f"x-api-key: {key}", *sent, url))

    def inspect(self, name):
        (inspected,) = json.loads(self("inspect", name))
        return inspected

    def wait_until_healthy(self, container):
        """Wait for Docker's own health check of the container."""
        deadline = time.monotonic() + TIMEOUT
        while (state := self.inspect(container)["State"])["Health"]["Status"] != "healthy":
            assert state["Running"], self.inside("sh", "-c", f"{DOCKER} logs {container} 2>&1")
            assert time.monotonic() < deadline, state
            time.sleep(0.1)

    def stop(self, container):
        """Stop it, in seconds and with exit code 0."""
        started = time.monotonic()
        self("stop", container)
        assert time.monotonic() - started < 5
        assert self.inspect(container)["State"]["ExitCode"] == 0

    def close(self):
        try:
            self.process.communicate(timeout=TIMEOUT)
        finally:
            self.process.kill()
        for group in Path("/sys/fs/cgroup").glob(f"**/{self.group}"):
            run("find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";", cwd=CHECKOUT)
        shutil.rmtree(self.folder)


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    tools("dockerd", DOCKER, "docker-compose", "curl", "debootstrap", "ip")
    if os.geteuid():
        pytest.skip("needs root")
    with contextlib.closing(Docker(tmp_path_factory.mktemp("docker"))) as docker:
        docker.wait_until_ready()
        yield docker


def debian_release():
    """The Debian release of this machine and where its packages come from; else the default."""
    lists = ["Identifier: Packages", "Origin: Debian", "Component: main"]
    listing = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", *lists]
    listed = [line.split() for line in run(*listing, cwd=CHECKOUT).splitlines()]
    releases = [pair for pair in listed if "-" not in pair[0]]  # nor its updates
    return releases[0] if releases else ["stable"]


def make_base(folder):
    """Make base.tar in this folder, which has a clone: Debian with what pip would download for it."""
    script = ["unshare", "--mount", "sh", "-c", MAKE_BASE, "sh", PACKAGES, *debian_release()]
    run(*script, cwd=folder, timeout=500)
    return folder / "base.tar"


@pytest.fixture(scope="module")
def clone(docker, tmp_path_factory):
    """A clone, whose Dockerfile finds its base."""
    folder = tmp_path_factory.mktemp("images")
    copy_checkout(folder / "clone")
    base = make_base(folder)
    docker("import", "--change", f"ENV PATH={PATH}", base, BASE)
    base.unlink()
    return folder / "clone"


@pytest.fixture(scope="module")
def image(docker, clone):
    docker("build", "--tag", "fense-admin", ".", cwd=clone)
    return "fense-admin"


def in_environment(variables):
    """The options of `docker run` for these variables."""
    return [f"--env={name}={value}" for name, value in variables.items()]


@pytest.fixture
def start(docker, image):
    """Runs the image until it is healthy; returns the container, which is removed at the end."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, options=(), image=image, port=8642, **settings):
            options = ["--publish", f"{port}:{port}", "--health-interval=0.5s", *options]
            options += in_environment({"DISPUTE_MASTER_KEY": KEY} | settings)
            container = docker("run", "--detach", *options, image, *arguments)
            stack.callback(docker, "rm", "--force", "--volumes", container)
            docker.wait_until_healthy(container)
            return container

        yield start


def test_it_is_small_and_runs_as_an_ordinary_user(docker, start, image):
    inspected = docker.inspect(image)
    config = inspected["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["fense-admin"]
    assert config["Healthcheck"]["Test"] == ["CMD", "fense-admin", "health"]
    assert list(config["Volumes"]) == [config["WorkingDir"]] == ["/data"]
    assert inspected["Size"] - docker.inspect(BASE)["Size"] < 6 * 2**20
    assert docker("exec", start(), "id", "--user") == "10001"


@pytest.mark.parametrize("flags", [[], ["--host=127.0.0.1", "--quiet"]])
def test_it_is_healthy_on_a_port_that_a_flag_gives(docker, start, flags):
    docker.stop(start("--port=8700", *flags, port=8700))


def test_it_runs_as_an_arbitrary_user_of_group_0(docker, start):
    user = "1000660000"  # such as OpenShift chooses
    container = start(options=["--user", f"{user}:0"])
    docker.call("/accounts", account_fields())
    assert docker("exec", container, "stat", "--format=%u", "fense-admin.sqlite3") == user
    docker.stop(container)


@pytest.mark.parametrize("options", [[], ["--read-only", "--tmpfs=/tmp"]])
def test_a_volume_keeps_the_data(docker, start, options):
    options = ["--volume", f"data-{len(options)}:/data", *options]
    for accounts in (1, 2):  # the second time, over the file of the first
        container = start(options=options)
        docker.call("/accounts", account_fields())
        assert len(docker.call("/accounts/usage")["accounts"]) == accounts
        docker.stop(container)
        docker("rm", container)


def test_with_the_extra_it_serves_a_postgresql_server(docker, start, clone, open_folder):
    tools("pg_ctl")
    image = "fense-admin-postgresql"
    docker("build", "--build-arg", "EXTRAS=[postgresql]", "--tag", image, ".", cwd=clone)
    os.chmod(open_folder, 0o777)
    with contextlib.closing(start_server(f"unix_socket_directories={open_folder}")) as server:
        url = f"postgresql://fense@/postgres?host=/postgresql&port={server.port}"
        volume = ["--volume", f"{open_folder}:/postgresql"]
        container = start(image=image, options=volume, FENSE_ADMIN_DATABASE=url)
        docker.call("/accounts", account_fields())
        docker.stop(container)
        assert server.execute("SELECT count(*) FROM account") == [(1,)]


def packages(docker, image):
    """The packages in the image, as name-version, and those whose licence text is there as well."""
    find = ["find", "/fense-admin", "-path", "*.dist-info/*", "-type", "f"]
    files = docker("run", "--rm", "--entrypoint", find[0], image, *find[1:])
    found = [set(re.findall(rf"/([^/]+)\.dist-info/{it}", files)) for it in ("", "(?:.*/)?LICENSE")]
    assert found[0] == found[1]
    return {it.replace("_", "-") for it in found[0]}


def pinned(name):
    """The packages that a file in release/ names, as name-version."""
    listed = (CHECKOUT / "release" / f"{name}.txt").read_text()
    return {"-".join(it) for it in re.findall("^([a-z-]+)==([0-9.]+)", listed, re.M)}


def test_it_has_the_packages_of_a_release_and_their_licences(docker, image, clone):
    always = {f"fense-admin-{__version__}", *pinned("libraries")}
    assert packages(docker, image) == always
    build = ["build", "--quiet", "--build-arg", "EXTRAS=[postgresql]", "."]
    found = packages(docker, docker(*build, cwd=clone))
    # Newer versions of Python do without one of them.
    assert always < found <= always | pinned("postgresql")


def test_make_image_labels_it_with_its_version_and_commit(docker, clone):
    git = functools.partial(run, "git", "-c", "user.name=a", "-c", "user.email=a@b", cwd=clone)
    git("init", "-q")
    git("add", "Dockerfile")
    git("commit", "-qm", "x")
    docker.inside("make", "image", "ARGS=--tag labelled", cwd=clone)
    labels = docker.inspect("labelled")["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.revision"] == git("rev-parse", "HEAD").strip()


def test_compose_yaml_is_up_healthy_and_down(docker, clone, image):
    compose = functools.partial(docker.inside, "docker-compose", cwd=clone)
    (key,) = re.findall("DISPUTE_MASTER_KEY: (.*)", (clone / "compose.yaml").read_text())
    try:
        compose("up", "--detach")
        docker.wait_until_healthy(compose("ps", "--quiet", "fense").strip())
        assert len(docker.call("/_standin/state", key=key)["accounts"]) == 12
    finally:
        compose("down", "--volumes")
    assert docker("ps", "--all", "--quiet") == ""


# testcontainers has another image end what a test leaves, which can't be had without a registry.
WITHOUT_REAPER = {"TESTCONTAINERS_RYUK_DISABLED": "true"}


def test_the_example_of_testcontainers_in_python_passes(docker, clone, image):
    file = "examples/testcontainers/test_billing_in_docker.py"
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    assert "1 passed" in docker.inside(*pytest_, cwd=clone, **WITHOUT_REAPER)
    assert docker("ps", "--all", "--quiet") == ""


def test_the_example_of_testcontainers_in_node_passes(docker, clone, image):
    tools("npm", "node")
    folder = "examples/testcontainers"
    (clone / folder / "node_modules").symlink_to(npm_install(folder))
    node = ["node", "--test", f"{folder}/billing.test.mjs"]
    assert "# pass 1\n" in docker.inside(*node, cwd=clone, **WITHOUT_REAPER)
    assert docker("ps", "--all", "--quiet") == ""


def test_the_example_of_github_actions_passes(docker, start):
    """The service and the steps of the job, as GitHub's runner would start them."""
    job = yaml.safe_load((CHECKOUT / "examples/github-actions.yml").read_text())["jobs"]["test"]
    service = job["services"]["fense"]
    assert service["ports"] == ["8642:8642"]
    start(options=service["options"].split(), **service["env"])
    for step in job["steps"]:
        if "run" in step:
            docker.inside("bash", "-ec", step["run"], **job["env"])


def test_the_example_of_gitlab_ci_passes(docker, start):
    """The service and the job, as GitLab's runner would start them."""
    job = yaml.safe_load((CHECKOUT / "examples/gitlab-ci.yml").read_text())["test"]
    (service,) = job["services"]
    docker("network", "create", "job")
    start(options=["--network=job", "--network-alias", service["alias"]], **service["variables"])
    options = ["--rm", "--network=job", *in_environment(job["variables"])]
    docker("run", *options, job["image"], "sh", "-ec", "\n".join(job["script"]))
