"""Decides which events a connection gets, and why it does not get the others. Pure."""
