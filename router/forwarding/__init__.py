"""Forwards a site's frames to its connections, in order, and stores how far each has come."""
