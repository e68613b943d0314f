"""What a plug-in makes of errors it does not know."""

from __future__ import annotations

import re
from typing import Any

import pytest

from loader.warehouses.duckdb import errors as duckdb
from loader.warehouses.mysql.errors import ERRORS as MYSQL
from loader.warehouses.postgres.errors import ERRORS as POSTGRES
from shared.errors import (
    Defect,
    NotConnected,
    Permanent,
    RowsRejected,
    SetupError,
    TableBusy,
    TableChanged,
    TableSetupError,
    Transient,
    UnknownDriverError,
)
from shared.stores import local


class _ServerError(Exception):
    sqlstate = "F0000"


@pytest.mark.parametrize("translate", [duckdb.translate, POSTGRES.translate, MYSQL.translate, local.translate])
def test_an_exception_of_code_is_a_defect_and_any_other_is_unknown(translate: Any) -> None:
    assert type(translate(IndexError("out of bounds"), "loading")) is Defect
    assert type(translate(Exception("never seen"), "loading")) is UnknownDriverError


def test_a_state_that_postgres_was_never_heard_to_say_is_unknown() -> None:
    assert type(POSTGRES.translate(_ServerError("?"), "loading")) is UnknownDriverError


def test_a_panic_of_an_extension_is_a_defect() -> None:
    panic = type("PanicException", (BaseException,), {})
    assert type(POSTGRES.translate(panic("index out of bounds"), "loading")) is Defect


def test_a_parameter_that_has_no_form_is_a_matter_of_rows() -> None:
    from asyncpg.exceptions import _base

    assert type(POSTGRES.translate(_base.DataError("invalid input for query argument $1"), "loading", "events")) is RowsRejected


def test_a_text_that_a_type_cannot_read_is_a_matter_of_rows_and_a_statement_that_the_server_cannot_read_is_not() -> None:
    from asyncpg.exceptions import PostgresSyntaxError

    error = PostgresSyntaxError('syntax error in tsvector: "a:b"')
    assert type(POSTGRES.translate(error, "loading", "events")) is RowsRejected
    error.position = "8"
    assert type(POSTGRES.translate(error, "loading", "events")) is Permanent


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (1045, SetupError, "check `user`, `password`"),
        (1044, SetupError, "check `database`, or grant SELECT"),
        (1142, TableSetupError, "grant it SELECT"),
        (1205, TableBusy, "another session holds a lock"),
        (1146, TableChanged, "words$"),
        (1062, RowsRejected, "words$"),
        (1099, Permanent, "words$"),
        (1213, Transient, "tried again"),
        (2013, NotConnected, "words$"),
        (1999, UnknownDriverError, "words$"),
        (3999, UnknownDriverError, "words$"),
    ],
)
def test_a_number_of_mysql_means_one_thing(number: int, kind: type[Exception], words: str) -> None:
    from pymysql.err import OperationalError

    translated = MYSQL.translate(OperationalError(number, "words"), "loading", "events")
    assert type(translated) is kind
    assert re.search(words, str(translated))


def test_a_full_disk_is_heard_in_the_words_of_any_number_of_mysql() -> None:
    from pymysql.err import InternalError

    assert type(MYSQL.translate(InternalError(1026, "Error writing file (errno: 28)"), "loading")) is SetupError


def test_what_the_driver_of_mysql_wraps_is_told_itself() -> None:
    from pymysql.err import OperationalError

    error = OperationalError(2003, "cannot connect")
    error.__cause__ = ConnectionRefusedError()
    assert "the connection is refused; check `host`" in str(MYSQL.translate(error, "opening"))


def test_a_row_that_mysql_names_is_an_index() -> None:
    from pymysql.err import DataError

    translated = MYSQL.translate(DataError(1366, "Incorrect value for column `n` at row 3"), "loading", "events")
    assert isinstance(translated, RowsRejected)
    assert list(translated.rows) == [2]


@pytest.mark.parametrize(
    ("number", "trouble"),
    [
        (1050, "race"),
        (1062, "duplicate"),
        (1048, "null"),
        (1406, "long"),
        (1146, "gone"),
        (1118, "refused"),
        (1142, None),
        (2013, None),
    ],
)
def test_the_kit_hears_what_a_number_of_mysql_means_for_it(number: int, trouble: str | None) -> None:
    from pymysql.err import OperationalError

    assert MYSQL.trouble(OperationalError(number, "words")) == trouble
