"""Payloads of webhooks: what is delivered, as events. Pure."""
