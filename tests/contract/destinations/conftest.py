"""Every scenario runs against every plug-in that has the capabilities it needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.contract.destinations.servers import MySQLKind, PostgresKind
from tests.support.destinations.azure import AzureSubject
from tests.support.destinations.clickhouse import ClickHouseSubject
from tests.support.destinations.duckdb import DuckDBSubject
from tests.support.destinations.files import LocalSubject
from tests.support.destinations.mysql import MySQLSubject
from tests.support.destinations.opened import Open, opened
from tests.support.destinations.postgres import PostgresSubject
from tests.support.destinations.s3 import S3Subject
from tests.support.destinations.subject import Subject, can
from tests.support.mysql import MySQLServer
from tests.support.postgres import PostgresServer
from tests.support.s3 import S3Server

STAGED = "clickhouse-staged"
WITH_STAGING = ("test_exactly_once", "test_exact_values")
"""Where rows that a server pulls from a staging store could differ from those that are sent to it."""

SUBJECTS: dict[str, tuple[str, Callable[[pytest.FixtureRequest, Path], Subject]]] = {
    "duckdb": ("duckdb", lambda _, folder: DuckDBSubject(folder)),
    "postgres": ("postgres", lambda request, _: PostgresSubject(request.getfixturevalue("postgres_dsn"))),
    "mysql": ("mysql", lambda request, _: MySQLSubject(request.getfixturevalue("mysql_dsn"))),
    "clickhouse": ("clickhouse", lambda request, _: ClickHouseSubject(request.getfixturevalue("clickhouse"))),
    STAGED: ("clickhouse", lambda request, _: staged(request)),
    "local-parquet": ("local", lambda _, folder: LocalSubject(folder, "parquet")),
    "local-ndjson": ("local", lambda _, folder: LocalSubject(folder, "ndjson")),
    "local-csv": ("local", lambda _, folder: LocalSubject(folder, "csv")),
    "s3-parquet": ("s3", lambda request, _: S3Subject(request.getfixturevalue("s3_server"), "parquet")),
    "s3-ndjson": ("s3", lambda request, _: S3Subject(request.getfixturevalue("s3_server"), "ndjson")),
    "s3-csv": ("s3", lambda request, _: S3Subject(request.getfixturevalue("s3_server"), "csv")),
    "azure-parquet": ("azure", lambda request, _: AzureSubject(request.getfixturevalue("azure_server"), "parquet")),
}
"""Label to type and maker. A new plug-in gets its row here; `tests/meta/test_plugins.py` misses it otherwise."""


def staged(request: pytest.FixtureRequest) -> ClickHouseSubject:
    """Returns a database whose server pulls every insert from a bucket."""
    bucket: S3Server = request.getfixturevalue("s3_server")
    staging = bucket.document(bucket.new_bucket())
    return ClickHouseSubject(request.getfixturevalue("clickhouse"), staging=staging, staged_rows=1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Chooses the subjects of a scenario by the capabilities it names."""
    if "subject_label" not in metafunc.fixturenames:
        return
    needs = [mark.args[0] for mark in metafunc.definition.iter_markers("needs")]
    only = [name for mark in metafunc.definition.iter_markers("only") for name in mark.args]
    apart = [mark.args[0] for mark in metafunc.definition.iter_markers("apart")]
    labels = [
        label
        for label, (type_name, _) in SUBJECTS.items()
        if (label != STAGED or metafunc.module.__name__.rpartition(".")[2] in WITH_STAGING)
        and all(can(type_name, need) for need in needs)
        and (not only or type_name in only or label in only)
        and type_name not in apart
    ]
    metafunc.parametrize("subject_label", labels)


@pytest.fixture
async def wh(subject_label: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """The destination under test, open, in a place of its own."""
    subject = SUBJECTS[subject_label][1](request, tmp_path)
    if isinstance(subject, MySQLSubject):
        await subject.create()
    async with opened(subject) as one:
        yield one
    if isinstance(subject, (PostgresSubject, MySQLSubject, ClickHouseSubject)):
        await subject.drop()


@pytest.fixture
async def pg(postgres_server: PostgresServer) -> AsyncIterator[Open]:
    """A schema of its own in Postgres."""
    async with PostgresKind(postgres_server).place() as one:
        yield one


@pytest.fixture
async def my(mysql_server: MySQLServer) -> AsyncIterator[Open]:
    """A database of its own in MySQL."""
    async with MySQLKind(mysql_server).place() as one:
        yield one
