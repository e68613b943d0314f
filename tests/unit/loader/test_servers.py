"""What sessions of servers do with their link: when they give back, roll back, hang up and wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from loader.servers.errors import Code, Errors, Meaning, by_code
from loader.servers.session import Driver
from loader.sql.steps import Ask, Commit, Hold, Rollback, Run, Step, Steps
from shared.driving.server import ServerOptions
from shared.driving.watch import Watch
from shared.errors import Defect, NotConnected, Permanent, RowsRejected, SetupError, Transient, UnknownDriverError


class Refusal(Exception):
    """Of a server."""

    def __init__(self, code: str, words: str = "no") -> None:
        super().__init__(words)
        self.code = code


class Said(Errors):
    """Codes of two characters and three more."""

    product = "Test"
    foreign_keys = frozenset(("23503",))
    meanings = by_code((SetupError, {"mend it": ("28000",)}), (RowsRejected, {"": ("23",)}), (NotConnected, {"": ("57P01",)}))
    troubles = {"42": "refused", "42501": "no"}  # noqa: RUF012

    def code(self, error: BaseException) -> Code | None:
        return error.code if isinstance(error, Refusal) else None

    def describe(self, error: BaseException) -> str:
        return str(error)

    def without_code(self, error: BaseException) -> Meaning | None:
        return Meaning(Permanent) if isinstance(error, EOFError) else None


class Wire:
    """A link that notes what it is told."""

    def __init__(self) -> None:
        self.lost: Callable[[], None] | None = None
        self.closed = False
        self.said: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.gate: asyncio.Event | None = None

    def hang_up(self) -> None:
        self.closed = True

    async def say_goodbye(self) -> None:
        raise OSError("away")

    async def ask(self, sql: str, values: Sequence[Any]) -> Sequence[Any]:
        await self.run(sql)
        return [values]

    async def run(self, sql: str) -> object:
        if self.gate is not None:
            await self.gate.wait()
        self.said.append(sql)
        if sql in self.fails:
            raise self.fails.pop(sql)
        return None

    async def perform(self, step: Step, watch: Watch) -> Any:
        watch.moved()
        return type(step).__name__


def driver(wire: Wire) -> Driver[Wire]:
    async def answers() -> bool:
        return True

    return Driver(wire, ServerOptions(), Said(), answers)


def work(*steps: Step) -> Steps[list[Any]]:
    came = []
    for step in steps:
        came.append((yield step))  # noqa: PERF401 - no comprehension yields
    return came


class Own(Step):
    """Of a plug-in."""


async def test_what_is_held_is_given_back_before_the_end_the_last_first() -> None:
    wire = Wire()
    held = (Hold("take a", "give a"), Hold("take b", "give b"))
    came = await driver(wire).run("testing", work(Run("begin"), *held, Ask("look", (1,)), Own(), Commit(), Rollback()))
    assert wire.said == ["begin", "take a", "take b", "look", "give b", "give a", "COMMIT", "ROLLBACK"]
    assert came == [None, [()], [()], [(1,)], "Own", None, None]


async def test_work_that_fails_gives_back_and_rolls_back_and_the_link_stays() -> None:
    wire = Wire()
    wire.fails["bad"] = Refusal("23505")
    with pytest.raises(Permanent, match=r"^testing: no$"):
        await driver(wire).run("testing", work(Hold("take", "give"), Run("bad")))
    assert wire.said == ["take", "bad", "give", "ROLLBACK"]
    assert not wire.closed


@pytest.mark.parametrize("error", [Refusal("57P01"), TimeoutError(), ConnectionResetError()])
async def test_a_link_that_is_lost_is_hung_up_and_says_nothing_more(error: Exception) -> None:
    wire = Wire()
    wire.fails["bad"] = error
    one = driver(wire)
    with pytest.raises(NotConnected):
        await one.run("testing", work(Run("bad")))
    assert wire.said == ["bad"]
    with pytest.raises(NotConnected, match="the link is closed"):
        await one.run("testing", work(Run("more")))


async def test_a_rollback_that_fails_hangs_up_and_the_first_error_is_told() -> None:
    wire = Wire()
    wire.fails |= {"bad": Refusal("28000"), "ROLLBACK": OSError("away")}
    with pytest.raises(SetupError, match=r"^testing: no; mend it$"):
        await driver(wire).run("testing", work(Run("bad")))
    assert wire.closed


async def test_a_cancelled_commit_is_waited_for_and_other_work_is_not() -> None:
    for step, said in ((Commit(), ["COMMIT"]), (Run("other"), [])):
        wire = Wire()
        wire.gate = asyncio.Event()
        task = asyncio.ensure_future(driver(wire).run("testing", work(step)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        asyncio.get_running_loop().call_soon(wire.gate.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert wire.said == said
        assert wire.closed


async def test_a_link_that_takes_no_goodbye_is_hung_up() -> None:
    wire = Wire()
    await driver(wire).close()
    assert wire.closed


def test_a_code_means_what_its_own_line_says_else_its_class() -> None:
    said = Said()
    assert said.trouble(Refusal("42000")) == "refused"
    assert said.trouble(Refusal("42501")) is None
    assert said.trouble(ValueError()) is None
    rejected = said.translate(Refusal("23503"), "loading", "t")
    assert isinstance(rejected, RowsRejected)
    assert rejected.needs_others
    assert type(said.translate(Refusal("23503"), "loading")) is Permanent
    assert type(said.translate(Refusal("99999"), "loading")) is UnknownDriverError
    assert type(said.translate(IndexError(), "loading")) is Defect
    assert said.translate(ours := Transient("x"), "loading") is ours


def test_at_the_door_what_does_not_speak_as_the_server_is_another() -> None:
    said = Said()
    for error, kind, words in (
        (TimeoutError(), NotConnected, "opening x: no Test server answered in time; check `host` and `port`"),
        (EOFError("cut"), SetupError, "opening x: what answers does not speak as a Test server (cut); check `host` and `port`"),
        (IndexError("odd"), SetupError, "opening x: what answers does not speak as a Test server (odd); check `host` and `port`"),
        (Refusal("57P01"), NotConnected, "opening x: no; check `host` and `port`"),
        (Refusal("28000"), SetupError, "opening x: no; mend it"),
        (FileNotFoundError(), NotConnected, "opening x: there is no such socket"),
    ):
        told = said.at_the_door(error, "opening x")
        assert type(told) is kind
        assert str(told).startswith(words)
