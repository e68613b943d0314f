"""Shared by all file destinations: formats of rows (`formats.py`), names of objects (`names.py`), and one session and destination
over a store (`shared/stores/`).

A plug-in in `loader/files/` only has its options and opens its store.
"""
