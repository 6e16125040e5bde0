"""The data to send on a connection: in memory, or in a temporary file if it is large."""

from __future__ import annotations

import collections
import contextlib
import tempfile
import threading
from typing import IO

MAX_IN_MEMORY = 1024 * 1024  # bytes
SMALL = 8 * 1024  # bytes; smaller pieces are joined and sent together


class Outgoing:
    """The bytes to send, in order.

    One thread may add while another one takes. Beyond `MAX_IN_MEMORY`, data is added to a temporary
    file until everything has been taken, so a slow client takes up little memory.
    """

    def __init__(self) -> None:
        self._size = 0
        self._pieces: collections.deque[bytes | memoryview] = collections.deque()
        self._file: IO[bytes] | None = None  # the data after the pieces
        self._read = self._written = 0  # bytes of the file
        self._changing = threading.Lock()

    def __len__(self) -> int:
        return self._size

    def add(self, data: bytes) -> None:
        """Add data at the end. Raises `OSError` if the temporary file can't be written."""
        with self._changing:
            if self._file is not None or self._size + len(data) > MAX_IN_MEMORY:
                self._write(data)
            elif self._pieces and len(self._pieces[-1]) + len(data) < SMALL:
                self._pieces[-1] = bytes(self._pieces[-1]) + data
            else:
                self._pieces.append(data)
            self._size += len(data)

    def first(self, most: int) -> bytes | memoryview:
        """Return the next bytes to send, at most `most`; b"" if there are none."""
        with self._changing:
            if self._pieces:
                return self._pieces[0][:most]
            if self._file is None:
                return b""
            self._file.seek(self._read)
            return self._file.read(most)

    def drop(self, sent: int) -> None:
        """Remove the first bytes, which `first` has returned and were sent."""
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
        """Drop everything, including the file."""
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
            with contextlib.suppress(OSError):  # it writes the rest, but the disk may be full
                self._file.close()
            self._file = None
