"""Real servers for tests and benchmarks: each is started as its own process, on its own port, in its own directory.

One file a server. They know nothing of pytest beyond the fixtures at the end of each file, so `bench/` and fault tests use the
same classes.
"""
