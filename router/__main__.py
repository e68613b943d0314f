"""`python -m router`."""

from __future__ import annotations

from router.service import serve
from shared.service import run_service

if __name__ == "__main__":
    run_service("router", serve)
