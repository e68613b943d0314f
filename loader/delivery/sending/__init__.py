"""The event way: a connection's events in calls, one by one or a few together (`loader/contract/events.py`)."""
