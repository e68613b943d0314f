"""Loads that need more than one statement over their rows: merges with deletions, and versions."""
