"""Forgetting a person: whose events are left out, and what is asked of the services."""
