"""File stores: destinations that write objects. Every module here is a plug-in named as its type
(`loader/contract/warehouse.py`).
"""
