"""A source that the feed suite writes to and spoils."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar


class Source(ABC):
    """One topic of a real server."""

    name: str
    """Of the topic."""
    repeats_in_order: ClassVar[bool] = True
    """Whether the server sends unacknowledged records again before it sends newer ones."""

    @property
    @abstractmethod
    def document(self) -> dict[str, Any]:
        """The feed's entry in a project file, without its site."""

    @abstractmethod
    async def put(self, values: Sequence[bytes]) -> None:
        """Writes records; those of one key keep their order."""

    @abstractmethod
    async def away(self) -> None:
        """Lets the server be unreachable."""

    @abstractmethod
    async def back(self) -> None:
        """Lets it be reachable again, with all that it had."""

    @abstractmethod
    async def spoil(self) -> None:
        """Removes the topic."""
