"""Secrets: recognise keys, and mask them in what is logged or kept. Knows no database.

`mask` shortens a key, `hide` replaces known keys in a text, `hide_named` cuts a text off at a word
that names a key, and `mask_body` does both to a body, which may be JSON. `Masker` finds the keys to
hide: every valid key that appears as a whole token. Keys are recognised by their digests, so the
cost doesn't grow with the number of keys.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import json
import re
import threading
from collections.abc import Callable, Collection, Iterable, Set
from typing import TypeVar
from urllib.parse import quote, unquote

from fense_admin.rules import ACCOUNT_RULES, HIDDEN

MAX_KEY = 255  # characters
MAX_KEYS_SENT = 4  # in one header; with more, everything is hidden
MARGIN = 6 * MAX_KEY  # characters: the longest key with each character escaped
MAX_WORDS = 8  # in a key that other text surrounds without white space
LONG_RUN = 1_024  # characters without white space; in longer runs only single words are checked
KEY_NAME = re.compile(r"api[\W_]{0,3}keys?|authorization|bearer|token|secret", re.IGNORECASE)
ESCAPES = (
    re.compile(r"(?<!\\)\\+u00(?P<hex>[0-9a-f]{2})(?P<decimal>)", re.IGNORECASE),
    re.compile(r"&#(?:x0*(?P<hex>[0-9a-f]{2})|0*(?P<decimal>[0-9]{2,3}));", re.IGNORECASE),
)
MAY_ESCAPE = re.compile(r"[\\%&]")
METHODS = {"", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}
MAX_PATH = 300  # characters of a path in the log
PLAIN_NAME = re.compile(r"[\w. -]{1,64}")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
COLON = re.compile(r"\s*:\s*")
DECODER = json.JSONDecoder()


def digest(key: str) -> str:
    """Return the SHA-256 of a key in hex. Keys are stored and compared only in this form."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def last4(key: str) -> str | None:
    """Return the last four characters of a key; None if they would reveal too much of it."""
    return key[-4:] if len(key) >= 12 else None


def mask(key: str) -> str:
    """Return a masked key: its last four characters if it has at least twelve, else none."""
    return HIDDEN + (last4(key) or "") if key else ""


SHORT = 512  # characters
Found = TypeVar("Found")


def cached_if_short(function: Callable[[str], Found]) -> Callable[[str], Found]:
    """Cache a function's results for short texts, which repeat often."""
    cached = functools.lru_cache(maxsize=256)(function)
    return lambda text: function(text) if len(text) > SHORT else cached(text)


# --- Known keys --------------------------------------------------------------------------------

RUN = re.compile(r"[\x21-\x7e]+")  # a run of characters that a key may have
WORD = re.compile(r"[A-Za-z0-9_-]+=*")
# Where a key may begin and end within a run: in prose, in a path, or in a query.
DELIMITERS = [re.compile(text) for text in (r"[<>',;(){}[\]]", "[/?#]", "[/?#&;]", "[/?#&;=]")]
ANY_DELIMITER = re.compile("|".join(delimiter.pattern for delimiter in DELIMITERS))
# Numbers, addresses, days and times are never hidden, so a key that looks like one isn't either.
NO_KEY = re.compile(r"[0-9.:]{1,21}|[0-9]{4}-[0-9]{2}-[0-9]{2}(?:T[0-9]{2}[0-9:]*Z?)?|[0-9:]{2,5}Z")
# Names of the contract's fields; assumed not to be keys.
FIELDS = {
    *("fense_account_id created_at updated_at api_key_last4 start_date end_date".split()),
    *("total_lookups daily date lookups accounts error code message details field".split()),
    *ACCOUNT_RULES,
}
# What may be between strings in JSON.
LITERALS = r"[\s{}[\]:,]*(?:(?:null|true|false|-?[0-9.]{1,19})(?:[\s{}[\]:,]+|\Z))*"
HAS_NO_KEY = re.compile(f"{LITERALS}|{NO_KEY.pattern}")


def tokens(text: str) -> set[str]:
    """Return everything in a text that may be a key: all whole tokens."""
    found: set[str] = set()
    parts = set(text.split('"'))  # of JSON: strings, and the text between them
    if len(parts) > 1 and text[0] not in "{[":
        parts.add(text)
    parts = {part for part in parts - FIELDS if not HAS_NO_KEY.fullmatch(part)}
    for run in {run for part in parts for run in RUN.findall(part)}:
        found.add(run)
        if WORD.fullmatch(run):
            continue
        if ANY_DELIMITER.search(run):
            for delimiter in DELIMITERS:
                found.update(delimiter.split(run))
        if len(run) > LONG_RUN:  # checking it as closely would be slow
            found.update(WORD.findall(run))
            continue
        words = list(WORD.finditer(run))
        for place, first in enumerate(words):
            for last in words[place : place + MAX_WORDS]:
                if last.end() - first.start() > MAX_KEY:
                    break
                found.add(run[first.start() : last.end()])
    found |= {token.rstrip("=") for token in found if token.endswith("=")}
    found |= {token.partition("=")[2] for token in found if "=" in token}
    return {token for token in found if 0 < len(token) <= MAX_KEY and not NO_KEY.fullmatch(token)}


@cached_if_short
def digests_in(text: str) -> dict[str, str]:
    """Return the tokens of a text in each of its `forms`, by digest."""
    return {digest(token): token for form in forms(text) for token in tokens(form)}


class SharedKeys:
    """Digests of keys, shared with `others`: a digest stays until all of them have dropped it."""

    def __init__(self, others: SharedKeys | None = None) -> None:
        self._counts: collections.Counter[str] = others._counts if others else collections.Counter()
        self._changing: threading.Lock = others._changing if others else threading.Lock()
        self._own: set[str] = set()  # the digests that this one shares

    def change(self, new: Iterable[str], old: Iterable[str] | None) -> None:
        """Share new digests, and drop own old ones; None: all except the new."""
        with self._changing:
            dropped = self._own.copy() if old is None else self._own.intersection(old)
            added = set(new) - (self._own - dropped)
            self._own = self._own - dropped | added
            self._counts.update(added)
            self._counts.subtract(dropped)
            for one in dropped:
                if self._counts[one] <= 0:
                    del self._counts[one]

    def among(self, digests: Set[str]) -> set[str]:
        """Return those of the digests that are shared."""
        return {one for one in digests if one in self._counts}


LookUp = Callable[[Collection[str]], set[str]]


class Masker:
    """Finds the keys to hide in a text.

    `keys` are the application's own. Each function in `look_ups` returns which of some digests
    belong to merchants' keys, or raises an error. `others` are further keys. A text that fully
    matches `plain` contains no key.
    """

    plain = re.compile("")
    label = ""  # put before log lines: the name of an instance

    def __init__(self, keys: Iterable[str], *look_ups: LookUp) -> None:
        self.own = sorted(set(keys), key=len, reverse=True)
        self.others = SharedKeys()
        self.look_ups = [*look_ups]

    def keys_in(self, texts: Iterable[str], sent: str) -> list[str] | None:
        """Return the keys to hide in these texts; None if unknown: then everything must be hidden.

        They are the application's own keys, the key that the request `sent`, and the known keys in
        the texts.
        """
        brought = dict.fromkeys(sent.split(", "))  # a server joins two headers with a comma
        found: dict[str, str] = {}
        for text in texts:
            if text in METHODS or self.plain.fullmatch(text):
                continue
            if len(brought) > MAX_KEYS_SENT:
                return None
            found |= digests_in(text)
        known = self.others.among(found.keys())
        for look_up in self.look_ups if found else ():
            try:
                known |= look_up(found.keys() - known)
            except Exception:  # a handler that needs the database will report it
                return None
        keys = {found[one] for one in known} - {*self.own, *brought}
        return [*self.own, *brought, *sorted(keys, key=len, reverse=True)]

    def loggable(self, method: str, path: str, mount: str, sent: str) -> str:
        """Return method and path (below `mount`) as two words for the log, with keys masked.

        If there is a `label`, it replaces the mount.
        """
        if self.label:
            mount = ""
        is_plain = method in METHODS and self.plain.fullmatch(path) and not mount
        if is_plain and len(path) <= MAX_PATH:
            words = f"{method} {path}"
            if hide_named(hide(words, [*self.own, *sent.split(", ")])) == words:
                return self.label + words  # the usual case
        begin = beginning(path, MAX_PATH)
        keys = self.keys_in([method, begin], sent)
        shown = cut(hide_named(hide(begin, keys)), MAX_PATH, is_part=begin != path)
        return f"{self.label}{_as_word(hide(method, keys))} {_as_word(mount + shown)}"


def _as_word(text: str) -> str:
    """Return a method or a path as one word; `HIDDEN` stays as it is."""
    parts = text[:MAX_PATH].split(HIDDEN)
    return HIDDEN.join(quote(part.encode("latin-1")) for part in parts)[:MAX_PATH]


def hide(text: str, keys: Iterable[str] | None) -> str:
    """Return the text with `HIDDEN` in place of these keys; just `HIDDEN` if `keys` is None.

    A key of less than 8 characters is only hidden if it is a separate word. If the text contains a
    key in escaped form, all of it is hidden.
    """
    if keys is None:
        return HIDDEN
    hidden = _replace(text, keys)
    if not MAY_ESCAPE.search(hidden):
        return hidden
    return HIDDEN if any(_replace(form, keys) != form for form in forms(hidden)[1:]) else hidden


def _replace(text: str, keys: Iterable[str]) -> str:
    for key in keys:
        if key and key in text:
            found = re.escape(key) if len(key) >= 8 else rf"(?<!\w){re.escape(key)}(?!\w)"
            text = re.sub(found, HIDDEN, text)
    return text


def forms(text: str) -> list[str]:
    """Return the text, and the text without the escapes of JSON, URLs and XML, if it has any.

    Text that was escaped twice is unescaped twice.
    """

    def decoded(found: re.Match[str]) -> str:
        return chr(int(found["hex"], 16) if found["hex"] else int(found["decimal"]))

    found = [text]
    for _ in range(2):
        if not MAY_ESCAPE.search(text):
            break
        text = unquote(text.replace("\\/", "/"))
        for escape in ESCAPES:
            text = escape.sub(decoded, text)
        if text == found[-1]:
            break
        found.append(text)
    return found


def beginning(text: str, length: int) -> str:
    """Return enough of a text to mask its first `length` characters: see `cut`."""
    return text[: length + MARGIN]


def cut(masked: str, length: int, is_part: bool) -> str:
    """Return at most `length` characters of a masked text.

    If the text `is_part` of a longer one, its end is left out, because it may be half of a key.
    """
    if masked == HIDDEN:
        return HIDDEN
    return masked[: min(length, max(0, len(masked) - MARGIN)) if is_part else length]


# --- Values whose names say that they are keys ---------------------------------------------------


@cached_if_short
def hide_named(text: str) -> str:
    """Cut the text after the first word such as "api_key" or "token": a key may follow.

    If the text contains such a word in escaped form, all of it is hidden.
    """
    found = KEY_NAME.search(text)
    before = text[: found.start()] if found else text
    if any(map(KEY_NAME.search, forms(before)[1:])):
        return HIDDEN
    return text[: found.end()] + HIDDEN if found and found.end() < len(text) else text


def is_key_name(name: str) -> bool:
    """Return whether a JSON field of this name holds a key."""
    if name == "api_key_last4":
        return False
    letters = re.sub("[^a-z]", "", name.lower())
    return "apikey" in letters or letters.endswith(("key", "keys", "token", "secret", "password"))


def mask_body(text: str) -> str:
    """Return a body with the value of each JSON field that is named like a key masked.

    Truncated at the first string that mentions a key name among other text; text that isn't JSON
    is truncated at the first key name: see `hide_named`.
    """
    text = text.replace("\0", "")  # UTF-16
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return hide_named(text)
    parts, done = [], 0
    for found in STRING.finditer(text):
        if found.start() < done:
            continue  # within a masked value
        string = json.loads(found[0])
        colon = COLON.match(text, found.end())
        if colon and PLAIN_NAME.fullmatch(string):
            if not is_key_name(string):
                continue
            value, end = DECODER.raw_decode(text, colon.end())
            if isinstance(value, str):
                hidden = json.dumps(mask(value), ensure_ascii=False)
                hidden = hidden.encode(errors="replace").decode()  # half of a character
            else:
                hidden = text[colon.end() : end] if value in (None, True, False) else HIDDEN
            parts += [text[done : colon.end()], hidden]
            done = end
        elif any(map(KEY_NAME.search, forms(string))):
            return "".join([*parts, text[done : found.start()], HIDDEN])
    return "".join(parts) + text[done:]
