"""Signatures of calls to Amazon's services, version 4. https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html

Pure; for calls with POST to the root of a host, without a query, which is all that services with JSON want.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import urlsplit


class Keys(NamedTuple):
    """Credentials; `token` belongs to temporary ones."""

    id: str
    secret: str
    token: str = ""


def signed(url: str, headers: dict[str, str], body: bytes, *, keys: Keys, region: str, service: str, at: float) -> dict[str, str]:
    """Returns the headers of a call, with its signature.

    Args:
        url: scheme and host, and `/`.
        headers: what else is signed.
        body: exactly what is sent.
        keys: whose call it is.
        region: such as `eu-central-1`.
        service: such as `kinesis`.
        at: when it is sent (epoch seconds); Amazon takes it for some minutes.
    """
    time = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    all_headers = {**headers, "X-Amz-Date": time} | ({"X-Amz-Security-Token": keys.token} if keys.token else {})
    canonical = {"host": urlsplit(url).netloc} | {name.lower(): value.strip() for name, value in all_headers.items()}
    names = ";".join(sorted(canonical))
    lines = "".join(f"{name}:{canonical[name]}\n" for name in sorted(canonical))
    request = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{time[:8]}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{keys.secret}".encode()
    for part in (time[:8], region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    credential = f"AWS4-HMAC-SHA256 Credential={keys.id}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**all_headers, "Authorization": credential}
