"""JetStream as Penstock uses it, over nats-py's connection, `publish`, `subscribe(cb=)` and management calls.

`broker.py` holds the connection and its watchdog, `publisher.py` publishes and knows when a message is durable,
`reader.py` reads a stream in strict order, `kv.py` and `lease.py` stand on these. nats-py's own `publish_async`, `fetch` and
KV watch are not used: they lose errors, cost more than twice as much, and do not survive the death of the server.
"""
