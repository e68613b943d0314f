"""Reads texts that people write: documents, durations, sizes, with errors that name the place."""
