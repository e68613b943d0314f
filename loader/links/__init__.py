"""Ways to a destination that takes events: each sends calls and says what became of each event (`Link` of `loader/contract/events.py`)."""
