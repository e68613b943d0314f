"""Where the files of a deployment are: `compose.yaml` and `deploy/`, at the root of a checkout or within an installed package."""

from __future__ import annotations

from pathlib import Path

NAMES = ("compose.yaml", "deploy")

_PACKED = Path(__file__).resolve().parent / "files"


def deployed() -> Path:
    """Returns the folder that holds `compose.yaml` and `deploy/`."""
    return _PACKED if _PACKED.is_dir() else _PACKED.parents[1]
