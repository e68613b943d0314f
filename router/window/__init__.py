"""The window of message ids by which repeats are dropped."""
