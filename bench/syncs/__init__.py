"""What syncs and feeds cost: sources, changes, ways to write."""
