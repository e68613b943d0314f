"""Syncs of the applied project: their runs, and what a person can ask of them."""
