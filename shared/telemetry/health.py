"""The health of a service, as `/ready` tells it: problems that make it unready, and warnings that do not.

Each has a part, and a text that says why and what to do next. A part has a problem or a warning, never both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec


class Report(msgspec.Struct, frozen=True):
    """What `/ready` answers."""

    ready: bool
    problems: dict[str, str] = {}
    warnings: dict[str, str] = {}


class Health:
    """Kept by the parts of a service."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {"service": "starting"}
        self.warnings: dict[str, str] = {}
        self._bearable: Callable[[str], str | None] = _nothing
        self._looks: list[Callable[[], None]] = []
        self._folders: list[Callable[[], Mapping[str, str]]] = []

    def good(self, part: str) -> None:
        """A part works."""
        self.problems.pop(part, None)
        self.warnings.pop(part, None)

    def bad(self, part: str, why: str) -> None:
        """A part does not work, so the service cannot do its work."""
        self.warnings.pop(part, None)
        self.problems[part] = _sayable(why)

    def warn(self, part: str, why: str) -> None:
        """A part needs attention; the service does its work."""
        self.problems.pop(part, None)
        self.warnings[part] = _sayable(why)

    def bear(self, bearable: Callable[[str], str | None]) -> None:
        """Sets a function that says why the service works although a part has a problem; None: it does not work then."""
        self._bearable = bearable

    def look_before_report(self, look: Callable[[], None]) -> None:
        """Adds a quick function that refreshes a state which is otherwise refreshed by a clock."""
        self._looks.append(look)

    def write_to(self, folders: Callable[[], Mapping[str, str]]) -> None:
        """Adds a quick function that names the folders which this process writes to, by purpose: their disks are watched."""
        self._folders.append(folders)

    @property
    def folders(self) -> dict[str, str]:
        """The folders that this process writes to, by purpose."""
        return {purpose: folder for each in self._folders for purpose, folder in each().items()}

    def report(self) -> Report:
        """Returns the state now."""
        for look in self._looks:
            look()
        problems: dict[str, str] = {}
        warnings = dict(self.warnings)
        for part, why in self.problems.items():
            reason = self._bearable(part)
            if reason is None:
                problems[part] = why
            else:
                warnings[part] = f"{why} ({reason})"
        return Report(not problems, problems, warnings)


def _sayable(why: str) -> str:
    """Returns a text that JSON can carry: the name of a file may hold bytes that are no text."""
    return why if why.isascii() else why.encode("utf-8", "replace").decode()


def _nothing(_: str) -> None:
    """The default: a service works only without problems."""
