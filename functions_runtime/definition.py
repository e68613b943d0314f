"""What of the project one connection's functions are: the definition that a worker follows."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, NamedTuple

from functions_runtime.sandbox.guest import Code, Limits, Spec
from functions_runtime.settings import FunctionsSettings
from shared.project.model import Connection
from shared.project.snapshot import ConfigSnapshot
from shared.rules.privacy import NONCE_BYTES, Rules, compile_rules

MASKED_CHARACTERS = 6
"""Shorter values of `functions_env` stand in too many texts to be taken for secrets."""


class Definition(NamedTuple):
    """One connection: its queue, its options, the code of its functions, and the type of its destination."""

    name: str
    queue: str
    connection: Connection
    functions: tuple[Code, ...]
    destination_type: str

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
        )
        for name, connection in project.connections.items()
        if connection.enabled and snapshot.takes_functions_way(name)
    }
