"""Postgres types and our kinds: what a live column is, what a new one becomes, how one widens into another. Pure.

`numeric` without a declared size is `OTHER`, as one with a scale is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from loader.contract.warehouse import Kind, Limits
from loader.sql.types import Types, decimal_limits, integer_limits
from loader.types import literals

_KINDS = {
    "boolean": Kind.BOOLEAN,
    "bigint": Kind.BIGINT, "integer": Kind.BIGINT, "smallint": Kind.BIGINT,
    "double precision": Kind.DOUBLE, "real": Kind.DOUBLE,
    "timestamp with time zone": Kind.TIMESTAMP, "timestamp without time zone": Kind.TIMESTAMP,
    "date": Kind.DATE,
    "text": Kind.TEXT, "character varying": Kind.TEXT, "character": Kind.TEXT,
    "jsonb": Kind.JSON, "json": Kind.JSON,
}  # fmt: skip

_SECOND_DIGITS = 6
_LONGEST_FRACTION = 1000
"""What RE2 counts to."""
_ARGUMENTS = re.compile(r"\((?P<inside>[\d, -]*)\)")
_WITHOUT_LENGTH = {"character": "bpchar", "bit": '"bit"'}
"""Types whose bare name means a length of one."""
_INTEGERS = {"smallint": integer_limits(16), "integer": integer_limits(32)}
_ANY_NUMERIC = (131_072 + 16_383, 16_383)
"""Digits of a numeric without a declared size, and those after its point; it rounds what has more of these."""
_BYTES = r"^(?:\\x(?:[0-9a-fA-F]{2})*|[^\\]*)$"
_NETWORK = r"[:/]|^[0-9]+(?:\.[0-9]+){3}$"
"""A number such as 10.5 is none, though the server reads one as 10.5.0.0/16."""
_HARDWARE = r"^[0-9a-fA-F]*(?:[a-fA-F:]|[0-9]-|\.[0-9a-fA-F]+\.)[0-9a-fA-F:.-]*$"
"""A number such as 1234567890.12 is none, though the server leaves out its point."""
_ASCII = "^[\x01-\x7f]{0,%d}$"
_LOOKED_UP = ("regclass", "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper", "regoperator", "regproc",
              "regprocedure", "regrole", "regtype")  # fmt: skip
"""Types of names that the server looks up."""
_INTERNAL = ("aclitem", "gtsvector", "int2vector", "oidvector", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary",
             "pg_dependencies", "pg_mcv_list", "pg_ndistinct", "pg_node_tree", "pg_snapshot", "txid_snapshot")  # fmt: skip
"""Types of the server's own; of some it takes no value at all."""
_ALONE = {
    "uuid": Limits(accepted=literals.UUID),
    "oid": Limits(accepted=literals.UNSIGNED),
    "bytea": Limits(accepted=_BYTES),
    "money": Limits(digits=(18, 2)),
    "name": Limits(accepted=_ASCII % 63),
    '"char"': Limits(accepted=_ASCII % 1),
    # the server reads digits as far as they go, and wraps values that are too large
    **dict.fromkeys(("xid", "cid"), Limits(accepted=literals.unsigned(9))),
    "xid8": Limits(accepted=literals.unsigned(19)),
    "tid": Limits(accepted=r"^\([0-9]+,[0-9]+\)$"),
    "cidr": Limits(accepted=_NETWORK),
    **dict.fromkeys(("macaddr", "macaddr8"), Limits(accepted=_HARDWARE)),
    **dict.fromkeys(("bit", "bit varying"), Limits(accepted=literals.BITS)),
    "tsvector": Limits(refused=r":[0-9]{5}|\\"),  # it cuts positions to 16383, and leaves out backslashes
    "line": Limits(accepted=literals.LINE, float_bytes=8),
    "cube": Limits(float_bytes=8),
    "vector": Limits(float_bytes=4),
    **dict.fromkeys((*_LOOKED_UP, *_INTERNAL), Limits(accepted=literals.NOTHING)),
}
_GEOMETRIC = frozenset(("point", "lseg", "box", "path", "polygon", "circle"))
_HARMLESS = frozenset(("inet", "xml", "tsquery", "citext", "hstore", "ltree", "pg_lsn", "jsonpath", "refcursor"))
"""Types in which a word is a word."""
_UNKNOWN = "|".join((literals.COMPUTED, "[eE][+-][0-9]", *(rf"[0-9]{{{n}}}\.[0-9]{{{16 - n}}}" for n in range(17))))
"""Of the text of types that we do not know: times that are computed, and numbers with more digits than a double has."""
_TIMES = {
    **dict.fromkeys(("date", "daterange", "datemultirange"), literals.DATES_INSIDE),
    **dict.fromkeys(("timestamp without time zone", "tsrange", "tsmultirange"), literals.TIMES_INSIDE),
    **dict.fromkeys(("timestamp with time zone", "tstzrange", "tstzmultirange"), literals.INSTANTS_INSIDE),
}
"""What ranges of times take, and lists of times."""
_DECIMALS_INSIDE = Limits(accepted=literals.NUMBERS_INSIDE, refused=literals.BEYOND_DECIMAL)
_NUMBERS = {
    **dict.fromkeys(("int4range", "int8range", "int4multirange", "int8multirange"), Limits(accepted=literals.WHOLE_INSIDE)),
    **dict.fromkeys(("numrange", "nummultirange"), _DECIMALS_INSIDE),
}
"""What ranges of numbers take."""
_INSIDE = {
    "boolean": Limits(accepted=literals.BOOLEANS_INSIDE),
    **dict.fromkeys(("smallint", "integer", "bigint"), Limits(accepted=literals.WHOLE_INSIDE)),
    "real": Limits(accepted=literals.NUMBERS_INSIDE, float_bytes=4),
    "double precision": Limits(accepted=literals.NUMBERS_INSIDE, float_bytes=8),
    "text": None, "json": None, "uuid": None, "bit": None, "bit varying": None,
    # blanks at the end are cut to the length
    **dict.fromkeys(("character", "character varying"), Limits(refused=r"""[ \\][\s"',}]|\\""")),
}  # fmt: skip
"""What elements of arrays hold; some refuse what they cannot hold, in arrays too."""
_WHOLE_NUMERIC = re.compile(r"numeric\(\d+,0\)")

_UTC = "\"c\" AT TIME ZONE 'UTC'"
# milliseconds as everywhere in our text of times; microseconds only where dropping them would lose something
_ISO = (
    f'CASE WHEN extract(microseconds FROM "c")::bigint % 1000 = 0 THEN to_char({_UTC}, \'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"\') '
    f'ELSE to_char({_UTC}, \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\') END'
)
# the shortest text that reads back as the same double, without an exponent; where there are gaps between doubles, all of their
# digits
_UPPER = 'trunc("c" / 9223372036854775808)'  # a cast of the whole to numeric rounds to 15 digits
_WHOLE_DOUBLE = 'CASE WHEN "c" >= 9223372036854775296 THEN false ELSE "c"::double precision::bigint = "c" END'
_ALL = f'{_UPPER}::bigint::numeric * 9223372036854775808 + ("c" - {_UPPER} * 9223372036854775808)::bigint'
_DIGITS = f'CASE WHEN abs("c") < 9007199254740992 THEN "c"::text::numeric ELSE {_ALL} END'
NATIVES = {
    Kind.BOOLEAN: "boolean", Kind.BIGINT: "bigint", Kind.DOUBLE: "double precision", Kind.DECIMAL: "numeric(38,0)",
    Kind.TIMESTAMP: "timestamp with time zone", Kind.DATE: "date", Kind.TEXT: "text", Kind.JSON: "jsonb", Kind.OTHER: "text",
}  # fmt: skip
TYPES = Types(
    natives=NATIVES,
    to_json="to_jsonb({})",
    to_text={Kind.DATE: "to_char(\"c\", 'YYYY-MM-DD')", Kind.TIMESTAMP: _ISO, Kind.DOUBLE: f"({_DIGITS})::text"},
    widen={
        (Kind.DOUBLE, Kind.JSON): f"to_jsonb({_DIGITS})",
        (Kind.DATE, Kind.TIMESTAMP): "\"c\"::timestamp AT TIME ZONE 'UTC'",
    },
    survives={(Kind.BIGINT, Kind.DOUBLE): _WHOLE_DOUBLE},
    narrow=frozenset((Kind.BIGINT, Kind.DECIMAL, Kind.DOUBLE, Kind.TEXT, Kind.TIMESTAMP)),
    not_their_text=frozenset(("bytea", "tsvector", "jsonpath")),
    text_of={"money": '"c"::numeric::text'},
)


def kind_of(native: str) -> Kind:
    """Returns the kind of a type as `format_type` writes it."""
    if _WHOLE_NUMERIC.fullmatch(native):
        return Kind.DECIMAL
    return _KINDS.get(_ARGUMENTS.sub("", native), Kind.OTHER)


def limits_of(native: str, labels: Sequence[str] = (), inside: tuple[str, str] | None = None) -> Limits | None:
    """Returns what a type holds of its kind; None where that is all of it, or only the server can tell.

    `labels`: of an enum. `inside`: the type below domains and arrays, with its `typtype`; None for most types.
    """
    inner, made = inside or (native.rstrip("[]"), "b")
    if made == "c" or (made in "rm" and inner not in _TIMES and inner not in _NUMBERS):
        return Limits(accepted=literals.NOTHING)  # of a type made by its owner: each of its parts may round, cut or compute
    if native.endswith("[]"):
        return _limits_of_array(inner)
    match = _ARGUMENTS.search(native)
    numbers = [int(number) for number in match["inside"].split(",")] if match and match["inside"] else []
    bare = _ARGUMENTS.sub("", native)
    if bare in _INTEGERS:
        return _INTEGERS[bare]
    if bare == "real":
        return Limits(single=True)
    if bare == "numeric":
        return decimal_limits(*numbers) if numbers else Limits(digits=_ANY_NUMERIC)
    if bare.startswith("timestamp") and numbers:
        return Limits(seconds_digits=numbers[0]) if numbers[0] < _SECOND_DIGITS else None
    digits = numbers[0] if numbers else _SECOND_DIGITS
    if bare.startswith("time "):
        return Limits(accepted=literals.clock(digits, zone=bare.endswith("with time zone")))
    if bare.startswith("interval"):
        # one of certain fields cuts the others
        return Limits(accepted=literals.interval(digits) if bare == "interval" else literals.NOTHING)
    if labels:
        return Limits(one_of=frozenset(labels))
    length = length_of(native)
    return Limits(characters=length) if length is not None else _limits_of_others(bare)


def _limits_of_others(bare: str) -> Limits | None:
    if bare in _ALONE:
        return _ALONE[bare]
    if bare in _GEOMETRIC:
        return Limits(accepted=literals.GEOMETRY, float_bytes=8)
    if bare in _KINDS or bare in _HARMLESS:
        return None
    if bare in _NUMBERS:
        return _NUMBERS[bare]
    return Limits(accepted=_TIMES[bare]) if bare in _TIMES else Limits(refused=_UNKNOWN)


def _limits_of_array(native: str) -> Limits | None:
    match = _ARGUMENTS.search(native)
    bare = _ARGUMENTS.sub("", native)
    if bare.startswith("time") and match:  # it may be rounded to so many digits
        return Limits(accepted=literals.NOTHING)
    if bare.startswith("time "):
        return Limits(accepted=literals.ZONED_CLOCKS_INSIDE if bare.endswith("with time zone") else literals.CLOCKS_INSIDE)
    if bare in _TIMES:
        return Limits(accepted=_TIMES[bare])
    if bare == "numeric":
        scale = int(match["inside"].split(",")[-1]) if match else None
        if scale is None:
            return _DECIMALS_INSIDE
        return Limits(accepted=literals.numbers_inside(scale) if 0 <= scale < _LONGEST_FRACTION else literals.NOTHING)
    if bare in _INSIDE:
        return _INSIDE[bare] if match or not bare.startswith("character") else None
    if bare in _ALONE or bare in _KINDS or bare.startswith("interval"):
        return Limits(accepted=literals.NOTHING)  # what one of these would round, cut or wrap cannot be told inside of a list
    return _limits_of_others(bare)


def length_of(native: str) -> int | None:
    """Returns n of `character varying(n)` and `character(n)`."""
    if not native.startswith("character"):
        return None
    match = _ARGUMENTS.search(native)
    return int(match["inside"]) if match else None


def cast_of(plain: str) -> str:
    """Returns what text is cast to on its way into a column of a type: the type without a length.

    A cast to `varchar(3)` cuts longer text; a cast to `varchar`, and the assignment to the column after it, does not.
    """
    plain = _ARGUMENTS.sub("", plain)
    if plain == "money":
        return "numeric::money"  # the text of money is read as the server's locale writes it
    bare = plain.removesuffix("[]")
    return plain if bare not in _WITHOUT_LENGTH else _WITHOUT_LENGTH[bare] + plain[len(bare) :]
