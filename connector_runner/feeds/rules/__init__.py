"""How a record becomes an event. Pure: no clock, no socket, no task."""
