"""Interpret the page's PowerShell lines without PowerShell: its parsing, and how it calls programs.

There is none for this machine. Reading follows PowerShell's tokenizer and about_Quoting_Rules, for
the few statements that the page has; `COMMAND_LINES` follows NativeCommandParameterBinder, and
.NET's PasteArguments; `argv_of` the documented rules of Microsoft's C runtime, which curl.exe uses.
"""

import base64
import re
import subprocess

SINGLE_QUOTES, DOUBLE_QUOTES = "'\u2018\u2019\u201a\u201b", '"\u201c\u201d\u201e'
ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "0": "\0"}
PUNCTUATION = "(),"
WRITE_TEXT, WRITE_BYTES = "[IO.File]::WriteAllText", "[IO.File]::WriteAllBytes"
FROM_BASE64 = "[Convert]::FromBase64String"
SPECIAL = "@$;|&<>{}#`"  # a bare word with one of these would mean something


# --- Reading -----------------------------------------------------------------------------------


def statements(text, environment):
    """The tokens of each statement: ("text", value), ("word", value), or punctuation twice."""
    found, depth, at = [[]], 0, 0
    while at < len(text):
        letter = text[at]
        if letter == "\n":
            at += 1
            if depth == 0 and found[-1]:
                found.append([])
        elif letter == " " or text.startswith("`\n", at):
            at += 1 if letter == " " else 2
        elif letter in SINGLE_QUOTES:
            value, at = single_quoted(text, at + 1)
            found[-1].append(("text", value))
        elif letter in DOUBLE_QUOTES:
            value, at = double_quoted(text, at + 1, environment)
            found[-1].append(("text", value))
        elif letter in PUNCTUATION:
            depth += {"(": 1, ")": -1}.get(letter, 0)
            found[-1].append((letter, letter))
            at += 1
        else:
            word = re.match(r"[^\s'\"(),]+", text[at:])[0]
            assert word.isascii(), word
            assert not set(word) & set(SPECIAL), word
            assert not re.match(r"-[^-]*\.|--[^.]*\.", word), "PowerShell splits it at the dot"
            found[-1].append(("word", word))
            at += len(word)
            # Text right behind a word would be one argument with it.
            assert text[at : at + 1] in ["", " ", "\n", "(", ")", ","], text[at:]
    assert depth == 0
    return [tokens for tokens in found if tokens]


def single_quoted(text, at):
    value = ""
    while True:
        letter = text[at]
        if letter in SINGLE_QUOTES:
            if text[at + 1 : at + 2] == "" or text[at + 1] not in SINGLE_QUOTES:
                return value, at + 1
            at += 1
            letter = text[at]
        assert letter != "\n", "what it is depends on how it is pasted"
        value += letter
        at += 1


def double_quoted(text, at, environment):
    value = ""
    while text[at] not in DOUBLE_QUOTES:
        if text[at] == "`":
            value += ESCAPED[text[at + 1]]
            at += 2
        elif text[at] == "$":
            variable = re.match(r"\$env:(\w+)", text[at:])
            value += environment[variable[1]]
            at += variable.end()
        else:
            value += text[at]
            at += 1
    return value, at + 1


# --- Running -----------------------------------------------------------------------------------


def write(tokens, folder):
    (_, function), opening, (kind, path), comma, *content, closing = tokens
    assert (opening[0], kind, comma[0], closing[0]) == ("(", "text", ",", ")")
    if function == WRITE_BYTES:
        name, opening, (_, text), closing = content
        assert (name[1], opening[0], closing[0]) == (FROM_BASE64, "(", ")")
        (folder / path).write_bytes(base64.b64decode(text, validate=True))
        return
    assert function == WRITE_TEXT
    (folder / path).write_bytes(joined(content).encode())


def joined(tokens):
    if len(tokens) == 1:
        return tokens[0][1]
    (opening, _), *texts, (_, operator), (_, between), (closing, _) = tokens
    assert (opening, operator, closing) == ("(", "-join", ")")
    assert {kind for kind, _ in texts[1::2]} <= {","}
    return between.join(value for _, value in texts[::2])


# --- Calling a program -------------------------------------------------------------------------


def windows_powershell_5(values):
    """Each double quote counts, escaped or not; nothing is escaped."""
    return " ".join(legacy(value, lambda before: True, "") for value in values if value)


def powershell_7_before_3(values):
    """The same as 7.3 with $PSNativeCommandArgumentPassing = "Legacy"."""

    def counts(before):
        return not before.endswith("\\")

    return " ".join(
        legacy(value, counts, re.search(r"\\*\Z", value)[0]) for value in values if value
    )


def legacy(value, counts, doubled):
    if value == "--%":
        raise AssertionError("the rest would be passed as it stands")
    quotes, needs_quotes = 0, False
    for at, letter in enumerate(value):
        if letter == '"' and counts(value[:at]):
            quotes += 1
        elif letter.isspace() and quotes % 2 == 0:
            needs_quotes = True
    return f'"{value}{doubled}"' if needs_quotes else value


COMMAND_LINES = {
    "Windows PowerShell 5.1": windows_powershell_5,
    "PowerShell 7.2": powershell_7_before_3,
    "PowerShell 7.3": subprocess.list2cmdline,  # as PasteArguments, but for the quotes around \v
}


def argv_of(line):
    """The arguments that a program of Microsoft's C runtime sees."""
    argv, word, in_quotes, at = [], None, False, 0
    while at < len(line):
        slashes = re.compile(r"\\*").match(line, at)[0]
        at += len(slashes)
        letter = line[at : at + 1]
        if letter == '"':
            word = (word or "") + "\\" * (len(slashes) // 2)
            if len(slashes) % 2:
                word += '"'
            elif in_quotes and line[at + 1 : at + 2] == '"':
                word += '"'
                at += 1
            else:
                in_quotes = not in_quotes
        else:
            word = (word or "") + slashes if slashes else word
            if letter in (" ", "\t") and not in_quotes:
                if word is not None:
                    argv.append(word)
                word = None
            elif letter:
                word = (word or "") + letter
        at += 1
    return argv if word is None else [*argv, word]


def arguments(text, environment, folder):
    """Run the text except curl.exe. Return its arguments, which don't depend on who passes them."""
    *writing, (program, *words) = statements(text, environment)
    for tokens in writing:
        write(tokens, folder)
    assert program == ("word", "curl.exe")
    assert {kind for kind, _ in words} <= {"text", "word"}
    values = [value for _, value in words]
    for name, build in COMMAND_LINES.items():
        assert argv_of(build(values)) == values, name
    return values
