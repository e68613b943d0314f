"""A source of files, opened and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from connector_runner import registry
from connector_runner.contract import Environment, Source
from tests.support.sources.place import Reading, read, selected


async def opened(folder: Path, streams: dict[str, Any], **options: Any) -> Source:
    """Opens a source of files in a folder."""
    document = {"type": "files", "path": str(folder), "streams": streams, **options}
    plugin, parsed = registry.parse_options("mine", {key: value for key, value in document.items() if value is not None})
    private = folder / "private"
    private.mkdir(exist_ok=True)
    return await plugin.open_source("mine", parsed, Environment(folder, private, lambda said: None))


async def whole(source: Source, name: str = "s") -> Reading:
    """Reads a stream and closes the source."""
    stream = next(each for each in await source.discover() if each.name == name)
    try:
        return await read(source, [selected(stream)])
    finally:
        await source.close()
