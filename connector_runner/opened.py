"""Opens a connector for a while, with a private folder that is gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from connector_runner import registry
from connector_runner.contract import Environment, Listener, Source
from connector_runner.programs.folders import private_folders
from shared.errors import SetupError
from shared.secrets.reading import reveal


@asynccontextmanager
async def opened(name: str, document: Mapping[str, Any], cache: Path, heard: Listener) -> AsyncGenerator[Source, None]:
    """Opens a connector.

    Args:
        document: its entry in the project file, with `type`; the secrets that it refers to are read now, so each run has the newest.
        cache: the folder of installed connectors, as an absolute path.
        heard: takes lines for people.

    Raises:
        ConfigError, SetupError: it cannot be opened as it is.
        NotConnected: a vault does not answer.
    """
    revealed = await asyncio.to_thread(reveal, document)
    try:
        async with _opened(name, revealed, cache, heard) as source:
            yield source
    except Exception as error:
        registry.mask_of(document).error(error)
        raise


@asynccontextmanager
async def _opened(name: str, document: Mapping[str, Any], cache: Path, heard: Listener) -> AsyncGenerator[Source, None]:
    plugin, options = registry.parse_options(name, document)
    with contextlib.ExitStack() as stack:
        try:
            private, secret = stack.enter_context(private_folders())
        except OSError as exc:
            raise SetupError(f"{exc.filename}: {exc.strerror}; the files of connectors are written there; give it room") from exc
        source = await plugin.open_source(name, options, Environment(cache, private, heard, secret))
        try:
            yield source
        finally:
            await source.close()
