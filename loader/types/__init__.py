"""Kinds of columns, how they join, and how values are converted. Pure."""
