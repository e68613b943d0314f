"""Metrics, traces, logs and health, declared here and documented from here."""
