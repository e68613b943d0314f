"""How further pages are asked for: the ways that a user may write, and the next request of each. Pure.

A page is never asked for twice: an API that leads in a circle, or ignores the parameter, would be read for ever.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from connector_runner.sources.http_api.fields import finder, path_of, text_of
from connector_runner.sources.http_api.page import Page
from connector_runner.sources.http_api.request import Request, joined
from shared.errors import SetupError

SendIn = Annotated[Literal["query", "body"], Meta(description="where the parameters go; in a body their names are paths")]
HasMore = Annotated[str | None, Meta(description="path of the value that is false on the last page")]
Size = Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="rows of a page that are asked for")]
EndsAt = Annotated[
    Literal["empty_page", "short_page"],
    Meta(description="which page is the last: the first without rows, or the first with fewer rows than `size`"),
]
_NO = frozenset((b"false", b"0", b'"false"', b'"0"', b'"no"', b'""'))
_WHOLE = re.compile(r"\d{1,18}", re.ASCII)
_LINK = re.compile(r'<([^>]*)>((?:\s*;\s*[\w!#$%&\'*+.^`|~-]+(?:\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^",;\s]*))?)*)')
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^",;\s]*))', re.IGNORECASE)


class ByPage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="page"):
    """Pages have numbers."""

    param: Annotated[str, Meta(description="name of the parameter with the number")] = "page"
    start: Annotated[int, Meta(description="number of the first page")] = 1
    size_param: Annotated[str | None, Meta(description="name of the parameter with the size")] = None
    size: Size = None
    total_pages: Annotated[str | None, Meta(description="path of the number of pages in the answer")] = None
    has_more: HasMore = None
    ends_at: EndsAt = "empty_page"
    send_in: SendIn = "query"


class ByOffset(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="offset"):
    """A page begins behind so many rows."""

    param: Annotated[str, Meta(description="name of the parameter with the number of rows before the page")] = "offset"
    size_param: Annotated[str | None, Meta(description="name of the parameter with the size")] = "limit"
    size: Size = 100
    total: Annotated[str | None, Meta(description="path of the number of rows in the answer")] = None
    has_more: HasMore = None
    ends_at: EndsAt = "empty_page"
    send_in: SendIn = "query"


class ByCursor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="cursor"):
    """Each answer has the mark of the next page: in its body, in a header, or in its last row."""

    param: Annotated[str, Meta(min_length=1, description="name of the parameter with the mark")]
    next: Annotated[str | None, Meta(description="path of the mark in the answer")] = None
    header: Annotated[str | None, Meta(description="header of the answer that has the mark")] = None
    last_row: Annotated[str | None, Meta(description="field of the page's last row that is the mark, such as `id`")] = None
    size_param: Annotated[str | None, Meta(description="name of the parameter with the size")] = None
    size: Size = None
    has_more: HasMore = None
    send_in: SendIn = "query"

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.next, self.header, self.last_row)) != 1:
            raise ValueError("paging: write one of `next`, `header` and `last_row`, which says where the mark is")


class ByLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="link"):
    """Each answer has the address of the next page in its header `Link`, with rel=next (RFC 8288)."""

    size_param: Annotated[str | None, Meta(description="name of the parameter with the size")] = None
    size: Size = None


class ByNextUrl(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="next_url"):
    """Each answer has the address of the next page in its body."""

    next: Annotated[str, Meta(min_length=1, description="path of the address in the answer")]
    size_param: Annotated[str | None, Meta(description="name of the parameter with the size")] = None
    size: Size = None
    has_more: HasMore = None


Paging = ByPage | ByOffset | ByCursor | ByLink | ByNextUrl


class Pages:
    """The requests of one walk over pages.

    Args:
        paging: the way; None: there is one page.
        base: the request without what paging adds.
        whole: whether the rows of a page are all that the API counts, so that an offset may count them.
    """

    def __init__(self, paging: Paging | None, base: Request, *, whole: bool = True) -> None:
        self._paging = paging
        self._whole = whole
        self._number = 0
        self._before = 0
        self._digest = b""
        self._mark: tuple[object, ...] = ()
        self._steps, self._power = 0, 1
        size = None if paging is None else paging.size
        if paging is not None and paging.size_param is not None and size is not None:
            base = base.put(paging.size_param, size, getattr(paging, "send_in", "query"))
        self._base = base
        self.request = self._numbered()
        """The newest request."""

    def next(self, page: Page) -> Request | None:
        """Returns the request of the page behind this one; None: it is the last.

        Raises:
            SetupError: the API leads in a circle.
        """
        found = self._next(page)
        if found is not None:
            self._look(page, found)
            self.request = found
        return found

    def _next(self, page: Page) -> Request | None:
        paging, count = self._paging, len(page.rows)
        self._number += 1
        self._before += count if self._whole or paging is None or not paging.size else paging.size
        match paging:
            case None:
                return None
            case ByLink():
                target = next_link(page.headers.getall("Link", ()))
                return None if target is None else joined(page.request, target)
            case ByNextUrl():
                address = None if self._says_no(page, paging.has_more) else page.find(paging.next)
                return joined(page.request, text_of(address)) if address and text_of(address) else None
            case ByCursor():
                mark = None if self._says_no(page, paging.has_more) else _mark(paging, page)
                return None if not mark else self._base.put(paging.param, mark, paging.send_in)
            case ByPage() | ByOffset():
                over = not count or (paging.ends_at == "short_page" and count < (paging.size or 0))
                over = over or self._says_no(page, paging.has_more) or self._is_total(paging, page)
                return None if over else self._numbered()

    def _numbered(self) -> Request:
        match self._paging:
            case ByPage() as paging:
                return self._base.put(paging.param, paging.start + self._number, paging.send_in)
            case ByOffset() as paging:
                return self._base.put(paging.param, self._before, paging.send_in)
            case _:
                return self._base

    def _is_total(self, paging: ByPage | ByOffset, page: Page) -> bool:
        path, reached = (paging.total_pages, self._number) if isinstance(paging, ByPage) else (paging.total, self._before)
        total = None if path is None else page.find(path)
        return total is not None and _WHOLE.fullmatch(text_of(total)) is not None and reached >= int(text_of(total))

    def _says_no(self, page: Page, path: str | None) -> bool:
        return path is not None and page.find(path) in _NO

    def _look(self, page: Page, found: Request) -> None:
        """Looks for circles: by Brent's way for addresses and marks, which needs no memory, and for the same rows twice in a row."""
        if found.identity in (self._mark, self.request.identity):
            raise SetupError(f"{found.shown}: the API leads from a page to one that was read before; check `paging`")
        self._steps += 1
        if self._steps == self._power:
            self._mark, self._steps, self._power = found.identity, 0, self._power * 2
        digest = hashlib.sha256(b"\n".join(map(bytes, page.rows))).digest() if page.rows else b""
        if digest and digest == self._digest:
            raise SetupError(
                f"{found.shown}: two pages in a row have the same rows; check the names of the parameters of `paging`, or say where it ends "
                "by `ends_at`, `total` or `has_more`"
            )
        self._digest = digest


def _mark(paging: ByCursor, page: Page) -> str | None:
    if paging.header is not None:
        return page.headers.get(paging.header)
    if paging.next is not None:
        value = page.find(paging.next)
    else:
        value = finder(path_of(paging.last_row or ""))(page.rows[-1]) if page.rows else None
        if page.rows and value is None:
            raise SetupError(f"{page.request.shown}: the last row has no `{paging.last_row}`; check `paging.last_row`")
    return None if value is None or value == b"false" else text_of(value)


def next_link(headers: list[str] | tuple[str, ...]) -> str | None:
    """Returns the target of the first link with the relation `next`; None if there is none."""
    return next((target for target, relations in _links(", ".join(headers)) if "next" in relations), None)


def _links(text: str) -> Iterator[tuple[str, list[str]]]:
    for target, params in _LINK.findall(text):
        relation = _REL.search(params)
        yield target, (relation[1] or relation[2] or "").lower().split() if relation else []
