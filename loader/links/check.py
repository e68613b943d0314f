"""The trial of `penstock check` for a destination over HTTP that takes events: a call that changes nothing there."""

from __future__ import annotations

from collections.abc import Sequence

from loader.calls.answers import DENIED, words_of
from loader.contract.events import Call, HTTPDestination, Response
from loader.contract.warehouse import CheckResult
from loader.links.http import NoAnswer, client, masked
from shared.events.outcome import Retry
from shared.reading.mask import Mask

KEY = "penstock-check"


async def check_calls(destination: HTTPDestination, mask: Mask) -> Sequence[CheckResult]:
    """Tries the destination; any answer shows that it was reached. `mask` hides its secrets in the answer."""
    call = destination.trial()
    if isinstance(call, str):
        return [CheckResult("reach", ok=True, message=f"not tried: {call}")]
    async with client(destination.limits) as sender:
        try:
            response = masked(await sender.send(call, KEY), mask)
        except NoAnswer as exc:
            return [CheckResult("reach", ok=False, message=f"{mask.text(str(exc))}; check url and network")]
    return [CheckResult("reach", ok=True), _result_of(destination, call, response)]


def _result_of(destination: HTTPDestination, call: Call, response: Response) -> CheckResult:
    status, said = response.status, f"{words_of(response)} to a {call.method} without an event"
    if status < 300 and response.body.lstrip().startswith(b"<"):
        return CheckResult("accept", ok=False, message=f"{said}, a page of HTML; check the address, and whether a proxy answers")
    if call.method != "HEAD":  # some services tell a wrong credential by other means than the status
        outcomes = destination.answer(call, response)
        if isinstance(outcomes, Call):
            return CheckResult("accept", ok=True)
        if isinstance(outcomes[0], Retry) and outcomes[0].denied:
            return CheckResult("accept", ok=False, message=outcomes[0].reason)
    if status in DENIED:
        return CheckResult("accept", ok=False, message=f"{said}; check the headers that let calls in")
    if 300 <= status < 400:
        return CheckResult("accept", ok=False, message=f"{said}; redirects are not followed, set the final address as url")
    if status >= 500 and status != 501:
        return CheckResult("accept", ok=False, message=f"{said}; look at its log")
    # many services do not know HEAD, and answer 404 or 405
    return CheckResult("accept", ok=True, message="" if status < 300 else f"{said}, which says nothing of calls with events")
