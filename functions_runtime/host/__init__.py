"""What functions may ask of the host: a key-value store, requests over the network, and lines of log."""
