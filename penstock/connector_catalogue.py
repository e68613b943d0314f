"""The page `docs/connectors/catalogue.md`: what can be pulled and followed, from the registries of sources and feeds.

A line of the page is the first line of a plug-in's own docstring, so a new plug-in is on the page with `make docs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import cast

import msgspec

from connector_runner.feeds.registry import FEEDS
from connector_runner.programs.options import Bounded
from connector_runner.registry import SOURCES

_HUB = "https://hub.meltano.com/extractors/"
_TEXT = """
## Connectors of others

| what | how | limits |
| --- | --- | --- |
| any [package of PyPI](https://pypi.org/search/?q=airbyte-source) that is an Airbyte connector: about 280, named `airbyte-source-…` | `type: airbyte`, `package`, `version` | [airbyte](airbyte.md#packages); old ones may need `build`, `requires` or `python` |
| a low-code manifest, as the [connector registry](https://connectors.airbyte.com/files/registries/v0/oss_registry.json) has them | `type: airbyte`, `manifest` | [airbyte](airbyte.md#manifests); without Python classes of its own |
| a container image of an Airbyte connector | `type: airbyte`, `image` | [airbyte](airbyte.md#images); needs podman or docker |
| any Singer tap on PyPI, as [Meltano's hub](HUB) lists them | `type: singer`, `package`, `version` | [singer](singer.md); old ones may need `requires` |

A package runs with the rights of the service's user: take packages that you trust. Before you rely on one, read it by hand:

```yaml
connectors:
  crm: {type: airbyte, package: airbyte-source-faker, version: 7.2.1, config: {count: 100}}
```

```sh
penstock connector spec crm          # its options; the first call installs it
penstock connector check crm
penstock connector discover crm      # streams, keys, cursors
penstock connector read crm users --limit 5
```

Packages that were tried, and how: [airbyte](airbyte.md#tried), [singer](singer.md#tried).

Nothing fits? [Write a connector](../write_a_connector.md). You come from another tool? [From other tools](../from_other_tools.md).
""".replace("HUB", _HUB)


def catalogue(note: str) -> Iterator[str]:
    """Yields the lines of the page; `note` says that it is made."""
    yield from (
        "# Catalogue of sources",
        "",
        note,
        "",
        "A *connector* is read when a [sync](../syncs.md) is due; a *feed* is followed without an end, and its records are [events](../feeds.md).",
        "",
        "## Connectors",
        "",
        "| type | what | runs | must be given |",
        "| --- | --- | --- | --- |",
    )
    for name in SOURCES.names():
        plugin = SOURCES.get(name)
        runs = "as a program of its own" if issubclass(plugin.OPTIONS, Bounded) else "in the service"
        yield f"| [{name}]({name}.md) | {_first_line(plugin)} | {runs} | {_needed(plugin.OPTIONS)} |"
    yield from ("", "## Feeds", "", "| type | what | must be given |", "| --- | --- | --- |")
    for name in FEEDS.names():
        feed = FEEDS.get(name)
        yield f"| [{name}](../feeds/{name}.md) | {_first_line(feed)} | {_needed(feed.OPTIONS)} |"
    yield _TEXT.rstrip("\n")


def _first_line(plugin: object) -> str:
    module = cast("ModuleType", plugin)
    words = (module.__doc__ or Path(module.__name__).stem).partition("\n\n")[0]
    return " ".join(words.split()).replace("|", "\\|").rstrip(".")


def _needed(options: type[msgspec.Struct]) -> str:
    return ", ".join(f"`{each.encode_name}`" for each in msgspec.structs.fields(options) if each.required)
