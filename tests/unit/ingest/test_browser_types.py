"""The types of the package for npm: right uses pass the compiler, wrong ones do not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from functions_runtime.sandbox.guest import find_deno
from ingest.browser.assets import FOLDER

RIGHT = """
import { load, VERSION, type Analytics, type Event } from "./p.d.ts"
const sdk: Analytics = load({ host: "https://x", key: "k", consent: "wait", transport: "websocket", flushAfter: 5 })
const event: Promise<Event> = sdk.track("Sold", { total: 1 }, { integrations: { CRM: false } }, (made) => made.messageId)
sdk.page(); sdk.page("Home"); sdk.page("Docs", "Home", { a: 1 }); sdk.page({ a: 1 })
sdk.identify("u", { plan: "pro" }); sdk.identify({ plan: "x" }); sdk.group("g", { size: 1 }); sdk.alias("a", "b")
sdk.consent({ ads: true }).consent(false)
sdk.addSourceMiddleware(({ payload, next }) => next(payload.obj.event === "x" ? null : payload.obj))
const n: number = sdk.waiting()
const id: string | null = sdk.user().id()
sdk.trackLink(document.querySelectorAll("a"), "Clicked")
sdk.trackForm(document.forms, (form) => form.id)
sdk.track("Sold", {}, { timestamp: new Date() })
export { event, id, n, VERSION }
"""
WRONG = (
    'load({ host: "https://x" })',
    'load({ host: "https://x", key: "k", transport: "pigeon" })',
    'load({ host: "https://x", key: "k" }).track({ total: 1 })',
    'load({ host: "https://x", key: "k" }).consent("wait")',
)


def test_right_uses_compile_and_each_wrong_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "p.d.ts").write_text((FOLDER / "p.d.ts").read_text())
    (tmp_path / "deno.json").write_text(json.dumps({"compilerOptions": {"lib": ["dom", "esnext"]}}))
    (tmp_path / "right.ts").write_text(RIGHT)
    # each must be refused: an expected error that does not come is an error itself
    wrong = "\n".join(f"// @ts-expect-error\n{line}" for line in WRONG)
    (tmp_path / "wrong.ts").write_text(f'import {{ load }} from "./p.d.ts"\n{wrong}\n')
    command = [find_deno(), "check", "--quiet", "--no-remote", "right.ts", "wrong.ts"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
