"""Functions and privacy rules as a project file says them: their Structs, and what of them can be told without running anything.

What they do to events: `functions_runtime/`. The command reads the files of functions when it loads a project file
(`penstock/control/project/code.py`), and their text travels in the applied project, so services need no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared.errors import Problem

ENDINGS = (".js", ".mjs", ".ts")
MOST_CODE_BYTES = 256 * 1024
ANY_KEY, ANY_DEPTH = "*", "**"

OnError = Literal["pass", "dead_letter", "drop"]
Deed = Literal["hash", "encrypt", "drop", "rename", "truncate"]

_NEEDED: Mapping[Deed, str] = {"hash": "secret", "encrypt": "key", "rename": "to"}
_CALLED = {"primary_key": "key", "cursor": "cursor", "deleted": "mark of deletion"}
IDENTITY = ("messageId", "type")
"""An event is known by these, so no rule touches them."""


class Function(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Code that filters, changes or multiplies the events of connections that name it."""

    file: Annotated[
        str | None, Meta(description="file of the code, `.js`, `.mjs` or `.ts`; its path begins where the project file is")
    ] = None
    code: Annotated[str | None, Meta(description="the code itself, in place of a file")] = None
    description: Annotated[str, Meta(description="what it does, for people")] = ""


class PrivacyRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule for a field of every event, applied before functions and the destination see it; or of every row of a stream."""

    field: Annotated[
        str | list[str],
        Meta(
            description="path of the field, such as `traits.email`; `*` is any key, `**` any number of levels. A list of keys where they hold dots"
        ),
    ]
    do: Annotated[
        Deed,
        Meta(
            description="hash: HMAC-SHA-256 in hexadecimal. encrypt: AES-GCM. drop: the field goes. rename: it gets another key. truncate: an address loses its last part"
        ),
    ]
    secret: Annotated[str | None, Meta(description="what `hash` is keyed with; write ${NAME}", extra={"secret": True})] = None
    key: Annotated[str | None, Meta(description="what `encrypt` encrypts with; write ${NAME}", extra={"secret": True})] = None
    to: Annotated[str | None, Meta(description="the key that `rename` gives, in the same object")] = None

    def __post_init__(self) -> None:
        _check_path(self.path)
        needed = _NEEDED.get(self.do)
        for member in _NEEDED.values():
            value = getattr(self, member)
            if member == needed and not value:
                raise ValueError(f"{member}: `do: {self.do}` needs one" + ("; is its variable empty?" if value == "" else ""))
            if member != needed and value is not None:
                raise ValueError(f"{member}: means nothing with `do: {self.do}`; take it out")
        if self.to is not None:
            if self.path[-1] in (ANY_KEY, ANY_DEPTH):
                raise ValueError("field: `rename` needs the name of a key at the end of the path")
            if "." in self.to or ANY_KEY in self.to:
                raise ValueError(f"to: expected one key, which the field gets in the same object, got {self.to!r}")

    @property
    def path(self) -> tuple[str, ...]:
        """The keys of `field`, wildcards among them."""
        return tuple(self.field.split(".") if isinstance(self.field, str) else self.field)


def _check_path(path: tuple[str, ...]) -> None:
    """Raises ValueError for a path that leads nowhere."""
    if not path or not all(path):
        raise ValueError("field: expected keys with dots between them, such as traits.email")
    for key in path:
        if ANY_KEY in key and key not in (ANY_KEY, ANY_DEPTH):
            raise ValueError(f"field: `*` stands for a whole key, so {key!r} finds nothing")
    if path[-1] == ANY_DEPTH:
        raise ValueError("field: a path ends with a key; `**` stands for the levels before it")


def check_rules_of_events(path: str, rules: Sequence[PrivacyRule]) -> Iterator[Problem]:
    """Yields the privacy rules of a connection that would change what an event is known by."""
    for index, rule in enumerate(rules):
        if len(rule.path) == 1 and rule.path[0] in IDENTITY:
            text = f"an event is known by its {rule.path[0]}, so it stays as it is"
            yield Problem(f"{path}.privacy[{index}].field", text)
        if len(rule.path) == 1 and rule.to in IDENTITY:
            text = f"an event is known by its {rule.to}, so no other field takes its place"
            yield Problem(f"{path}.privacy[{index}].to", text)


def check_rules_of_rows(
    path: str, rules: Sequence[PrivacyRule], known_by: Mapping[str, Sequence[tuple[str, ...]]]
) -> Iterator[Problem]:
    """Yields the privacy rules that would change what the rows of a stream are known by. A key may be hashed: equal ones stay equal.

    Args:
        path: of the stream, with a dot behind it, or empty.
        known_by: paths in a row, by what they are.
    """
    for index, rule in enumerate(rules):
        for what, paths in known_by.items():
            for kept in paths:
                if _reaches(rule.path, kept) and not (
                    what == "primary_key" and rule.do == "hash" and len(kept) == len(rule.path)
                ):
                    may = "; it may only be hashed" if what == "primary_key" else ""
                    text = f"{'.'.join(kept)} is the {_CALLED[what]} of the rows, so it stays as it is{may}"
                    yield Problem(f"{path}privacy[{index}].field", text)
                if rule.to is not None and _reaches((*rule.path[:-1], rule.to), kept):
                    text = f"{'.'.join(kept)} is the {_CALLED[what]} of the rows, so no other field takes its place"
                    yield Problem(f"{path}privacy[{index}].to", text)


def _reaches(path: Sequence[str], kept: Sequence[str]) -> bool:
    """Whether a path, perhaps with wildcards, leads to a field or to an object around it."""
    if not path:
        return True
    if path[0] == ANY_DEPTH:
        return any(_reaches(path[1:], kept[levels:]) for levels in range(len(kept)))
    return bool(kept) and path[0] in (kept[0], ANY_KEY) and _reaches(path[1:], kept[1:])


def check_functions(functions: Mapping[str, Function]) -> Iterator[Problem]:
    """Yields everything that is wrong with functions, as far as a file's name and the size of the code tell."""
    for name, function in functions.items():
        path = f"functions.{name}"
        if function.file is None and function.code is None:
            yield Problem(path, "write its `file`, or its `code`")
        if function.file is not None and PurePosixPath(function.file).suffix not in ENDINGS:
            yield Problem(f"{path}.file", f"expected a file that ends with {', '.join(ENDINGS)}, got {function.file!r}")
        size = len((function.code or "").encode("utf-8", "surrogatepass"))
        if size > MOST_CODE_BYTES:
            where = "code" if function.file is None else "file"
            yield Problem(
                f"{path}.{where}", f"the code has {size} bytes, more than the {MOST_CODE_BYTES} that a function may have"
            )
        elif function.code is not None and not function.code.strip():
            yield Problem(f"{path}.{'code' if function.file is None else 'file'}", "the code is empty")


def without_code(document: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns a document without the code of its functions, and the code by name: `${…}` in it is JavaScript and no variable."""
    functions = document.get("functions")
    if not isinstance(functions, dict):
        return dict(document), {}
    code = {
        name: each["code"] for name, each in functions.items() if isinstance(each, dict) and isinstance(each.get("code"), str)
    }
    bare = {
        name: {key: value for key, value in each.items() if key != "code"} if name in code else each
        for name, each in functions.items()
    }
    return {**document, "functions": bare}, code


def with_code(document: Mapping[str, Any], code: Mapping[str, str]) -> dict[str, Any]:
    """Returns a document with the code of its functions, by name."""
    functions = document.get("functions")
    if not code or not isinstance(functions, dict):
        return dict(document)
    return {
        **document,
        "functions": {name: {**each, "code": code[name]} if name in code else each for name, each in functions.items()},
    }
