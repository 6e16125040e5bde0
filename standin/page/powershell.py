"""Command lines with curl.exe, as Windows PowerShell 5.1 and PowerShell 7 take them.

PowerShell 7.3 passes any text to a program. Older ones, Windows PowerShell 5.1 among them, neither
escape a double quote nor a backslash at the end, and how a program reads letters beyond ASCII
depends on how it was built. So a body comes from a file, and so does every option that has one of
those: curl reads more options with -K.
"""

from __future__ import annotations

import base64
import re

from fense_admin.standin.page.command import Command, Option, is_plain, raw

FOLDER = r"$env:TEMP"
BODY, CONFIG = rf"{FOLDER}\fense-body", rf"{FOLDER}\fense-curl"
# In a file that curl reads, options are written in full and without dashes.
LONG_NAMES = {"": "url", "-H": "header", "-X": "request"}

BARE = re.compile(r"[A-Za-z](?:[A-Za-z0-9/_.:=-]*[A-Za-z0-9/])?")
QUOTES = re.compile("['\u2018-\u201b]")  # each of them ends a text in single quotes


def line(command: Command) -> str:
    start = [*command.how, Option("", command.url)]
    filed = [option for option in [*start, *command.options] if not is_passed(option.value)]
    parts = [" ".join(["curl.exe", *(words(option) for option in start if option not in filed)])]
    parts += [words(option) for option in command.options if option not in filed]
    before = []
    if filed:
        before.append(writing(CONFIG, "\n".join(map(configured, filed)).encode("latin-1")))
        parts.append(f'-K "{CONFIG}"')
    if command.body:
        before.append(writing(BODY, command.body))
        parts.append(f'--data-binary "@{BODY}"')
    return "\n".join([*before, " `\n  ".join(parts)])


def is_passed(value: str) -> bool:
    """Whether the value reaches a program as it is, whichever PowerShell passes it."""
    is_bent = '"' in value or (" " in value and value.endswith("\\")) or value == "--%"
    return value.isascii() and value.isprintable() and not is_bent


def words(option: Option) -> str:
    name = quoted(option.name) if "." in option.name else option.name  # it would be split there
    value = quoted(option.value) if option.value else ""
    if option.variable:
        value = f'"{option.value}$env:{option.variable}"'
    elif BARE.fullmatch(option.value):
        value = option.value
    return f"{name} {value}".strip()


def quoted(text: str) -> str:
    return "'" + QUOTES.sub(lambda found: found[0] * 2, text) + "'"


def configured(option: Option) -> str:
    """Return the option as a line of a file that curl reads; each character is a byte."""
    value = raw(option.value).decode("latin-1").replace("\\", r"\\").replace('"', r"\"")
    return f'{LONG_NAMES.get(option.name) or option.name.lstrip("-")} = "{value}"'


def writing(path: str, content: bytes) -> str:
    """Return the statement that writes a file: readable if it can be, but always to the byte."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = ""
    if text and is_plain(text):
        texts = ",\n  ".join(map(quoted, text.split("\n")))
        joined = f'({texts} -join "`n")' if "\n" in text else texts
        return f'[IO.File]::WriteAllText("{path}", {joined})'
    encoded = base64.b64encode(content).decode()
    return f"[IO.File]::WriteAllBytes(\"{path}\", [Convert]::FromBase64String('{encoded}'))"
