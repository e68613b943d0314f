"""Hydration: GETs for what deliveries of webhooks only name, through the egress guard."""
