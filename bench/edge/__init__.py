"""What the edge costs: requests, protocols, pages, WebSockets, judging of bodies, telemetry."""
