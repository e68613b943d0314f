"""The loader's side of syncs: rows of connectors, from the queue of a sync into its destination."""
