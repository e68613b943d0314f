"""Shared by drivers of databases: work as steps, options and names of sessions, the clock over a call, the sockets below."""
