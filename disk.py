"""Create files atomically: write a temporary file in the same folder, then rename it."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator

from fense_admin import systems
from fense_admin.realtime import monotonic

LEFT_BEHIND = 3600  # seconds; if a temporary file is older, its process was killed
SCANNED = 2  # seconds to retry a rename while a virus scanner on Windows reads the file
TEMPORARY = re.compile(r"\.fense-admin-[a-z0-9_]{8}\.tmp")

# If a process is killed, its temporary file stays. A start or backup in the same folder removes it
# once it is an hour old. Files in use are younger. (A suspended process may lose its file; then its
# backup fails.)


@contextlib.contextmanager
def temporary_beside(path: str) -> Iterator[str]:
    """Create a private temporary file in the folder of `path`, for the duration of the block."""
    folder = os.path.dirname(path)
    descriptor, made = tempfile.mkstemp(dir=folder, prefix=".fense-admin-", suffix=".tmp")
    os.close(descriptor)
    try:
        yield made
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or a virus scanner reads it
            os.unlink(made)


def remove_left_behind(folder: str) -> None:
    """Remove the temporary files of processes that were killed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if TEMPORARY.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < time.time() - LEFT_BEHIND:
                        os.unlink(entry.path)


def rename_to_new(path: str, name: str) -> None:
    """Rename a file. Raises `FileExistsError` if the name is taken."""
    if systems.RENAME_REFUSES:
        deadline = monotonic() + SCANNED
        while True:
            try:
                os.rename(path, name)
                return
            except PermissionError:
                if monotonic() > deadline:
                    raise
            time.sleep(0.02)
    try:
        os.link(path, name)
        return
    except FileExistsError:
        raise
    except OSError:  # the file system doesn't support links
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        os.replace(path, name)  # replaces only the file just created
    except OSError:
        os.unlink(name)
        raise
