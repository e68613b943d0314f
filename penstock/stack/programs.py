"""What a stack runs: the programs of its brokers and services, with their commands, variables and logs.

One broker of its own configuration (`shared/jetstream/nats_server.py`), or the nodes of a cluster with the files of `deploy/nats`, a
user for each service, two of each service, and Prometheus where it is installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.stack import prometheus
from penstock.stack.certificates import Certificates, certificates, write_privately
from penstock.stack.home import DRAIN_SECONDS, SERVICES, Home, stack_environment
from penstock.stack.nodes import COMMAND, NodePorts, address, configuration, kept_passwords, node_environment
from penstock.stack.processes import Program
from shared.errors import Problem, SetupError
from shared.jetstream.nats_server import config_text, find_nats_server

REPLICAS = 3
"""Copies of every stream in a cluster."""
STOP_BROKER_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the stack listens."""

    ingest: int
    broker: int
    monitor: int
    admin: tuple[int, ...]
    """Of the services in their order; in a cluster once more for the second of each."""
    host: str = "127.0.0.1"
    """Interface that takes events; everything else listens on the local one."""
    nodes: tuple[NodePorts, ...] = ()
    """Of a cluster; `broker` and `monitor` are those of the first."""
    second_ingest: int | None = None
    """In a cluster."""
    prometheus: int | None = None
    """In a cluster."""


class OneBroker:
    """One broker without users, and one of each service."""

    def __init__(self, home: Home, ports: Ports) -> None:
        self._home, self._ports = home, ports

    @property
    def shown_address(self) -> str:
        """Returns the brokers' address for people and for `stack.json`: no password in it."""
        return f"nats://127.0.0.1:{self._ports.broker}"

    def prepare(self) -> None:
        """Writes what the brokers read.

        Raises:
            SetupError: the home is another kind of stack's.
        """
        if self._home.passwords.exists():
            raise SetupError(f"{self._home.folder} is the home of a cluster: start it with --cluster, or name another --home")
        text = config_text(self._home.store, port=self._ports.broker, monitor_port=self._ports.monitor)
        (self._home.folder / "nats.conf").write_text(text)

    def brokers(self) -> list[Program]:
        """Returns the programs of the brokers."""
        command = (find_nats_server(), "-c", str(self._home.folder / "nats.conf"))
        monitor = self._ports.monitor
        return [_broker(home=self._home, name="nats", command=command, environment=os.environ, monitor=monitor)]

    def watchers(self) -> list[Program]:
        """Returns no program."""
        return []

    def services(self) -> list[list[Program]]:
        """Returns the programs of each service, in the order of the path."""
        spool = self._home.spool
        return [
            [
                _service(
                    home=self._home,
                    ports=self._ports,
                    service=service,
                    name=service,
                    admin_port=self._ports.admin[index],
                    ingest_port=self._ports.ingest,
                    spool=spool,
                    broker=self.shown_address,
                    more={},
                )
            ]
            for index, service in enumerate(SERVICES)
        ]


class Cluster:
    """Nodes with the files of `deploy/nats`, and two of each service.

    Args:
        tls: for clients and between the nodes, with certificates made here.
    """

    def __init__(self, home: Home, ports: Ports, *, tls: bool) -> None:
        self._home, self._ports, self._tls = home, ports, tls
        self._passwords: dict[str, str] = {}
        self._certificates: Certificates | None = None

    @property
    def shown_address(self) -> str:
        """Returns the brokers' address for people and for `stack.json`: no password in it."""
        scheme = "tls" if self._tls else "nats"
        return ",".join(f"{scheme}://127.0.0.1:{node.broker}" for node in self._ports.nodes)

    def prepare(self) -> None:
        """Makes passwords and certificates, or reads those of the last time.

        Raises:
            SetupError: the home is another kind of stack's, or cannot be written.
        """
        if any(self._home.store.glob("*")):
            raise SetupError(
                f"{self._home.folder} is the home of a stack of one broker: start it without --cluster, or name another --home"
            )
        try:
            self._home.secrets.mkdir(mode=0o700, exist_ok=True)
            self._passwords = kept_passwords(self._home.passwords)
            self._certificates = certificates(self._home.secrets) if self._tls else None
            write_privately(self._home.address_file, self._address(COMMAND).encode())
        except OSError as exc:
            raise SetupError(str(Problem(str(self._home.secrets), f"cannot be written: {exc.strerror}"))) from exc

    def brokers(self) -> list[Program]:
        """Returns the programs of the nodes."""
        nodes = self._ports.nodes
        command = (find_nats_server(), "-c", str(configuration(tls=self._tls)))
        return [
            _broker(
                home=self._home,
                name=f"nats-{number}",
                command=command,
                environment={
                    **os.environ,
                    **node_environment(
                        name=f"nats-{number}",
                        ports=ports,
                        routes=[other.route for other in nodes if other is not ports],
                        store=self._home.folder / f"store-{number}",
                        passwords=self._passwords,
                        certificates=self._certificates,
                    ),
                },
                monitor=ports.monitor,
            )
            for number, ports in enumerate(nodes, 1)
        ]

    def services(self) -> list[list[Program]]:
        """Returns the programs of each service, in the order of the path."""
        edges = (self._ports.ingest, self._ports.second_ingest or self._ports.ingest)
        spools = (self._home.spool, self._home.folder / "spool-2")
        return [
            [
                _service(
                    home=self._home,
                    ports=self._ports,
                    service=service,
                    name=f"{service}-2" if second else service,
                    admin_port=self._ports.admin[index + second * len(SERVICES)],
                    ingest_port=edges[second],
                    spool=spools[second],
                    broker=self._address(service),
                    more={"PENSTOCK_REPLICAS": str(REPLICAS)},
                )
                for second in (0, 1)
            ]
            for index, service in enumerate(SERVICES)
        ]

    def watchers(self) -> list[Program]:
        """Returns the programs that watch the others; nothing waits for them. Prometheus, if it is installed.

        Raises:
            SetupError: the home cannot be written.
        """
        targets = {
            service: [f"127.0.0.1:{self._ports.admin[index + second * len(SERVICES)]}" for second in (0, 1)]
            for index, service in enumerate(SERVICES)
        }
        if self._ports.prometheus is None:
            return []
        try:
            found = prometheus.program(self._home, self._ports.prometheus, targets)
        except OSError as exc:
            raise SetupError(str(Problem(str(self._home.folder), f"cannot be written: {exc.strerror}"))) from exc
        return [] if found is None else [found]

    def _address(self, user: str) -> str:
        return address(user, [node.broker for node in self._ports.nodes], self._passwords, self._certificates)


def _broker(*, home: Home, name: str, command: tuple[str, ...], environment: Mapping[str, str], monitor: int) -> Program:
    return Program(
        name=name,
        command=command,
        environment=dict(environment),
        log=home.logs / f"{name}.log",
        ready_url=f"http://127.0.0.1:{monitor}/healthz",
        stop_seconds=STOP_BROKER_SECONDS,
    )


def _service(
    *,
    home: Home,
    ports: Ports,
    service: str,
    name: str,
    admin_port: int,
    ingest_port: int,
    spool: Path,
    broker: str,
    more: Mapping[str, str],
) -> Program:
    admin = f"http://127.0.0.1:{admin_port}"
    return Program(
        name=name,
        command=(sys.executable, "-P", "-m", service),
        environment={
            "PENSTOCK_DRAIN_PERIOD": f"{DRAIN_SECONDS}s",
            "PENSTOCK_ROUTER_ARCHIVE_DIR": str(home.archive),
            "PENSTOCK_ROUTER_DISKS": str(home.folder),
            **more,
            **os.environ,
            **stack_environment(home),
            "PENSTOCK_NATS_URL": broker,
            "PENSTOCK_ADMIN_HOST": "127.0.0.1",
            "PENSTOCK_ADMIN_PORT": str(admin_port),
            "PENSTOCK_CACHE_DIR": str(home.cache / name),
            "PENSTOCK_ROUTER_NATS_MONITOR": ",".join(
                f"http://127.0.0.1:{monitor}" for monitor in [node.monitor for node in ports.nodes] or [ports.monitor]
            ),
            "PENSTOCK_LOADER_SCRATCH_DIR": str(home.scratch),
            "PENSTOCK_INGEST_HOST": ports.host,
            "PENSTOCK_INGEST_PORT": str(ingest_port),
            "PENSTOCK_INGEST_SPOOL_DIR": str(spool),
        },
        log=home.logs / f"{name}.log",
        ready_url=f"{admin}/ready",
        admin_url=admin,
        stop_seconds=DRAIN_SECONDS + 5,
    )
