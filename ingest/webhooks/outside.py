"""Values of a request outside of its body: places such as `header:X-Topic` and `query:kind`. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ingest.contract import HttpRequest, Outside

LONGEST_VALUE = 512
"""Characters of a name or an id; a longer one does not count."""
KINDS = ("header:", "query:")


def outside_of(places: Sequence[str]) -> Outside | None:
    """Returns what finds the first value of `places`; None: none of them is outside of the body."""
    chosen = [
        (kind == "header", name.lower() if kind == "header" else name)
        for kind, _, name in (each.partition(":") for each in places)
        if kind in ("header", "query") and name
    ]
    if not chosen:
        return None

    def find(request: HttpRequest) -> str:
        for in_header, name in chosen:
            value = request.headers.get(name) if in_header else request.query.get(name)
            if value and len(value) <= LONGEST_VALUE:
                return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return ""

    return find


def inside_of(places: Sequence[str]) -> tuple[str, ...]:
    """Returns the paths among `places`."""
    return tuple(each for each in places if not each.startswith(KINDS))
