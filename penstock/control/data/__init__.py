"""Events on their way in, and rows that arrived."""
