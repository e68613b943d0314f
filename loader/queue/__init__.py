"""What a connection's queue holds: which frames make a load, which rows are set aside, which are known to be loaded."""
