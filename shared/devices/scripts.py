"""The options that devices with a vendor's script share: where the script comes from, and the hash that it must have."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from shared.errors import Problem

_INTEGRITY = re.compile(r"(sha(256|384|512)-[A-Za-z0-9+/]+={0,2})( sha(256|384|512)-[A-Za-z0-9+/]+={0,2})*")


class VendorScript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a device that loads one script of its vendor."""

    script: Annotated[
        str | None,
        Meta(description="address of the vendor's script, such as that of a proxy of your own; without it the vendor's host"),
    ] = None
    integrity: Annotated[
        str | None,
        Meta(description="hash that the script must have, as in `integrity=` of HTML; only for a script that never changes"),
    ] = None


def check_script(path: str, options: VendorScript) -> list[Problem]:
    """Returns what is wrong with the address and the hash."""
    problems: list[Problem] = []
    if options.script is not None and not _is_of_the_web(options.script):
        text = (
            f"expected an address with https://, or a path of the page's own site such as /js/vendor.js, got {options.script!r}"
        )
        problems.append(Problem(f"{path}.script", text))
    if options.integrity is not None and not _INTEGRITY.fullmatch(options.integrity):
        problems.append(Problem(f"{path}.integrity", f"expected a hash such as sha384-…, got {options.integrity!r}"))
    elif options.integrity is not None and options.script is None:
        text = "the vendor changes its script whenever it likes, which a hash would block; name a copy of your own in `script`"
        problems.append(Problem(f"{path}.integrity", text))
    return problems


def check_pattern(path: str, value: str, pattern: str, meant: str) -> list[Problem]:
    """Returns a fault if a value does not match; `meant` says what stands there, such as `an ID such as G-ABC123`."""
    return [] if re.fullmatch(pattern, value) else [Problem(path, f"expected {meant}, got {value!r}")]


def _is_of_the_web(address: str) -> bool:
    if re.search(r"[\s<>\"'\\]", address):
        return False
    if address.startswith("/") and not address.startswith("//"):
        return True
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and (
            parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1"))
        )
    except ValueError:
        return False
