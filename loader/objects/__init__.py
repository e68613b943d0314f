"""What all file destinations share: how rows become bytes (`formats.py`), what objects are called (`names.py`), and one session and
destination over a store (`shared/stores/`).

A plug-in in `loader/files/` only has options of its own and opens its store.
"""
