"""What waits to be sent on a connection: in memory, or in a temporary file where it is much."""

from __future__ import annotations

import collections
import contextlib
import tempfile
import threading
from typing import IO

MAX_IN_MEMORY = 1024 * 1024  # bytes
SMALL = 8 * 1024  # bytes: pieces below this are put together, to be sent at once


class Outgoing:
    """Bytes in the order in which they are to be sent.

    One thread may add while another one takes. What is added while much waits goes to a temporary
    file, until all of that has been taken: a client that reads slowly costs no memory.
    """

    def __init__(self) -> None:
        self._size = 0
        self._pieces: collections.deque[bytes | memoryview] = collections.deque()
        self._file: IO[bytes] | None = None  # what comes after the pieces
        self._read = self._written = 0  # bytes of it
        self._changing = threading.Lock()

    def __len__(self) -> int:
        return self._size

    def add(self, data: bytes) -> None:
        """Put it at the end. Raises `OSError` where it needs a file that can't be written."""
        with self._changing:
            if self._file is not None or self._size + len(data) > MAX_IN_MEMORY:
                self._write(data)
            elif self._pieces and len(self._pieces[-1]) + len(data) < SMALL:
                self._pieces[-1] = bytes(self._pieces[-1]) + data
            else:
                self._pieces.append(data)
            self._size += len(data)

    def first(self, most: int) -> bytes | memoryview:
        """The next bytes to send, at most so many; b"" if there are none."""
        with self._changing:
            if self._pieces:
                return self._pieces[0][:most]
            if self._file is None:
                return b""
            self._file.seek(self._read)
            return self._file.read(most)

    def drop(self, sent: int) -> None:
        """Take away the first bytes, of those that `first` has returned: they are sent."""
        with self._changing:
            self._size -= sent
            if not self._pieces:
                self._read += sent
                if self._read == self._written:
                    self._close_file()
            elif sent < len(self._pieces[0]):
                self._pieces[0] = memoryview(self._pieces[0])[sent:]
            else:
                self._pieces.popleft()

    def clear(self) -> None:
        """Drop all of it, and the file."""
        with self._changing:
            self._size = 0
            self._pieces.clear()
            self._close_file()

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile("w+b")  # noqa: SIM115
            self._read = self._written = 0
        self._file.seek(self._written)
        self._file.write(data)
        self._file.flush()
        self._written += len(data)

    def _close_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # it writes what a full disk did not take
                self._file.close()
            self._file = None
