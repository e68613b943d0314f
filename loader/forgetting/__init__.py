"""Forgetting a person: their rows, dead letters, logs and what waits in queues; under a lease, with a receipt."""
