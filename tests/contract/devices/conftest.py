"""One stand for all device destinations."""

from __future__ import annotations

from tests.e2e.browser.conftest import shared_stand, shop

__all__ = ["shared_stand", "shop"]
