"""The types of a warehouse and our kinds: types of new columns, widening, and limits of narrower types. Pure.

A warehouse gives its differences (`Types`); most kinds widen in the same way everywhere. `"c"` in an expression stands for the
column. A decimal with a scale is `OTHER` in every warehouse: our decimal is decimal128(38, 0), and a fraction as text loses
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loader.contract.warehouse import Column, Kind, Limits
from loader.sql.text import forced_native

DECIMAL_DIGITS = 38

_TO_TEXT = (Kind.BOOLEAN, Kind.BIGINT, Kind.DOUBLE, Kind.DECIMAL, Kind.DATE, Kind.TIMESTAMP)
_PAIRS = (
    (Kind.BOOLEAN, Kind.BIGINT), (Kind.BOOLEAN, Kind.DOUBLE), (Kind.BOOLEAN, Kind.DECIMAL),
    (Kind.BIGINT, Kind.DOUBLE), (Kind.BIGINT, Kind.DECIMAL), (Kind.DATE, Kind.TIMESTAMP),
    *((kind, Kind.TEXT) for kind in (*_TO_TEXT, Kind.JSON, Kind.OTHER)),
    *((kind, Kind.JSON) for kind in (*_TO_TEXT, Kind.TEXT)),
)  # fmt: skip
_IN_CALENDAR = "\"c\" BETWEEN '0001-01-01' AND '9999-12-31 23:59:59.999999'"
_WHOLE_DOUBLES = 'abs("c") < 1e37'
_SURVIVES = {
    (Kind.DOUBLE, Kind.TEXT): _WHOLE_DOUBLES,
    (Kind.DOUBLE, Kind.JSON): _WHOLE_DOUBLES,
    **{(source, target): _IN_CALENDAR for source in (Kind.DATE, Kind.TIMESTAMP) for target in (Kind.TEXT, Kind.JSON)},
    (Kind.DATE, Kind.TIMESTAMP): _IN_CALENDAR,
}


@dataclass(frozen=True)
class Types:
    """The types of a warehouse."""

    natives: Mapping[Kind, str]
    """The SQL type of a new column of each kind."""
    to_json: str
    """The expression that makes a JSON value of the value in its braces."""
    to_text: Mapping[Kind, str]
    """Expressions of our text for values of a kind, if a cast would write them in another way."""
    widen: Mapping[tuple[Kind, Kind], str] = field(default_factory=dict)
    """Expressions for pairs (from, to) that need more than a cast or the two above."""
    survives: Mapping[tuple[Kind, Kind], str] = field(default_factory=dict)
    """Conditions under which a stored value is the same in the wider kind, besides the common ones."""
    narrow: frozenset[Kind] = frozenset((Kind.BIGINT, Kind.DECIMAL, Kind.DOUBLE, Kind.TIMESTAMP))
    """Kinds with narrower types, which widen to the whole kind: an `integer` becomes a `bigint`."""
    not_their_text: frozenset[str] = frozenset()
    """Native types whose text differs from the text that was sent."""
    text_of: Mapping[str, str] = field(default_factory=dict)
    """Expressions of text for values of native types, if a cast would write them in another way."""

    @property
    def pairs(self) -> frozenset[tuple[Kind, Kind]]:
        """Pairs (from, to) between which an existing column can change."""
        return frozenset(_PAIRS) | frozenset((kind, kind) for kind in self.narrow)

    def native_of(self, column: Column) -> str:
        """Returns the SQL type of a new column: the forced one, else the kind's.

        Raises:
            Permanent: as `forced_native`.
        """
        return forced_native(column) or self.natives[column.kind]

    def widening(self, quoted_column: str, source: Kind, target: Kind, native: str = "") -> str | None:
        """Returns the expression that turns a column's values into the wider kind, or None if there is none."""
        if source is target:
            if source not in self.narrow:
                return None
            # 0.1 of four bytes is 0.10000000149 of eight, unless it goes by its text
            text, double = self.natives[Kind.TEXT], self.natives[Kind.DOUBLE]
            return f"CAST(CAST({quoted_column} AS {text}) AS {double})" if source is Kind.DOUBLE else quoted_column
        template = self.text_of.get(native) if target is Kind.TEXT else None
        template = template or self._template(source, target)
        return None if template is None else template.replace('"c"', quoted_column)

    def survives_in(self, quoted_column: str, source: Kind, target: Kind, native: str = "") -> str | None:
        """Returns the condition under which a stored value is the same in the wider kind, None if each is."""
        if native in self.not_their_text:
            return f"{quoted_column} IS NULL"
        template = self.survives.get((source, target)) or _SURVIVES.get((source, target))
        return None if template is None else template.replace('"c"', quoted_column)

    def _template(self, source: Kind, target: Kind) -> str | None:
        own = self.widen.get((source, target))
        if own is not None or (source, target) not in _PAIRS:
            return own
        if target is Kind.JSON:
            return self.to_json.format(self.to_text.get(source, '"c"'))
        if target is Kind.TEXT and source in self.to_text:
            return self.to_text[source]
        # a boolean becomes a number only by way of an integer
        value = 'CAST("c" AS integer)' if source is Kind.BOOLEAN and target is not Kind.TEXT else '"c"'
        return f"CAST({value} AS {self.natives[target]})"


def integer_limits(bits: int, *, signed: bool = True) -> Limits:
    """Returns the limits of a type of whole numbers."""
    return Limits(lowest=-(2 ** (bits - 1)), highest=2 ** (bits - 1) - 1) if signed else Limits(lowest=0, highest=2**bits - 1)


def decimal_limits(precision: int, scale: int) -> Limits | None:
    """Returns the limits of a decimal type; None if it holds all of our decimals."""
    if scale:
        return Limits(digits=(precision, scale))
    return Limits(lowest=1 - 10**precision, highest=10**precision - 1) if precision < DECIMAL_DIGITS else None
