"""The event in the address of an image: `data`, completed by the other parameters. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ingest.judge import pixels
from ingest.judge.forms.rewrite import Members, members_of

ASIDE = frozenset({"data", "api_key", "writeKey", "writekey", "token", "ip_policy", "cookie_policy"})
"""Parameters that are no members of the event. Parameters that begin with `p_` are none either; they name a key."""

_encode = msgspec.json.Encoder().encode


def body_of(query: Mapping[str, str]) -> bytes:
    """Returns the body of the event; what cannot be read as an object comes as it is."""
    beside = pixels.unflatten({name: value for name, value in query.items() if name not in ASIDE and not name.startswith("p_")})
    data = query.get("data")
    if data is None:
        return _encode(beside)
    body = pixels.decode_data(data)
    members = members_of(body)
    if not members or not (beside or "token" in members):
        return body
    own: dict[str, Any] = {**members}
    if "api_key" not in own and "token" in own:  # the key may stand in `data` under this name too
        own["api_key"] = own.pop("token")
    return _encode({**own, **{name: _completed(members, name, value) for name, value in beside.items()}})


def _completed(members: Members, name: str, value: Any) -> Any:
    """Returns a member of the parameters, and what `data` says of an object of the same name."""
    inner = members_of(members.get(name)) if type(value) is dict else {}
    return {**inner, **{key: _completed(inner, key, each) for key, each in value.items()}} if inner else value
