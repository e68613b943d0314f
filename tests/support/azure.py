"""Azurite, Microsoft's own server of Azure Storage's protocol: an npm package, installed once into `build/`, started once a run.

What it cannot show: accounts with directories, immutability, soft delete, and the signature that the service wants for the source of a copy.
"""

from __future__ import annotations

import os
import secrets
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.stores.azure.options import AzureOptions
from tests.support.own_server import OwnServer

PACKAGES = Path(__file__).parent / "azurite"
ACCOUNT = "penstocktests"
KEY = "c2VjcmV0LW9mLXRoZS10ZXN0cw=="


class AzureServer(OwnServer):
    """Azurite's blob service; it keeps everything in memory."""

    name = "azurite"

    def command(self) -> Sequence[str | Path]:
        """Returns its command."""
        from tests.support.sdks import npm_packages

        node = shutil.which("node")
        if node is None:
            pytest.fail("node is not installed, so Azure's store cannot be tested; get it with: make test-servers")
        script = npm_packages(PACKAGES, "azurite") / "azurite" / "dist" / "src" / "blob" / "main.js"
        address = ["--blobHost", "127.0.0.1", "--blobPort", str(self.port)]
        return [node, script, "--inMemoryPersistence", "--silent", "--disableTelemetry", *address]

    def environment(self) -> dict[str, str]:
        """Returns ours and its account."""
        return {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}

    def answers(self) -> bool:
        """Says whether it serves."""
        try:
            urllib.request.urlopen(self.url, timeout=5)
        except urllib.error.HTTPError:
            return True  # an answer, although it refuses
        return True

    @property
    def url(self) -> str:
        """The address of the account."""
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    def client(self) -> Any:
        """Returns a blocking client of the account."""
        from azure.storage.blob import BlobServiceClient

        credential = {"account_name": ACCOUNT, "account_key": KEY}
        return BlobServiceClient(self.url, credential=credential, api_version="2023-11-03")

    def new_container(self) -> str:
        """Makes a container and returns its name."""
        name = f"t-{secrets.token_hex(8)}"
        with self.client() as client:
            client.create_container(name)
        return name

    def options(self, container: str | None = None, **options: Any) -> AzureOptions:
        """Returns options of a container, a new one unless named; with the account's key unless `options` log in otherwise."""
        login = {} if {"sas_token", "connection_string"} & {*options} else {"account_key": KEY}
        at = {} if "connection_string" in options else {"account": ACCOUNT, "endpoint_url": self.url}
        return AzureOptions(container=container or self.new_container(), attempts=1, **{**at, **login, **options})

    def document(self, container: str, **options: Any) -> dict[str, Any]:
        """Returns the options of a destination."""
        return {
            "type": "azure", "container": container, "account": ACCOUNT, "account_key": KEY, "endpoint_url": self.url, **options
        }  # fmt: skip

    def signature(self, container: str, rights: str = "rcwdl", seconds: float = 3600) -> str:
        """Returns a shared access signature of a container."""
        from azure.storage.blob import ContainerSasPermissions, generate_container_sas

        ends = datetime.now(UTC) + timedelta(seconds=seconds)
        permission = ContainerSasPermissions.from_string(rights)
        signed: str = generate_container_sas(ACCOUNT, container, account_key=KEY, permission=permission, expiry=ends)
        return signed


@pytest.fixture(scope="session")
def azure_server() -> Iterator[AzureServer]:
    """A server for the whole run. Make a container of your own."""
    with AzureServer() as server:
        yield server
