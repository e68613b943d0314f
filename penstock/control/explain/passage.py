"""Takes an event through hydration, lookups, privacy rules and functions, and notes what each of them does."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec

from functions_runtime.definition import Definition
from functions_runtime.hydration.asking import ask_all
from functions_runtime.lookups.tables import joined
from functions_runtime.rules.hydrating import Hydrates, Hydration, Wait
from functions_runtime.rules.joining import Join
from functions_runtime.rules.packing import Finished, finish, prepare
from functions_runtime.rules.stitching import passing
from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Fate
from functions_runtime.settings import FunctionsSettings
from penstock.control.explain.steps import Changed, FunctionStep, HydrationStep, IdentityStep, LookupStep, RuleStep, Way
from penstock.control.functions.tried import Bench, Tried, command_fetcher
from shared.events.event import JSON
from shared.events.frame import Frame, RequestContext
from shared.events.outcome import Dead, DeadReason
from shared.project.functions import PrivacyRule
from shared.project.identity import Identity
from shared.reading.mask import Mask
from shared.rules.privacy import NONCE_BYTES, Rules, compile_rules

SEVERAL = "only the last function of a chain may return more than one event"


async def passed(way: Way, definition: Definition, frame: Frame, *, fetch: bool) -> Finished:
    """Returns what goes on of the only event of a frame; what hydration, lookups, rules and functions did with it stands in `way` then.

    Args:
        fetch: whether the requests of functions and of hydration are really sent.

    Raises:
        Permanent: the frame cannot be read.
        ConfigError: a function cannot be loaded.
        SetupError, Transient: no sandbox starts, or a lookup cannot be read.
    """
    if not fetch:  # nothing is sent, so no secret of a header is needed
        unsent = {name: msgspec.structs.replace(each, headers={}) for name, each in definition.hydrates.items()}
        definition = definition._replace(hydrates=unsent)
    definition = definition.revealed()
    hydrate = await _hydration(definition, frame, way, fetch=fetch)
    join = await joined(definition)
    noting = _Noting(join, way.lookups) if join is not None else None
    prepared = prepare(frame, _noting(definition.connection.privacy, way.rules), join=noting, hydrate=hydrate)
    fates = [
        await _through(definition, given.body, prepared.contexts[given.request], way.functions, fetch=fetch)
        for given in prepared.given.values()
    ]
    return finish(prepared, fates)


async def _hydration(definition: Definition, frame: Frame, way: Way, *, fetch: bool) -> Hydrates | None:
    """Returns what a webhook adds to its delivery, and notes it."""
    collecting = Hydration(definition.hydrates, None)
    if definition.hydrates:
        prepare(frame, None, hydrate=collecting)
    if not collecting.asks:
        return Hydration(definition.hydrates, {}) if definition.hydrates else None
    (ask,) = collecting.asks
    address = ask.url.partition("?")[0]
    if not fetch:
        way.hydration.append(HydrationStep(webhook=ask.webhook, address=address, result="unasked"))
        return None
    fetcher = command_fetcher()
    try:
        answers = await ask_all(fetcher, [ask], definition.hydrates)
    finally:
        await fetcher.close()
    hydration, answer = Hydration(definition.hydrates, answers), answers[ask]

    def noting(event: JSON, request: RequestContext, clean: Callable[[JSON], object] | None) -> bool | Dead | Wait:
        before = copy.deepcopy(event)
        found = hydration(event, request, clean)
        changed = list(differences(before, event))
        step = HydrationStep(webhook=ask.webhook, address=address, result=answer.kind, detail=answer.words, changed=changed)
        way.hydration.append(step)
        return found

    return noting


class _Noting:
    """Joins as `Join` does, and notes what is added."""

    def __init__(self, join: Join, into: list[LookupStep]) -> None:
        self._join, self._into = join, into

    def __call__(self, event: JSON, clean: Callable[[JSON], object] | None = None) -> bool | Dead:
        before = copy.deepcopy(event)
        found = self._join(event, clean)
        tables, missed = [use.name for use in self._join.uses], list(self._join.missed)
        self._into.append(LookupStep(tables=tables, missed=missed, changed=list(differences(before, event))))
        return found


def stitched(identity: Identity, frame: Frame) -> list[IdentityStep]:
    """Returns what stitching does with the events of a frame behind functions; what is known of their visitors is not looked up."""
    users = {event.place: event for event in passing(frame)}
    found: list[IdentityStep] = []
    for place, head in enumerate(frame.heads):
        event = users.get(place)
        if event is None:
            found.append(IdentityStep(message_id=head.message_id, does="none"))
            continue
        found.append(
            IdentityStep(
                message_id=head.message_id,
                does="keeps" if event.user is None else "learns",
                anonymous_id=event.anonymous_id,
                user_id=event.user or "",
                look_back_seconds=float(identity.look_back),
            )
        )
    return found


def _noting(rules: Sequence[PrivacyRule], into: list[RuleStep]) -> Rules | None:
    """Returns what applies rules as `compile_rules` does, and notes what each changed."""
    compiled = [(rule, one) for rule in rules if (one := compile_rules([rule], partial(os.urandom, NONCE_BYTES))) is not None]

    def apply(event: JSON) -> int:
        missed = 0
        for rule, one in compiled:
            before = copy.deepcopy(event)
            misses = one(event)
            missed += misses
            field = rule.field if isinstance(rule.field, str) else ".".join(rule.field)
            into.append(RuleStep(field=field, do=rule.do, missed=misses > 0, changed=list(differences(before, event))))
        return missed

    return apply if compiled else None


def differences(before: Any, after: Any, path: str = "") -> Iterator[Changed]:
    """Yields every field in which two values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from differences(
                before.get(key, msgspec.UNSET), after.get(key, msgspec.UNSET), f"{path}.{key}" if path else str(key)
            )
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from differences(old, new, f"{path}.{index}")
    elif before != after:
        yield Changed(field=path, before=before, after=after)


async def _through(
    definition: Definition, body: bytes, context: dict[str, Any], into: list[FunctionStep], *, fetch: bool
) -> Fate:
    """Runs the functions one after the other, each in a sandbox of its own, as a chain does in one."""
    spec, mask = definition.spec(FunctionsSettings()), Mask(definition.secrets())
    fate = Fate(wire.SAME)
    store: dict[str, Any] = {}
    errors: list[tuple[str, str]] = []
    retry: tuple[str, str, bool] | None = None
    for number, code in enumerate(definition.functions, 1):
        async with Bench((code,), shared=spec.shared, on_error=spec.on_error, limits=spec.limits, fetch=fetch) as bench:
            step, tried = await bench.try_out(body, store=store, context=context)
        if len(step.outputs) > 1 and number < len(definition.functions):
            step = Fate(wire.DEAD, function=code.name, reason=DeadReason.FUNCTION_RESULT, detail=SEVERAL)
            tried = msgspec.structs.replace(tried, result="dead_letter", events=[], reason=f"{step.reason}: {SEVERAL}")
        into.append(FunctionStep(function=code.name, tried=_masked(tried, mask)))
        store = tried.store
        errors += step.errors
        retry = step.retry or retry
        if step.kind == wire.OUTPUTS:
            fate = step
            body = step.outputs[0]
        elif step.kind != wire.SAME:
            return msgspec.structs.replace(step, errors=tuple(errors), retry=retry)
    return msgspec.structs.replace(fate, errors=tuple(errors), retry=retry)


def _masked(tried: Tried, mask: Mask) -> Tried:
    """Hides values of `functions_env` in what functions say, as the service does."""
    return msgspec.structs.replace(
        tried,
        logs=list(map(mask.text, tried.logs)),
        calls=list(map(mask.text, tried.calls)),
        errors=list(map(mask.text, tried.errors)),
        reason=mask.text(tried.reason),
        retry=mask.text(tried.retry),
    )
