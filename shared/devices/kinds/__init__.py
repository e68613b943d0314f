"""The types of device destinations: a Python file and a script of the same name for each."""
