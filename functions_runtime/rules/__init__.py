"""Rules for events before and after the functions. Pure."""
