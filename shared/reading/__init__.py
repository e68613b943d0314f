"""Reads what people write: documents, durations, sizes, with errors that name the place."""
