"""The sender of a request: its address, key and origin, and the server's facts about it."""
