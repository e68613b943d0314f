"""Options that many commands share, and what they add up to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.stack.home import DEFAULT_HOME, Home
from penstock.terminal.screen import Screen

if TYPE_CHECKING:
    from penstock.control.reach import Reach

Function = Callable[..., Any]


class Integer(click.IntRange):
    """A whole number; errors and help call it `integer`, not `integer range`."""

    name = "integer"


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a command works and how it prints."""

    screen: Screen
    home: Home
    url: str | None = None

    def reach(self) -> Reach:
        """Decides which broker is meant.

        Raises:
            SetupError: none can be found.
        """
        from penstock.control.reach import find_reach  # brings the broker's client with it, which `down` and --help do not need

        return find_reach(self.home, self.url)


_home = click.option(
    "--home", type=click.Path(path_type=Path), default=Path(DEFAULT_HOME), show_default=True, envvar="PENSTOCK_HOME",
    help="Folder of the local stack.",
)  # fmt: skip
_url = click.option(
    "--url", envvar="PENSTOCK_NATS_URL", metavar="NATS_URL", help="Address of the broker; default: the stack in --home."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def at_home(function: Function) -> Function:
    """Adds --home and --json; the command gets a `Setting` first."""

    @_home
    @_json
    @functools.wraps(function)
    def wrapper(*, home: Path, as_json: bool, **rest: Any) -> Any:
        return function(Setting(Screen(json=as_json), Home(home)), **rest)

    return wrapper


def anywhere(function: Function) -> Function:
    """Adds --json; the command needs no stack and gets a `Setting` first."""

    @_json
    @functools.wraps(function)
    def wrapper(*, as_json: bool, **rest: Any) -> Any:
        return function(Setting(Screen(json=as_json), Home(Path(DEFAULT_HOME))), **rest)

    return wrapper


def at_broker(function: Function) -> Function:
    """Adds --home, --url and --json; the command gets a `Setting` first."""

    @_home
    @_url
    @_json
    @functools.wraps(function)
    def wrapper(*, home: Path, url: str | None, as_json: bool, **rest: Any) -> Any:
        return function(Setting(Screen(json=as_json), Home(home), url), **rest)

    return wrapper
