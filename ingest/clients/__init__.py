"""Who sends a request: address, key, origin, and what the server knows of the client."""
