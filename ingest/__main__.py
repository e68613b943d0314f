"""`python -m ingest`: runs the edge, as one process or several on one port."""

from __future__ import annotations

from ingest.processes import main

if __name__ == "__main__":
    main()
