"""Replaying dead letters against a real broker: each arrives once, none leaves before, and an interruption changes nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest
from nats.js.errors import NotFoundError

from penstock.control.letters import redeliver
from penstock.control.letters.conditions import compile_conditions
from penstock.control.letters.judged import Refusal, judge_again
from penstock.control.letters.letters import Filter, fetch_letter, find, remove
from penstock.control.letters.redeliver import NOTE, Into, Redelivery
from shared.errors import NotConnected, QueueFull
from shared.events.dead import DeadLetter, bury
from shared.events.frame import Frame, Head, RequestContext, decode_frame, encode_frame, pack
from shared.events.headers import Place, read_place
from shared.events.outcome import DeadReason
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.jetstream.publisher import PubAck
from shared.project.functions import PrivacyRule
from shared.project.model import Connection, Project, Site
from shared.project.snapshot import ConfigSnapshot
from shared.reading.units import Duration

REQUEST = RequestContext(received_at=1_700_000_000_000_000, protocol="segment", key="web", ip="192.0.2.1")
OTHER_REQUEST = RequestContext(received_at=1_700_000_001_000_000, protocol="segment", key="web")


def letter(number: int, *, stage: str = "loader", request: RequestContext = REQUEST, reason: str = "type_conflict") -> DeadLetter:
    return DeadLetter(
        stage=stage, site="shop", connection=None if stage == "ingest" else "shop-wh", reason=reason, detail="why",
        body=b'{"type":"track","event":"E","userId":"u","messageId":"m%d"}' % number, at=time.time(), origin=f"live-1:5:{number}",
        message_id=f"m{number}", type="track", event="E", user_id="u", request=request,
    )  # fmt: skip


async def bury_all(broker: Broker, letters: Sequence[DeadLetter], name: str = "shop-wh", msg_id: str = "one") -> None:
    await bury(broker.publisher, letters[0].stage, name, letters, msg_id)


async def frames_on(broker: Broker, stream: str) -> list[tuple[Place | None, Frame]]:
    state = (await broker.js.stream_info(stream)).state
    found = []
    for seq in range(max(1, state.first_seq), state.last_seq + 1):
        try:
            message = await broker.js.get_msg(stream, seq)
        except NotFoundError:
            continue
        found.append((read_place(message.headers or {}), decode_frame(message.data or b"")))
    return found


async def dead_ids(broker: Broker) -> list[str | None]:
    return [stored.letters[index].message_id async for stored in find(broker, Filter()) for index in stored.matching]


def redelivery(broker: Broker, into: Into = "stage", project: Project | None = None, **more: Any) -> Redelivery:
    default = Project(sites={"shop": Site()}, connections={"shop-wh": Connection(site="shop", destination="wh")})
    return Redelivery(broker, ConfigSnapshot(1, project or default, {"shop-wh": "0-aa"}), into, time.time, **more)


async def test_letters_of_a_connection_that_is_gone_or_of_another_site_now_stay(broker: Broker) -> None:
    await bury_all(broker, [letter(1)])
    sites = {"shop": Site(), "blog": Site()}
    moved = {"shop-wh": Connection(site="blog", destination="wh")}
    for connections in ({}, moved):
        outcome = await redelivery(broker, project=Project(sites=sites, connections=connections)).run(Filter())
        assert (outcome.replayed, outcome.foreign, outcome.foreign_until < time.time()) == (0, 1, True)
    assert await dead_ids(broker) == ["m1"]
    assert (await broker.js.stream_info(topology.DELIVER)).state.messages == 0


async def test_letters_of_a_site_that_is_gone_stay_where_routing_would_not_take_them(broker: Broker) -> None:
    await bury_all(broker, [letter(1)])
    await bury_all(broker, [letter(2, stage="ingest", reason="missing_id")], name="shop", msg_id="two")
    renamed = Project(sites={"store": Site()})
    for into, siteless in (("stage", 1), ("start", 2)):
        outcome = await redelivery(broker, cast("Into", into), project=renamed).run(Filter())
        assert (outcome.replayed, outcome.siteless, outcome.foreign, outcome.stayed) == (0, siteless, 2 - siteless, 2)
    assert await dead_ids(broker) == ["m1", "m2"]
    assert (await broker.js.stream_info(topology.EVENTS)).state.messages == 0


async def test_letters_of_the_loader_go_to_their_queue_as_the_same_events(broker: Broker) -> None:
    await bury_all(broker, [letter(1), letter(2, request=OTHER_REQUEST), letter(3, request=OTHER_REQUEST)])
    outcome = await redelivery(broker).run(Filter())
    assert outcome.replayed == 3
    ((place, frame),) = await frames_on(broker, topology.DELIVER)
    assert place is not None
    assert place.lane.startswith("replay-dead-")
    assert (place.seq, place.events) == (1, 3)
    assert [head.message_id for head in frame.heads] == ["m1", "m2", "m3"]
    assert [frame.requests[head.request] for head in frame.heads] == [REQUEST, OTHER_REQUEST, OTHER_REQUEST]
    assert frame.bodies()[0] == letter(1).body
    assert frame.origins == ["live-1:5:1", "live-1:5:2", "live-1:5:3"]
    assert await dead_ids(broker) == []


async def test_each_replay_has_a_lane_of_its_own(broker: Broker) -> None:
    for number in (1, 2):
        await bury_all(broker, [letter(number)], msg_id=str(number))
        await redelivery(broker).run(Filter())
    lanes = [place.lane for place, _ in await frames_on(broker, topology.DELIVER) if place]
    assert len(set(lanes)) == 2


async def test_only_what_the_filter_means_is_replayed_and_the_rest_of_the_message_stays(broker: Broker) -> None:
    await bury_all(broker, [letter(1), letter(2, reason="too_large"), letter(3)])
    outcome = await redelivery(broker).run(Filter(reason=DeadReason.TYPE_CONFLICT))
    assert outcome.replayed == 2
    assert await dead_ids(broker) == ["m2"]
    stayed = await fetch_letter(broker, "1.1")  # lies elsewhere now, and keeps its id
    assert stayed is not None
    assert stayed.message_id == "m2"
    assert await fetch_letter(broker, "1.0") is None
    ((_, frame),) = await frames_on(broker, topology.DELIVER)
    assert [head.message_id for head in frame.heads] == ["m1", "m3"]


async def test_many_letters_travel_in_few_frames_and_in_their_order(broker: Broker) -> None:
    for part in range(7):
        await bury_all(broker, [letter(part * 200 + number) for number in range(200)], msg_id=str(part))
    outcome = await redelivery(broker).run(Filter())
    assert outcome.replayed == 1400
    frames = [frame for _, frame in await frames_on(broker, topology.DELIVER)]
    assert len(frames) <= 4
    assert [head.message_id for frame in frames for head in frame.heads] == [f"m{number}" for number in range(1400)]


async def test_a_replay_killed_before_it_removed_anything_is_finished_under_the_same_lane(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bury_all(broker, [letter(1), letter(2)])

    async def killed(*_: object) -> None:
        raise NotConnected("killed here")

    monkeypatch.setattr(redeliver, "remove", killed)
    with pytest.raises(NotConnected):
        await redelivery(broker).run(Filter())
    assert len(await dead_ids(broker)) == 2
    monkeypatch.undo()

    outcome = await redelivery(broker).run(Filter())
    assert (outcome.finished, outcome.replayed) == (2, 0)
    assert await dead_ids(broker) == []
    places = {place for place, _ in await frames_on(broker, topology.DELIVER)}
    assert len(places) == 1, "sent again, if at all, it must be the same place, which the loader's ledger knows"
    assert await Bucket(broker, topology.STATE_BUCKET).get(NOTE) is None


async def test_a_replay_killed_while_removing_does_not_send_again(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2, 3):
        await bury_all(broker, [letter(number)], msg_id=str(number))
    removed = 0

    async def removes_one(*arguments: object) -> None:
        nonlocal removed
        removed += 1
        if removed > 1:
            raise NotConnected("killed here")
        await remove(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(redeliver, "remove", removes_one)
    with pytest.raises(NotConnected):
        await redelivery(broker).run(Filter())
    monkeypatch.undo()
    # what was sent may be loaded and gone by the time somebody goes on
    await broker.js.purge_stream(topology.DELIVER)

    outcome = await redelivery(broker).run(Filter())
    assert (outcome.finished, outcome.replayed) == (2, 0)
    assert await dead_ids(broker) == []
    assert (await broker.js.stream_info(topology.DELIVER)).state.messages == 0


async def test_letters_of_the_edge_are_judged_again_by_its_present_rules(broker: Broker) -> None:
    def reject(body: bytes, origin: str) -> DeadLetter:
        return DeadLetter(
            stage="ingest", site="shop", reason="missing_id", detail="", body=body, at=1.0, origin=origin, request=REQUEST
        )

    letters = [reject(b'{"type":"page"}', "r:0"), reject(b'"text"', "r:1"), reject(b'{"type":"page","messageId":"own"}', "r:2")]
    await bury_all(broker, letters, name="shop")
    strict = await redelivery(broker).run(Filter())
    assert (strict.replayed, strict.still_bad) == (0, 3)
    assert [each.reason for each in strict.refused] == ["missing_id", "not_an_object", "missing_id"]

    lenient = Project(sites={"shop": Site(require_id=False)})
    outcome = await redelivery(broker, project=lenient).run(Filter())
    assert (outcome.replayed, outcome.still_bad) == (2, 1)
    ((place, frame),) = await frames_on(broker, topology.EVENTS)
    assert place is None
    assert frame.heads[1].message_id == "own"
    assert frame.heads[0].message_id, "an event without an id gets one"
    assert [letter.body async for stored in find(broker, Filter()) for letter in stored.letters] == [b'"text"']


async def test_a_letter_that_is_refused_by_the_time_an_interrupted_replay_is_finished_stays(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = DeadLetter(
        stage="ingest", site="shop", reason="missing_id", detail="", body=b'{"type":"page"}', at=1.0, origin="r", request=REQUEST
    )
    await bury_all(broker, [bad], name="shop")

    async def killed(*_: object) -> None:
        raise NotConnected("killed here")

    monkeypatch.setattr(Redelivery, "_publish", killed)
    with pytest.raises(NotConnected):
        await redelivery(broker, project=Project(sites={"shop": Site(require_id=False)})).run(Filter())
    monkeypatch.undo()
    outcome = await redelivery(broker).run(Filter(site="another"))
    assert (outcome.finished, outcome.still_bad) == (0, 1)
    assert (await broker.js.stream_info(topology.EVENTS)).state.messages == 0
    assert len(await dead_ids(broker)) == 1


async def test_an_id_made_at_the_edge_is_the_same_however_often_the_letter_is_judged() -> None:
    bad = DeadLetter(
        stage="ingest", site="shop", reason="x", detail="", body=b'{"type":"page","userId":"u"}', at=1.0, origin="r:0"
    )
    first, second = judge_again(bad, Project()), judge_again(bad, Project())
    assert not isinstance(first, Refusal)
    assert not isinstance(second, Refusal)
    assert first[0].message_id == second[0].message_id


async def test_what_the_router_would_drop_as_a_repeat_is_held_back(broker: Broker) -> None:
    fresh = RequestContext(received_at=int(time.time() * 1e6), protocol="segment", key="web")
    await bury_all(broker, [letter(1), letter(2, request=fresh)])
    outcome = await redelivery(broker, "start").run(Filter())
    assert (outcome.replayed, outcome.held_back) == (1, 1)
    assert outcome.held_back_until == pytest.approx(fresh.received_at / 1e6 + 3600 * redeliver.GENERATION_SLACK + 60)
    assert await dead_ids(broker) == ["m2"]
    ((_, frame),) = await frames_on(broker, topology.EVENTS)
    assert frame.heads[0].message_id == "m1"

    no_window = Project(sites={"shop": Site(dedupe_window=Duration(0))})
    assert (await redelivery(broker, "start", no_window).run(Filter())).replayed == 1


async def test_a_frame_that_could_not_be_read_goes_back_whole_once_it_can(broker: Broker) -> None:
    good = encode_frame(pack("shop", [REQUEST], [Head("a", "page"), Head("b", "page")], [b"{}", b"{}"]))

    def unreadable(body: bytes) -> DeadLetter:
        return DeadLetter(
            stage="loader",
            site="shop",
            connection="shop-wh",
            reason="frame_unreadable",
            detail="",
            body=body,
            at=1.0,
            origin="D:1",
        )

    await bury_all(broker, [unreadable(b"\xc1garbage"), unreadable(good), letter(3)])
    outcome = await redelivery(broker).run(Filter())
    assert (outcome.replayed, outcome.unreadable) == (2, 1)
    frames = [frame for _, frame in await frames_on(broker, topology.DELIVER)]
    assert [[head.message_id for head in frame.heads] for frame in frames] == [["a", "b"], ["m3"]]


async def test_what_never_passed_privacy_rules_does_so_and_what_they_could_not_clean_stays(broker: Broker) -> None:
    rule = PrivacyRule(field="userId", do="drop")
    connections = {"shop-wh": Connection(site="shop", destination="wh", privacy=[rule])}
    project = Project(sites={"shop": Site()}, connections=connections)
    raw = encode_frame(pack("shop", [REQUEST], [Head("m1", "track", "E", "u")], [letter(1).body]))
    unreadable = msgspec.structs.replace(letter(1, reason=DeadReason.FRAME_UNREADABLE), body=raw)
    await bury_all(broker, [unreadable, letter(2)])
    empty = msgspec.structs.replace(letter(3, stage="functions", reason=DeadReason.MALFORMED_JSON), body=b"")
    await bury_all(broker, [empty], msg_id="two")
    outcome = await redelivery(broker, project=project).run(Filter())
    assert (outcome.replayed, outcome.not_kept) == (2, 1)
    for stream, id_ in ((topology.FUNCTIONS, "m1"), (topology.DELIVER, "m2")):
        ((_, frame),) = await frames_on(broker, stream)
        assert [head.message_id for head in frame.heads] == [id_]
    assert await dead_ids(broker) == ["m3"]


async def test_a_letter_that_died_again_keeps_its_first_origin(broker: Broker) -> None:
    again = msgspec.structs.replace(letter(1), origin="replay-dead-1:1:0", first_origin="live-1:5:1")
    await bury_all(broker, [again, letter(2)])
    await redelivery(broker).run(Filter())
    ((_, frame),) = await frames_on(broker, topology.DELIVER)
    assert frame.origins == ["live-1:5:1", "live-1:5:2"]


async def test_a_full_queue_is_waited_for_and_keeps_letters_that_find_no_room(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bury_all(broker, [letter(1)])
    publish, full = broker.publisher.publish, [1, 1, 1]

    async def while_full(subject: str, *args: Any, **more: Any) -> PubAck:
        if subject.startswith("deliver.") and full:
            raise QueueFull(f"takes no more ({full.pop()})")
        return await publish(subject, *args, **more)

    monkeypatch.setattr(broker.publisher, "publish", while_full)
    monkeypatch.setattr(redeliver, "POLL_SECONDS", 0)
    with pytest.raises(QueueFull, match="run it again"):
        await redelivery(broker).run(Filter())
    assert await dead_ids(broker) == ["m1"]
    notes: list[str] = []
    run = redelivery(broker, room_seconds=60, on_progress=lambda _done, note: notes.append(note))
    outcome = await run.run(Filter())
    assert (outcome.finished, outcome.replayed, full) == (1, 0, [])
    assert notes == ["the queue is full, waiting for room"] * 2
    assert len(await frames_on(broker, topology.DELIVER)) == 1
    assert await dead_ids(broker) == []


async def test_what_waits_for_its_loader_is_counted(broker: Broker) -> None:
    await bury_all(broker, [letter(1), letter(2)])
    run = redelivery(broker)
    await run.run(Filter())
    assert (await run.wait(0.3)).waiting == 2
    await broker.js.purge_stream(topology.DELIVER)
    assert (await run.wait(60)).waiting == 0


async def test_a_forecast_counts_what_a_replay_would_do_and_changes_nothing(broker: Broker) -> None:
    await bury_all(broker, [letter(1), letter(2), letter(3)])
    meets = compile_conditions({"field": "messageId", "in": ["m1", "m3"]})
    for into, wanted in (("stage", (2, 0)), ("start", (0, 2))):
        sites = {"shop": Site(dedupe_window=Duration(10**10))}
        project = Project(sites=sites, connections={"shop-wh": Connection(site="shop", destination="wh")})
        outcome = await redelivery(broker, into=cast("Into", into), project=project).forecast(Filter(meets=meets))
        assert (outcome.replayed, outcome.held_back) == wanted
    assert await dead_ids(broker) == ["m1", "m2", "m3"]
    assert (await broker.js.stream_info(topology.DELIVER)).state.messages == 0
    assert (await redelivery(broker).run(Filter(meets=meets))).replayed == 2
    assert await dead_ids(broker) == ["m2"]
