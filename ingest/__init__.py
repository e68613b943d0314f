"""The edge: takes events over HTTP and WebSocket, judges them one by one, and answers when they are durable.

Read `ingest/contract.py` for the contract of wire protocols, `ingest/protocols/` for the protocols (one file each),
`ingest/intake/intake.py` for the way of accepted events to JetStream, `ingest/intake/packer.py` for how events of concurrent
requests share frames, and `ingest/http/server.py` for the sockets. `python -m ingest` runs it.
"""
