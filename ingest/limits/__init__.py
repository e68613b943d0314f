"""What clients may use: connections, memory, work, events a second; and who is refused."""
