"""The certificates of a local cluster: kept while they fit, and made again where a kill left files that do not."""

from __future__ import annotations

from pathlib import Path

from penstock.stack.certificates import certificates


def test_certificates_that_fit_are_kept_and_others_are_made_again(tmp_path: Path) -> None:
    made, other = certificates(tmp_path / "a"), certificates(tmp_path / "b")
    first = [path.read_bytes() for path in made]
    assert [path.read_bytes() for path in certificates(tmp_path / "a")] == first
    for place, damage in enumerate((other.ca.read_bytes(), other.cert.read_bytes(), other.key.read_bytes(), b"", b"half")):
        before = [path.read_bytes() for path in certificates(tmp_path / "a")]
        made[place % 3].write_bytes(damage)
        after = [path.read_bytes() for path in certificates(tmp_path / "a")]
        assert all(one != another for one, another in zip(before, after, strict=True))
