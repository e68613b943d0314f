"""Every scenario runs against every plug-in that takes events one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SUBJECTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "webhook": lambda url: {"type": "webhook", "url": url, "retry_delay": 0.05},
}
"""Type to the options that send to an address. A new plug-in gets its row here; `tests/meta/test_plugins.py` misses it otherwise."""
