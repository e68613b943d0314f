"""A server that speaks S3, started once a run: MinIO in a container where Docker answers, else moto's server in a process of its own.

`PENSTOCK_TEST_S3=moto` chooses moto also where there is Docker. What moto cannot show: it keeps objects in memory, checks no checksum, and
completes an upload a second time. It answers 500 to a part of an upload that was ended, where S3 says `NoSuchUpload`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.own_server import OwnServer

START_SECONDS = 60.0
KEY = "penstock-tests"
SECRET = "secret-of-the-tests"


class S3Server:
    """One server, by its address and keys."""

    def __init__(self, url: str, key: str = KEY, secret: str = SECRET, pid: int = 0) -> None:
        self.pid = pid
        self.url = url
        self.key = key
        self.secret = secret

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return int(self.url.rpartition(":")[2])

    def client(self) -> Any:
        """Returns a client of another library than the plug-in's."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            config=Config(s3={"addressing_style": "path"}),
        )

    def new_bucket(self) -> str:
        """Makes a bucket and returns its name."""
        name = f"t-{secrets.token_hex(8)}"
        self.client().create_bucket(Bucket=name)
        return name

    def document(self, bucket: str, **options: Any) -> dict[str, Any]:
        """Returns the options of a destination."""
        return {
            "type": "s3",
            "bucket": bucket,
            "endpoint_url": self.url,
            "access_key_id": self.key,
            "secret_access_key": self.secret,
            **options,
        }


class MotoServer(OwnServer):
    """Moto's server in a process of its own.

    Args:
        variables: of its environment.
    """

    name = "moto"

    def __init__(self, **variables: str) -> None:
        super().__init__()
        self._variables = variables

    def command(self) -> Sequence[str | Path]:
        """Returns its command."""
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def environment(self) -> dict[str, str]:
        """Returns ours and its variables."""
        return {**os.environ, **self._variables}

    def answers(self) -> bool:
        """Says whether it serves."""
        return _serves(f"http://127.0.0.1:{self.port}/moto-api/data.json")


@contextlib.contextmanager
def moto_server(**variables: str) -> Iterator[S3Server]:
    """Runs moto's server in a process of its own."""
    with MotoServer(**variables) as server:
        yield S3Server(f"http://127.0.0.1:{server.port}", pid=server.pid)


@contextlib.contextmanager
def minio_server() -> Iterator[S3Server]:
    """Runs MinIO in a container."""
    from testcontainers.core.container import DockerContainer

    with (
        DockerContainer("minio/minio:latest")
        .with_env("MINIO_ROOT_USER", KEY)
        .with_env("MINIO_ROOT_PASSWORD", SECRET)
        .with_command("server /data")
        .with_exposed_ports(9000)
    ) as container:
        url = f"http://127.0.0.1:{container.get_exposed_port(9000)}"
        ends_at = time.monotonic() + START_SECONDS
        while not _serves(f"{url}/minio/health/live"):
            if time.monotonic() > ends_at:
                raise RuntimeError(f"MinIO does not answer at {url} within {START_SECONDS:g} s")
            time.sleep(0.05)
        yield S3Server(url)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A server for the whole run. Make a bucket of your own."""
    with minio_server() if has_docker() else moto_server() as server:
        yield server


def has_docker() -> bool:
    """Whether a container can be started here, and is wanted."""
    if os.environ.get("PENSTOCK_TEST_S3") == "moto" or shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=START_SECONDS).returncode == 0


def _serves(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
        return True
    return False
