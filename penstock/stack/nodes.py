"""The nodes of a local cluster: nats-servers with the configuration files of `deploy/nats`, which any cluster of Penstock has.

A node gets all that is its own by environment variables; `deploy/nats/server.conf`, `users.conf` and `cluster.conf` describe them.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from penstock.deployed import deployed
from penstock.stack.certificates import Certificates, write_privately
from penstock.stack.home import SERVICES
from shared.errors import Problem, SetupError

COMMAND, SYSTEM, NODE = "command", "system", "node"
USERS = (*SERVICES, COMMAND, SYSTEM, NODE)
"""Every name with a password: a user for each service and for commands, the system account's user, and the nodes among themselves."""


class NodePorts(NamedTuple):
    """Where a node listens: for clients, for `/healthz`, and for the other nodes."""

    broker: int
    monitor: int
    route: int


def configuration(*, tls: bool, alone: bool = False) -> Path:
    """Returns the configuration file of a node.

    Args:
        alone: of a broker that is no cluster.

    Raises:
        SetupError: the files are not here.
    """
    found = deployed() / "deploy" / "nats" / f"{'server' if alone else 'node'}{'_tls' if tls else ''}.conf"
    if not found.exists():
        raise SetupError(str(Problem(str(found), "is missing; install Penstock again, or take a whole checkout")))
    return found


def new_passwords() -> dict[str, str]:
    """Returns a new password for each user; it begins with a letter, because nats-server reads a number otherwise."""
    return {user: f"p{secrets.token_hex(16)}" for user in USERS}


def kept_passwords(path: Path) -> dict[str, str]:
    """Returns the passwords in a file; makes it, for its owner only, if it lacks one.

    Raises:
        OSError: the file cannot be written.
    """
    known: dict[str, str] = {}
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        known = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    if all(user in known for user in USERS):
        return known
    known = {**new_passwords(), **known}
    write_privately(path, msgspec.json.encode(known))
    return known


def node_environment(
    *,
    name: str,
    ports: NodePorts,
    routes: Sequence[int],
    store: Path,
    passwords: Mapping[str, str],
    certificates: Certificates | None = None,
    sync: str = "always",
) -> dict[str, str]:
    """Returns the variables of a node on this machine.

    Args:
        routes: the ports at which it reaches the nodes of the cluster.
        certificates: None: without TLS.
    """
    reached = ", ".join(f"nats-route://{NODE}:{passwords[NODE]}@127.0.0.1:{port}" for port in routes)
    variables = {
        "NAME": name,
        "LISTEN": f"127.0.0.1:{ports.broker}",
        "MONITOR": f"127.0.0.1:{ports.monitor}",
        "CLUSTER_LISTEN": f"127.0.0.1:{ports.route}",
        "ROUTES": f"[{reached}]",
        "STORE": f'"{store}"',
        "SYNC": sync,
        **{f"{user.upper()}_PASSWORD": password for user, password in passwords.items()},
    }
    if certificates is not None:
        variables |= {"CA": f'"{certificates.ca}"', "CERT": f'"{certificates.cert}"', "KEY": f'"{certificates.key}"'}
    return {f"PENSTOCK_NATS_{variable}": value for variable, value in variables.items()}


def address(user: str, brokers: Sequence[int], passwords: Mapping[str, str], certificates: Certificates | None = None) -> str:
    """Returns the address of the cluster for a user, all nodes in it."""
    scheme = "nats" if certificates is None else "tls"
    first, *others = (f"127.0.0.1:{port}" for port in brokers)
    parts = [f"{scheme}://{user}:{passwords[user]}@{first}", *(f"{scheme}://{other}" for other in others)]
    return ",".join(parts) + ("" if certificates is None else f"?ca={quote(str(certificates.ca))}")
