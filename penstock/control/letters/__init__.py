"""Dead letters: found, shown, replayed, removed."""
