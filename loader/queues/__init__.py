"""Event-wise destinations that are queues: streams of others to which events go as they are (`loader/contract/events.py`)."""
