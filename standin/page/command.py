"""The arguments of curl, without any shell's quotes."""

from __future__ import annotations

from typing import NamedTuple

from fense_admin.standin.page.text import INVISIBLE


class Option(NamedTuple):
    """An option and its value. As in WSGI, a character may be a byte."""

    name: str
    value: str = ""
    variable: str = ""  # of the environment; its value follows


class Command(NamedTuple):
    how: list[Option]  # the method
    url: str
    options: list[Option]
    body: bytes


def raw(text: str) -> bytes:
    """Return the bytes of the text; a character that is not a byte is encoded as UTF-8."""
    return b"".join(
        letter.encode("latin-1") if letter <= "\xff" else letter.encode(errors="replace")
        for letter in text
    )


def is_plain(text: str) -> bool:
    """Whether it survives being copied from a page: no control characters, nothing invisible."""
    return text.replace("\n", "").isprintable() and not INVISIBLE.search(text)
