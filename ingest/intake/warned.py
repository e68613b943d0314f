"""What the edge shows and counts for warnings, which is rare."""

from __future__ import annotations

from ingest.contract import Parsed
from shared.telemetry.metrics import Telemetry


def note_oddities(telemetry: Telemetry, parsed: Parsed) -> None:
    """Counts what was odd in a request that was accepted."""
    site = parsed.admission.site
    if parsed.repaired:
        telemetry.count("ingest_events_repaired_total", parsed.repaired, site=site)
    if parsed.made_ids:
        telemetry.count("ingest_ids_made_total", parsed.made_ids, site=site)
    if parsed.unknown_schemas:
        telemetry.count("ingest_schemas_unknown_total", parsed.unknown_schemas, site=site)
    if parsed.unfit:
        telemetry.count("ingest_schemas_violated_total", parsed.unfit, site=site)
    for reason in parsed.ignored:
        telemetry.count("ingest_members_ignored_total", site=site, reason=reason)


def note_skew(telemetry: Telemetry, parsed: Parsed, skew: int | None) -> None:
    """Counts a request whose times stay as sent; shows how far its clock is off, and no text of the client.

    Args:
        skew: microseconds that the clock is behind; None: `sentAt` is no time.
    """
    site, key = parsed.admission.site, parsed.admission.key
    telemetry.count("ingest_skew_ignored_total", site=site)
    off = "sentAt is no time"
    if skew is not None:
        off = f"the clock is {abs(skew) / 1e6:.0f} s {'behind' if skew > 0 else 'ahead'}"
    telemetry.show("ingest_skew_ignored_total", f"{off}; key {key}", site=site)


def note_cut(telemetry: Telemetry, parsed: Parsed, largest: int) -> None:
    """Counts rejected events of which dead letters keep only the beginning."""
    if cut := sum(len(reject.body) > largest for reject in parsed.rejects):
        telemetry.count("ingest_texts_cut_total", cut, site=parsed.admission.site, reason="dead_letter")
