"""Makes names of tables and columns from clients' names: folds them, cuts them to the warehouse's limit, keeps them apart.

Folding is snake_case: `userId` is `user_id`, `HTTPServer` is `http_server`; letters of any script (with their combining marks),
digits and `_` stay, every run of other characters becomes one `_`. The warehouse quotes every name and trusts none.

Cutting keeps the head and appends `_` and 8 hex digits of the full name's hash, so that two long names with one head stay apart
and the same long name is always the same column. If two keys fold to one name, `loader/fitting/claims.py` decides per batch which
keeps it; the other gets a suffix, made here from its full source path.

Pure; the caches of a `Namer` are bounded.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import msgspec

from loader.contract.warehouse import Capabilities

Path = tuple[str, ...]
"""The place of a value in the event: the keys from the top, in the client's spelling."""

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)
_PLAIN_FILE = re.compile(r"\w*", re.ASCII)
_CACHE_ENTRIES = 50_000
_OWN = "_penstock"
"""Our own tables and columns in a warehouse start so, also temporary ones; clients' names get out of their way."""


def fold(key: str) -> str:
    """Returns `key` in snake_case, or "" if no letter, digit or underscore is left."""
    text = unicodedata.normalize("NFC", key)
    folded: list[str] = []
    previous, run = "", False
    for position, character in enumerate(text):
        if character == "_" or character.isalnum() or (folded and not run and unicodedata.category(character)[0] == "M"):
            if run:
                folded.append("_")
                previous, run = "", False
            if _is_capital(character) and previous and previous != "_":
                after = text[position + 1 : position + 2]
                if not _is_capital(previous) or after.islower():
                    folded.append("_")
            folded.append(character)
            previous = character
        else:
            run = True
    if not folded:
        return ""
    if run:
        folded.append("_")
    return unicodedata.normalize("NFC", "".join(folded).lower())


def _is_capital(character: str) -> bool:
    """Whether a letter has a lower case; mathematical capitals such as U+1D434 have none, and would be split off each time."""
    return character.isupper() and character.lower() != character


def lower(name: str) -> str:
    """Returns a name as servers fold it: letter by letter, each to one letter. Letters with one capital are one too, as in µ and μ."""
    return name.lower() if name.isascii() else "".join(map(_small, name))


def _small(letter: str) -> str:
    capital = letter.upper()
    small = (capital if len(capital) == 1 else letter).lower()
    return small if len(small) == 1 else small[0]


def lower_ascii(name: str) -> str:
    """Returns a name with the capitals of ASCII as small letters."""
    return name.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def digest(text: str, length: int = 8) -> str:
    """Returns the first `length` hex digits of the text's hash."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


class Namer:
    """Makes names for one destination. `original` keeps keys as they are, except NUL characters and the limit."""

    def __init__(self, capabilities: Capabilities, original: bool = False) -> None:
        self._limit = capabilities.name_limit
        self._table_limit = capabilities.table_limit or self._limit
        self._bytes = capabilities.name_unit == "bytes"
        self._case = capabilities.case
        self._system_columns = frozenset(map(self.key, capabilities.system_columns))
        self._unfit = None if capabilities.unfit is None else re.compile(capabilities.unfit)
        self._original = original
        self._parts: dict[str, str] = {}
        self._tables: dict[str, str] = {}

    def part(self, key: str) -> str:
        """Returns the part of a column's name for one key of a path; never empty."""
        known = self._parts.get(key)
        if known is None:
            if len(self._parts) >= _CACHE_ENTRIES:
                self._parts.clear()
            known = self._parts[key] = self._fold(key, "column")
        return known

    def column(self, parts: Sequence[str]) -> str:
        """Returns the column name of folded parts, within the limit."""
        name = "_".join(parts)
        if self.key(name) in self._system_columns:
            return self.cut(name, "_" + digest(name))
        return self._fit(_beside_ours(name if self._original else _led(name)))

    def table(self, text: str) -> str:
        """Returns the table name for a name from a client, a template or a layout, within the limit."""
        known = self._tables.get(text)
        if known is None:
            if len(self._tables) >= _CACHE_ENTRIES:
                self._tables.clear()
            folded = _beside_ours(self._fold(text, "table"))
            fitted = self._fit(folded if self._original else _led(folded))
            known = fitted if _PLAIN_FILE.fullmatch(fitted) else self.cut(fitted, limit=self._table_limit)
            self._tables[text] = known
        return known

    def cut(self, name: str, ending: str = "", limit: int = 0) -> str:
        """Returns `name` followed by `ending`, shortened at its end so that both fit the limit in its unit.

        Args:
            limit: another one than the destination's.
        """
        limit = limit or self._limit
        if self._size(name + ending) <= limit:
            return name + ending
        tail = ending or "_" + digest(name)
        room = limit - self._size(tail)
        if not self._bytes:
            return name[:room] + tail
        return name.encode()[:room].decode("utf-8", "ignore") + tail

    def _fit(self, name: str) -> str:
        """Returns a name within the limit and without characters that the warehouse refuses; different names stay apart."""
        if self._unfit is None or not self._unfit.search(name):
            return self.cut(name)
        return self.cut(self._unfit.sub("_", name), "_" + digest(name))

    def suffixed(self, name: str, path: Path, length: int = 8) -> str:
        """Returns the name for `path` if another path has `name`: with a hash of the full source path."""
        return self.cut(name, "_" + digest(msgspec.json.encode(path).decode(), length))

    def key(self, name: str) -> str:
        """Returns the key of a name: two names that the warehouse takes for one have the same key."""
        if self._case == "keep":
            return name
        if self._case == "ascii":
            return lower_ascii(name)
        return lower(name) if self._case == "lower" else name.upper()

    def _fold(self, key: str, kind: str) -> str:
        if self._original:
            # a surrogate without its other half cannot be written as UTF-8; the decoder makes none, a template might
            return key.replace("\0", "").encode("utf-8", "replace").decode() or "_unnamed"
        if _PLAIN.fullmatch(key):
            return key
        if not key:
            return "_unnamed"
        return fold(key.encode("utf-8", "replace").decode()) or f"{kind}_{digest(key)}"

    def _size(self, name: str) -> int:
        return len(name.encode()) if self._bytes else len(name)


def _led(name: str) -> str:
    return "_" + name if name[:1].isdigit() else name


def _beside_ours(name: str) -> str:
    return "_" + name if name.lower().startswith(_OWN) else name
