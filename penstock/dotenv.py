"""Variables from `.env` files: of the folder a command runs in, and of the folder of a project file.

What the process's environment sets wins over a file, so that a deployment is not changed by a file that lies about. The format is
that of python-dotenv, which Docker Compose and most frameworks read too: `NAME=value`, quotes, comments, `export`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from shared.errors import SetupError

FILE = ".env"


def with_dotenv(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Returns `environment` with what the folder's `.env` sets beside it.

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


def read_dotenv(folder: Path) -> dict[str, str]:
    """Returns what the folder's `.env` sets; nothing where there is none.

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
