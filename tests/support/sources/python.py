"""A Python file of the user's, which reads orders from a file of JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.support.sources.place import ROWS, Place, order

CODE = """
import datetime, decimal, json
from pathlib import Path

from penstock import source

SPEC = {"type": "object", "required": ["folder"], "properties": {"folder": {"type": "string"}, "token": {"type": "string"}}}
COLUMNS = {"id": "integer", "name": "string", "total": "number", "updated_at": {"type": "string", "format": "date-time"}}


@source.check
def check(config):
    if config["token"] != "token-of-the-file":
        raise source.Refused(f"the token {config['token']} is not known; write the one of the file into `config`")


def stored(config):
    rows = json.loads(Path(config["folder"], "orders.json").read_text(), parse_float=decimal.Decimal)
    for row in rows:
        row["updated_at"] = datetime.datetime.fromisoformat(row["updated_at"])
    return sorted(rows, key=lambda row: (row["updated_at"], row["id"]))


@source.stream(primary_key="id", cursor="updated_at", ordered=True, columns=COLUMNS)
def orders(config, since):
    for number, row in enumerate(stored(config)):
        if since is None or row["updated_at"] >= since:
            yield row if number % 3 else [row]


@source.stream(primary_key="id", cursor="updated_at", columns=COLUMNS)
async def empty(since):
    for row in ():
        yield row
"""


class PythonPlace(Place):
    """The file, and its folder."""

    type = "python"
    remedy = "is not known; write the one of the file into `config`"
    secret = "token-that-is-wrong"

    async def start(self) -> None:
        """Writes both files."""
        (self.folder / "orders.py").write_text(CODE)
        self.rows = {number: order(number) for number in range(1, ROWS + 1)}
        self.write()

    def write(self) -> None:
        """Writes the orders."""
        rows = [{**row, "total": float(row["total"]), "updated_at": row["updated_at"].isoformat()} for row in self.rows.values()]
        (self.folder / "orders.json").write_text(json.dumps(rows))

    def document(self) -> dict[str, Any]:
        """Names the file and its folder."""
        config = {"folder": str(self.folder), "token": "token-of-the-file"}
        return {"type": "python", "file": str(self.folder / "orders.py"), "config": config}

    def wrong(self) -> dict[str, Any]:
        """Has another token."""
        return {"config": {"folder": str(self.folder), "token": self.secret}}

    async def put(self, *rows: Mapping[str, Any]) -> None:
        """Writes the orders with these."""
        self.rows |= {row["id"]: dict(row) for row in rows}
        self.write()

    async def widen(self, *rows: Mapping[str, Any]) -> None:
        """Writes the orders with these, which have one column more."""
        await self.put(*rows)
