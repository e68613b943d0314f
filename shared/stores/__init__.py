"""Object stores: bytes under keys, visible whole or not at all, written for an owner by its newest holder only.

`contract.py` says what a store is; each other module or folder here is one.
"""
