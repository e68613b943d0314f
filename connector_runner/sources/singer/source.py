"""A Singer tap as a `Source`: each call runs its program once."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import msgspec

from connector_runner.contract import (
    Checked,
    Checkpoint,
    Ended,
    Environment,
    Message,
    Row,
    Said,
    Selected,
    Stream,
    StreamName,
)
from connector_runner.programs.program import Limits, Program
from connector_runner.programs.refusals import remedy
from connector_runner.programs.running import Launcher, running
from connector_runner.singer.catalog import Entry, configured, read_catalog, resumed, stream_of
from connector_runner.singer.messages import Announced, read_line
from shared.errors import PenstockError, Permanent, SetupError, Transient
from shared.reading.mask import Mask

DISCOVER_SECONDS = 900.0
"""Databases with many thousand tables take minutes to tell them."""
_OF_OPTIONS = re.compile(r"Config validation failed|ConfigValidationError|config.* (is )?missing required", re.IGNORECASE)


class SingerSource:
    """A tap; see the contract of `Source`."""

    def __init__(
        self,
        name: str,
        launcher: Launcher,
        config: Mapping[str, Any],
        *,
        catalog_option: str,
        limits: Limits,
        environment: Environment,
    ) -> None:
        self._name = name
        self._launcher = launcher
        self._config = msgspec.json.encode(config)
        self._catalog_option = catalog_option
        self._limits = limits
        self._mask = Mask([config])
        self._environment = environment
        self._catalog: tuple[dict[str, Any], dict[str, Entry]] | None = None

    async def spec(self) -> Mapping[str, Any]:
        """Returns the JSON Schema of `config`; an empty one of a tap that does not tell it."""
        try:
            written = await self._output(["--about", "--format=json"], {}, 60.0)
            settings = msgspec.json.decode(written, type=dict[str, Any]).get("settings")
        except (Transient, msgspec.MsgspecError, UnicodeDecodeError):
            return {}
        return settings if isinstance(settings, Mapping) else {}

    async def check(self) -> Checked:
        """Lets the tap find its streams: it has no other check."""
        try:
            streams = await self.discover()
        except (Transient, SetupError, Permanent) as exc:
            return Checked(False, str(exc))
        return Checked(bool(streams), "" if streams else "the tap finds no streams")

    async def discover(self) -> Sequence[Stream]:
        """Returns the streams of its catalogue."""
        written = await self._output(["--discover"], {"--config": self._config}, DISCOVER_SECONDS)
        self._catalog = read_catalog(written)
        return [stream_of(each) for each in self._catalog[1].values()]

    async def read(
        self, selected: Sequence[Selected], states: Mapping[StreamName | None, bytes]
    ) -> AsyncGenerator[Message, None]:
        """Yields what the tap gives; see the contract."""
        if self._catalog is None:
            await self.discover()
        assert self._catalog is not None  # noqa: S101  # discovered
        files = {"--config": self._config, self._catalog_option: configured(self._catalog[0], selected)}
        if None in states:
            files["--state"] = resumed(states[None], selected)
        asked = {StreamName(each.stream.name) for each in selected}
        announced: set[str] = set()
        async with self._running([], files, self._limits) as program:
            async with aclosing(program.lines()) as output:
                async for lines in output:
                    for line in lines:
                        heard = read_line(line)
                        match heard:
                            case Row():
                                if heard.stream not in asked:
                                    raise Permanent(f"the tap gave a row of the stream {heard.stream}, which was not asked for")
                                yield heard
                            case Checkpoint():
                                yield heard
                            case Announced():
                                announced.add(heard.stream)
                            case Said():
                                yield Said(heard.level, self._mask.text(heard.text))
                            case None:
                                pass
            await self._demand_success(program)
        if missing := [stream.name for stream in asked if stream.name not in announced]:
            raise Transient(f"the tap ended without reading these streams: {', '.join(sorted(missing))}")
        for each in selected:
            yield Ended(each.stream.known_as, True)

    async def close(self) -> None:
        """Does nothing: each call ends its own program."""

    async def _output(self, arguments: Sequence[str], files: Mapping[str, bytes], seconds: float) -> bytes:
        """Returns all output of a run."""
        limits = self._limits._replace(seconds=min(seconds, self._limits.seconds))
        parts, held = [], 0
        async with self._running(arguments, files, limits) as program:
            async with aclosing(program.lines()) as output:
                async for lines in output:
                    held += sum(map(len, lines))
                    if held > limits.line_bytes:
                        raise Permanent(f"the tap's answer has more than {limits.line_bytes >> 20} MiB; raise `max_line`")
                    parts += lines
            await self._demand_success(program)
        return b"\n".join(parts)

    def _running(
        self, arguments: Sequence[str], files: Mapping[str, bytes], limits: Limits
    ) -> AbstractAsyncContextManager[Program]:
        return running(
            self._launcher,
            arguments,
            files,
            limits=limits,
            mask=self._mask,
            environment=self._environment,
        )

    async def _demand_success(self, program: Program) -> None:
        """Waits for the end of a run.

        Raises:
            Transient, SetupError: it failed; the message has its last words.
        """
        if code := await program.ended():
            words = program.last_words or "it wrote no error"
            hint = remedy(words)
            failed: type[PenstockError] = SetupError if hint or _OF_OPTIONS.search(words) else Transient
            raise failed(f"connectors.{self._name}: the tap ended with code {code}: {words}{hint}")
