"""Signatures of calls: HMAC-SHA256 over the time and the body, as most webhooks carry them. Pure.

The header is `t=<seconds>,v1=<hex>`. Who receives it computes HMAC-SHA256 with the shared secret over `<seconds>.` followed by
the body's bytes, compares it in constant time, and refuses times that are too old.
"""

from __future__ import annotations

import hashlib
import hmac


def sign(secret: str, at: float, body: bytes) -> str:
    """Returns the header's value.

    Args:
        secret: what both sides know.
        at: when it is sent (epoch seconds).
        body: exactly what is sent.
    """
    seconds = str(int(at))
    digest = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"
