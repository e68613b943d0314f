"""Makes judged events durable: packs them into frames and publishes these, or writes them to the journal."""
