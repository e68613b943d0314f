"""Files in a container of Azure Blob Storage: Parquet, NDJSON or CSV, one object for each table and hour.

`loader/objects/` makes objects of rows; `shared/stores/azure/` makes objects visible and fences holders.

https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from loader.contract.warehouse import Destination, Environment
from loader.objects import formats, names
from loader.objects.destination import CAPABILITIES, FilesDestination
from loader.objects.formats import Compression, Format
from loader.objects.session import Layout
from shared.stores import azure
from shared.stores.azure.options import AzureOptions

__all__ = ["CAPABILITIES", "OPTIONS", "open_destination"]

LONGEST_PREFIX = 300
"""Characters. A name has 1024; a table, a connection and a lane take up to 200 each."""


class Options(AzureOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of files in a container."""

    format: Annotated[Format, Meta(description="parquet for warehouses, ndjson and csv for other readers")] = "parquet"
    compression: Annotated[Compression | None, Meta(description="default: zstd for parquet, gzip for the others")] = None
    prefix: Annotated[
        str, Meta(description="what names begin with: {table}, and {date} and {hour} of the rows' own time in UTC")
    ] = names.DEFAULT_PREFIX

    def __post_init__(self) -> None:
        super().__post_init__()
        names.check_prefix(self.prefix)
        if len(self.prefix) > LONGEST_PREFIX:
            raise ValueError(f"prefix is longer than {LONGEST_PREFIX} characters, and a name has 1024 with table and the rest")


OPTIONS = Options


async def open_destination(name: str, options: Options, environment: Environment) -> Destination:
    """Returns the destination; the first session makes the first request."""
    what = f'azure destination "{name}"'
    root, below = names.split_prefix(options.prefix)
    store = await azure.open_store(options, root, environment.gate, what)
    layout = Layout(below, options.format, options.compression or formats.default_compression(options.format))
    return FilesDestination(store, layout, environment.gate, what)
