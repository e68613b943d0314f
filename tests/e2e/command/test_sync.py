"""`penstock sync`, as a person uses it: written from the catalogue, applied, run, looked at, reset; a stack of its own."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.support.command import PATIENCE_SECONDS, local_stack, wait_until

pytestmark = pytest.mark.timeout(300)

CODE = """from pathlib import Path
from penstock.source import stream

@stream(primary_key="id", cursor="at")
def users(since=None):
    for n in range(10):
        if since is None or n >= since:
            yield {"id": n, "at": n}

@stream
def tags():
    yield [{"tag": "a"}, {"tag": "b"}]
"""
PROJECT = """sites: {}   # nobody sends events here
destinations:
  wh: {type: duckdb, path: "${PENSTOCK_HOME}/wh.duckdb"}
connectors:
  mine: {type: python, file: mine.py}
"""


def test_a_sync_is_written_applied_run_and_looked_at(tmp_path: Path) -> None:
    with local_stack(tmp_path) as stack:
        stack.project.write_text(PROJECT)
        (tmp_path / "mine.py").write_text(CODE)
        wrong = stack.run("sync", "init", "mine", "warehouse")
        assert (wrong.code, "known: wh" in wrong.err) == (2, True)
        assert stack.run("sync", "init", "mine", "wh", "--schedule", "evry 1h").code == 2
        written = stack.run("sync", "init", "mine", "wh")
        assert written.code == 0, written.err
        text = stack.project.read_text()
        assert "# nobody sends events here" in text
        assert "users: {mode: incremental, write: merge}" in text
        assert "tags: {mode: full_refresh, write: replace}" in text
        assert stack.run("sync", "init", "mine", "wh").code == 4, "the name is taken"

        stack.up()
        assert stack.run("sync", "list").out.count("never ran") == 1
        done = stack.run("sync", "run", "mine-wh", "--json")
        assert done.code == 0, done.err
        assert "mine-wh: users: succeeded, 10 rows read, 10 loaded" in done.err
        assert {name: of["loaded"] for name, of in done.json["streams"].items()} == {"users": 10, "tags": 2}
        asked = stack.run("query", "select count(*) as n from users", "--json")
        assert json.loads(asked.out)["rows"] == [[10]] or "10" in asked.out
        again = stack.run("sync", "run", "mine-wh", "--stream", "users")
        assert again.code == 0, again.err
        assert "succeeded" in again.out
        assert stack.run("sync", "reset", "mine-wh", "--yes").code == 0
        filled = stack.run("sync", "backfill", "mine-wh", "--stream", "users", "--json").json
        assert {name: of["rows"] for name, of in filled["streams"].items()} == {"users": 10}
        assert stack.run("sync", "cancel", "mine-wh").code == 1
        logs = stack.run("sync", "logs", "mine-wh")
        assert logs.code == 0, logs.err
        assert "reads users" in logs.out
        unknown = stack.run("sync", "run", "mine-w")
        assert (unknown.code, "did you mean" in unknown.err) == (2, True)
        nowhere = stack.run("sync", "run", "mine-wh", "--stream", "user")
        assert "has no stream user" in nowhere.out
        assert "error  sync mine-wh has no stream user; it has: users, tags" in stack.run("sync", "logs", "mine-wh").out

        # one try: the next ones wait for 5, 10 and 20 s
        stack.project.write_text(text.replace("connector: mine\n", "connector: mine\n    retries: 0\n"))
        (tmp_path / "mine.py").write_text(CODE.replace('[{"tag": "a"}, {"tag": "b"}]', "1 / 0"))
        assert stack.run("apply", "--yes").code == 0
        failed = stack.run("sync", "run", "mine-wh", "--stream", "tags")
        assert failed.code == 1
        assert "the file, line 12 (stream tags): ZeroDivisionError" in failed.out
        assert "penstock sync logs mine-wh --run 5" in failed.out
        for command in (("sync", "list"), ("status",)):
            shown = stack.run(*command).out
            assert "mine-wh: run 5 failed: " in shown
            assert "ZeroDivisionError" in shown
        assert stack.run("status").code == 1

        # another run while one goes on; Ctrl-C ends the showing alone
        (tmp_path / "mine.py").write_text(
            CODE.replace("for n in range(10):", "import time; time.sleep(3600)\n    for n in range(10):")
        )
        assert stack.run("apply", "--yes").code == 0
        assert stack.run("sync", "run", "mine-wh", "--no-wait").code == 0
        wait_until(lambda: stack.run("sync", "list", "--json").json[0]["status"]["state"] == "running")
        follows = stack.start("sync", "run", "mine-wh")
        assert follows.stdout is not None
        assert b"run 6 of mine-wh goes on since" in follows.stdout.readline()
        assert b"mine-wh: run 6: " in follows.stdout.readline()
        follows.send_signal(signal.SIGINT)
        rest, _ = follows.communicate(timeout=PATIENCE_SECONDS)
        assert follows.returncode == 130
        assert b"to end it: penstock sync cancel mine-wh" in rest
        assert stack.run("sync", "cancel", "mine-wh").code == 0
