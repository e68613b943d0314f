"""Forgetting a person: what archives and EVENTS hold of them; under a lease, with a receipt."""
