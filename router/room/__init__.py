"""Keeps room in EVENTS and DEAD."""
