"""Sends frames of EVENTS again, by time or by sequence."""
