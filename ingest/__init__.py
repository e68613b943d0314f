"""The edge: takes events over HTTP and WebSocket, judges them one by one, and answers when they are durable.

Read `ingest/contract.py` for what a wire protocol is, `ingest/protocols/` for those that exist (one file each), `ingest/intake/intake.py`
for the way of accepted events to JetStream, `ingest/intake/packer.py` for how events of concurrent requests share frames, and
`ingest/http/server.py` for the sockets. `python -m ingest` runs it.
"""
