"""Filters and ids of dead letters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest
from nats.js.api import RawStreamMsg

from penstock.command.cli import run
from penstock.control.letters.conditions import compile_conditions
from penstock.control.letters.letters import Filter, Seen, Stored, find, group, parse_ids, present, remove, remove_all
from shared.errors import ConfigError, NotConnected, PenstockError, Permanent
from shared.events.dead import DeadLetter, decode_dead
from shared.events.outcome import DeadReason


def letter(
    *,
    stage: str = "loader",
    site: str = "shop",
    connection: str | None = "shop-wh",
    reason: str = "type_conflict",
    at: float = 100,
) -> DeadLetter:
    return DeadLetter(stage=stage, site=site, connection=connection, reason=reason, detail="", body=b"{}", at=at, origin="x:1:0")


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (Filter(), True),
        (Filter(connection="shop-wh"), True),
        (Filter(connection="other"), False),
        (Filter(site="shop", stage="loader", reason=DeadReason.TYPE_CONFLICT), True),
        (Filter(reason=DeadReason.TOO_LARGE), False),
        (Filter(since=100), True),
        (Filter(since=101), False),
        (Filter(ids=["7.2"]), True),
        (Filter(ids=["7"]), True),
        (Filter(ids=["7.1", "72"]), False),
        (Filter(ids=["7.2"], stage="ingest"), False),
    ],
)
def test_a_filter_takes_what_meets_all_of_it(wanted: Filter, *, matches: bool) -> None:
    assert wanted.matches(letter(), "7.2") is matches


def test_a_filter_reads_no_more_of_the_stream_than_it_must() -> None:
    assert Filter().subject == "dead.*.*"
    assert Filter(connection="c", stage="loader").subject == "dead.loader.c"
    assert Filter(site="s", stage="ingest").subject == "dead.ingest.s"
    assert Filter(site="s").subject == "dead.*.*"
    assert Filter(site="s", stage="loader").subject == "dead.loader.*"


def test_letters_are_counted_by_what_they_have_in_common() -> None:
    first = [letter(at=5), letter(reason="too_large"), letter(at=3)]
    second = [letter(stage="ingest", connection=None)]
    groups = group([Stored(1, "dead.loader.shop-wh", first, [0, 1, 2], 0), Stored(2, "dead.ingest.shop", second, [0], 0)])
    assert [(each.stage, each.name, each.reason, each.count) for each in groups] == [
        ("loader", "shop-wh", "type_conflict", 2),
        ("loader", "shop-wh", "too_large", 1),
        ("ingest", "shop", "type_conflict", 1),
    ]
    assert (groups[0].oldest_at, groups[0].newest_at) == (3, 5)


def test_an_id_that_is_none_is_refused() -> None:
    assert parse_ids(["17.0", "17"]) == ["17.0", "17"]
    for wrong in ("x", "1.", "1.2.3", "", "-1"):
        with pytest.raises(ConfigError, match="dead list"):
            parse_ids([wrong])


@pytest.mark.parametrize(
    ("wanted", "subject"),
    [
        (Filter(), "dead.*.*"),
        (Filter(stage="loader"), "dead.loader.*"),
        (Filter(stage="loader", connection="shop-wh"), "dead.loader.shop-wh"),
        (Filter(stage="ingest", site="shop"), "dead.ingest.shop"),
        # under a name stand letters of a site and of a connection, and a connection's are of more than one site
        (Filter(connection="shop-wh"), None),
        (Filter(stage="router", connection="shop-wh"), None),
        (Filter(stage="loader", site="shop"), None),
        (Filter(stage="loader", reason="type_conflict"), None),
        (Filter(ids=["7"]), None),
        (Filter(since=0.0), None),
    ],
)
def test_letters_are_removed_by_subject_only_where_all_of_it_is_meant(wanted: Filter, subject: str | None) -> None:
    assert wanted.whole_subject == subject


class Broker:
    """Takes what is stored and deleted."""

    def __init__(self) -> None:
        self.publisher = self.js = self.nc = self
        self.stored: list[DeadLetter] = []
        self.deleted: list[int] = []

    async def publish(self, _subject: str, payload: bytes, **_: object) -> None:
        self.stored = decode_dead(payload)

    async def request(self, _subject: str, payload: bytes, **_: object) -> RawStreamMsg:
        self.deleted.append(msgspec.json.decode(payload)["seq"])
        return RawStreamMsg(data=b"{}")


async def test_a_letter_keeps_its_id_when_its_neighbours_are_removed() -> None:
    broker = Broker()
    await remove(broker, Stored(13, "dead.loader.shop-wh", [letter(), letter(), letter()], [1], 0))  # type: ignore[arg-type]
    assert broker.deleted == [13]
    rest = Stored(15, "dead.loader.shop-wh", broker.stored, [0, 1], 0)
    assert rest.ids() == ["13.0", "13.2"]
    await remove(broker, Stored(15, "dead.loader.shop-wh", broker.stored, [0], 0))  # type: ignore[arg-type]
    assert Stored(16, "dead.loader.shop-wh", broker.stored, [0], 0).ids() == ["13.2"]


@pytest.mark.parametrize(
    ("wanted", "unmatched"),
    [
        (Filter(ids=["13.0", "13", "13.2", "1"]), ["dead letter 13.2", "dead letter 1"]),
        (Filter(connection="shop-wh"), []),
        (Filter(), []),
    ],
)
def test_what_was_named_and_not_found_is_told(wanted: Filter, unmatched: list[str]) -> None:
    seen = Seen(wanted.ids)
    assert Filter(connection="gone", stage="loader").unmatched(seen) == ["dead letter of connection 'gone'"]
    assert Filter(stage="loader").unmatched(seen) == []
    seen.add(Stored(13, "dead.loader.shop-wh", [letter()], [0], 0))
    assert wanted.unmatched(seen) == unmatched


class Away:
    """A broker that answers nothing, or with what no version of ours reads."""

    def __init__(self, answer: bytes | None = None) -> None:
        self._answer = answer
        self.js = self.nc = self

    async def get_msg(self, *_: object) -> RawStreamMsg:
        if self._answer is None:
            raise TimeoutError
        return RawStreamMsg(data=self._answer)

    async def stream_info(self, *_: object, **__: object) -> object:
        raise TimeoutError

    request = purge_stream = stream_info


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda: anext(find(cast("Any", Away()), Filter())), NotConnected),
        (lambda: present(cast("Any", Away()), [1]), NotConnected),
        (lambda: present(cast("Any", Away(b"\xc1")), [1]), Permanent),
        (lambda: remove(cast("Any", Away()), Stored(1, "dead.loader.shop-wh", [letter()], [0], 0)), NotConnected),
        (lambda: remove_all(cast("Any", Away()), Filter(), 1, lambda _: None), NotConnected),
    ],
    ids=["find", "present", "unreadable", "remove", "remove_all"],
)
async def test_a_broker_that_goes_away_is_one_line_and_no_traceback(
    ask: Callable[[], Awaitable[object]], error: type[PenstockError]
) -> None:
    with pytest.raises(error, match=r": .+"):
        await ask()


@pytest.mark.parametrize("where", [None, [], {}])
def test_conditions_that_are_none_select_no_letters(where: object) -> None:
    with pytest.raises(ConfigError, match="--where"):
        compile_conditions(where)


@pytest.mark.parametrize("command", [["dead", "purge", "--yes"], ["warnings"]])
def test_a_range_that_ends_before_it_begins_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--url", "nats://127.0.0.1:1", "--since", "1h", "--until", "2h"]) == 2
    assert "--until is before --since" in capsys.readouterr().err


def test_letters_are_selected_by_time_and_by_conditions_on_their_event() -> None:
    def letter(body: bytes, at: float = 5.0) -> DeadLetter:
        return DeadLetter(stage="ingest", site="shop", reason="missing_id", detail="", body=body, at=at, origin="o")

    paid = letter(b'{"type":"track","event":"Paid","properties":{"total":7}}')
    meets = compile_conditions([{"field": "event", "eq": "Paid"}, {"field": "properties.total", "gt": 5}])
    assert meets(paid)
    assert not meets(letter(b'{"type":"track","event":"Paid","properties":{"total":3}}'))
    assert not meets(letter(b"no json")), "what is no object meets nothing"
    assert not meets(letter(b"[1]"))
    wanted = Filter(meets=meets, since=4.0, until=6.0)
    assert wanted.matches(paid, "1.0")
    assert not wanted.matches(letter(paid.body, at=7.0), "1.0")
    assert wanted.whole_subject is None, "the broker cannot look into events"
    assert Filter(until=6.0).whole_subject is None
    with pytest.raises(ConfigError, match="--where"):
        compile_conditions({"feld": "event"})
