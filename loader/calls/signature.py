"""Signatures of calls: HMAC-SHA256 over the time and the body, as most webhooks carry them. Pure.

The header is `t=<seconds>,v1=<hex>`. A receiver computes HMAC-SHA256 with the shared secret over `<seconds>.` followed by the
body's bytes, compares it in constant time, and refuses old times.
"""

from __future__ import annotations

import hashlib
import hmac


def sign(secret: str, at: float, body: bytes) -> str:
    """Returns the header's value.

    Args:
        secret: the shared secret.
        at: the time of sending (epoch seconds).
        body: the exact bytes that are sent.
    """
    seconds = str(int(at))
    digest = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"
