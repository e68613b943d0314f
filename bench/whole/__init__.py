"""What the whole path costs, from HTTP to rows: shards, clusters, rebuilds, neighbours, a day of load."""
