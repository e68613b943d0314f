"""A connector of the Airbyte protocol as a `Source`: each call runs its program once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, TypeVar

import msgspec

from connector_runner.airbyte.catalog import configured, read_stream, states_file
from connector_runner.airbyte.judge import Judge
from connector_runner.airbyte.messages import Discovered, Failure, Heard, Specification, Verdict, read_lines
from connector_runner.contract import (
    Checked,
    Checkpoint,
    Ended,
    Environment,
    JsonRows,
    Message,
    NewOptions,
    Said,
    Selected,
    Stream,
    StreamName,
)
from connector_runner.programs.program import Limits, Program
from connector_runner.programs.refusals import remedy
from connector_runner.programs.running import Launcher, running
from shared.errors import PenstockError, SetupError, Transient
from shared.reading.mask import Mask

CHECK_SECONDS = 300.0
"""To check, discover or tell the options: slow systems take half a minute to refuse."""

A = TypeVar("A")


class AirbyteSource:
    """A connector; see the contract of `Source`."""

    def __init__(
        self,
        name: str,
        launcher: Launcher,
        config: Mapping[str, Any],
        *,
        manifest: Mapping[str, Any] | None,
        limits: Limits,
        verify_counts: bool,
        environment: Environment,
    ) -> None:
        self._name = name
        self._launcher = launcher
        self._config = msgspec.json.encode(config)
        self._manifest = manifest
        self._limits = limits
        self._verify_counts = verify_counts
        self._mask = Mask([config])
        self._environment = environment

    async def spec(self) -> Mapping[str, Any]:
        """Returns the JSON Schema of `config`."""
        if self._manifest is not None:  # the program's answer is the same for all manifests
            spec = self._manifest.get("spec")
            schema = spec.get("connection_specification") if isinstance(spec, Mapping) else None
            return schema if isinstance(schema, Mapping) else {}
        answer = await self._ask("spec", Specification, {})
        return answer.schema

    async def check(self) -> Checked:
        """Tries `config`. The connector's word counts, not its exit code."""
        answer = await self._ask("check", Verdict, {"--config": self._config})
        return Checked(answer.status == "SUCCEEDED", self._mask.text(answer.message or ""))

    async def discover(self) -> Sequence[Stream]:
        """Returns the streams of its catalogue."""
        answer = await self._ask("discover", Discovered, {"--config": self._config})
        return [read_stream(each) for each in answer.streams]

    async def read(
        self, selected: Sequence[Selected], states: Mapping[StreamName | None, bytes]
    ) -> AsyncGenerator[Message, None]:
        """Yields what the connector gives; see the contract.

        Ends of streams come last, when all rows did: some connectors call a stream complete before its last rows.
        """
        files = {"--config": self._config, "--catalog": configured(selected)}
        if states:
            files["--state"] = states_file(states)
        judge = Judge((each.stream.known_as for each in selected), counts=self._verify_counts)
        failures: list[Failure] = []
        failure: PenstockError | None = None
        async with self._running("read", files, self._limits) as program:
            async with aclosing(program.lines()) as output:
                async for lines in output:
                    for heard in read_lines(lines):
                        match heard:
                            case JsonRows():
                                judge.take(heard)
                                yield heard
                            case Checkpoint():
                                if judge.takes(heard):
                                    yield heard
                            case Ended():
                                judge.end(heard)
                            case Failure():
                                failures.append(heard)
                                yield Said("error", self._mask.text(heard.words))
                            case Said():
                                yield Said(heard.level, self._mask.text(heard.text))
                            case NewOptions():
                                self._take(heard)
                                yield heard
                            case Verdict() | Specification() | Discovered():
                                pass
                            case _:
                                yield heard
            failure = await self._end_of(program, failures)
        for ended in judge.ends:
            yield ended
        if failure is not None:
            raise failure
        if judge.missing:
            raise Transient(
                f"the connector ended without saying that these streams are complete: {', '.join(judge.missing)}; "
                "does it still have them?"
            )

    async def close(self) -> None:
        """Does nothing: each call ends its own program."""

    async def _ask(self, command: str, kind: type[A], files: Mapping[str, bytes]) -> A:
        limits = self._limits._replace(seconds=min(CHECK_SECONDS, self._limits.seconds))
        found: A | None = None
        failures: list[Failure] = []
        async with self._running(command, files, limits) as program:
            async with aclosing(program.lines()) as output:
                async for lines in output:
                    for heard in read_lines(lines):
                        if isinstance(heard, kind):
                            found = heard
                        elif isinstance(heard, Failure):
                            failures.append(heard)
                        else:
                            self._pass_on(heard)
            failure = await self._end_of(program, failures)
        if found is not None and (failure is None or command == "check"):  # its word counts, not its exit code
            return found
        raise failure or Transient(f"the connector gave no answer: {program.last_words or 'it wrote no error'}")

    def _pass_on(self, heard: Heard) -> None:
        if isinstance(heard, Said):
            self._environment.heard(Said(heard.level, self._mask.text(heard.text)))
        elif isinstance(heard, NewOptions):
            self._take(heard)
            words = "the connector changed its own options, as when a token is renewed; only a read can keep them"
            self._environment.heard(Said("warn", words))

    def _take(self, changed: NewOptions) -> None:
        """Uses new options from now on, and hides their secrets."""
        self._config = changed.config
        self._mask.add([msgspec.json.decode(changed.config)])

    def _running(self, command: str, files: Mapping[str, bytes], limits: Limits) -> AbstractAsyncContextManager[Program]:
        if self._manifest is not None:
            files = {**files, "--manifest-path": msgspec.json.encode(self._manifest)}
        return running(
            self._launcher,
            [command],
            files,
            limits=limits,
            mask=self._mask,
            environment=self._environment,
        )

    async def _end_of(self, program: Program, failures: Sequence[Failure]) -> PenstockError | None:
        """Waits for the end of a run; returns its error.

        The last failure names all streams that failed; one of the options asks a person to act.
        """
        try:
            code = await program.ended()
        except Transient as exc:
            return exc
        of_options = next((each for each in failures if each.failure_type == "config_error"), None)
        if of_options is not None:
            return SetupError(f"connectors.{self._name}: {self._mask.text(of_options.words)}")
        if failures:
            return Transient(self._mask.text(failures[-1].words))
        if code:
            words = program.last_words or "it wrote no error"
            hint = remedy(words)
            failed: type[PenstockError] = SetupError if hint else Transient
            return failed(f"the connector ended with code {code}: {words}{hint}")
        return None
