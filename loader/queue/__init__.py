"""What a connection's queue holds: which frames make a load, what is set aside, what is known to be loaded."""
