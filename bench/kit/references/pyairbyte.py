"""PyAirbyte reads `airbyte-source-faker` into a file of DuckDB: ROWS FILE. Prints rows, seconds and MB. Runs in an environment of its own."""

import resource
import sys
import time
from pathlib import Path

import airbyte as ab
from airbyte.caches import DuckDBCache

rows, file = int(sys.argv[1]), Path(sys.argv[2])
source = ab.get_source(
    "source-faker",
    config={"count": rows, "parallelism": 1},
    streams=["users", "purchases"],
    local_executable=Path(sys.executable).parent / "source-faker",
)
began = time.monotonic()
result = source.read(DuckDBCache(db_path=file), force_full_refresh=True)
print("\n", result.processed_records, time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
