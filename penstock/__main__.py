"""`python -m penstock`: the command without its script."""

from __future__ import annotations

from penstock.command.cli import main

if __name__ == "__main__":
    main()
