"""`penstock init`: what it writes is a project that can be applied, whichever destination it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from penstock.command import cli
from penstock.control.project.projects import check_document, read_document

VARIABLES = {
    "PG_DSN": "postgresql://u:p@h/d", "MYSQL_DSN": "mysql://u:p@h/d", "CLICKHOUSE_URL": "http://h:8123", "CLICKHOUSE_PASSWORD": "p",
    "S3_BUCKET": "lake", "AZURE_CONTAINER": "lake", "AZURE_CONNECTION_STRING": "BlobEndpoint=https://h;SharedAccessSignature=s",
    "WEBHOOK_URL": "https://h/in", "WEBHOOK_TOKEN": "t", "MY_SHOP_SECRET": "s",
}  # fmt: skip


@pytest.mark.parametrize("destination", ["duckdb", "postgres", "local", "mysql", "clickhouse", "s3", "azure", "webhook"])
def test_the_file_is_a_project_without_a_mistake(destination: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "penstock.yaml"
    assert cli.run(["init", str(file), "--site", "my-shop", "--destination", destination]) == 0
    resolved = check_document(read_document(file), VARIABLES)
    assert list(resolved["connections"]) == ["my-shop-warehouse"]
    assert resolved["sites"]["my-shop"]["keys"][0]["id"] in capsys.readouterr().out
    # what is commented out is right as well
    file.write_text(re.sub("^( +)# ", r"\1", file.read_text(), flags=re.MULTILINE))
    check_document(read_document(file), VARIABLES)


def test_a_file_that_exists_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "penstock.yaml"
    file.write_text("mine")
    assert cli.run(["init", str(file)]) == 4
    assert file.read_text() == "mine"
    assert "exists already" in capsys.readouterr().err


def test_a_name_that_no_site_may_have_is_refused(tmp_path: Path) -> None:
    assert cli.run(["init", str(tmp_path / "p.yaml"), "--site", "My Shop"]) == 2
