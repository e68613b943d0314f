"""Personal data in the form that advertisers want: normalised, then SHA-256 in hex. Pure.

A value of 64 hexadecimal digits passes unchanged: many clients send hashes already.
"""

from __future__ import annotations

import hashlib
import re

from loader.calls.fields import text

_HASHED = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_ZIP_PLUS_4 = re.compile(r"\d{5}-\d{4}", re.ASCII)


def hashed(normal: str) -> str:
    """Returns the hash of a normalised text; empty for an empty one."""
    if _HASHED.fullmatch(normal):
        return normal.lower()
    return hashlib.sha256(normal.encode("utf-8", "surrogatepass")).hexdigest() if normal else ""


def email(value: object, *, gmail: bool = False) -> str:
    """Returns the hash of an address without blanks, in lower case; empty if it is none.

    Args:
        gmail: without dots before `@gmail.com` and `@googlemail.com`, as Google Ads wants it
            (https://developers.google.com/google-ads/api/docs/conversions/enhanced-conversions/web).
    """
    plain = text(value).lower()
    name, _, host = plain.rpartition("@")
    if gmail and host in ("gmail.com", "googlemail.com"):
        plain = f"{name.replace('.', '')}@{host}"
    return hashed(plain) if "@" in plain or _HASHED.fullmatch(plain) else ""


def phone(value: object, *, plus: bool) -> str:
    """Returns the hash of a number with its country code, digits only; `plus`: with a plus before it (E.164)."""
    plain = text(value)
    if _HASHED.fullmatch(plain):
        return plain.lower()
    digits = re.sub(r"[^0-9]", "", plain).lstrip("0")
    return hashed(f"+{digits}" if plus else digits) if digits else ""


def word(value: object) -> str:
    """Returns the hash of a name or a place: lower case, without punctuation and blanks."""
    plain = text(value)
    return hashed(plain if _HASHED.fullmatch(plain) else re.sub(r"[\W_]", "", plain.lower()))


def postal_code(value: object) -> str:
    """Returns the hash of a postal code as `word`; of one in the United States' form ZIP+4, the first five digits alone
    (https://developers.facebook.com/docs/marketing-api/conversions-api/parameters/customer-information-parameters)."""
    plain = text(value)
    return word(plain[:5] if _ZIP_PLUS_4.fullmatch(plain) else plain)


def exact(value: object) -> str:
    """Returns the hash of an id as it is."""
    return hashed(text(value))
