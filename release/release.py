"""Build and check a release in dist/: sdist, wheel, pyz, SBOM and SHA256SUMS (`make release`).

The files depend on the last commit alone: built again, in any folder, they have the same bytes.
Everything is built from the files of that commit, in a temporary folder. dist/ is replaced once all
checks have passed.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import archives
import pyz
import sbom

CHECKOUT = Path(__file__).resolve().parent.parent
BUILD = "import sys, setuptools.build_meta as it; print(getattr(it, sys.argv[1])(sys.argv[2]))"


class Refused(Exception):
    """There can be no release: the sentence says why, and what to do."""


def main() -> int:
    try:
        version = releasable()
    except Refused as refused:
        print(f"release: {refused}", file=sys.stderr)
        return 1
    os.umask(0o022)  # modes of files are kept in the archives
    epoch = int(git("log", "-1", "--format=%ct"))
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    with tempfile.TemporaryDirectory() as folder:
        built = build(version, epoch, Path(folder))
        shutil.rmtree(CHECKOUT / "dist", ignore_errors=True)
        shutil.copytree(built, CHECKOUT / "dist")
    print((CHECKOUT / "dist" / "SHA256SUMS").read_text(), end="")
    print(f"dist/ has fense-admin {version}; to publish it: git tag v{version}, then push the tag")
    return 0


def releasable() -> str:
    """Return the version to release, or raise `Refused`."""
    source = (CHECKOUT / "fense_admin.py").read_text("utf-8")
    version = re.search('^__version__ = "(.+)"', source, re.M)[1]  # type: ignore[index]
    if not (CHECKOUT / ".git").exists():
        raise Refused("this is not a git checkout: run make release in a clone")
    if changed := git("status", "--porcelain", "-z"):
        name = changed.split("\0")[0].split(maxsplit=1)[1]
        raise Refused(f"{name} is not committed: commit, stash or remove it")
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$"
    if not re.search(heading, (CHECKOUT / "CHANGELOG.md").read_text("utf-8"), re.M):
        raise Refused(f"CHANGELOG.md has no entry '## [{version}] - YYYY-MM-DD': write it")
    if git("tag", "--list", f"v{version}"):
        raise Refused(f"the tag v{version} exists: raise __version__ in fense_admin.py")
    return version


def git(*arguments: str) -> str:
    """Return what git prints in the checkout."""
    ended = subprocess.run(
        ["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    return ended.stdout.strip()


def build(version: str, epoch: int, folder: Path) -> Path:
    """Build and check all files of the release, and return the folder that has them."""
    dist = folder / "dist"
    dist.mkdir()
    archive = ["git", "-c", "tar.umask=0022", "archive", "HEAD"]
    tar = subprocess.run(archive, cwd=CHECKOUT, stdout=subprocess.PIPE, check=True).stdout
    unpack(tar, folder / "source")

    sdist = dist / run_backend("build_sdist", dist, folder / "source")
    archives.rewrite_tar(sdist, epoch)
    unpack(sdist.read_bytes(), folder / "sdist")
    (unpacked,) = (folder / "sdist").iterdir()
    wheel = dist / run_backend("build_wheel", dist, unpacked)

    libraries = pyz.download("libraries.txt", folder / "libraries", "--require-hashes")
    driver = pyz.download("postgresql.txt", folder / "driver")
    pyz.make_pyz([wheel, *libraries], dist / "fense-admin.pyz", epoch)
    document = sbom.make_sbom(wheel, libraries, driver, epoch)
    sbom.check(document)
    (dist / f"fense_admin-{version}.cdx.json").write_bytes(document.encode())

    run("twine", "check", "--strict", str(sdist), str(wheel), cwd=folder)
    run("check_wheel_contents", str(wheel), cwd=folder / "source")
    sums = [f"{hashlib.sha256(it.read_bytes()).hexdigest()}  {it.name}\n" for it in dist.iterdir()]
    (dist / "SHA256SUMS").write_text("".join(sorted(sums, key=lambda it: it.split()[1])))
    return dist


def unpack(archive: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


def run_backend(what: str, target: Path, source: Path) -> str:
    """Have setuptools build this of the source, and return the name of the file."""
    command = [sys.executable, "-c", BUILD, what, str(target)]
    ended = subprocess.run(command, cwd=source, capture_output=True, text=True)
    if ended.returncode != 0:
        sys.exit(ended.stdout + ended.stderr)
    return ended.stdout.splitlines()[-1]


def run(module: str, *arguments: str, cwd: Path) -> None:
    """Run a tool, whose messages are shown. Ends the program if the tool fails."""
    if subprocess.run([sys.executable, "-m", module, *arguments], cwd=cwd).returncode != 0:
        sys.exit(f"release: {module} found the errors above; dist/ is as it was")


if __name__ == "__main__":
    sys.exit(main())
