"""`penstock.d.ts`: editors accept functions that run, in the forms of all vendors, and say what is wrong with others."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from functions_runtime.sandbox.guest import JS, find_deno
from tests.support.functions import Recorder, chain_of, outputs, run_one

REFERENCE = '/// <reference path="./penstock.d.ts" />\n'
GOOD = {
    "jitsu": """import { RetryError as Again, hash as sums } from "@jitsu/functions-lib";
        import type { JitsuFunction } from "@jitsu/protocols/functions";
        const f: JitsuFunction = async (event, { log, store, ...rest }) => {
          if (event.never) throw new Again("later", { drop: true });
          log.info(rest.geo.country, rest.retries, rest.receivedAt.toISOString());
          return [{ ...event, said: [(await sums.sha256("a")).length, typeof store.update] }];
        };
        export default f;""",
    "penstock": """import { DropEvent as Drop, toSnakeCase as snake } from "penstock";
        export const config: PenstockConfig = { retryPolicy: { retries: 2, delays: [1, 5] } };
        export default async function (event: PenstockEvent, ctx: PenstockContext): Promise<PenstockResult> {
          if (event.never) throw new Drop("no");
          const signal = AbortSignal.timeout(1000);
          if (event.never) await ctx.fetch(new URL("https://x.example"), { signal, body: { a: 1 } });
          const keep: unknown = ctx.store.update("n", (was) => (was ?? 0) + 1, "1d");
          event.JITSU_TABLE_NAME = TableNameParameter;
          return { ...event, said: [snake("Order Completed"), crypto.createHash("md5").update("a").digest("hex").length] };
        }""",
    "rudder": """import { sha256 } from "@rs/hash/v1";
        export async function transformEvent(event: PenstockEvent, metadata: RudderMetadata) {
          log("seen", metadata(event).destinationId);
          if (event.never) return (await fetchV2("https://x.example", { method: "POST", timeout: 5 })).body.a;
          event.said = [getCredential("GREETING"), sha256("a").length];
          return event;
        }""",
    "segment": """export async function onTrack(event: PenstockEvent, settings: Record<string, any>) {
          if (event.never) throw event.n ? new ValidationError("no") : event.m ? new EventNotSupported("no") : new InvalidEventPayload("no");
          if (event.never) throw new RetryError("x", { drop: true }).drop ? new NoRetryError("x") : new DropEvent("x");
          const made: number = await cache.load("k", 1000, async () => 5);
          cache.delete("k");
          event.said = [settings.GREETING, made];
          return event;
        }""",
}
SAID = {"jitsu": [64, "function"], "penstock": ["order_completed", 32], "rudder": ["hello", 64], "segment": ["hello", 5]}
BAD = """export default function (event: PenstockEvent, ctx: PenstockContext): PenstockResult {
          ctx.nothing();
          return 5;
        }"""


def checked(folder: Path, *names: str) -> str:
    """Returns what the type checker says; its own cache is in the folder."""
    environment = {**os.environ, "NO_COLOR": "1", "DENO_DIR": str(folder / "cache"), "DENO_NO_UPDATE_CHECK": "1"}
    command = [find_deno(), "check", "--no-remote", "--no-npm", "--no-lock", *names]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return "" if ran.returncode == 0 else ran.stderr


def test_the_types_know_what_functions_use_and_what_they_may_not(tmp_path: Path) -> None:
    shutil.copy(JS / "penstock.d.ts", tmp_path)
    for name, code in {**GOOD, "bad": BAD}.items():
        (tmp_path / f"{name}.ts").write_text(REFERENCE + code)
    said = checked(tmp_path, *(f"{name}.ts" for name in [*GOOD, "bad"]))
    assert "Property 'nothing' does not exist on type 'PenstockContext'" in said
    assert "'PenstockResult'" in said
    assert "Found 2 errors" in said


@pytest.mark.parametrize("name", GOOD)
async def test_what_the_types_accept_runs(name: str) -> None:
    async with chain_of(REFERENCE + GOOD[name], host=Recorder(lambda *_: {"value": None, "revision": 0})) as chain:
        fate = await run_one(chain)
    assert not fate.errors
    assert outputs(fate)[0]["said"] == SAID[name]
