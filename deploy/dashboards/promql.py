"""The common forms of queries.

An event that never happened has no series. `zero` makes such a query return 0, so that a panel without data means that something is wrong.
"""

from __future__ import annotations

from deploy.dashboards.panel import Variable

WINDOW = "[$__rate_interval]"
SITE = 'site=~"$site"'
CONNECTION = 'connection=~"$connection"'
INSTANCE = 'instance=~"$instance"'
JOB = 'job=~"penstock-.+"'
SYNC = 'sync=~"$sync"'
FEED = 'feed=~"$feed"'
STREAM = 'stream=~"$stream"'
SERVER = 'server=~"$server"'

OF_SITE = Variable(name="site", title="Site", values_of="label_values(account_accepted_events, site)")
OF_CONNECTION = Variable(name="connection", title="Connection", values_of="label_values(account_received_events, connection)")
ONE_CONNECTION = Variable(
    name="connection", title="Connection", values_of="label_values(account_received_events, connection)", many=False
)
OF_INSTANCE = Variable(name="instance", title="Instance", values_of='label_values(up{job=~"penstock-.+"}, instance)')
OF_SYNC = Variable(name="sync", title="Sync", values_of="label_values(sync_running, sync)")
OF_FEED = Variable(name="feed", title="Feed", values_of="label_values(feeds_failing, feed)")
OF_STREAM = Variable(name="stream", title="Stream", values_of="label_values(stream_messages, stream)")
OF_SERVER = Variable(name="server", title="Server", values_of="label_values(broker_up, server)")


def rate(metric: str, select: str, by: str = "") -> str:
    """Returns the rate of a counter, added up by labels."""
    return f"sum{_by(by)}(rate({metric}{{{select}}}{WINDOW}))"


def largest(metric: str, select: str, by: str = "") -> str:
    """Returns the largest value of a gauge, by labels; replicas that tell the same count once."""
    return f"max{_by(by)}({metric}{{{select}}})"


def late(select: str, by: str = "") -> str:
    """Returns how much longer the oldest event waits than its connection's period, by labels."""
    return f"max{_by(by)}(clamp_min(loader_oldest_seconds{{{select}}} - loader_period_seconds{{{select}}}, 0))"


def settled(metric: str, select: str, by: str, each: str) -> str:
    """Returns the sum of a gauge over labels; replicas that tell the same count once.

    Args:
        by: what the sum is told by; may be empty.
        each: all labels of the gauge.
    """
    return f"sum{_by(by)}(max by ({each}) ({metric}{{{select}}}))"


def zero(query: str, label: str = "") -> str:
    """Returns a query that returns 0 where nothing was counted.

    Args:
        label: what the legend shows; its value is `none` then.
    """
    nothing = f'label_replace(vector(0), "{label}", "none", "", "")' if label else "vector(0)"
    return f"({query}) or on() {nothing}"


def quantiles(metric: str, select: str) -> dict[str, str]:
    """Returns the middle and the slow ends of a histogram, by legend."""
    return {
        name: f"histogram_quantile({part}, sum by (le) (rate({metric}_bucket{{{select}}}{WINDOW})))"
        for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }


def slow(metric: str, select: str, by: str, part: float = 0.95) -> str:
    """Returns a slow end of a histogram, by a label."""
    return f"histogram_quantile({part}, sum by (le, {by}) (rate({metric}_bucket{{{select}}}{WINDOW})))"


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""
