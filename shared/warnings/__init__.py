"""Warnings of ingestion: what happened to events that went on, or were left out, so that a person may look at it."""
