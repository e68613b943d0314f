"""What each device tells its vendor for each event, as `golden/` has it: cases of options, events and the calls that they become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.devices.registry import public_options
from tests.contract.devices.subjects import SUBJECTS
from tests.e2e.browser.stand import Stand

pytestmark = pytest.mark.asyncio(loop_scope="module")
GOLDEN = Path(__file__).parent / "golden"
CASES = {
    f"{path.stem}: {case['case']}": (path.stem, case)
    for path in sorted(GOLDEN.glob("*.json"))
    for case in json.loads(path.read_text())
}
RUN = """async ([address, options, events, text]) => {
  const tools = {
    nonce: "", log: () => 0, user: () => ({anonymousId: "a1", userId: "u1", traits: {email: "ada@example.com"}}),
    script: async () => (0, eval)(text),
  }
  const {load} = await import(address)
  const handle = await load(options, tools)
  for (const event of events) {
    if (event === "reset") handle.reset?.()
    else if (Array.isArray(event)) handle.consent?.(...event)
    else await handle(event)
  }
  return JSON.stringify(window.told, (key, value) => (key === "gtm.start" ? "now" : value === undefined ? null : value))
}"""


async def calls(shop: Stand, name: str, case: dict[str, Any]) -> Any:
    """Returns what the stand-in was told."""
    page = await shop.opened(shop.put("/calls", ""))
    options = public_options("d", {"type": name, **case["options"]})
    (text,) = SUBJECTS[name].vendor.values()
    told = json.loads(await page.evaluate(RUN, [f"{shop.edge.url}/p/d/{name}.js", options, case["events"], text]))
    await page.context.close()
    if name == "ga4_tag":
        told = [["js", "now"] if words[0] == "js" else words for words in told]
    return told


@pytest.mark.parametrize("case", CASES)
async def test_an_event_becomes_the_calls_that_the_vendor_documents(shop: Stand, case: str) -> None:
    name, golden = CASES[case]
    assert await calls(shop, name, golden) == golden["calls"]
