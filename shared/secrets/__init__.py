"""Secrets that a project file refers to and does not hold: in files, in a vault, or given by a program."""
