"""Connections that moved: what their former destinations have, and the load that was under way there."""
