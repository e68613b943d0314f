"""Plug-ins of one kind: every module of the kind's folders is one, named as its module. Listing them imports none.

A plug-in is a module, or a package where it is large. Each kind's registry makes one `Plugins` with the folders, and with the
parts that the kind's contract asks for.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

import msgspec

from shared.errors import ConfigError, Problem
from shared.reading.decode import decode, meant

P = TypeVar("P")


class Plugins(Generic[P]):
    """The plug-ins of one kind.

    Args:
        kind: the word for one in messages: `destination`.
        folders: the packages whose modules are the plug-ins.
        parts: what each module defines.
        contract: the file of the contract, for messages.
    """

    def __init__(self, kind: str, folders: Sequence[ModuleType], parts: Sequence[str], contract: str) -> None:
        self._kind = kind
        self._folders = folders
        self._parts = parts
        self._contract = contract
        self._only: frozenset[str] | None = None

    def names(self) -> list[str]:
        """Returns the names of all plug-ins, sorted; imports none."""
        return sorted(self._modules())

    def get(self, name: str) -> P:
        """Returns a plug-in.

        Raises:
            KeyError: none has this name.
            TypeError: the module lacks a part of the contract, or its name differs from its file's.
        """
        module = importlib.import_module(self._modules()[name])
        missing = [part for part in self._parts if not hasattr(module, part)]
        if missing:
            raise TypeError(f"{self._kind} {name} lacks {', '.join(missing)}; see {self._contract}")
        called = getattr(module, "NAME", name)
        if called != name:
            raise TypeError(f"{self._kind} {name} calls itself {called!r}; NAME equals the file name")
        return cast("P", module)

    def all(self) -> list[P]:
        """Returns every plug-in, ordered by name. Raises as `get` does."""
        return [self.get(name) for name in self.names()]

    def parse(self, path: str, document: Mapping[str, Any]) -> tuple[P, msgspec.Struct]:
        """Returns the plug-in that an entry of the project file names by its `type`, and its checked options, of the plug-in's `OPTIONS`.

        Args:
            path: of the entry, for the errors: `destinations.wh`.
            document: the entry.

        Raises:
            ConfigError: unknown type, unknown key or wrong value; its paths start with `path`.
        """
        name = document.get("type")
        if not isinstance(name, str) or name not in self.names():
            raise ConfigError([Problem(f"{path}.type", self.unknown(name))])
        found = self.get(name)
        wanted: type[msgspec.Struct] = cast("Any", found).OPTIONS
        return found, decode({key: value for key, value in document.items() if key != "type"}, wanted, path)

    def unknown(self, name: object, others: Sequence[str] = ()) -> str:
        """Returns the message for a name that no plug-in has: the known names, and the closest one.

        Args:
            others: names that are known elsewhere.
        """
        known = sorted([*self.names(), *others])
        close = meant(name, known) if isinstance(name, str) else ""
        return f"expected one of {', '.join(known)}, got {name!r}" + (f";{close}" if close else "")

    @contextmanager
    def only(self, *names: str) -> Iterator[None]:
        """Hides all other plug-ins while the context is open, for tests."""
        before, self._only = self._only, frozenset(names)
        try:
            yield
        finally:
            self._only = before

    @contextmanager
    def without(self, *names: str) -> Iterator[None]:
        """Hides these plug-ins while the context is open, for tests."""
        with self.only(*(name for name in self.names() if name not in names)):
            yield

    def _modules(self) -> dict[str, str]:
        return {
            module.name: f"{folder.__name__}.{module.name}"
            for folder in self._folders
            for module in pkgutil.iter_modules(folder.__path__)
            if self._only is None or module.name in self._only
        }


def secret_options(options: type[msgspec.Struct]) -> frozenset[str]:
    """Returns the names of the options that hold secrets: those whose `Meta` has `extra={"secret": True}`."""
    info = msgspec.inspect.type_info(options)
    fields = info.fields if isinstance(info, msgspec.inspect.StructType) else ()
    return frozenset(
        field.encode_name
        for field in fields
        if isinstance(field.type, msgspec.inspect.Metadata) and (field.type.extra or {}).get("secret")
    )
