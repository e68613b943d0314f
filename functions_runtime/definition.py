"""What of the project one connection's functions are: the definition that a worker follows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from functions_runtime.lookups.source import Source
from functions_runtime.sandbox.guest import Code, Limits, Spec
from functions_runtime.settings import FunctionsSettings
from shared.project.functions import PrivacyRule
from shared.project.model import Connection, Project
from shared.project.snapshot import ConfigSnapshot
from shared.project.webhooks.hydrate import Hydrate
from shared.rules.privacy import NONCE_BYTES, Rules, compile_rules
from shared.secrets.reading import reveal
from shared.secrets.references import references_in

MASKED_CHARACTERS = 6
"""Shorter values of `functions_env` stand in too many texts to be taken for secrets."""


def with_secrets(connection: Connection) -> Connection:
    """Returns a connection with the secrets that its rules and the props of its functions refer to; blocks if they refer to any.

    Raises:
        SetupError, NotConnected: a secret cannot be read.
    """
    rules = [reveal_rule(rule) for rule in connection.privacy]
    return msgspec.structs.replace(connection, functions_env=reveal(connection.functions_env), privacy=rules)


def reveal_rule(rule: PrivacyRule) -> PrivacyRule:
    """Returns a privacy rule with the secret that it refers to. Raises as `with_secrets`."""
    found = reveal({"secret": rule.secret, "key": rule.key})
    return msgspec.structs.replace(rule, secret=found["secret"], key=found["key"])


class Definition(NamedTuple):
    """One connection: its queue, its options, the code of its functions, the type of its destination, and the tables it looks events up in."""

    name: str
    queue: str
    connection: Connection
    functions: tuple[Code, ...]
    destination_type: str
    lookups: Mapping[str, Source] = {}
    hydrates: Mapping[str, Hydrate] = {}
    """By webhook of its site."""

    def rules(self) -> Rules | None:
        """Returns its privacy rules, ready to be applied."""
        return compile_rules(self.connection.privacy, partial(os.urandom, NONCE_BYTES))

    def spec(self, settings: FunctionsSettings) -> Spec:
        """Returns what its sandbox runs."""
        connection = self.connection
        site = {"id": connection.site, "name": connection.site}
        shared: dict[str, Any] = {
            "site": site,
            "source": site,
            "destination": {"id": connection.destination, "type": self.destination_type},
            "connection": {"id": self.name, "mode": connection.mode, "options": {}},
            "workspace": {"id": "penstock"},
            "props": connection.functions_env,
        }
        limits = Limits(
            cpu_seconds=float(connection.function_timeout),
            wall_seconds=max(float(settings.wall), float(connection.function_timeout)),
            heap_bytes=int(settings.heap),
            process_bytes=int(settings.memory),
        )
        return Spec(self.functions, shared, connection.on_error, limits)

    @property
    def refers(self) -> bool:
        """Whether it refers to secrets."""
        return bool(references_in(self._read()))

    def revealed(self) -> Definition:
        """Returns it with the secrets that it refers to, as they are now; blocks if it refers to any.

        Raises:
            SetupError, NotConnected: a secret cannot be read.
        """
        if not self.refers:
            return self
        headers = reveal({name: each.headers for name, each in self.hydrates.items()})
        hydrates = {name: msgspec.structs.replace(each, headers=headers[name]) for name, each in self.hydrates.items()}
        return self._replace(connection=with_secrets(self.connection), hydrates=hydrates)

    def _read(self) -> list[Any]:
        rules = [(rule.secret, rule.key) for rule in self.connection.privacy]
        return [self.connection.functions_env, rules, [each.headers for each in self.hydrates.values()]]

    def secrets(self) -> list[str]:
        """Returns texts that no line of log may show."""
        return [
            value
            for value in self.connection.functions_env.values()
            if isinstance(value, str) and len(value) >= MASKED_CHARACTERS
        ]


def definitions(snapshot: ConfigSnapshot) -> dict[str, Definition]:
    """Returns the connections whose frames go through FUNCTIONS, by name; of some the functions are gone, and frames go on as they are."""
    project = snapshot.project
    return {
        name: Definition(
            name=name,
            queue=snapshot.queue_of(name),
            connection=connection,
            functions=tuple(Code(each, project.functions[each].code or "") for each in connection.functions),
            destination_type=str(project.destinations[connection.destination].get("type")),
            lookups={use.table: _source(project, use.table) for use in connection.lookups},
            hydrates=project.hydrates(connection.site),
        )
        for name, connection in project.connections.items()
        if connection.enabled and snapshot.takes_functions_way(name)
    }


def _source(project: Project, name: str) -> Source:
    lookup = project.lookups[name]
    if lookup.file is not None:
        return Source(name, lookup, {})
    entries, entry = (
        (project.destinations, lookup.destination) if lookup.destination is not None else (project.connectors, lookup.connector)
    )
    return Source(name, lookup, entries[str(entry)])
