"""Connectors for the runner that do on command what published ones do on a bad day: programs of the Airbyte protocol, installed without an index.

`installed` puts one into a folder of installed connectors. Its config says what to do: `{"do": "<Python>"}`, with the words of
`tests/support/scripts.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.support.scripts import AIRBYTE

PACKAGE, VERSION = "source-bad", "1.0"
STREAMS = ("a", "b")
_PROGRAM = f"""#!{sys.executable} -S
{AIRBYTE}
def stream(name):
    return {{"name": name, "json_schema": {{"type": "object", "properties": {{"id": {{"type": "integer"}}}}}}, "supported_sync_modes": ["full_refresh"],
            "source_defined_primary_key": [["id"]]}}
config = option("--config")
if sys.argv[1] == "discover":
    say("CATALOG", catalog={{"streams": [stream(name) for name in config.get("streams", ["a"])]}})
else:
    exec(config["do"])
"""


def installed(cache: Path) -> None:
    """Installs the connector into the folder `cache`."""
    folder = cache / "packages" / f"{PACKAGE}-{VERSION}"
    facts = folder / "lib" / "python3" / "site-packages" / f"source_bad-{VERSION}.dist-info"
    facts.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "pyvenv.cfg").write_text("")
    (folder / "bin" / "python").symlink_to(sys.executable)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {VERSION}\n")
    (facts / "entry_points.txt").write_text(f"[console_scripts]\n{PACKAGE} = none:main\n")
    program = folder / "bin" / PACKAGE
    program.write_text(_PROGRAM)
    program.chmod(0o755)


def connector(do: str, **more: Any) -> dict[str, Any]:
    """Returns the entry of a project file; `streams` of `more` are those of its catalogue, the rest are options."""
    config: dict[str, Any] = {"do": do}
    if "streams" in more:
        config["streams"] = more.pop("streams")
    return {"type": "airbyte", "package": PACKAGE, "version": VERSION, "config": config, **more}
