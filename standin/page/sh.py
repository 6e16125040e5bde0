"""Command lines with curl, as sh, bash and zsh take them."""

from __future__ import annotations

import shlex

from fense_admin.standin.page.command import Command, Option, is_plain, raw


def line(command: Command) -> str:
    start = " ".join(["curl", *map(words, command.how), quoted(command.url)])
    parts = [start, *map(words, command.options)]
    if not command.body:
        return lines(parts)
    text = command.body.decode(errors="surrogateescape")
    data, piped = shlex.quote(text), f"printf '{printf_format(command.body)}'"
    if is_plain(text) and len(data) <= len(piped):
        return lines([*parts, f"--data-raw {data}"])
    return f"{piped} | {lines([*parts, '--data-binary @-'])}"


def lines(parts: list[str]) -> str:
    return " \\\n  ".join(parts)


def words(option: Option) -> str:
    if option.variable:
        return f'{option.name} "{option.value}${option.variable}"'
    return f"{option.name} {quoted(option.value)}" if option.value else option.name


def quoted(text: str) -> str:
    """Return the text as one word of the shell."""
    word, printed = shlex.quote(text), f"\"$(printf '{printf_format(raw(text))}')\""
    return word if text.isascii() and is_plain(text) and len(word) <= len(printed) else printed


# How each byte is written in a format of printf; an interactive shell would expand a "!".
IN_FORMAT = [chr(n) if 32 <= n < 127 and chr(n) not in "'!" else f"\\{n:03o}" for n in range(256)]
IN_FORMAT[ord("%")], IN_FORMAT[ord("\\")], IN_FORMAT[ord("\n")] = "%%", "\\\\", "\\n"


def printf_format(raw: bytes) -> str:
    """Return the bytes as a format of printf, for single quotes."""
    text = "".join(map(IN_FORMAT.__getitem__, raw))
    return f"\\055{text[1:]}" if text.startswith("-") else text  # else it would be an option
