"""Alerts: what is wrong is told to people, once for each change, by the channels of `alerts:` in the project file."""
