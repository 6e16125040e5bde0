"""The wheel: its contents, and its use in a fresh environment."""

import fnmatch
import io
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipapp
import zipfile
from pathlib import Path

import bottle
import pytest
from conftest import (
    CHECKOUT,
    Process,
    account_fields,
    copy_checkout,
    needs_git_checkout,
    run_program,
    tools,
)

from fense_admin import __version__
from fense_admin.standin.page import shown

PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
FROM_HERE = ["--no-deps", "--no-build-isolation"]  # nothing from the network
LENT = ["bottle.py", "peewee.py", "waitress", "setuptools*", "_distutils_hack"]
# Each module at the root, and all of the package's folders.
MODULES = {file.stem for file in CHECKOUT.glob("*.py")} - {"setup", "pytest_fense_admin"}
PACKAGE = {
    f"fense_admin/{name}.py" for name in MODULES - {"fense_admin"} | {"__init__", "__main__"}
}
PACKAGE |= {
    f"fense_admin/{file.name}"
    for file in [
        *CHECKOUT.glob("*.sql"),
        *map(CHECKOUT.joinpath, ("openapi.json", "FIDELITY.md", "py.typed")),
    ]
}
PACKAGE |= {
    f"fense_admin/{file.relative_to(CHECKOUT)}"
    for folder in ("comparing", "serving", "standin")
    for file in (CHECKOUT / folder).rglob("*.*")
    if file.suffix != ".pyc"
}
PACKAGE |= {"pytest_fense_admin.py"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    copy_checkout(source)
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """The wheel, built from the sdist, as an installer from an index would."""
    folder = tmp_path_factory.mktemp("dist")
    tracked = {it.relative_to(source).as_posix() for it in source.rglob("*") if it.is_file()}
    build = "import sys, setuptools.build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"
    run_program(sys.executable, "-c", build, "build_sdist", folder, cwd=source)
    with tarfile.open(folder / f"fense_admin-{__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # 3.12 asks for one
        archive.extractall(folder)
    assert names >= tracked, "MANIFEST.in lacks these"
    unpacked = folder / f"fense_admin-{__version__}"
    run_program(sys.executable, "-c", build, "build_wheel", folder, cwd=unpacked)
    return folder / f"fense_admin-{__version__}-py3-none-any.whl"


def test_the_wheel_holds_one_package_and_its_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        content = archive.read(metadata).decode()
    assert {name for name in names if ".dist-info/" not in name} == PACKAGE
    assert re.findall("^Requires-Dist: (bottle|peewee|waitress)", content, re.M) == [
        "bottle",
        "peewee",
        "waitress",
    ]
    assert "Requires-Python: >=3.10" in content


def test_the_image_contains_the_whole_package():
    kept = [line[1:] for line in (CHECKOUT / ".dockerignore").read_text().split() if line[0] == "!"]
    names = {name.removeprefix("fense_admin/") for name in PACKAGE}
    made = {"__init__.py", "__main__.py"}  # by setup.py, of fense_admin.py and cli.py
    ignored = [
        name
        for name in sorted(names - made)
        if not any(fnmatch.fnmatch(name.partition("/")[0], it) for it in kept)
    ]
    assert ignored == []


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
    run_program(*PIP, "--python", python, "install", "--no-compile", *FROM_HERE, *what, cwd=folder)
    return python


@pytest.mark.slow
def test_it_serves_from_a_fresh_environment(installed, tmp_path):
    # Somebody else's modules of the same names lie in the way.
    for name in ("models", "server", "cli", "state", "control"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not ours')")
    for command in ([installed.with_name("fense-admin")], [installed, "-m", "fense_admin"]):
        with Process(tmp_path, "--port=0", "--database=:memory:", command=command) as service:
            service.ready()
            assert service.call("/openapi.json")[1]["info"]["version"] == __version__
            assert service.call("/accounts", account_fields())[0] == 201
            assert service.end()[0] == 0


@pytest.mark.slow
def test_without_the_extra_nothing_of_postgresql_is_imported(installed, tmp_path):
    """A driver would take 60 ms of the start, and 18 MiB."""
    serve = ["-m", "fense_admin", "--port=0", "--database=:memory:"]
    compiled = {"PYTHONDONTWRITEBYTECODE": ""}  # to compile takes memory
    traced = [installed, "-X", "importtime"]
    with Process(tmp_path, *serve, command=traced, **compiled) as service:
        service.ready()
        assert service.call("/accounts/usage")[0] == 200
        log = service.end()[2]
    imported = " ".join(re.findall(r"^import time:.*\| +(\S+)$", log, re.M))
    assert "fense_admin.sqlite" in imported
    assert not re.search(r"psycopg\.|psycopg_binary|fense_admin\.postgres", imported)
    with Process(tmp_path, *serve, command=[installed], **compiled) as service:
        service.ready()
        status = Path(f"/proc/{service.process.pid}/status").read_text()
        assert int(status.partition("VmRSS:")[2].split()[0]) < 40 * 1024  # 30 MiB
    command = [installed, "-m", "fense_admin", "--database", "postgresql://localhost/fense"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1
    assert "run pip install 'fense-admin[postgresql]'" in ended.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_command_is_installed(installed, tmp_path):
    output = run_program(installed.with_name("fense-admin"), "--version", cwd=tmp_path)
    assert output == f"fense-admin {__version__}\n"


@pytest.mark.slow
def test_one_file_runs_in_an_empty_environment(source, tmp_path):
    tools("make")
    binaries = Path(sys.executable).parent
    make = ["make", "-o", ".venv/run", f"BIN={binaries}", "pyz"]
    made = subprocess.run(make, cwd=source, capture_output=True, text=True, timeout=100)
    if "No matching distribution" in made.stderr:
        pytest.skip(f"needs a package index: {made.stderr}")
    assert made.returncode == 0, made.stdout + made.stderr
    venv.create(tmp_path / "empty", with_pip=False)
    python = tmp_path / "empty" / "bin" / "python"
    command = [python, "-I", "-W", "error", source / "dist" / "fense-admin.pyz"]
    with Process(tmp_path, "--port=0", "--seed=demo", command=command) as service:
        service.ready()
        assert service.call("/accounts", account_fields())[0] == 201
        assert service.call("/openapi.json")[1]["info"]["version"] == __version__
        for path in ("/_standin/openapi.json", "/_standin/state"):
            assert service.call(path)[0] == 200
        assert service.end()[0] == 0
    output = run_program(*command, "exec", "--", python, "-c", "print('in it')", cwd=tmp_path)
    assert output == "in it\n"
    older = (
        "import runpy, sys; sys.version_info = (3, 9, 6); "
        f"runpy.run_path({str(command[-1])!r}, run_name='__main__')"
    )
    ended = subprocess.run([python, "-c", older], capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("Python 3.9 is too old: fense-admin needs 3.10 or later")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a zip file", "a folder"])
def test_a_service_keeps_running_while_an_update_replaces_it(wheel, tmp_path, kind):
    """Including files not requested yet: they are in memory before the service is ready."""
    new = tmp_path / "app"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(new)
    for lent in LENT[:3]:
        path = Path(bottle.__file__).with_name(lent)
        (shutil.copytree if path.is_dir() else shutil.copy)(path, new / lent)
    start = "import sys\nfrom fense_admin.cli import main\nsys.exit(main())\n"
    (new / "__main__.py").write_text(start)
    if kind == "a zip file":
        zipapp.create_archive(new, tmp_path / "app.pyz", compressed=True)
        new = tmp_path / "app.pyz"
    with Process(tmp_path, "--port=0", command=[sys.executable, "-S", new]) as service:
        service.ready()
        if kind == "a zip file":
            new.write_bytes(b"of another version" * 9999)
        else:
            shutil.rmtree(new)
        for path in ("/healthz", "/openapi.json", "/accounts/usage", "/_standin/openapi.json"):
            assert service.call(path)[0] == 200
        account = service.call("/accounts", account_fields())[1]
        assert service.call("/_standin/instances", {"seed": "demo"})[0] == 201
        views = ["", "page/page.css", "page/page.js", "page/requests/2", "page/accounts"]
        views += [f"page/accounts/{account['fense_account_id']}", "page/faults", "page/service"]
        for view in [
            *views,
            "page/faults/arm",
            "page/documentation",
            "page/documentation/control-plane",
        ]:
            assert service.page(view)
        assert "Traceback" not in service.end()[2]


def test_all_files_of_the_page_are_read_before_an_update_replaces_them(monkeypatch):
    read = []
    monkeypatch.setattr(shown, "read", read.append)
    shown.read_files()
    assert sorted(read) == sorted(
        path.name for path in (CHECKOUT / "standin/page").glob("*.*") if path.suffix != ".py"
    )


def test_git_for_windows_keeps_the_line_ends():
    needs_git_checkout()
    command = ["git", "-c", "core.autocrlf=true", "archive", "--worktree-attributes", "HEAD"]
    archive = subprocess.run(
        [*command, "schema.sql"], cwd=CHECKOUT, capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        assert b"\r" not in files.extractfile("schema.sql").read()
