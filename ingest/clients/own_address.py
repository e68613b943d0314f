"""The address under which a client knows this server, for documents that name it. Pure.

A settings document says where a browser sends its events, and caches keep it. So the `Host` a client sends is not believed as it
stands: it counts if it is a site's domain, or if a trusted proxy stands between. Otherwise the document names the address the
connection came to, which nobody but the operator chooses.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ingest.clients.address import Place

_AUTHORITY = re.compile(r"(?:[a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::\d{1,5})?", re.IGNORECASE)


def host_of(authority: str) -> str:
    """Returns the host of `host:port`, in lower case."""
    if authority.startswith("["):
        return authority.partition("]")[0][1:].lower()
    return authority.partition(":")[0].lower()


def own_url(place: Place, host: str, is_proxied: bool, is_domain: Callable[[str], bool], local: str) -> str:
    """Returns scheme and authority of this server.

    Args:
        place: what a trusted proxy says of it.
        host: the `Host` header.
        is_proxied: a trusted proxy passed the request on, and with it the header.
        is_domain: whether a host name is a domain of a site.
        local: the address and port of this side of the connection.
    """
    believed = _AUTHORITY.fullmatch(host) and (is_proxied or is_domain(host_of(host)))
    return f"{place.scheme or 'http'}://{place.authority or (host if believed else local)}"
