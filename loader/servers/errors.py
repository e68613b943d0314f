"""Translates a driver's errors by a table of the server's codes: our error, the remedy, and the trouble for the kit.

A warehouse gives a subclass of `Errors` with its tables. No text here holds a password: servers never repeat it, and a subclass
must pass no text on in which a driver may quote an address.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, NamedTuple, TypeAlias, TypeVar

from loader.sql.dialect import Trouble
from shared.driving.network import translate_socket
from shared.errors import NotConnected, PenstockError, Permanent, RowsRejected, SetupError, UnknownDriverError, unknown

Code: TypeAlias = int | str
"""A number, or an SQLSTATE, whose first two characters are its class."""
V = TypeVar("V")


_DOOR = "check `host` and `port`, and that it is such a server that listens there"


class Meaning(NamedTuple):
    """The meaning of a code. `error`: of our tree, `RowsRejected` if the server refuses a value or a row. `remedy`: what to do."""

    error: type[PenstockError]
    remedy: str = ""


def by_code(*said: tuple[type[PenstockError], Mapping[str, Iterable[Code]]]) -> dict[Code, Meaning]:
    """Returns the meanings of codes that are written by error and remedy; of a code that stands twice, the last."""
    return {code: Meaning(error, remedy) for error, remedies in said for remedy, codes in remedies.items() for code in codes}


class Errors(ABC):
    """The errors of one driver. `product`: the server's name, for messages."""

    product: ClassVar[str]

    meanings: ClassVar[Mapping[Code, Meaning]]
    """By code, or by class."""
    troubles: ClassVar[Mapping[Code, Trouble | Literal["no"]]]
    """The trouble for the kit, by code or class; `no` for a code that differs from the rest of its class."""
    foreign_keys: ClassVar[frozenset[Code]]
    """Codes for rows that need rows of other tables."""

    @abstractmethod
    def code(self, error: BaseException) -> Code | None:
        """Returns the server's code of an error, None if it has none."""

    @abstractmethod
    def describe(self, error: BaseException) -> str:
        """Returns the driver's words."""

    def cause(self, error: BaseException) -> BaseException:
        """Returns the error below one of the driver's that says nothing itself, else the error."""
        return error

    def row(self, error: BaseException) -> int | None:  # noqa: ARG002
        """Returns the index of the row that the server names, if it does."""
        return None

    def meaning(self, error: BaseException, code: Code) -> Meaning | None:  # noqa: ARG002
        """Returns the meaning of an error with a code; None for an unknown code."""
        return _found(self.meanings, code)

    def without_code(self, error: BaseException) -> Meaning | None:  # noqa: ARG002
        """Returns the meaning of the driver's own error; None for any other."""
        return None

    def trouble(self, error: BaseException) -> Trouble | None:
        """Returns the trouble of an error, as `Dialect.trouble` does."""
        code = self.code(error)
        found = None if code is None else _found(self.troubles, code)
        return None if found == "no" else found

    def translate(self, error: BaseException, what: str, table: str | None = None) -> PenstockError:
        """Returns our error for an error of the driver.

        Args:
            error: the driver's error.
            what: what failed, for the message: `loading into postgres destination "wh"`.
            table: the table whose rows were being sent; data errors become its `RowsRejected`.
        """
        if isinstance(error, PenstockError):
            return error
        error = self.cause(error)
        code = self.code(error)
        words = f"{what}: {self.describe(error)}"
        meaning = self.without_code(error) if code is None else self.meaning(error, code)
        if meaning is None:
            if code is not None:
                return UnknownDriverError(words)
            return translate_socket(error, what) or unknown(error, f"{what}: {type(error).__name__}: {self.describe(error)}")
        if meaning.error is not RowsRejected:
            return meaning.error(f"{words}; {meaning.remedy}" if meaning.remedy else words)
        if table is None:
            return Permanent(words)
        index = self.row(error)
        rows = {} if index is None else {index: self.describe(error)}
        return RowsRejected(table, self.describe(error), rows, needs_others=code in self.foreign_keys)

    def at_the_door(self, error: BaseException, what: str) -> PenstockError:
        """As `translate`, of an error while a link is opened: a server of another kind may listen there."""
        error = self.cause(error)
        if isinstance(error, TimeoutError):
            return NotConnected(f"{what}: no {self.product} server answered in time; {_DOOR}")
        if isinstance(error, PenstockError | OSError):
            return self.translate(error, what)
        if self.code(error) is None:
            return SetupError(f"{what}: what answers does not speak as a {self.product} server ({self.describe(error)}); {_DOOR}")
        found = self.translate(error, what)
        return NotConnected(f"{found}; {_DOOR}") if type(found) is NotConnected else found


def _found(table: Mapping[Code, V], code: Code) -> V | None:
    return table.get(code if code in table or isinstance(code, int) else code[:2])
