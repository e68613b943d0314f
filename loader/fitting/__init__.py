"""Fits rows to live tables: which columns to add or widen, and what a column can hold. Pure."""
