"""One real local stack with the sample project for the whole folder; every test finds that project applied."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.command import cli
from tests.support.command import LocalStack, local_stack


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with local_stack(tmp_path_factory.mktemp("command")) as stack:
        stack.up()
        yield stack


@pytest.fixture
def stack(running: LocalStack) -> Iterator[LocalStack]:
    """The stack with the sample project, whatever a test applies."""
    yield running
    # in this process: one more process for each test would be a quarter of the time all of them take
    if cli.run(["plan", str(running.project), "--home", str(running.home.folder), "--exit-code"]) != 0:
        assert running.run("apply", "--yes").code == 0
