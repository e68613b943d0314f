"""What errors of a driver mean, by a table of the server's codes: which error of our tree, what a person can do, what the kit must know.

A warehouse gives a subclass of `Errors` with its tables. No text here holds a password: servers never repeat it, and a subclass passes
nothing on in which a driver may quote an address.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple, TypeAlias, TypeVar

from loader.sql.dialect import Trouble
from shared.driving.network import translate_socket
from shared.errors import PenstockError, Permanent, RowsRejected, UnknownDriverError, unknown

Code: TypeAlias = int | str
"""A number, or an SQLSTATE, whose first two characters are its class."""
V = TypeVar("V")


class Meaning(NamedTuple):
    """What a code means. `error`: of our tree, `RowsRejected` where the server does not take a value or a row. `remedy`: what to do."""

    error: type[PenstockError]
    remedy: str = ""


class Errors:
    """The errors of one driver."""

    meanings: ClassVar[Mapping[Code, Meaning]]
    """By code, or by class."""
    troubles: ClassVar[Mapping[Code, Trouble | Literal["no"]]]
    """What the kit must know, by code or class; `no` for a code that is not as the rest of its class."""
    foreign_keys: ClassVar[frozenset[Code]]
    """Codes of rows that need rows of other tables."""

    def code(self, error: BaseException) -> Code | None:
        """Returns the server's code of an error, None where it has none."""
        raise NotImplementedError

    def describe(self, error: BaseException) -> str:
        """Returns the driver's words."""
        raise NotImplementedError

    def row(self, error: BaseException) -> int | None:  # noqa: ARG002
        """Returns the index of the row that the server names, if it does."""
        return None

    def meaning(self, error: BaseException, code: Code) -> Meaning | None:  # noqa: ARG002
        """Returns what an error with a code means; None of a code that nobody knows."""
        return _found(self.meanings, code)

    def without_code(self, error: BaseException) -> Meaning | None:  # noqa: ARG002
        """Returns what an error of the driver's own means; None of any other."""
        return None

    def trouble(self, error: BaseException) -> Trouble | None:
        """Returns what an error means for the kit; as `Dialect.trouble`."""
        code = self.code(error)
        found = None if code is None else _found(self.troubles, code)
        return None if found == "no" else found

    def translate(self, error: BaseException, what: str, table: str | None = None) -> PenstockError:
        """Returns the error of our tree for one of the driver's.

        Args:
            error: what was raised.
            what: what failed, for the message: `loading into postgres destination "wh"`.
            table: the table whose rows were on their way; data errors become `RowsRejected` of it.
        """
        if isinstance(error, PenstockError):
            return error
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


def _found(table: Mapping[Code, V], code: Code) -> V | None:
    return table.get(code if code in table or isinstance(code, int) else code[:2])
