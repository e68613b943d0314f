"""Tracking plans: which events a site expects, and what happens to events that break the plan. Pure."""
