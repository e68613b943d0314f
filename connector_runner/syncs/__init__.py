"""Syncs: rows of a connector on their way into the queue of a destination, on a schedule."""
