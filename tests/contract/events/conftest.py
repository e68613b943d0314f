"""Every scenario runs against every plug-in that takes events one by one.

The webhook goes through all of `test_sending.py`: what it tests is the core, and the webhook lets a test choose everything. Services
go through `test_services.py`, each with a server that behaves as the service does, and their calls stand in `golden/`. A destination
with another protocol has files of its own (`OWN`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.services import SERVICES

SUBJECTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "webhook": lambda url: {"type": "webhook", "url": url, "retry_delay": 0.05},
}
"""Type to the options that send to an address, for all scenarios."""

OWN = {"kafka": "test_kafka.py, test_kafka_cluster.py, test_kafka_login.py"}
"""Types that do not speak HTTP, and the files with the same scenarios against their own servers."""

TYPES = {*SUBJECTS, *SERVICES, *OWN}
"""All types that stand in the suite; `tests/meta/test_plugins.py` misses a new one otherwise."""
