"""Azure's blobs under test: a container of its own, read by the vendor's blocking client."""

from __future__ import annotations

from tests.support.azure import AzureServer
from tests.support.destinations.files import FilesSubject


class AzureSubject(FilesSubject):
    """A container of its own, in one format."""

    def __init__(self, server: AzureServer, format_: str) -> None:
        super().__init__("azure", format_)
        self.server = server
        self.container = server.new_container()
        self.document |= server.document(self.container)

    def files(self) -> list[str]:
        with self.server.client() as client:
            names = [each.name for each in client.get_container_client(self.container).list_blobs()]
        return [name for name in names if not name.startswith("_penstock/")]

    def content(self, name: str) -> bytes:
        with self.server.client() as client:
            data: bytes = client.get_blob_client(self.container, name).download_blob().readall()
        return data
