"""What the runner of connectors and the loader tell each other about syncs: rows one way, progress the other."""
