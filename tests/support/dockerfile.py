"""The project's Dockerfile, read and carried out where no Docker is: each stage is a folder that begins as a copy of a bare Debian root.

Understands what our Dockerfile uses and refuses everything else, so that file and run cannot differ. Needs root, for `chroot`.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_KNOWN = frozenset({"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "LABEL", "USER", "EXPOSE", "ENTRYPOINT", "CMD"})


class Step(NamedTuple):
    """One instruction."""

    word: str
    rest: str


def read_dockerfile(text: str) -> list[Step]:
    """Returns the instructions of a Dockerfile, with lines joined and comments left out.

    Raises:
        ValueError: an instruction is not known here.
    """
    joined = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    steps = [Step(*line.strip().split(maxsplit=1)) for line in joined.splitlines() if line.strip()]
    unknown = {step.word for step in steps} - _KNOWN
    if unknown:
        raise ValueError(f"unknown instructions: {', '.join(sorted(unknown))}")
    return steps


class Ignored:
    """What `.dockerignore` keeps out of the context: later lines win, and `!` takes back."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines()]
        self._rules = [(line.lstrip("!"), not line.startswith("!")) for line in lines if line and not line.startswith("#")]

    def __call__(self, path: str) -> bool:
        """Says whether a path of the context, such as `shared/x.py`, is left out."""
        out = False
        for pattern, keeps_out in self._rules:
            bare = pattern.removeprefix("**/")
            parts = path.split("/")
            if bare != pattern:
                hit = any(fnmatch.fnmatchcase(part, bare) for part in parts)
            else:
                hit = any(fnmatch.fnmatchcase("/".join(parts[:count]), pattern) for count in range(1, len(parts) + 1))
            if hit:
                out = keeps_out
        return out


@dataclass
class Stage:
    """A stage while its instructions are carried out, and the image that it then is."""

    root: Path
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    ports: list[str] = field(default_factory=list)


class Builder:
    """Carries out a Dockerfile.

    Args:
        context: folder that is copied from.
        bare: root made by `debootstrap --variant=minbase`; stands for the base image.
        work: folder for the stages.
        outside: variables that a machine sets to reach its package indexes; no part of the image.
    """

    def __init__(self, context: Path, bare: Path, work: Path, outside: dict[str, str]) -> None:
        self._context, self._bare, self._work, self._outside = context, bare, work, outside
        ignore = context / ".dockerignore"
        self._ignored = Ignored(ignore.read_text() if ignore.exists() else "")
        self._stages: dict[str, Stage] = {}
        self._stage: Stage | None = None

    def build(self, steps: list[Step]) -> Stage:
        """Returns the last stage."""
        for step in steps:
            print(f"{step.word} {step.rest[:150]}", flush=True)
            if step.word == "FROM":
                self._begin(step.rest)
            elif self._stage is not None:  # an ARG before the first stage is for FROM alone
                self._do(self._stage, step)
        assert self._stage is not None
        return self._stage

    def _begin(self, rest: str) -> None:
        name = rest.split(" AS ")[1].strip() if " AS " in rest else f"{len(self._stages)}"
        root = self._work / name
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["cp", "-a", "--reflink=auto", self._bare, root], check=True)
        shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
        self._stage = self._stages[name] = Stage(root)

    def _do(self, stage: Stage, step: Step) -> None:
        match step.word:
            case "ARG":
                name, _, value = step.rest.partition("=")
                stage.arguments[name] = value
            case "ENV":
                stage.environment |= dict(part.split("=", 1) for part in shlex.split(step.rest))
            case "WORKDIR":
                stage.folder = step.rest
                (stage.root / step.rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "USER":
                stage.user = step.rest
            case "ENTRYPOINT":
                stage.entrypoint = list(_list(step.rest))
            case "CMD":
                stage.command = list(_list(step.rest))
            case "EXPOSE":
                stage.ports += step.rest.split()
            case "COPY":
                self._copy(stage, shlex.split(step.rest))
            case "RUN":
                environment = stage.environment | stage.arguments | self._outside | {"DEBIAN_FRONTEND": "noninteractive"}
                subprocess.run(
                    inside(
                        stage.root, ["sh", "-c", f"cd {shlex.quote(stage.folder)}\n{step.rest}"], user=stage.user, writable=True
                    ),
                    check=True,
                    env=environment,
                )

    def _copy(self, stage: Stage, words: list[str]) -> None:
        origin = self._context
        if words[0].startswith("--from="):
            origin = self._stages[words.pop(0).removeprefix("--from=")].root
        *sources, target = words
        place = stage.root / os.path.join(stage.folder, target).lstrip("/")
        for source in sources:
            found = origin / source.strip("/")
            into = place / found.name if target.endswith("/") and not found.is_dir() else place
            if origin != self._context:
                into.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-a", found, into], check=True)
            elif found.is_dir():
                self._copy_folder(found, into)
            elif not self._ignored(source):
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, into)
            else:
                raise FileNotFoundError(f"{source} is kept out by .dockerignore")

    def _copy_folder(self, found: Path, into: Path) -> None:
        for path in sorted(found.rglob("*")):
            if path.is_file() and not self._ignored(path.relative_to(self._context).as_posix()):
                here = into / path.relative_to(found)
                here.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, here)


def _list(text: str) -> list[str]:
    return re.findall(r'"([^"]*)"', text)


def inside(
    root: Path,
    command: list[str],
    *,
    user: str = "0:0",
    writable: bool = False,
    mounts: Mapping[str, Path] | None = None,
    tmpfs: Sequence[str] = (),
    scratch: Path | None = None,
    capabilities: Sequence[str] = (),
    folder: str = "/",
) -> list[str]:
    """Returns a command line that runs a command in a root, with the rights that a container of compose.yaml has.

    Args:
        command: more words may be added behind the line.
        user: `uid:gid`; a user other than root loses every capability and may gain none.
        writable: False: the root file system is read-only, but for /tmp and what is mounted.
        mounts: folders or files of this machine by their path inside.
        tmpfs: further folders in memory.
        scratch: folder where missing places of mounts are made, over the root; None: all are there.
        capabilities: what root keeps, such as `CHOWN`; all, if the root is writable.
        folder: where it begins.
    """
    at = shlex.quote(str(root))
    # what Docker sets for a container's folders in memory; the builder's are none
    options = "" if writable else ",noexec,nosuid,nodev"
    script = []
    if scratch is None:
        script.append(f"mount --bind {at} {at}")
    else:
        made = shlex.quote(str(scratch))
        script += [
            f"mkdir -p {made} && mount -t tmpfs tmpfs {made} && mkdir {made}/u {made}/w {made}/m",
            f"mount -t overlay overlay -o lowerdir={at},upperdir={made}/u,workdir={made}/w {made}/m",
        ]
        at = f"{made}/m"
    for path, host in (mounts or {}).items():
        make = (
            f"mkdir -p {at}{path}"
            if host.is_dir()
            else f"mkdir -p {at}{os.path.dirname(path)} && rm -f {at}{path} && touch {at}{path}"
        )
        script.append(make if scratch is not None else "true")
    # /var/run is a link to /run, which is a folder in memory by itself
    tmpfs = [path.replace("/var/run/", "/run/") for path in tmpfs]
    script += [f"mkdir -p {at}{path}" for path in tmpfs]
    if not writable:
        script.append(
            f"mount -o remount,bind,ro {at}" if scratch is None else f"mount --bind {at} {at} && mount -o remount,bind,ro {at}"
        )
    script += [
        f"mount -t proc proc {at}/proc",
        f"mount --rbind /dev {at}/dev",
        f"mount -t tmpfs -o mode=1777{options} tmpfs {at}/tmp",
        f"mount -t tmpfs tmpfs {at}/run",
        *(f"mkdir -p {at}{path} && mount -t tmpfs -o mode=1777{options} tmpfs {at}{path}" for path in tmpfs),
        *(f"mount --bind {shlex.quote(str(host))} {at}{path}" for path, host in (mounts or {}).items()),
    ]
    if Path("/etc/ssl/certs/ca-certificates.crt").exists():
        script.append(f"cp /etc/ssl/certs/ca-certificates.crt {at}/run/ca.crt")
    uid, gid = user.split(":")
    drop: list[str] = []
    if not writable:
        kept = ",".join(["-all", *(f"+{each.lower()}" for each in capabilities)])
        drop = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", f"--bounding-set={kept}", "--no-new-privs", "--"]
    begin = shlex.quote(f'cd {shlex.quote(folder)} && exec "$@"')
    script.append(f'exec chroot {at} {shlex.join(drop)} /bin/sh -c {begin} - "$@"')
    return ["/usr/bin/unshare", "--mount", "--propagation", "private", "/bin/sh", "-ec", "\n".join(script), "-", *command]
