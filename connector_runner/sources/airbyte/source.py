"""A connector of the Airbyte protocol as a `Source`: each call runs its program once."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple, TypeVar

import msgspec

from connector_runner.airbyte.catalog import configured, read_stream, states_file
from connector_runner.airbyte.messages import Discovered, Failure, Heard, Specification, Verdict, read_line
from connector_runner.contract import Checked, Ended, Environment, Message, Said, Selected, Stream, StreamName
from connector_runner.programs.packages import Installed, install
from connector_runner.programs.program import Limits, Program
from shared.errors import PenstockError, SetupError, Transient
from shared.reading.mask import Mask

CHECK_SECONDS = 300.0
"""To check, discover or tell the options: slow systems take half a minute to refuse."""
_PYTHON = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "DO_NOT_TRACK": "1", "LANG": "C.UTF-8"}

A = TypeVar("A")


class Launch(NamedTuple):
    """What to run: a package and its version, the dependencies that may be built, and a manifest for it."""

    package: str
    version: str
    program: str = ""
    build: tuple[str, ...] = ()
    manifest: Mapping[str, Any] | None = None


class AirbyteSource:
    """A connector; see the contract of `Source`."""

    def __init__(
        self, name: str, launch: Launch, config: Mapping[str, Any], limits: Limits, mask: Mask, environment: Environment
    ) -> None:
        self._name = name
        self._launch = launch
        self._config = config
        self._limits = limits
        self._mask = mask
        self._environment = environment
        self._installed: Installed | None = None

    async def spec(self) -> Mapping[str, Any]:
        """Returns the JSON Schema of `config`."""
        if self._launch.manifest is not None:  # the program's answer is the same for all manifests
            spec = self._launch.manifest.get("spec")
            schema = spec.get("connection_specification") if isinstance(spec, Mapping) else None
            return schema if isinstance(schema, Mapping) else {}
        answer = await self._ask("spec", Specification, {})
        return answer.schema

    async def check(self) -> Checked:
        """Tries `config`. The connector's word counts, not its exit code."""
        answer = await self._ask("check", Verdict, {"--config": self._written()})
        return Checked(answer.status == "SUCCEEDED", self._mask.text(answer.message or ""))

    async def discover(self) -> Sequence[Stream]:
        """Returns the streams of its catalogue."""
        answer = await self._ask("discover", Discovered, {"--config": self._written()})
        return [read_stream(each) for each in answer.streams]

    async def read(
        self, selected: Sequence[Selected], states: Mapping[StreamName | None, bytes]
    ) -> AsyncGenerator[Message, None]:
        """Yields what the connector gives; see the contract."""
        files = {"--config": self._written(), "--catalog": configured(selected)}
        if states:
            files["--state"] = states_file(states)
        complete: set[StreamName] = set()
        failures: list[Failure] = []
        async with aclosing(self._run("read", files, self._limits)) as said:
            async for heard in said:
                match heard:
                    case Failure():
                        failures.append(heard)
                        yield Said("error", self._mask.text(heard.words))
                    case Ended():
                        (complete.add if heard.complete else complete.discard)(heard.stream)
                        yield heard
                    case Verdict() | Specification() | Discovered():
                        pass
                    case Said():
                        yield Said(heard.level, self._mask.text(heard.text))
                    case _:
                        yield heard
        if failures:
            raise self._failed(failures)
        if missing := [str(each.stream.known_as) for each in selected if each.stream.known_as not in complete]:
            raise Transient(
                f"the connector ended without saying that these streams are complete: {', '.join(missing)}; does it still have them?"
            )

    async def close(self) -> None:
        """Does nothing: each call ends its own program."""

    async def _ask(self, command: str, kind: type[A], files: Mapping[str, bytes]) -> A:
        limits = self._limits._replace(seconds=min(CHECK_SECONDS, self._limits.seconds))
        found: A | None = None
        failures: list[Failure] = []
        async for heard in self._run(command, files, limits):
            if isinstance(heard, kind):
                found = heard
            elif isinstance(heard, Failure):
                failures.append(heard)
            elif isinstance(heard, Said):
                self._environment.heard(Said(heard.level, self._mask.text(heard.text)))
        if found is None:
            raise self._failed(failures)
        return found

    async def _run(self, command: str, files: Mapping[str, bytes], limits: Limits) -> AsyncGenerator[Heard, None]:
        """Runs the program once and yields what it says.

        Raises:
            SetupError, Transient, Permanent: it failed; the message has its words.
        """
        installed = await self._install()
        folder = Path(mkdtemp(prefix="run-", dir=self._environment.private))  # for this user alone
        try:
            if self._launch.manifest is not None:
                files = {**files, "--manifest-path": msgspec.json.encode(self._launch.manifest)}
            arguments = [str(installed.program), command]
            for option, content in files.items():
                file = folder / f"{option.lstrip('-')}.json"
                file.write_bytes(content)
                arguments += [option, str(file)]
            program = await Program.start(
                arguments,
                folder=folder,
                environment=_PYTHON,
                limits=limits,
                mask=self._mask,
                heard=self._environment.heard,
            )
            failed = False
            try:
                async with aclosing(program.lines()) as lines:
                    async for line in lines:
                        if (heard := read_line(line)) is not None:
                            failed = failed or isinstance(heard, Failure)
                            yield heard
                code = await program.ended()
            finally:
                await program.close()
            if code and not failed and command != "check":
                raise Transient(f"the connector ended with code {code}: {program.last_words or 'it wrote no error'}")
        except PenstockError as exc:
            raise type(exc)(self._mask.text(str(exc))) from exc
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _install(self) -> Installed:
        if self._installed is None:
            launch = self._launch
            self._installed = await install(
                package=launch.package,
                version=launch.version,
                cache=self._environment.cache,
                heard=self._environment.heard,
                program=launch.program,
                build=launch.build,
            )
        return self._installed

    def _written(self) -> bytes:
        return msgspec.json.encode(self._config)

    def _failed(self, failures: Sequence[Failure]) -> PenstockError:
        """Returns the error of a run: the last failure names all streams that failed; one of the options asks a person to act."""
        if not failures:
            return Transient("the connector ended without an answer")
        of_options = next((each for each in failures if each.failure_type == "config_error"), None)
        if of_options is not None:
            return SetupError(f"connectors.{self._name}: {self._mask.text(of_options.words)}")
        return Transient(self._mask.text(failures[-1].words))
