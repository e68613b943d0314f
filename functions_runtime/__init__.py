"""Service: runs the functions of connections over their frames, between router and loader.

Start with `functions_runtime/sandbox/chain.py` for what a chain of functions is to the host, `functions_runtime/connection.py` for the path of a frame.
"""
