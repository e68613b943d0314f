"""The kernel every service stands on.

Frames and the canonical event, the project file, the JetStream topology and the loops that publish, read and acknowledge,
leases with fencing, dead letters, telemetry and the life cycle of a service. It imports no service. Start with
`shared/events/frame.py` for what travels, `shared/jetstream/topology.py` for where, `shared/jetstream/` for how.
"""
