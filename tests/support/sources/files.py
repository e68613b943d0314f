"""A folder of CSV files: each change of orders is a file more."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.support.sources.place import ROWS, Place, order


class FilesPlace(Place):
    """The folder."""

    type: ClassVar = "files"
    remedy = "there is no folder .* on this machine; write the path of one into `path`"

    async def start(self) -> None:
        """Writes three files of orders."""
        (self.folder / "data" / "orders").mkdir(parents=True)
        self.count = 0
        for first in range(1, ROWS + 1, 4):
            await self.put(*(order(number) for number in range(first, first + 4)))

    def document(self) -> dict[str, Any]:
        """Names the folder."""
        streams = {
            "orders": {"files": "orders/*.csv", "primary_key": ["id"], "columns": {"id": "integer", "total": "number"}},
            "empty": {"files": "nothing/*.csv"},
        }
        return {"type": "files", "path": str(self.folder / "data"), "streams": streams}

    def wrong(self) -> dict[str, Any]:
        """Names a folder that is not there."""
        return {"path": str(self.folder / "gone")}

    async def put(self, *rows: Mapping[str, Any]) -> None:
        """Writes one file more."""
        self.count += 1
        file = self.folder / "data" / "orders" / f"{self.count:03}.csv"
        with file.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        os.utime(file, (1_700_000_000 + self.count, 1_700_000_000 + self.count))

    async def widen(self, *rows: Mapping[str, Any]) -> None:
        """Writes a file with a column more."""
        await self.put(*rows)
