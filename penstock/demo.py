"""The show after `penstock up --demo`."""

from __future__ import annotations

from penstock.home import StackState
from penstock.options import Setting


async def show_demo(setting: Setting, state: StackState) -> None:
    """Sends the sample events and shows what arrives."""
