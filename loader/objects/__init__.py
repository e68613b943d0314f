"""What all file stores share: how rows become bytes (`formats.py`) and what objects are called (`names.py`).

A file store is a plug-in in `loader/files/`; it only has to put bytes under a name, whole or not at all.
"""
