"""Opens a connector for a while, with a private folder that is gone afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from connector_runner import registry
from connector_runner.contract import Environment, Listener, Source


@asynccontextmanager
async def opened(name: str, document: Mapping[str, Any], cache: Path, heard: Listener) -> AsyncGenerator[Source, None]:
    """Opens a connector.

    Args:
        document: its entry in the project file, with `type`.
        cache: the folder of installed connectors, as an absolute path.
        heard: takes lines for people.

    Raises:
        ConfigError, SetupError: it cannot be opened as it is.
    """
    plugin, options = registry.parse_options(name, document)
    private = Path(tempfile.mkdtemp(prefix="penstock-connector-"))  # for this user alone
    try:
        source = await plugin.open_source(name, options, Environment(cache, private, heard))
        try:
            yield source
        finally:
            await source.close()
    finally:
        shutil.rmtree(private, ignore_errors=True)
