"""A connection's queue: which frames make a load, which rows are set aside, which are already loaded."""
