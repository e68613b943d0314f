"""Event-wise destinations: services that take events over HTTP, one file each (`loader/contract/events.py`)."""
