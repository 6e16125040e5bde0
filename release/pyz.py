"""The service and its libraries in one file, dist/fense-admin.pyz: `make pyz`.

It holds what the wheels hold, licences and versions included. The libraries are those of
libraries.txt: pip checks their hashes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import archives

HERE = Path(__file__).parent
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def download(requirements: str, folder: Path, *options: str) -> list[Path]:
    """Download the wheels that a file beside this one names, and return their paths."""
    folder.mkdir()
    wheels = ["--no-deps", "--only-binary", ":all:", "-d", str(folder), *options]
    subprocess.run([*PIP, "download", *wheels, "-r", str(HERE / requirements)], check=True)
    return sorted(folder.iterdir())


def make_pyz(wheels: list[Path], target: Path, epoch: int) -> None:
    """Write the pyz of these wheels."""
    files = {"__main__.py": (HERE / "pyz_main.py").read_bytes()}
    for wheel in wheels:
        files |= archives.read_zip(wheel)
    # Commands of the libraries. Nothing else may need an installer.
    files = {name: files[name] for name in files if ".data/scripts/" not in name}
    assert not any(".data/" in name for name in files)
    archives.write_zip(target, files, epoch, b"#!/usr/bin/env python3\n")
    target.chmod(0o755)


def main() -> None:
    """Make dist/fense-admin.pyz of the checkout as it is."""
    checkout = HERE.parent
    build = checkout / "build" / "pyz"
    for left in (build, checkout / "build" / "lib"):
        shutil.rmtree(left, ignore_errors=True)
    subprocess.run([*PIP, "wheel", "--no-deps", "-w", build, checkout], check=True)
    wheels = [*build.iterdir(), *download("libraries.txt", build / "libraries", "--require-hashes")]
    (checkout / "dist").mkdir(exist_ok=True)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    make_pyz(wheels, checkout / "dist" / "fense-admin.pyz", epoch)


if __name__ == "__main__":
    main()
