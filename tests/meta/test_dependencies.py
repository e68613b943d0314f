"""What Penstock depends on: each version locked with the checksums of its files, and under a licence that suits Apache's."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted(ROOT.glob("requirements*.lock"))
ALLOWED = re.compile(r"Apache|MIT|BSD|PSF|Python Software Foundation|ISC|Unlicense|CC0|Zlib|MPL 2\.0|MPL-2\.0", re.IGNORECASE)
_ENTRY = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?([^\\\n]*)((?:\\\n +[^\n]*)*)", re.MULTILINE)


def entries(lock: Path) -> list[tuple[str, str, str]]:
    """Returns name, version and what follows of each requirement."""
    return [(each[1], each[2].strip(), each[3]) for each in _ENTRY.finditer(lock.read_text())]


@pytest.mark.parametrize("lock", LOCKS, ids=[lock.name for lock in LOCKS])
def test_every_dependency_has_one_version_and_what_is_shipped_has_checksums(lock: Path) -> None:
    found = entries(lock)
    assert found
    assert [name for name, version, _ in found if not version.startswith("==")] == []
    assert (
        lock.name == "requirements-dev.lock"
        or [name for name, _, rest in found if not re.search(r"--hash=sha256:[0-9a-f]{64}", rest)] == []
    )


def licence_of(name: str) -> str:
    about = metadata.metadata(name).json
    classifiers = [each.rpartition("::")[2].strip() for each in about.get("classifier", []) if each.startswith("License")]
    return str(about.get("license_expression") or " / ".join(classifiers) or about.get("license", ""))


def test_every_dependency_has_a_licence_that_suits() -> None:
    installed = {each.name.lower().replace("_", "-") for each in metadata.distributions()}
    names = [name for name, _, _ in entries(ROOT / "requirements.lock") if name.lower().replace("_", "-") in installed]
    assert len(names) >= 50
    assert {name: licence for name in names if not ALLOWED.search(licence := licence_of(name))} == {}
