"""Watches over a connection: the limit of dead letters stops it, and events that wait too long are reported."""
