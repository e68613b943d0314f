"""Fits rows to live tables: which columns to add or widen, and which values a column can hold. Pure."""
