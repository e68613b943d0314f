"""The address under which a client reaches this server, for documents that name it. Pure.

A settings document says where a browser sends its events, and caches keep it. So a client's `Host` counts only if it is a site's
domain, or if a trusted proxy passed it on. Otherwise the document names the address of the socket, which only the operator
chooses.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ingest.clients.address import Place

_AUTHORITY = re.compile(r"(?:[a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::\d{1,5})?", re.IGNORECASE)


def host_of(authority: str) -> str:
    """Returns the host of `host:port`, in lower case and without the dot of a complete name."""
    if authority.startswith("["):
        return authority.partition("]")[0][1:].lower()
    return authority.partition(":")[0].lower().removesuffix(".")


def own_url(place: Place, host: str, is_proxied: bool, is_domain: Callable[[str], bool], local: str) -> str:
    """Returns scheme and authority of this server.

    Args:
        place: the address in a trusted proxy's words.
        host: the `Host` header.
        is_proxied: a trusted proxy passed the request on, and with it the header.
        is_domain: whether a host name is a domain of a site.
        local: the address and port of our side of the socket.
    """
    believed = _AUTHORITY.fullmatch(host) and (is_proxied or is_domain(host_of(host)))
    return f"{place.scheme or 'http'}://{place.authority or (host if believed else local)}"
