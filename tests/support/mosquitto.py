"""A real broker of MQTT for tests: Mosquitto, from Debian's package; it keeps its sessions over `stop` and `start`."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from tests.support.own_server import OwnServer

PLACES = ("/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto")


def find_mosquitto() -> str:
    """Returns the program.

    Raises:
        RuntimeError: it is not installed.
    """
    found = shutil.which("mosquitto") or next((place for place in PLACES if Path(place).exists()), None)
    if found is None:
        raise RuntimeError("the tests need mosquitto; run .ci/test-servers, or install it (Debian: apt-get install mosquitto)")
    return found


class Mosquitto(OwnServer):
    """One broker.

    Args:
        more: lines of its configuration.
    """

    name: ClassVar[str] = "mosquitto"

    def __init__(self, folder: Path, more: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)
        self._more = more

    def command(self) -> Sequence[str | Path]:
        """See `OwnServer.command`."""
        config = self.directory / "mosquitto.conf"
        # started by root, it would become a user that may not write the folder
        config.write_text(
            f"user root\npersistence true\npersistence_location {self.directory}/\n"
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\n{self._more}"
        )
        return [find_mosquitto(), "-c", config]

    def answers(self) -> bool:
        """See `OwnServer.answers`."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
