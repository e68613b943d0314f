"""Limits of clients: connections, memory, work, events a second; and counts of refusals."""
