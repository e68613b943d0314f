"""The files that browsers load, ready to be sent: made once from the modules in `script/`, compressed, with an ETag.

There is no build: `p.js` is the modules one after another in one scope, without their imports, exports and comments. So the modules
share one namespace; `tests/unit/ingest/test_browser_files.py` holds their names apart, and the size of the result.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import brotli

from ingest.contract import Reply
from shared.devices.registry import DEVICES, script_of

FOLDER = Path(__file__).parent
CORE = ("storage", "context", "person", "queue", "analytics")
SMALL_BYTES = 200
"""A smaller file is sent as it is."""

JAVASCRIPT = "text/javascript; charset=utf-8"
PUBLIC: Mapping[str, str] = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Timing-Allow-Origin": "*",
    "X-Content-Type-Options": "nosniff",
}
"""Any page may load them: they are the same for everybody."""

_IMPORT = re.compile(r"^import [^;]*?from \"[^\"]*\"\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=function|const|async|class)", re.MULTILINE)
_COMMENT = re.compile(r"^\s*//.*\n", re.MULTILINE)
_INDENT = re.compile(r"^ +", re.MULTILINE)
_BUILD = 'const BUILD = ""'


class File(NamedTuple):
    """One file in every form that a browser may ask for."""

    plain: Reply
    gzip: Reply
    brotli: Reply
    unchanged: Reply
    etag: str

    def reply(self, headers: Mapping[str, str]) -> Reply:
        """Returns the answer to a request with these headers."""
        known = headers.get("if-none-match")
        if known is not None and (known == self.etag or self.etag in known or known.strip() == "*"):
            return self.unchanged
        accepted = headers.get("accept-encoding", "")
        if "br" in accepted and not _REFUSED_BR.search(accepted):
            return self.brotli
        return self.gzip if "gzip" in accepted and not _REFUSED_GZIP.search(accepted) else self.plain


_REFUSED_BR = re.compile(r"\bbr\s*;\s*q=0(\.0*)?\s*(,|$)")
_REFUSED_GZIP = re.compile(r"\bgzip\s*;\s*q=0(\.0*)?\s*(,|$)")


def file_of(text: str, content_type: str, cache_control: str, *, best: bool = True) -> File:
    """Returns a file ready to be sent.

    Args:
        best: False: compressed quickly, for files that change with the project.
    """
    data = text.encode()
    etag = f'W/"{hashlib.sha256(data).hexdigest()[:20]}"'
    base = {"Cache-Control": cache_control, "ETag": etag, "Vary": "Accept-Encoding", **PUBLIC}
    plain = Reply(200, data, content_type, base)
    unchanged = Reply(304, b"", "", base)
    if len(data) < SMALL_BYTES:
        return File(plain=plain, gzip=plain, brotli=plain, unchanged=unchanged, etag=etag)
    packed = gzip.compress(data, 9 if best else 6, mtime=0)
    smaller: bytes = brotli.compress(data, quality=11 if best else 5)
    return File(
        plain=plain,
        gzip=Reply(200, packed, content_type, {**base, "Content-Encoding": "gzip"}),
        brotli=Reply(200, smaller, content_type, {**base, "Content-Encoding": "br"}),
        unchanged=unchanged,
        etag=etag,
    )


FRESH = "public, max-age=600, stale-while-revalidate=86400"
FOREVER = "public, max-age=31536000, immutable"
"""For addresses that hold the version."""


@cache
def script() -> File:
    """Returns `p.js`, the script for a `<script>` element."""
    return file_of(f"(() => {{\n{_joined((*CORE, 'start'))}}})()\n", JAVASCRIPT, FRESH)


@cache
def module() -> File:
    """Returns `p.mjs`, the script as a module."""
    return file_of(_joined(CORE) + "export { createAnalytics as load, VERSION }\n", JAVASCRIPT, FRESH)


PARTS: Mapping[str, Sequence[str]] = {"devices.mjs": ("where", "devices"), "socket.mjs": ("socket",), "plugin.js": ("plugin",)}


def part(name: str, versioned: bool) -> File | None:
    """Returns a module that the script loads when it is needed; None if there is no such one.

    Args:
        name: `devices.mjs`.
        versioned: the address names the version, so that it may be kept for ever.
    """
    return _part(name, versioned) if name in PARTS else None


def device(name: str, versioned: bool) -> File | None:
    """Returns the script of a device destination; None if there is no such type. `name`: `tag.js`."""
    type_name = name.removesuffix(".js")
    return _device(type_name, versioned) if type_name != name and type_name in DEVICES.names() else None


# anybody may ask for any name: only names of files come into these memories
@cache
def _part(name: str, versioned: bool) -> File:
    return file_of(_plain(PARTS[name], keep_exports=PARTS[name][-1]), JAVASCRIPT, FOREVER if versioned else FRESH)


@cache
def _device(type_name: str, versioned: bool) -> File:
    return file_of(_COMMENT.sub("", script_of(type_name)), JAVASCRIPT, FOREVER if versioned else FRESH)


@cache
def types() -> File:
    """Returns `p.d.ts`."""
    return file_of((FOLDER / "p.d.ts").read_text(encoding="utf-8"), "text/plain; charset=utf-8", FRESH)


@cache
def version() -> str:
    """Returns a text that differs where any file that the script loads later differs."""
    digest = hashlib.sha256()
    for path in sorted((FOLDER / "script").glob("*.mjs")):
        digest.update(path.read_bytes())
    for name in DEVICES.names():
        digest.update(script_of(name).encode())
    return digest.hexdigest()[:12]


def _joined(names: Sequence[str]) -> str:
    return _plain(names).replace(_BUILD, f'const BUILD = "?v={version()}"')


def _plain(names: Sequence[str], keep_exports: str = "") -> str:
    parts: list[str] = []
    for name in names:
        text = _IMPORT.sub("", (FOLDER / "script" / f"{name}.mjs").read_text(encoding="utf-8"))
        if name != keep_exports:
            text = _EXPORT.sub("", text)
        parts.append(_INDENT.sub("", _COMMENT.sub("", text)).replace("\n\n", "\n"))
    return "".join(parts)
