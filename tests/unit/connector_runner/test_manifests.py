"""Manifests: what is read, and what is refused before anything runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from connector_runner.sources.airbyte.manifest import read_manifest
from shared.errors import SetupError

GOOD = 'version: "7.0.0"\nstreams: []\n'


def test_a_manifest_is_read_from_its_file_and_may_have_a_column_named_like_a_component(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(GOOD + "schemas: {school: {properties: {class_name: {type: string}}}}\n")
    assert read_manifest("school", str(tmp_path / "m.yaml"))["streams"] == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"", "is empty"),
        (b"- a\n- b\n", "got a list"),
        (b"a: 1\n", "has `version` and `streams`"),
        (b"a: 1\na: 2\n", "stands here twice"),
        (b"a: !!python/object/apply:os.system ['true']\n", "m.yaml"),
        (GOOD.encode() + b"definitions: {x: {type: CustomRequester, class_name: os.system}}\n", r"manifest\.definitions\.x\.class_name"),
        (GOOD.encode() + b"x: [{y: {class_name: a.B}}]\n", r"x\[0\]\.y\.class_name"),
        (b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(b"%c: &%c [%s]\n" % (98 + n, 98 + n, b", ".join([b"*%c" % (97 + n)] * 9)) for n in range(9)), "anchors written out"),
        (b"a: &a [*a]\n", "anchor holds itself"),
        (b"x" * (11 << 20), "more than 10 MiB"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_manifest_is_refused_with_its_place(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "m.yaml"
    file.write_bytes(content)
    with pytest.raises(SetupError, match=words):
        read_manifest("crm", str(file))


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", str(tmp_path / "pipe"), str(tmp_path), str(tmp_path / "gone")):
        with pytest.raises(SetupError, match=r"connectors\.crm\.manifest: .*cannot be read"):
            read_manifest("crm", path)


@pytest.mark.parametrize("written", [{"version": "1"}, {"streams": []}, {"version": "1", "streams": 5}])
def test_a_mapping_that_is_no_manifest_is_refused(written: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match="another kind of file"):
        read_manifest("crm", written)
