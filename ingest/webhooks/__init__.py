"""Webhooks: how their senders prove themselves. Pure; `ingest/protocols/webhook.py` uses it."""
