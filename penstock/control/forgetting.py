"""Asks the services to forget people, and waits for their receipt."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence

from functions_runtime.definition import reveal_rule
from shared.errors import ConfigError, Problem
from shared.events.event import JSON
from shared.forget.ids import digest
from shared.forget.listing import salt_of, stop_suppressing, suppress
from shared.forget.requests import FUNCTIONS, LOADER, ROUTER, Receipt, Request, ask, read_receipt
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.project.model import Project
from shared.project.snapshot import current_snapshot
from shared.rules.privacy import compile_rules

POLL_SECONDS = 0.25
MOST_IDS, MOST_BYTES = 1000, 64 * 1024
"""Ids of one request and their size together: a database takes so many in a query, and a broker in a message."""

ID_KEYS = ("userId", "anonymousId", "previousId", "groupId")


async def forget(
    broker: Broker,
    names: Sequence[str],
    *,
    by: str,
    verify: bool = False,
    purge_events: bool = False,
    columns: Sequence[str] = (),
) -> list[Receipt]:
    """Puts ids on the list, and asks the services to remove what is stored; `verify`: asks them to look only, and leaves the list alone.

    Returns:
        A receipt at its beginning for each `MOST_IDS` ids; `settled` waits for its end.

    Raises:
        ConfigError: no id is given, or one that no event can have.
        NotConnected, Transient: not known to be asked; do it again.
    """
    wanted = list(dict.fromkeys(name for name in names if name))
    if not wanted:
        raise ConfigError([Problem("--user", "expected an id; name it with --user, --anonymous, --group or --ids")])
    for name in wanted:
        if "\0" in name or any("\ud800" <= each <= "\udfff" for each in name):
            raise ConfigError([Problem("--user", f"{name!r} is no text in UTF-8, so no event has it as an id")])
    project = (await current_snapshot(broker)).project
    wanted = with_derived(project, wanted)
    parts = [LOADER, ROUTER, *([FUNCTIONS] if await _functions_keep_something(broker, project) else [])]
    asked: list[Receipt] = []
    for some in _portions(wanted):
        request_id = f"{time.strftime('%Y%m%d', time.gmtime())}-{secrets.token_hex(4)}"
        if verify:
            salt = await salt_of(broker)
            digests = [digest(name, salt) for name in some]
        else:
            digests = await suppress(broker, some, request_id)
        request = Request(
            id=request_id,
            names=some,
            columns=list(columns),
            digests=digests,
            at=time.time(),
            by=by,
            verify=verify,
            purge_events=purge_events,
            parts=parts,
        )
        await ask(broker, request)
        asked.append(await _receipt(broker, request_id))
    return asked


async def settled(broker: Broker, request_id: str, told: Callable[[Receipt], None] = lambda _: None) -> Receipt:
    """Waits until a request is done; `told` hears of its receipt as it grows.

    Raises:
        ConfigError: there is no such request.
        NotConnected: the broker does not answer.
    """
    while True:
        receipt = await _receipt(broker, request_id)
        told(receipt)
        if receipt.state == "done":
            return receipt
        await asyncio.sleep(POLL_SECONDS)


async def release(broker: Broker, request_id: str) -> Receipt:
    """Takes the ids of a request off the list: events that come from now on pass again.

    Raises:
        ConfigError: there is no such request.
        NotConnected, Transient: some may still be on the list.
    """
    receipt = await _receipt(broker, request_id)
    await stop_suppressing(broker, receipt.digests)
    return receipt


def _portions(names: Sequence[str]) -> Iterator[list[str]]:
    some: list[str] = []
    size = 0
    for name in names:
        if some and (len(some) == MOST_IDS or size + len(name.encode()) > MOST_BYTES):
            yield some
            some, size = [], 0
        some.append(name)
        size += len(name.encode())
    yield some


async def _receipt(broker: Broker, request_id: str) -> Receipt:
    found = await read_receipt(broker, request_id)
    if found is None:
        raise ConfigError([Problem("ID", f"there is no request {request_id!r}; see `penstock forget --list`")])
    return found


def with_derived(project: Project, names: Sequence[str]) -> list[str]:
    """Returns the ids, and the ids that privacy rules of connections make of them: a rule that hashes `userId` leaves no other in a warehouse.

    What `encrypt` makes differs each time, so nobody can look for it. Reads the secrets that rules refer to, and blocks meanwhile.

    Raises:
        SetupError, NotConnected: a secret cannot be read here, so the ids that its rule made cannot be looked for.
    """
    found = dict.fromkeys(names)
    for connection in project.connections.values():
        rules = compile_rules([reveal_rule(each) for each in connection.privacy if each.do != "encrypt"], nonce=bytes)
        for name in names if rules is not None else ():
            event: JSON = dict.fromkeys(ID_KEYS, name)
            if rules is not None:
                rules(event)
            found |= dict.fromkeys(value for key in ID_KEYS if isinstance(value := event.get(key), str) and value)
    return list(found)


async def _functions_keep_something(broker: Broker, project: Project) -> bool:
    """Whether functions or identity keep anything, or may; if not, functions_runtime may not even run."""
    if any(project.through_functions(each) for each in project.connections.values()):
        return True
    with asking("cannot look at what functions keep"):
        kept = [
            (await broker.js.stream_info(f"KV_{bucket}")).state.messages
            for bucket in (topology.STORE_BUCKET, topology.IDENTITY_BUCKET)
        ]
    return any(kept)
