"""Services of compose.yaml as processes with namespaces of their own, where no Docker is: networks as bridges, names by DNS, volumes, rights.

Everything is in a network namespace that the caller made (`python -m tests.support.image` begins with `unshare`), so nothing of the
machine's own network is touched. Bounds of memory and CPU are not set.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.compose import ROOT
from tests.support.dockerfile import inside

FIRST_SUBNET = 241
"""Of 172.31.x.0/24, for networks that name none."""
DNS_SECONDS = 5


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


class Names:
    """A DNS server for the containers: their names, and nothing else."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}

    def serve(self, address: str) -> None:
        """Answers at port 53 of an address, from now on."""
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((address, 53))
        threading.Thread(target=self._answer, args=(server,), daemon=True).start()

    def _answer(self, server: socket.socket) -> None:
        while True:
            query, client = server.recvfrom(4096)
            with contextlib.suppress(IndexError, struct.error, OSError):
                server.sendto(self._reply(query), client)

    def _reply(self, query: bytes) -> bytes:
        labels, at = list[str](), 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
            at += 1 + query[at]
        question = query[12 : at + 5]
        kind = struct.unpack("!H", query[at + 1 : at + 3])[0]
        found = self.addresses.get(labels[0] if len(labels) == 1 else ".".join(labels), [])
        given = found if kind == 1 else []
        status = 0x8180 if found else 0x8183  # no such name
        records = b"".join(struct.pack("!HHHIH", 0xC00C, 1, 1, DNS_SECONDS, 4) + socket.inet_aton(each) for each in given)
        return query[:2] + struct.pack("!HHHHH", status, 1, len(given), 0, 0) + question + records


@dataclass
class Container:
    """One process and what it has."""

    name: str
    service: str
    namespace: str
    environment: dict[str, str]
    prefix: list[str]
    """Runs a command in its place."""
    command: list[str]
    log: Path
    addresses: dict[str, str] = field(default_factory=dict)
    """By network."""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, or starts it again."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *self.command], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def ask(self, command: list[str], seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Runs another command in its place, as `docker exec` does."""
        return subprocess.run(
            [*self.prefix, *command], env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )

    def stop(self, number: signal.Signals, seconds: float) -> float:
        """Sends a signal and waits; returns how long the end took."""
        assert self.process is not None
        began = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number) if number == signal.SIGKILL else os.kill(self.process.pid, number)
        self.process.wait(seconds)
        return time.monotonic() - began


class Machine:
    """What Docker is for compose.yaml.

    Args:
        project: the document, with variables put in.
        roots: root folder of each image, by service; services without one do not run.
        folder: for volumes and logs.
        sources: folders of this machine in place of the mounted ones, by their name there.
    """

    def __init__(self, project: Mapping[str, Any], roots: Mapping[str, Path], folder: Path, sources: Mapping[str, Path]) -> None:
        self._project, self._roots, self._folder, self._sources = project, roots, folder, sources
        self.names = Names()
        self.containers: dict[str, Container] = {}
        self._subnets: dict[str, ipaddress.IPv4Network] = {}
        self._next: dict[str, int] = {}
        _run("ip", "link", "set", "lo", "up")
        Path("/run/netns").mkdir(exist_ok=True)
        _run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
        for count, (name, network) in enumerate(project["networks"].items()):
            config = (network.get("ipam") or {}).get("config")
            subnet = ipaddress.IPv4Network(config[0]["subnet"] if config else f"172.31.{FIRST_SUBNET + count}.0/24")
            self._subnets[name], self._next[name] = subnet, 2
            _run("ip", "link", "add", f"br-{name}", "type", "bridge")
            _run("ip", "addr", "add", f"{subnet[1]}/24", "dev", f"br-{name}")
            _run("ip", "link", "set", f"br-{name}", "up")
            self.names.serve(str(subnet[1]))

    def _place(self, source: str) -> Path:
        for name, folder in self._sources.items():
            if source.startswith(f"{name}/"):
                return folder / source.removeprefix(f"{name}/")
        return (ROOT / source).resolve()

    def volume(self, name: str) -> Path:
        """Returns the folder of a volume."""
        place = self._folder / "volumes" / name
        place.mkdir(parents=True, exist_ok=True)
        return place

    def make(self, name: str, number: int = 1, command: list[str] | None = None, user: str = "") -> Container:
        """Makes a replica of a service.

        Args:
            command: stands in for the service's own; None: its entrypoint and command.
            user: stands in for the service's own, if it is given.
        """
        service = self._project["services"][name]
        namespace = f"{name}-{number}"[:12] + f"{len(self.containers)}"
        _run("ip", "netns", "add", namespace)
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        networks = service.get("networks") or {}
        addresses = {}
        for count, network in enumerate(networks):
            subnet = self._subnets[network]
            address = addresses[network] = str(subnet[self._next[network]])
            self._next[network] += 1
            link = f"v{len(self.containers)}x{count}"
            _run("ip", "link", "add", link, "type", "veth", "peer", "name", f"eth{count}", "netns", namespace)
            _run("ip", "link", "set", link, "master", f"br-{network}", "up")
            _run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", f"eth{count}")
            _run("ip", "-n", namespace, "link", "set", f"eth{count}", "up")
            self.names.addresses.setdefault(name, []).append(address)
        files = self._folder / "files"
        files.mkdir(exist_ok=True)
        nameservers = "".join(f"nameserver {self._subnets[each][1]}\n" for each in list(networks)[:1])
        (files / f"{namespace}.resolv").write_text(f"{nameservers}options timeout:1 attempts:2\n")
        (files / f"{namespace}.hosts").write_text("127.0.0.1 localhost\n")
        mounts: dict[str, Path] = {}
        for each in service.get("volumes", []):
            source, target, *_ = each.split(":")
            mounts[target] = self._place(source) if source.startswith(".") else self.volume(source)
        # the images know their users
        uid, gid = (user or service["user"]).split(":")
        (files / f"{namespace}.passwd").write_text(f"root:x:0:0::/root:/bin/sh\n{name}:x:{uid}:{gid}::/:/bin/sh\n")
        mounts |= {"/etc/passwd": files / f"{namespace}.passwd"} if self._roots[name] == Path("/") else {}
        mounts |= {"/etc/resolv.conf": files / f"{namespace}.resolv", "/etc/hosts": files / f"{namespace}.hosts"}
        tmpfs = [part for part in (each.split(":")[0] for each in service.get("tmpfs", [])) if part != "/tmp"]
        prefix = [
            "ip", "netns", "exec", namespace,
            *inside(self._roots[name], [], user=user or service["user"], mounts=mounts, tmpfs=tmpfs, scratch=self._folder / "scratch" / namespace,
                    capabilities=service.get("cap_add", []), folder=service.get("working_dir", "/")),
        ]  # fmt: skip
        own = [*service.get("entrypoint", []), *service.get("command", [])]
        container = Container(
            name=f"{name}-{number}",
            service=name,
            namespace=namespace,
            environment={
                "PATH": "/opt/penstock/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG": "C.UTF-8",
            }
            | {key: str(value) for key, value in (service.get("environment") or {}).items()},
            prefix=prefix,
            command=command or own,
            log=self._folder / f"{name}-{number}.log",
            addresses=addresses,
        )
        self.containers[container.name] = container
        return container

    def wait_healthy(self, container: Container, seconds: float = 120.0, test: list[str] | None = None) -> float:
        """Waits until the service's own health check says yes; returns how long it took.

        Args:
            test: stands in for the service's health check.
        """
        check = test or self._project["services"][container.service]["healthcheck"]["test"][1:]
        began = time.monotonic()
        while True:
            assert container.process is not None
            if container.process.poll() is not None:
                raise SystemExit(
                    f"{container.name} ended with {container.process.returncode}: {container.log.read_text()[-3000:]}"
                )
            done = container.ask(check)
            if done.returncode == 0:
                return time.monotonic() - began
            if time.monotonic() - began > seconds:
                raise SystemExit(
                    f"{container.name} is not healthy: {done.stdout}{done.stderr}\n{container.log.read_text()[-3000:]}"
                )
            time.sleep(0.25)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Ends all processes at the end."""
        try:
            yield
        finally:
            for container in self.containers.values():
                if container.process is not None and container.process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(container.process.pid, signal.SIGKILL)
                    container.process.wait()
