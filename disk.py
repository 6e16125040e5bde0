"""New files: made beside their place, and then renamed to it."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator

from fense_admin import systems
from fense_admin.realtime import monotonic

LEFT_BEHIND = 3600  # seconds since a temporary file was written last: its process was killed
SCANNED = 2  # seconds that a virus scanner on Windows may hold up the renaming of a new file
TEMPORARY = re.compile(r"\.fense-admin-[a-z0-9_]{8}\.tmp")

# A temporary file whose process was killed is removed by the next start or backup in its folder
# that is an hour later. One that is in use is younger: it was written just now. (If one is removed
# all the same, of a process that was frozen say, that backup fails.)


@contextlib.contextmanager
def temporary_beside(path: str) -> Iterator[str]:
    """A new file in the folder of this one, which no other user may read, until the block ends."""
    folder = os.path.dirname(path)
    descriptor, made = tempfile.mkstemp(dir=folder, prefix=".fense-admin-", suffix=".tmp")
    os.close(descriptor)
    try:
        yield made
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or a virus scanner on Windows reads it
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
    """Give the file this name. Raises `FileExistsError` if another file has it."""
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
    except OSError:  # the file system has no links
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        os.replace(path, name)  # only what was made just now
    except OSError:
        os.unlink(name)
        raise
