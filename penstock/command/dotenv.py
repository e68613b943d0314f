"""Variables from `.env` files: of the folder a command runs in, and of the folder of a project file.

The process's environment wins over a file, so that a stray file does not change a deployment. The format is python-dotenv's,
which Docker Compose and most frameworks read too: `NAME=value`, quotes, comments, `export`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from shared.errors import SetupError

FILE = ".env"
PREFIX = "PENSTOCK_"
ALIKE = 0.75
"""From this similarity on, a name counts as a misspelt setting."""


def with_dotenv(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Returns `environment` with the variables of the folder's `.env`.

    Raises:
        SetupError: the file cannot be read.
    """
    return {**read_dotenv(folder), **environment}


def load_dotenv(folder: Path) -> None:
    """Sets the variables of the folder's `.env` that this process does not have yet.

    Raises:
        SetupError: the file cannot be read.
    """
    for name, value in read_dotenv(folder).items():
        os.environ.setdefault(name, value)


def misspelt(folder: Path) -> list[str]:
    """Returns a warning for each name in the folder's `.env` that looks like a misspelt setting.

    Raises:
        SetupError: the file cannot be read.
    """
    names = [name.removeprefix(PREFIX) for name in read_dotenv(folder) if name.startswith(PREFIX)]
    if not names:
        return []
    import msgspec  # few files name settings, and a command needs none of this

    from ingest.settings import IngestSettings
    from loader.settings import LoaderSettings
    from router.settings import RouterSettings
    from shared.settings import ServiceSettings

    groups = (("", ServiceSettings), ("INGEST_", IngestSettings), ("ROUTER_", RouterSettings), ("LOADER_", LoaderSettings))
    known = {prefix + field.name.upper() for prefix, type_ in groups for field in msgspec.structs.fields(type_)}
    known |= {"HOME", "KEY", "EDGE_URL", "UP_ONCE"}
    found = [(name, difflib.get_close_matches(name, sorted(known), n=1, cutoff=ALIKE)) for name in names if name not in known]
    return [
        f"{folder / FILE}: no setting is named {PREFIX}{name}; did you mean {PREFIX}{close[0]}?" for name, close in found if close
    ]


def read_dotenv(folder: Path) -> dict[str, str]:
    """Returns the variables of the folder's `.env`; none if there is no such file.

    Raises:
        SetupError: the file cannot be read.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    from dotenv import dotenv_values  # most folders have no such file

    try:
        return {
            name: value for name, value in dotenv_values(file, interpolate=False, encoding="utf-8").items() if value is not None
        }
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise SetupError(f"{file} cannot be read: {reason}") from exc
