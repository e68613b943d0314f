"""Which connections are the same ones from one project to the next."""

from __future__ import annotations

from typing import Any

from shared.project.snapshot import StoredProject, _incarnations, replaced_revision


def stored(incarnations: dict[str, str], **sites: str) -> StoredProject:
    connections: dict[str, Any] = {name: {"site": site, "destination": "wh"} for name, site in sites.items()}
    return StoredProject({}, {"connections": connections}, incarnations=incarnations)


def test_a_connection_keeps_its_incarnation_for_as_long_as_it_stays_with_its_site() -> None:
    before = stored({"kept": "3-aa", "moved": "3-bb", "gone": "4-cc"}, kept="shop", moved="shop", gone="shop", old="shop")
    found = _incarnations(before, stored({}, kept="shop", moved="blog", new="shop", old="shop"), 9)
    assert (found["kept"], found["old"]) == ("3-aa", ""), "one that was there before incarnations were known keeps its queue"
    assert sorted(found) == ["kept", "moved", "new", "old"]
    assert found["moved"].startswith("9-")
    assert found["new"].startswith("9-")
    again = _incarnations(stored({}), stored({}, gone="shop"), 10)
    assert again["gone"] not in ("", "4-cc", found["moved"])


def test_an_incarnation_tells_which_revision_it_replaced() -> None:
    assert (replaced_revision("9-aa"), replaced_revision("")) == (9, -1)
