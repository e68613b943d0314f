"""Spans: what begins and ends them, how they travel, and the attributes that they have."""
