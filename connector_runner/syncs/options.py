"""Options that a connector changed itself, such as a refresh token that it used up: kept for its next run.

They are in the bucket `state`, with the options of the project file that they came from. If a person changes these, they count again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket, value_of

CHANGEABLE = ("config", "auth")
"""The options of which a connector may change one, the first that its entry has."""


class _Changed(msgspec.Struct, frozen=True):
    of: str
    config: Any


class ChangedOptions:
    """The options of one connector; `document`: its entry in the project file."""

    def __init__(self, broker: Broker, connector: str, document: Mapping[str, Any]) -> None:
        self._bucket = Bucket(broker, topology.STATE_BUCKET)
        self._key = f"connector-options.{connector}"
        self._document = dict(document)
        self._option = next((each for each in CHANGEABLE if each in document), CHANGEABLE[0])
        self._of = hashlib.sha256(msgspec.json.encode(document.get(self._option), order="sorted")).hexdigest()

    async def read(self) -> dict[str, Any]:
        """Returns the entry with the newest options.

        Raises:
            NotConnected: the broker does not answer.
            SetupError: the kept options cannot be read.
        """
        changed = value_of(await self._bucket.get(self._key), _Changed)
        if changed is None or changed.of != self._of:
            return self._document
        return {**self._document, self._option: changed.config}

    async def write(self, config: bytes) -> None:
        """Keeps options, as JSON.

        Raises:
            NotConnected, Transient: they may not be kept.
        """
        await self._bucket.put(self._key, msgspec.json.encode(_Changed(self._of, msgspec.json.decode(config))))
