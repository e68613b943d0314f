"""Which archive a site has, and its store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from shared.errors import ConfigError, SetupError
from shared.project.archive import ArchiveOptions, AzureArchive, LocalArchive, S3Archive
from shared.project.model import Project
from shared.secrets.reading import reveal
from shared.secrets.references import references_in
from shared.stores import azure, s3
from shared.stores.contract import Store
from shared.stores.local import LocalStore
from shared.threads import ThreadGate


def archive_of(project: Project, site: str, default: ArchiveOptions | None = None) -> ArchiveOptions | None:
    """Returns where a site is archived; None: nowhere.

    Args:
        default: where, if the project does not say.
    """
    if site not in project.sites or not project.sites[site].archive or project.archive == "off":
        return None
    return default if project.archive is None else project.archive


async def open_store(options: ArchiveOptions, gate: ThreadGate) -> Store:
    """Opens the store of an archive; the caller closes it. Makes no request.

    Raises:
        SetupError: the driver is not installed, the settings of the machine are wrong, or a secret that it refers to cannot be read.
        NotConnected: a vault does not answer.
    """
    options = await gate.run(with_secrets, options)
    what = f"archive in {where(options)}"
    match options:
        case S3Archive():
            return await s3.open_store(options, options.root, gate, what)
        case AzureArchive():
            return await azure.open_store(options, options.root, gate, what)
        case LocalArchive():
            root = await gate.run(lambda: Path(options.path).expanduser().resolve())
            return LocalStore(root, gate, what)


def with_secrets(options: ArchiveOptions) -> ArchiveOptions:
    """Returns options with the secrets that they refer to, as they are now; blocks if they refer to any.

    Raises:
        SetupError, NotConnected: a secret cannot be read, or does not fit.
    """
    document = msgspec.structs.asdict(options)
    if not references_in(document):
        return options
    try:
        return type(options)(**reveal(document))
    except (ValueError, ConfigError) as error:
        raise SetupError(f"archive in {where(options)}: a secret that it refers to does not fit: {error}") from None


def where(options: ArchiveOptions) -> str:
    """Returns the place in words, without secrets."""
    return options.path if isinstance(options, LocalArchive) else f"{options.where}, prefix {options.root!r}"


def document_of(options: ArchiveOptions) -> dict[str, Any]:
    """Returns the options of a local archive, by which a command on the same machine finds it; empty for others, which hold secrets."""
    return {"type": "local", "path": options.path} if isinstance(options, LocalArchive) else {}
