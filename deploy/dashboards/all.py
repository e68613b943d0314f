"""All dashboards, in the order in which the documentation shows them."""

from __future__ import annotations

from deploy.dashboards import capacity, connection, edge, functions, jetstream, loader, overview, syncs_and_feeds

DASHBOARDS = (
    overview.DASHBOARD,
    connection.DASHBOARD,
    edge.DASHBOARD,
    functions.DASHBOARD,
    loader.DASHBOARD,
    syncs_and_feeds.DASHBOARD,
    jetstream.DASHBOARD,
    capacity.DASHBOARD,
)
