"""Tokens: a sender shows the secret itself, in a header, in the query, or as Basic. Pure."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Sequence

from ingest.contract import HttpRequest, Unproven
from shared.project.webhooks import Token

_WRONG = Unproven(401, "wrong_token", "the token is another one than the webhook's secret")


def of_token(token: Token | None, secrets: Sequence[str]) -> Callable[[HttpRequest, float], Unproven | None]:
    """Returns what verifies requests.

    Raises:
        ValueError: a secret for Basic is no user and password.
    """
    chosen = token or Token()
    keys = [each.encode() for each in secrets]
    if chosen.carrier == "basic" and any(":" not in each for each in secrets):
        raise ValueError("its secret is not `user:password`, as Basic needs it")
    if chosen.carrier == "basic" and any(each.strip() == ":" for each in secrets):
        raise ValueError("its secret has neither user nor password")
    name = (chosen.name or "").lower() if chosen.carrier == "header" else chosen.name or ""
    places = {
        "bearer": "Authorization: Bearer",
        "basic": "Authorization: Basic",
        "header": chosen.name,
        "query": f"the query, as {name}",
    }
    missing = Unproven(401, "missing_token", f"no token: the sender writes it into {places[chosen.carrier]}")

    def verify(request: HttpRequest, _now: float) -> Unproven | None:
        if chosen.carrier == "query":
            given = request.query.get(name, "")
        elif chosen.carrier == "header":
            given = request.headers.get(name, "")
        else:
            given = _of_authorization(request.headers.get("authorization", ""), chosen.carrier)
        if not given:
            return missing
        shown = given.encode("utf-8", "surrogateescape")
        return None if any(hmac.compare_digest(shown, key) for key in keys) else _WRONG

    return verify


def _of_authorization(value: str, scheme: str) -> str:
    given, _, rest = value.partition(" ")
    if given.lower() != scheme:
        return ""
    if scheme == "bearer":
        return rest.strip()
    try:
        return base64.b64decode(rest.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return "-"  # a token of another form is a wrong one
