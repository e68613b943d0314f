"""The composition root: the `penstock` command, the local stack, plan and apply. Nothing imports it.

`command/cli.py` puts the command together from `command/verbs/`, one file a group; these read options and print. They call
`control/`, which knows no terminal. `stack/` supervises the local stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.postponed import import_without

if TYPE_CHECKING:
    from penstock.control.data.load_call import load

# before anything else brings msgspec: it asks typing_extensions for what typing has, and that is a tenth of a short command
import_without("msgspec", "typing_extensions")

__all__ = ["load"]


def __getattr__(name: str) -> object:
    """Imports `load` when it is asked for: the command needs none of it."""
    if name == "load":
        from penstock.control.data import load_call

        return load_call.load
    raise AttributeError(name)
