"""A connector of the Airbyte protocol that prints rows as fast as an interpreter can, and the environment that it is installed in.

As a script it needs nothing but the standard library, so its speed is that of a bare printing loop. Its options: `rows`; `bytes` of one
more text column; `columns`, so many more; `streams`, each with as many rows.
"""

from __future__ import annotations

import json
import sys
import venv
from pathlib import Path
from typing import Any

VERSION = "1.0.0"
STATE_ROWS, LINES = 10_000, 500
LINE = (
    '{"type":"RECORD","record":{"stream":"%s","data":{"id":%d,"user_id":"user-%08d","status":"paid","amount":%.2f,'
    '"currency":"EUR","quantity":%d,"created_at":"2026-01-01T%02d:%02d:%02dZ","email":"person%d@shop.example.com"%s},'
    '"emitted_at":1767225600000}}\n'
)
STATE = (
    '{"type":"STATE","state":{"type":"STREAM","stream":{"stream_descriptor":{"name":"%s"},"stream_state":{"id":%d}},'
    '"sourceStats":{"recordCount":%d}}}\n'
)


def install(cache: Path) -> Path:
    """Makes the environment of the package `source-flood` as uv would, without a network; returns its program."""
    folder = cache / "packages" / f"source-flood-{VERSION}"
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    about = site / f"source_flood-{VERSION}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: source-flood\nVersion: {VERSION}\n")
    (about / "entry_points.txt").write_text("[console_scripts]\nsource-flood = flood:main\n")
    program = folder / "bin" / "source-flood"
    program.write_text(f"#!{folder}/bin/python\n{Path(__file__).read_text()}")
    program.chmod(0o755)
    return program


def document(**config: Any) -> dict[str, Any]:
    """Returns the entry of a project file."""
    return {"type": "airbyte", "package": "source-flood", "version": VERSION, "config": config}


def names(config: dict[str, Any]) -> list[str]:
    """Returns its streams."""
    return ["orders", *(f"orders_{number}" for number in range(2, int(config.get("streams", 1)) + 1))]


def described(name: str) -> dict[str, Any]:
    """Returns a stream of its catalogue."""
    return {
        "name": name,
        "json_schema": {"type": "object", "properties": {"id": {"type": "integer"}}},
        "supported_sync_modes": ["full_refresh", "incremental"],
        "source_defined_cursor": True,
        "default_cursor_field": ["id"],
        "source_defined_primary_key": [["id"]],
    }


def lines(config: dict[str, Any], name: str) -> None:
    """Prints the rows of a stream."""
    rows, write = int(config["rows"]), sys.stdout.write
    more = f',"text":"{"x" * int(config["bytes"])}"' if config.get("bytes") else ""
    more += "".join(f',"c{number}":{number}' for number in range(int(config.get("columns", 0))))
    few = max(1, min(LINES, (1 << 20) // (300 + len(more))))
    for first in range(0, rows, few):
        last = min(rows, first + few)
        write(
            "".join(
                [
                    LINE % (name, n, n % 9973, n * 37 % 50_000 / 100, n % 7, n // 3600 % 24, n // 60 % 60, n % 60, n % 9973, more)
                    for n in range(first, last)
                ]
            )
        )
        if last % STATE_ROWS == 0 or last == rows:
            write(STATE % (name, last, last - (last - 1) // STATE_ROWS * STATE_ROWS))
    status = {"stream_descriptor": {"name": name}, "status": "COMPLETE"}
    write(json.dumps({"type": "TRACE", "trace": {"type": "STREAM_STATUS", "emitted_at": 0, "stream_status": status}}) + "\n")


def main() -> None:
    """Answers one command of the protocol."""
    command, files = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    config: dict[str, Any] = {}
    if "--config" in files:
        with open(files["--config"]) as file:
            config = json.load(file)
    if command == "spec":
        answer: dict[str, Any] = {"type": "SPEC", "spec": {"connectionSpecification": {"type": "object"}}}
    elif command == "check":
        answer = {"type": "CONNECTION_STATUS", "connectionStatus": {"status": "SUCCEEDED"}}
    elif command == "discover":
        answer = {"type": "CATALOG", "catalog": {"streams": [described(name) for name in names(config)]}}
    else:
        answer = {"type": "LOG", "log": {"level": "INFO", "message": "all rows are printed"}}
        for name in names(config):
            lines(config, name)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
