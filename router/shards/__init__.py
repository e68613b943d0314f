"""Sites that several routers share: which shards there are, how their number changes, and the order of a user's events across a change."""
