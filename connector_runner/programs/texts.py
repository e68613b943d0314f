"""Reads the text files that a connector's options name."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

MOST_BYTES = 10 << 20
"""Of a manifest or of a file of code; large ones have some hundred KiB."""


def read_text(file: Path) -> str:
    """Returns the text of a file.

    Raises:
        OSError: it cannot be read, is a device or a pipe, or is too large; `strerror` says which.
        UnicodeDecodeError: it is not UTF-8.
    """
    if not stat.S_ISREG(file.stat().st_mode):  # a device or a pipe may have no end
        raise OSError(errno.EINVAL, "it is no file")
    if file.stat().st_size > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MOST_BYTES >> 20} MiB")
    return file.read_text(encoding="utf-8")
