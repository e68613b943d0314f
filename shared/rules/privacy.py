"""Privacy rules change fields of events before functions and destinations see them, and of rows before they leave the runner.

Pure; the nonces of `encrypt` come from outside.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.events.event import JSON
from shared.project.functions import ANY_DEPTH, ANY_KEY, IDENTITY, PrivacyRule

CIPHER = "aesgcm"
NONCE_BYTES = 12
KEY_ID_CHARACTERS = 8

_encode = msgspec.json.Encoder(decimal_format="number", order="deterministic").encode

Deed = Callable[[Any], Any]
Rules = Callable[[JSON], int]
"""Applies all rules to an event, in place; returns how many of them found nothing."""


def compile_rules(rules: Sequence[PrivacyRule], nonce: Callable[[], bytes], fixed: Collection[str] = IDENTITY) -> Rules | None:
    """Returns what applies rules in their order; None where there are none.

    Args:
        nonce: gives `NONCE_BYTES` bytes that were never given before.
        fixed: outermost keys that stay as they are, also where a wildcard finds them.
    """
    if not rules:
        return None
    steps = [(rule.path, deed_of(rule, nonce), rule.to) for rule in rules]

    def apply(event: JSON) -> int:
        return sum([not change(event, path, deed, to, fixed=fixed) for path, deed, to in steps])

    return apply


def change(
    value: Any,
    path: Sequence[str],
    deed: Deed | None,
    to: str | None,
    *,
    starts: Sequence[int] = (0,),
    fixed: Collection[str] = (),
) -> bool:
    """Applies one rule to an object or list, in place; returns whether it found anything.

    Args:
        deed: what makes a field's new value of its old one; None: the field goes, or is renamed to `to`.
        starts: which keys of the path the value's own keys may be.
        fixed: outermost keys that stay as they are.
    """
    found = False
    for holder, key in _places(value, path, starts):
        if holder is value and (key in fixed or to in fixed):
            continue
        found = True
        if deed is not None:
            holder[key] = deed(holder[key])
        else:
            held = holder.pop(key)
            if to is not None:
                holder[to] = held
    return found


def canonical(value: object) -> bytes:
    """Returns the text of a value that `hash` is made of: a text as it is, anything else as JSON with its keys in order."""
    if type(value) is str:
        return value.encode("utf-8", "surrogatepass")
    return _encode(value)


def deed_of(rule: PrivacyRule, nonce: Callable[[], bytes]) -> Deed | None:
    """Returns what makes a field's new value of its old one; None: the rule takes the field away, or renames it."""
    match rule.do:
        case "hash":
            secret = (rule.secret or "").encode()
            return lambda value: value if value is None else hmac.digest(secret, canonical(value), "sha256").hex()
        case "encrypt":
            return _encrypting((rule.key or "").encode(), nonce)
        case "truncate":
            return truncated
        case _:
            return None


def _encrypting(text: bytes, nonce: Callable[[], bytes]) -> Callable[[Any], Any]:
    key = hashlib.sha256(text).digest()
    cipher, name = AESGCM(key), hashlib.sha256(key).hexdigest()[:KEY_ID_CHARACTERS]

    def encrypt(value: Any) -> Any:
        if value is None:
            return None
        fresh = nonce()
        return f"{CIPHER}:{name}:{base64.urlsafe_b64encode(fresh + cipher.encrypt(fresh, canonical(value), None)).decode()}"

    return encrypt


def decrypted(value: str, key: str) -> bytes:
    """Returns the text that `encrypt` was given.

    Raises:
        ValueError: it is no such value, or of another key.
    """
    secret = hashlib.sha256(key.encode()).digest()
    cipher, name, data = value.split(":", 2) if value.count(":") == 2 else ("", "", "")
    if cipher != CIPHER or name != hashlib.sha256(secret).hexdigest()[:KEY_ID_CHARACTERS]:
        raise ValueError("not encrypted with this key")
    raw = base64.urlsafe_b64decode(data)
    return AESGCM(secret).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], None)


def truncated(value: Any) -> Any:
    """Returns an address without its last part: 8 bits of IPv4, 80 of IPv6. A text that is no address becomes null: it may be a misspelt one."""
    try:
        address = ip_address(value)
    except ValueError:
        return None
    return str(ip_network((address, 24 if address.version == 4 else 48), strict=False).network_address)


def _places(event: Any, path: Sequence[str], starts: Sequence[int]) -> list[tuple[Any, Any]]:
    """Returns holder and key of every field that a path leads to, each once; lists are gone through without a key of their own.

    No recursion, and no object is gone through twice for one step of the path: `**.a.**.b` leads to some fields in many ways.
    """
    found: list[tuple[Any, Any]] = []
    seen: set[tuple[int, int]] = set()
    last = len(path) - 1
    todo: list[tuple[Any, int]] = [(event, start) for start in reversed(starts)]
    while todo:
        value, at = todo.pop()
        if isinstance(value, list):
            todo.extend((item, at) for item in reversed(value))
            continue
        if not isinstance(value, dict) or (id(value), at) in seen:
            continue
        seen.add((id(value), at))
        key = path[at]
        if key == ANY_DEPTH:
            todo.extend((item, at) for item in reversed(value.values()))
            todo.append((value, at + 1))
            continue
        names = list(value) if key == ANY_KEY else [key] if key in value else []
        if at == last:
            found.extend((value, name) for name in names)
        else:
            todo.extend((value[name], at + 1) for name in reversed(names))
    return found
