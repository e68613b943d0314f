"""The local journal: frames on this machine's disk while the broker is away."""
