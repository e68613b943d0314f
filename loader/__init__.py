"""Service: brings the events of each connection into its destination, exactly once, as batches or as a stream.

Start with `loader/contract/warehouse.py` for what a destination must do, `loader/delivery/deliver.py` for the path of a batch.
"""
