"""What stops a connection, or says that it does not get on: the limit of dead letters, and events that wait for too long."""
