"""Queries as Prometheus gets them: with variables filled in as Grafana does, and without their `zero` part."""

from __future__ import annotations

import re


def substituted(query: str, seconds: int = 15, over_seconds: int = 60) -> str:
    """Returns a query with all variables filled in, each with all of its values.

    Args:
        seconds: `$__rate_interval`.
        over_seconds: `$__range`.
    """
    query = query.replace("$__rate_interval", f"{seconds}s").replace("$__range", f"{over_seconds}s")
    return re.sub(r"\$\{?[a-z]+\}?", ".*", query)


def without_zero(query: str) -> str:
    """Returns a query that returns nothing where nothing was counted."""
    return re.sub(r" or on\(\) (vector\(0\)|label_replace\(vector\(0\), .*\))$", "", query)
