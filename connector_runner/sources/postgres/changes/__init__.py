"""Change data capture: what was written into tables, from the server's log, behind a snapshot of them."""
