"""Destinations under test, a file for each; begin with `subject.py`, then `opened.py`."""
