"""Build a release twice, install it, and use it as its users do: `make test-release`.

It takes about five minutes, most of them for the suite in the unpacked sdist, so this is not part of
`make test`.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import venv
import zipfile

import pytest
from conftest import CHECKOUT, Process, account_fields, copy_checkout, run_program

from fense_admin import __version__

PIP = ["-m", "pip", "install", "-q", "--disable-pip-version-check"]
DATE = "2026-01-15T08:00:00Z"
LIBRARIES = {"bottle", "peewee", "waitress"}


def git(folder, *arguments):
    dates = {"GIT_AUTHOR_DATE": DATE, "GIT_COMMITTER_DATE": DATE}
    author = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    command = ["git", *author, *arguments]
    subprocess.run(command, cwd=folder, env=os.environ | dates, check=True, timeout=60)


def make_release(folder, **settings):
    """Release a copy of the checkout in this folder. Return the folder with the results."""
    folder.mkdir()
    copy_checkout(folder)
    changelog = folder / "CHANGELOG.md"
    if f"## [{__version__}] - " not in changelog.read_text("utf-8"):  # before a release
        with open(changelog, "a", encoding="utf-8") as file:
            file.write(f"\n## [{__version__}] - 2026-01-15\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "x")
    ended = subprocess.run(
        [CHECKOUT / ".venv-release" / "bin" / "python", "release/release.py"],
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The folder of a release: dist/."""
    return make_release(tmp_path_factory.mktemp("release") / "checkout")


@pytest.fixture
def wheel(release):
    return release / f"fense_admin-{__version__}-py3-none-any.whl"


@pytest.fixture
def empty(tmp_path):
    """The python of a new environment, with pip."""
    venv.create(tmp_path / "env", with_pip=True)
    return tmp_path / "env" / "bin" / "python"


def test_it_has_the_same_bytes_in_another_folder(release, tmp_path):
    before = os.umask(0o077)
    try:
        again = make_release(tmp_path / "elsewhere, ü", TZ="Asia/Tokyo")
    finally:
        os.umask(before)
    sums = (release / "SHA256SUMS").read_text()
    assert (again / "SHA256SUMS").read_text() == sums
    listed = dict(reversed(line.split()) for line in sums.splitlines())
    found = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in release.iterdir()
        if file.name != "SHA256SUMS"
    }
    assert listed == found
    assert sorted(found) == [
        "fense-admin.pyz",
        f"fense_admin-{__version__}-py3-none-any.whl",
        f"fense_admin-{__version__}.cdx.json",
        f"fense_admin-{__version__}.tar.gz",
    ]


def serves_and_runs(command, folder):
    """Serve and exec with this command."""
    with Process(folder, "--port=0", "--seed=demo", command=command) as service:
        service.ready()
        assert service.call("/accounts", account_fields())[0] == 201
        assert service.end()[0] == 0
    script = "import os, urllib.request as it; print(it.urlopen(os.environ['FENSE_BASE_URL'] + '/healthz').status)"
    assert run_program(*command, "exec", "--", sys.executable, "-c", script, cwd=folder) == "200\n"


def test_the_wheel_serves_runs_a_command_and_passes_the_example(wheel, empty, tmp_path):
    run_program(empty, *PIP, wheel, "pytest", cwd=tmp_path)
    serves_and_runs([empty.with_name("fense-admin")], tmp_path)
    example = shutil.copy(CHECKOUT / "examples" / "test_billing.py", tmp_path)
    output = run_program(empty, "-m", "pytest", "-q", example, cwd=tmp_path)
    assert re.search("^[0-9]+ passed in", output, re.M)


def test_the_pyz_serves_runs_a_command_and_passes_the_example(release, empty, tmp_path):
    pyz = release / "fense-admin.pyz"
    serves_and_runs([empty, pyz], tmp_path)
    run_program(empty, *PIP, "pytest", cwd=tmp_path)
    example = shutil.copy(CHECKOUT / "examples" / "test_billing.py", tmp_path)
    test = [empty, "-m", "pytest", "-q", example]
    output = run_program("env", f"PYTHONPATH={pyz}", *test, cwd=tmp_path)
    assert re.search("^[0-9]+ passed in", output, re.M)


def test_the_sbom_covers_what_the_pyz_contains_with_its_licences(release):
    (file,) = release.glob("*.cdx.json")
    sbom = json.loads(file.read_text("utf-8"))
    main = sbom["metadata"]["component"]
    assert (main["name"], main["version"]) == ("fense-admin", __version__)
    always = [it for it in sbom["components"] if it.get("scope") != "optional"]
    assert {it["name"] for it in always} == LIBRARIES
    listed = {f"{it['name'].replace('-', '_')}-{it['version']}" for it in (main, *always)}
    with zipfile.ZipFile(release / "fense-admin.pyz") as archive:
        names = archive.namelist()
    assert {it.partition(".dist-info/")[0] for it in names if ".dist-info/" in it} == listed
    licences = [it for it in names if re.search(r"\.dist-info/(.*/)?LICENSE", it)]
    assert {it.partition(".dist-info/")[0] for it in licences} == listed


def test_make_test_passes_in_the_unpacked_sdist(release, open_folder):
    (sdist,) = release.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(open_folder, filter="data")
    (folder,) = open_folder.iterdir()
    output = make_test(folder)
    assert re.search("[0-9]{3} passed", output), output
    assert " failed" not in output, output


def make_test(folder):
    """Run it in this folder and return its output. Nothing that it starts outlives the call."""
    suite = subprocess.Popen(
        ["make", "test"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        return suite.communicate(timeout=800)[0]
    except BaseException:
        for signum, seconds in ((signal.SIGINT, 30), (signal.SIGKILL, 5)):  # SIGINT: tidied up
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(suite.pid, signum)
                suite.wait(seconds)
        raise
