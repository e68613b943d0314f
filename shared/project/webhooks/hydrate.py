"""Hydration of a webhook, as a project file says it: deliveries that only name something, and the address that has the rest.

functions_runtime asks (`functions_runtime/hydration/`); docs/protocols/webhook.md says what becomes of an event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, field

from shared.errors import Problem
from shared.reading.units import ByteSize, Duration

PLACE = re.compile(r"\{([^{}]*)\}")
DELAYS = (10.0, 60.0, 600.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0)
_HOST = re.compile(r"[A-Za-z0-9._~-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?", re.ASCII)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
_OURS = frozenset(("host", "content-length", "transfer-encoding", "connection", "accept-encoding"))
_KNOWN_BY = frozenset(("messageId", "type", "event", "userId", "anonymousId", "timestamp", "receivedAt", "context"))


class Hydrate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GET that fetches what a delivery only names, and where the answer stands in the event."""

    url: Annotated[
        str,
        Meta(
            description="address, such as `https://api.example.com/orders/{data.id}`: a path of the payload in braces is replaced by its value, escaped. Or one path alone, `{links.self}`, with `hosts`"
        ),
    ]
    headers: Annotated[
        dict[str, str],
        Meta(
            description="headers of the request, for a token above all; they go to the host of `url` only", extra={"secret": True}
        ),
    ] = {}
    hosts: Annotated[
        list[str],
        Meta(description="hosts, with a port where it is not the usual one, that an address out of the payload may have"),
    ] = []
    into: Annotated[
        str | list[str], Meta(description="path of the event that gets the answer. A list of keys where they hold dots")
    ] = "properties.hydrated"
    missing: Annotated[
        Literal["leave_out", "again", "dead_letter"],
        Meta(
            description="after 404 and 410. leave_out: the event goes on as it came, marked. again: as after an outage. dead_letter: it becomes a dead letter"
        ),
    ] = "leave_out"
    failed: Annotated[
        Literal["dead_letter", "leave_out"],
        Meta(description="when no useful answer came after the last try, or none can come"),
    ] = "dead_letter"
    timeout: Annotated[Duration, Meta(description="how long one request may take, with its redirects; 100ms to 30s")] = field(
        default_factory=lambda: Duration(5)
    )
    max_bytes: Annotated[ByteSize, Meta(description="a larger answer is none; 1KiB to 4MiB")] = field(
        default_factory=lambda: ByteSize(256 * 1024)
    )
    at_once: Annotated[int, Meta(ge=1, le=64, description="requests under way at once for each connection")] = 8
    delays: Annotated[
        list[Duration], Meta(max_length=50, description="waits before each further try after an outage; each 10ms to 30 days")
    ] = field(default_factory=lambda: [Duration(each) for each in DELAYS])

    @property
    def into_path(self) -> tuple[str, ...]:
        """The keys of `into`."""
        return tuple(self.into.split(".") if isinstance(self.into, str) else self.into)

    @property
    def is_whole(self) -> bool:
        """Whether the payload has the whole address."""
        return PLACE.fullmatch(self.url) is not None


def check_hydrate(path: str, hydrate: Hydrate) -> Iterator[Problem]:
    """Yields everything that is wrong, with its path and what to write instead."""
    yield from _check_url(path, hydrate)
    for name in hydrate.headers:
        if not _HEADER.fullmatch(name) or name.lower() in _OURS:
            yield Problem(f"{path}.headers", f"{name!r} is no header that can be set here")
    keys = hydrate.into_path
    if not keys or not all(keys):
        yield Problem(f"{path}.into", "expected keys with dots between them, such as properties.order")
    elif keys[0] in _KNOWN_BY and (len(keys) == 1 or keys[0] != "context"):
        yield Problem(f"{path}.into", f"{'.'.join(keys)} is no place for an object; write another path, such as properties.order")
    elif keys[:2] == ("context", "webhook") or keys == ("properties",):
        yield Problem(f"{path}.into", f"{'.'.join(keys)} holds the delivery; write another path, such as properties.order")
    for option, least, most in (("timeout", 0.1, 30), ("max_bytes", 1024, 4 * 1024 * 1024)):
        if not least <= getattr(hydrate, option) <= most:
            shown = "1KiB to 4MiB" if option == "max_bytes" else "100ms to 30s"
            yield Problem(f"{path}.{option}", f"expected {shown}, got {getattr(hydrate, option):g}")
    for number, delay in enumerate(hydrate.delays):
        if not 0.01 <= delay <= 30 * 86_400:
            yield Problem(f"{path}.delays[{number}]", f"expected 10ms to 30 days, got {delay:g}s")


def _check_url(path: str, hydrate: Hydrate) -> Iterator[Problem]:
    for place in PLACE.findall(hydrate.url):
        if not place or "" in place.split(".") or ":" in place:
            yield Problem(f"{path}.url", f"{{{place}}} is no path of the payload, such as {{data.id}}")
    if hydrate.is_whole:
        if not hydrate.hosts:
            text = "the sender chooses this address; name the hosts that it may have in `hosts`, since the headers go there"
            yield Problem(f"{path}.hosts", text)
        for number, host in enumerate(hydrate.hosts):
            if not _HOST.fullmatch(host) or not _is_place(f"http://{host}/"):
                yield Problem(
                    f"{path}.hosts[{number}]", f"expected a host such as api.example.com or api.example.com:8443, got {host!r}"
                )
        return
    if hydrate.hosts:
        yield Problem(f"{path}.hosts", "means nothing where `url` names its host; take it out")
    try:
        parts = urlsplit(PLACE.sub("0", hydrate.url))
    except ValueError as exc:  # an IPv6 address without its end
        yield Problem(f"{path}.url", f"is no address: {exc}")
        return
    start = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        yield Problem(
            f"{path}.url", "expected an http or https address without a user, such as https://api.example.com/orders/{id}"
        )
    elif not _is_place(start):
        yield Problem(f"{path}.url", f"{parts.netloc} is no host that can be reached; correct its name or its port")
    elif not hydrate.url.lower().startswith(start.lower()):
        yield Problem(f"{path}.url", "its host must be written out; paths of the payload may stand behind it")
    if "{" not in hydrate.url:
        yield Problem(
            f"{path}.url",
            "names nothing of the payload, so all deliveries would get the same; write a path in braces, such as {id}",
        )


def _is_place(address: str) -> bool:
    """Whether an address has a host and a port that a request can be sent to."""
    try:
        parts = urlsplit(address)
        return parts.port != 0 and bool((parts.hostname or "").encode("idna"))
    except ValueError:  # a port beyond all ports, a label that is empty or too long
        return False
