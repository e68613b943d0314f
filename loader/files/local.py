"""Files in a local directory: Parquet, NDJSON or CSV, one object for each table and hour of a load.

`loader/objects/` makes files of rows; `shared/stores/local.py` makes files visible and fences holders.

https://parquet.apache.org/docs/, https://github.com/ndjson/ndjson-spec, https://www.rfc-editor.org/rfc/rfc4180
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from loader.contract.warehouse import Destination, Environment
from loader.objects import formats, names
from loader.objects.destination import CAPABILITIES, FilesDestination
from loader.objects.formats import Compression, Format
from loader.objects.session import Layout
from shared.stores.local import LocalStore

__all__ = ["CAPABILITIES", "OPTIONS", "open_destination"]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a directory of files."""

    path: Annotated[str, Meta(min_length=1, description="the directory; made if missing")]
    format: Annotated[Format, Meta(description="parquet for warehouses, ndjson and csv for other readers")] = "parquet"
    compression: Annotated[Compression | None, Meta(description="default: zstd for parquet, gzip for the others")] = None
    prefix: Annotated[
        str, Meta(description="directories of an object: {table}, and {date} and {hour} of the rows' own time in UTC")
    ] = names.DEFAULT_PREFIX

    def __post_init__(self) -> None:
        names.check_prefix(self.prefix)


OPTIONS = Options


async def open_destination(name: str, options: Options, environment: Environment) -> Destination:
    """Returns the destination; the first session makes the directory."""
    root = await environment.gate.run(lambda: Path(options.path).expanduser().resolve())
    what = f'local destination "{name}"'
    layout = Layout(options.prefix, options.format, options.compression or formats.default_compression(options.format))
    return FilesDestination(LocalStore(root, environment.gate, what), layout, environment.gate, what)
