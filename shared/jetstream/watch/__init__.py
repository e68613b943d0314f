"""Watching the link to a broker: whether it answers, and whether another node of the cluster is better."""
