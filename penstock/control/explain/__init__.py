"""What a project would do with one event, step by step: judged, routed, through rules and functions, as rows or calls."""
