"""The order of the events of a connection with shards, while their number changes."""
