"""What is installed: the wheel looked into, put into an environment of its own, and called."""

import json
import os
import re
import subprocess
import sys
import tarfile
import urllib.request
import venv
import zipfile
from pathlib import Path

import bottle
import pytest

from fense_admin import __version__

CHECKOUT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
FROM_HERE = ["--no-deps", "--no-build-isolation"]  # nothing from the network
LENT = ["bottle.py", "peewee.py", "waitress", "setuptools*", "_distutils_hack"]
MODULES = "__init__ cli control journal models server standin state".split()
PACKAGE = {f"fense_admin/{name}.py" for name in MODULES}
PACKAGE |= {"fense_admin/openapi.json", "fense_admin/schema.sql", "pytest_fense_admin.py"}


def run(*command, cwd):
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The files that git tracks, elsewhere: building must leave nothing behind in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in run("git", "ls-files", "-co", "--exclude-standard", cwd=CHECKOUT).splitlines():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((CHECKOUT / name).read_bytes())
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """The wheel, built from the sdist, as an installer from an index would."""
    folder = tmp_path_factory.mktemp("dist")
    build = "import setuptools.build_meta as b; print(b.build_sdist(__import__('sys').argv[1]))"
    run(sys.executable, "-c", build, str(folder), cwd=source)
    sdist = folder / f"fense_admin-{__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"schema.sql", "openapi.json", "README.md", "LICENSE", "CHANGELOG.md"}
    run(*PIP, "wheel", *FROM_HERE, "-w", str(folder), str(sdist), cwd=folder)
    return folder / f"fense_admin-{__version__}-py3-none-any.whl"


def test_the_wheel_holds_one_package_and_its_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = archive.read(metadata).decode()
    assert {name for name in names if ".dist-info/" not in name} == PACKAGE
    assert re.findall("^Requires-Dist: (bottle|peewee|waitress)", told, re.M) == [
        "bottle",
        "peewee",
        "waitress",
    ]
    assert "Requires-Python: >=3.10" in told


@pytest.fixture(scope="module", params=["wheel", "folder", "editable", "strict editable"])
def installed(request, source, wheel, tmp_path_factory):
    """The python of a new environment in which it is installed."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    # What it needs to be built and run is lent by the environment that runs the tests.
    (packages,) = folder.glob("lib/python*/site-packages")
    for pattern in LENT:
        for path in Path(bottle.__file__).parent.glob(pattern):
            (packages / path.name).symlink_to(path)
    what = {
        "wheel": [wheel],
        "folder": [source],
        "editable": ["-e", source],
        "strict editable": ["-e", source, "--config-settings", "editable_mode=strict"],
    }[request.param]
    run(*PIP, "--python", python, "install", *FROM_HERE, *what, cwd=folder)
    return python


def test_it_serves_from_an_environment_of_its_own(installed, tmp_path):
    # Somebody else's modules of the same names lie in the way.
    for name in ("models", "server", "cli", "state", "control"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not ours')")
    command = [installed.with_name("fense-admin"), "--port=0", "--database=:memory:"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DISPUTE_"))}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        url = re.search(r"url=(\S+)", process.stdout.readline().decode())[1]
        with urllib.request.urlopen(url + "/openapi.json") as answer:
            assert json.load(answer)["info"]["version"] == __version__
        body = {"api_key": "sk_test_packaging", "name": "Acme Ltd", "email": "a@b.example"}
        headers = {"x-api-key": "local-dev-key", "Content-Type": "application/json"}
        create = urllib.request.Request(url + "/accounts", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(create) as answer:
            assert answer.status == 201
        process.terminate()
        assert process.wait() == 0


def test_the_command_is_installed(installed, tmp_path):
    told = run(installed.with_name("fense-admin"), "--version", cwd=tmp_path)
    assert told == f"fense-admin {__version__}\n"
