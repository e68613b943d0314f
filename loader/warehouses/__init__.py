"""Warehouses: destinations whose tables have a schema. Every module here is a plug-in named as its type
(`loader/contract/warehouse.py`).
"""
