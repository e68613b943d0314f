"""The catalogue: which events and properties sites have sent, as the broker keeps it."""
