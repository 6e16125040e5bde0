"""Archives with the same bytes wherever they are made: sorted names, one time, plain modes."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
import zipfile
from pathlib import Path


def read_zip(path: Path) -> dict[str, bytes]:
    """Return what each file of a zip archive, such as a wheel, contains."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"}


def write_zip(path: Path, files: dict[str, bytes], epoch: int, start: bytes = b"") -> None:
    """Write a zip archive of these files, after the bytes of `start`."""
    with open(path, "wb") as file:
        file.write(start)
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in sorted(files.items()):
                info = zipfile.ZipInfo(name, time.gmtime(epoch)[:6])
                info.create_system = 3  # Unix, on every system
                info.external_attr = 0o100644 << 16
                archive.writestr(info, content, zipfile.ZIP_DEFLATED, 9)


def rewrite_tar(path: Path, epoch: int) -> None:
    """Write a .tar.gz again without the times, owners and modes of the machine that made it."""
    made = io.BytesIO()
    with (
        tarfile.open(path) as old,
        gzip.GzipFile("", "wb", 9, made, mtime=epoch) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda it: it.name):
            kept = tarfile.TarInfo(member.name)
            kept.type, kept.size, kept.mtime = member.type, member.size, epoch
            kept.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(kept, old.extractfile(member))
    path.write_bytes(made.getvalue())
