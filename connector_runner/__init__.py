"""Connectors: programs and plug-ins that pull rows from other systems. `contract.py` says what one does."""
