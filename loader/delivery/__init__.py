"""From a connection's queue into its destination: sessions, chunks, loads, refusals."""
