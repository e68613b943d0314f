"""A cluster of three real nats-servers for tests and benchmarks, with the configuration files and the users that `penstock up --cluster 3` has."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from penstock.stack.certificates import Certificates
from penstock.stack.nodes import COMMAND, NodePorts, address, configuration, new_passwords, node_environment
from shared.jetstream.nats_server import find_nats_server
from tests.support.own_server import OwnServer
from tests.support.ports import free_port


class Node(OwnServer):
    """One server of a cluster. It keeps its ports and its store over `kill` and `start`."""

    name = "nats-server"

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)
        self.node = name
        self.ports = NodePorts(self.port, free_port(), free_port())
        self.variables: Mapping[str, str] = {}
        self.advertised: int | None = None
        """The port by which nodes reach this one that learn of it from others; None: its own."""
        self.configuration = configuration(tls=False)

    @property
    def log_path(self) -> Path:
        """Where everything it says goes."""
        return self.directory / "nats.log"

    def environment(self) -> dict[str, str]:
        """Variables of the node."""
        return {**super().environment(), **self.variables}

    def command(self) -> Sequence[str | Path]:
        """Starts the server."""
        told = [] if self.advertised is None else ["--cluster_advertise", f"127.0.0.1:{self.advertised}"]
        return [find_nats_server(), "-c", self.configuration, *told]

    def answers(self) -> bool:
        """Says whether JetStream is healthy, for which a cluster must have a leader."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports.monitor}/healthz", timeout=1) as answer:
            return bool(json.load(answer).get("status") == "ok")


class Cluster:
    """Three nodes, or one that is no cluster.

    Args:
        certificates: None: without TLS.
        routes: the port by which a node reaches another, by their numbers; the other's own unless a proxy stands between.
    """

    def __init__(
        self,
        folder: Path,
        *,
        certificates: Certificates | None = None,
        sync: str = "always",
        nodes: int = 3,
        routes: Mapping[tuple[int, int], int] | None = None,
    ) -> None:
        self.certificates = certificates
        self.passwords = new_passwords()
        self.nodes = [Node(folder / f"nats-{number}", f"nats-{number}") for number in range(1, nodes + 1)]
        self.fronts: Sequence[int] = ()
        """The ports by which services reach the nodes if proxies stand before them."""
        self._sync = sync
        self.route(routes or {})

    def route(self, routes: Mapping[tuple[int, int], int]) -> None:
        """Sets how nodes reach each other, from their next start on."""
        for index, node in enumerate(self.nodes):
            node.configuration = configuration(tls=self.certificates is not None, alone=len(self.nodes) == 1)
            node.variables = node_environment(
                name=node.node,
                ports=node.ports,
                routes=[routes.get((index, at), other.ports.route) for at, other in enumerate(self.nodes) if at != index],
                store=node.directory / "store",
                passwords=self.passwords,
                certificates=self.certificates,
                sync=self._sync,
            )

    def address(self, user: str = COMMAND) -> str:
        """Returns the address of the cluster for a user, by way of the proxies."""
        return address(user, self.fronts or [node.ports.broker for node in self.nodes], self.passwords, self.certificates)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the nodes that run, by name."""
        return {node.node: node.pid for node in self.nodes if node.running}

    @property
    def logs(self) -> dict[str, Path]:
        """Logs by name."""
        return {node.node: node.log_path for node in self.nodes}

    @property
    def replicas(self) -> int:
        """Copies of each stream."""
        return min(3, len(self.nodes))

    def node(self, name: str) -> Node:
        """Returns a node by its name."""
        return next(each for each in self.nodes if each.node == name)

    @property
    def url(self) -> str:
        """Address for commands, past the proxies."""
        return address(COMMAND, [node.ports.broker for node in self.nodes], self.passwords, self.certificates)


@contextlib.contextmanager
def nats_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """Runs the nodes while the context is open."""
    with contextlib.ExitStack() as held:
        for node in cluster.nodes:
            held.callback(node.kill)
        with ThreadPoolExecutor() as together:  # none is healthy before a second one runs
            list(together.map(lambda node: node.start(), cluster.nodes))
        yield cluster
