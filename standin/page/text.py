"""Text for the page: invisible characters are named, and long text is cut."""

from __future__ import annotations

import functools
import html
import re

# Control characters, lone surrogates, and all that is drawn as nothing or turns other text around:
# Unicode's default ignorables, and letters that are blank. White space is left as it is.
UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u2800\u3164\ud800-\udfff\ufdd0-\ufdef\ufeff\uffa0\ufff0-\uffff"
    "\U00016fe4\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a"
    "\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
# These choose a form of the character before them, in emoji and in names; alone they can't be seen.
SELECTORS = "\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef"
INVISIBLE = re.compile(f"[{UNSEEN}{SELECTORS}]+")
SELECTOR = re.compile(f"[{SELECTORS}]")


def escape(text: object) -> str:
    """Return the text as HTML, also for an attribute in double quotes.

    What would not be seen, or would turn other text around, is named.
    """
    # A shell's lines are full of single quotes, which need no escape here.
    return html.escape(INVISIBLE.sub(named, str(text)), quote=False).replace('"', "&#34;")


def named(found: re.Match[str]) -> str:
    """Return what replaces invisible characters: ⟨U+200B⟩ for each."""
    letters, kept = found[0], ""
    if SELECTOR.match(letters):
        before = found.string[max(found.start() - 1, 0) : found.start()]
        if before and not before.isspace():
            letters, kept = letters[1:], letters[0]
    return kept + "".join(map(name_of, letters))


@functools.cache
def name_of(letter: str) -> str:
    return f"⟨U+{ord(letter):04X}⟩"


def size(text: str) -> int:
    """Return the number of bytes of the text as HTML."""
    return len(escape(text).encode())


def clip(text: str, most: int) -> str:
    """Cut the text to at most this many bytes of HTML, of which the "…" at its end takes 3."""
    if len(text) <= most and size(text) <= most:
        return text
    text = text[: max(most - 3, 0)]
    while size(text) > most - 3 and text:
        text = text[: len(text) // 2]
    return text + "…"
