"""The HTTP and WebSocket server: from bytes of a socket to an answer."""
