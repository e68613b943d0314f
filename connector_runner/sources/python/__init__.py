"""The user's own Python: functions that yield rows, in one file.

    orders:
      type: python
      file: orders.py
      config: {url: "https://shop.example.com/api"}

The file runs as a program of its own, never inside a service. What it declares: `declare.py`, which it imports as `penstock.source`.

Traps: a function that is not `ordered` has one checkpoint, at its end; what it prints is a line of the log; its environment is empty
but for `environment`.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field

from connector_runner.contract import Environment, Source
from connector_runner.programs.options import Bounded


class OPTIONS(Bounded, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a connector that is a Python file."""

    file: Annotated[
        str | None,
        Meta(description="the file; its path begins where the project file is", extra={"text_goes_to": "code"}),
    ] = None
    code: Annotated[str | None, Meta(description="the text of the file, in place of `file`")] = None
    config: Annotated[
        dict[str, Any], Meta(description="what the functions get as `config`; for a secret write ${NAME}", extra={"secret": True})
    ] = field(default_factory=dict)
    environment: Annotated[
        dict[str, str],
        Meta(description="variables of its environment, beside PATH, proxies and certificates", extra={"secret": True}),
    ] = field(default_factory=dict)
    python: Annotated[
        str | None,
        Meta(description="path of the interpreter, of an environment that has what the file imports; default: the service's own"),
    ] = None

    def __post_init__(self) -> None:
        if self.file is None and self.code is None:
            raise ValueError("write `file`, the path of a Python file")


async def open_source(name: str, options: OPTIONS, environment: Environment) -> Source:
    """Opens a connector; its code runs at its first call.

    Raises:
        SetupError: the file cannot be read.
    """
    from connector_runner.sources.python.source import PythonSource, code_of

    return PythonSource(name, options, code_of(name, options), environment)
