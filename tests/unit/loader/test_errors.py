"""What a plug-in makes of errors it does not know."""

from __future__ import annotations

from typing import Any

import pytest

from loader.warehouses.duckdb import errors as duckdb
from loader.warehouses.postgres.errors import ERRORS as POSTGRES
from shared.errors import Defect, Permanent, RowsRejected, UnknownDriverError
from shared.stores import local


class _ServerError(Exception):
    sqlstate = "F0000"


@pytest.mark.parametrize("translate", [duckdb.translate, POSTGRES.translate, local.translate])
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
