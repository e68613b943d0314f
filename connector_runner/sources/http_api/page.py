"""The rows of an answer: JSON at a path, NDJSON, CSV. Rows stay the bytes that came, so numbers keep their digits. Pure."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from connector_runner.sources.http_api.fields import finder, path_of
from connector_runner.sources.http_api.request import Request
from shared.errors import SetupError, Transient

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from connector_runner.sources.http_api.options import ApiStream

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_raw = msgspec.json.Decoder(msgspec.Raw).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_HALF = re.compile(rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})|[c-fC-F][0-9a-fA-F]{2})")
_ENDINGS = {"x-ndjson": "ndjson", "ndjson": "ndjson", "jsonl": "ndjson", "x-jsonlines": "ndjson", "csv": "csv"}
_NO_CHARSETS = frozenset({"idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape"})
"""Codings that Python knows, and no answer has; some of them take the square of their bytes."""
_SHOWN = 100
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)


class Answer(NamedTuple):
    """What came of a request. `body`: unpacked, not larger than the options allow."""

    request: Request
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


class Page(NamedTuple):
    """The rows of an answer, and where else to look in it. `odd`: whether bytes were replaced that are no text."""

    request: Request
    headers: CIMultiDictProxy[str]
    rows: Sequence[msgspec.Raw | bytes]
    body: bytes
    odd: bool = False

    def find(self, path: str) -> bytes | None:
        """Returns the value at a path of the answer, as JSON; None if there is none, or null."""
        return finder(path_of(path))(self.body)


def empty(answer: Answer) -> Page:
    """Returns the page of an answer that means that there are no rows."""
    return Page(answer.request, answer.headers, (), b"{}")


def page_of(stream: ApiStream, answer: Answer) -> Page:
    """Returns the rows of an answer.

    Raises:
        SetupError: it is not what the stream says.
        Transient: it is broken.
    """
    kind = answer.headers.get("Content-Type", "").lower()
    return _page(stream, answer, kind, *_text(answer.body, kind))


def _page(stream: ApiStream, answer: Answer, kind: str, body: bytes, odd: bool) -> Page:
    """Returns the rows of an answer; `body`: in UTF-8."""
    match stream.format or _format(kind):
        case "ndjson":
            rows: list[msgspec.Raw | bytes] = _ndjson(answer.request, body)
            return Page(request=answer.request, headers=answer.headers, rows=rows, body=b"{}", odd=odd)
        case "csv":
            rows = list[msgspec.Raw | bytes](_csv(stream, answer.request, body))
            return Page(request=answer.request, headers=answer.headers, rows=rows, body=b"{}", odd=odd)
        case _:
            if not body.strip():
                if answer.status == 204:
                    return empty(answer)
                raise Transient(f"{answer.request.shown}: the answer is empty, and JSON is expected")
            try:
                rows = _json(stream, answer.request, body)
                return Page(request=answer.request, headers=answer.headers, rows=rows, body=body, odd=odd)
            except SetupError:
                raise
            except (msgspec.MsgspecError, RecursionError) as exc:
                mended = _HALF.sub(rb"\\ufffd", body)
                if mended != body:
                    return _page(stream, answer, kind, mended, odd=True)
                raise _no_json(answer.request, kind, body, exc) from exc


def _format(kind: str) -> Literal["json", "ndjson", "csv"]:
    ending = kind.partition(";")[0].strip().rpartition("/")[2]
    return _ENDINGS.get(ending, "json")  # type: ignore[return-value]


def _text(body: bytes, kind: str) -> tuple[bytes, bool]:
    """Returns a body as UTF-8, and whether bytes of it are no text and were replaced."""
    match = re.search(r"charset=\"?([\w.:-]+)", kind)
    charset = match[1] if match else "utf-8"
    if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
        charset = "utf-16"
    try:
        text = body.decode("utf-8" if charset.replace("-", "_") in _NO_CHARSETS else charset)
        odd = False
    except (UnicodeError, LookupError):
        text, odd = body.decode("utf-8", "replace"), True
    return (body if charset == "utf-8" and not odd else text.encode("utf-8", "replace")).removeprefix(b"\xef\xbb\xbf"), odd


def _json(stream: ApiStream, request: Request, body: bytes) -> list[msgspec.Raw | bytes]:
    path, body = stream.records, msgspec.json.format(body, indent=-1) if b"\n" in body else body.strip()
    if path == ".":
        found = [msgspec.Raw(body)]
    elif path is None:
        if body[:1] != b"[":
            _raw(body)
            raise SetupError(f"{request.shown}: the answer is no list; write where the rows are into `records`{_hint(body)}")
        found = _list(body)
    else:
        found = list(_at(_raw(body), path.split("."), _Missing(stream, request, body)))
    return [_row(each) for each in found]


class _Missing(NamedTuple):
    stream: ApiStream
    request: Request
    body: bytes

    def tell(self) -> None:
        if self.stream.missing == "error":
            words = f'the answer has no `{self.stream.records}`, where the rows should be; check `records`, or write `missing: "empty"`'
            raise SetupError(f"{self.request.shown}: {words}{_hint(self.body)}")


def _at(value: msgspec.Raw, path: Sequence[str], missing: _Missing) -> Iterator[msgspec.Raw]:
    """Yields the rows at a path: those of a list, or the one that an object is; none of null."""
    kind = bytes(value)[:1]
    if not path:
        yield from _list(value) if kind == b"[" else () if kind == b"n" else (value,)
    elif path[0] == "*" and kind in (b"[", b"{"):
        for each in _list(value) if kind == b"[" else _object(value).values():
            yield from _at(each, path[1:], missing)
    elif kind == b"{" and (found := _object(value).get(path[0])) is not None:
        yield from _at(found, path[1:], missing)
    else:
        missing.tell()


def _row(value: msgspec.Raw) -> msgspec.Raw | bytes:
    """Returns a row as an object; what is none becomes its `value`."""
    text = bytes(value)
    return value if text[:1] == b"{" else b'{"value":' + text + b"}"


def _hint(body: bytes) -> str:
    """Returns what an answer has instead, for messages: names of keys, never values."""
    if body[:1] != b"{":
        return ": it is a list" if body[:1] == b"[" else ""
    keys = _object(body)
    lists = [name for name, each in keys.items() if bytes(each)[:1] == b"["]
    return f"; its keys are {', '.join(list(keys)[:20]) or 'none'}" + (f", lists are in {', '.join(lists[:5])}" if lists else "")


def _no_json(request: Request, kind: str, body: bytes, error: Exception) -> SetupError | Transient:
    begin = " ".join(body[: 4 * _SHOWN].decode("utf-8", "replace").split())[:_SHOWN]
    if "html" in kind or body.lstrip()[:1] == b"<":
        return SetupError(
            f"{request.shown}: the answer is a page for people and no JSON; check `base_url`, `path` and `auth`. It begins: {begin}"
        )
    return Transient(f"{request.shown}: the answer is no JSON ({error}). It begins: {begin}")


def _ndjson(request: Request, body: bytes) -> list[msgspec.Raw | bytes]:
    rows: list[msgspec.Raw | bytes] = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            _object(line)
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise Transient(f"{request.shown}: line {number} of the answer is no JSON object: {exc}") from exc
        rows.append(line.strip())
    return rows


def _csv(stream: ApiStream, request: Request, body: bytes) -> Iterator[bytes]:
    csv.field_size_limit(max(csv.field_size_limit(), len(body)))  # of the process: Python's own is 128 KiB
    reader = csv.reader(io.StringIO(body.decode(), newline=""), delimiter=stream.delimiter, strict=True)
    try:
        names = next(reader, [])
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise SetupError(f"{request.shown}: two columns of the CSV are named {twice[0]!r}")
        made = [_VALUES[stream.columns.get(name, "text")] for name in names]
        for values in reader:
            if not values:
                continue
            if len(values) != len(names):
                raise SetupError(
                    f"{request.shown}: line {reader.line_num} of the CSV has {len(values)} values and not {len(names)}"
                )
            yield msgspec.json.encode(
                {name: make(value) if value else None for name, make, value in zip(names, made, values, strict=True)}
            )
    except csv.Error as exc:
        raise SetupError(f"{request.shown}: line {reader.line_num} is no CSV: {exc}; check `delimiter`") from exc


def _number(text: str) -> Any:
    return msgspec.Raw(text.encode()) if _NUMBER.fullmatch(text) else text


def _boolean(text: str) -> Any:
    return {"true": True, "false": False}.get(text.lower(), text)


def _nested(text: str) -> Any:
    try:
        return msgspec.Raw(msgspec.json.format(text.encode(), indent=-1))
    except msgspec.DecodeError:
        return text


_VALUES: dict[str, Callable[[str], Any]] = {
    "text": str, "integer": _number, "number": _number, "boolean": _boolean, "date": str, "timestamp": str, "json": _nested,
}  # fmt: skip
