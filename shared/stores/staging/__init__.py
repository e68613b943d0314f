"""A staging store: where rows wait as objects until a warehouse has pulled them in, such as with `COPY` or a load job.

    store = await environment.open_staging(options.staging, 'redshift destination "wh"')
    area = await store.claim(connection, epoch)                # once a session; ends uploads of older holders, sweeps leftovers
    staged = await area.put(plan.batch, "orders-0.parquet", write)
    ...                                                        # the warehouse reads staged.url or staged.address
    await area.remove(plan.batch)                              # after the commit

An object's key is made of the connection, the plan of the load, its name, and a hash of its bytes:

    <root><connection>/<plan>/<name>-<hash>.parquet

So a repeat of a load finds what an earlier attempt has sent and sends it no second time; other bytes under the same plan, because a
table has changed since, are another object. `remove` takes all objects of a plan, also those of attempts that were killed. What is
left of plans that no loader repeats goes once it is older than `keep` (`area.py`).

It makes nothing durable and decides nothing: ledger, token or job id of the warehouse say whether a load is committed.
"""

from __future__ import annotations

from pathlib import Path

from shared.scratch import Scratch
from shared.stores import s3
from shared.stores.local import LocalStore
from shared.stores.s3.keys import Keys
from shared.stores.staging.area import Staged, Staging, StagingArea
from shared.stores.staging.options import LocalStaging, S3Staging, StagingOptions
from shared.threads import ThreadGate

__all__ = ["Keys", "LocalStaging", "S3Staging", "Staged", "Staging", "StagingArea", "StagingOptions", "open_staging"]


async def open_staging(options: StagingOptions, gate: ThreadGate, scratch: Scratch, what: str) -> Staging:
    """Returns the staging store of a destination. No request is made.

    Args:
        options: where it is.
        gate: for all that blocks.
        scratch: for objects that do not fit into memory.
        what: the destination's name in messages, such as `clickhouse destination "wh"`.

    Raises:
        SetupError: the driver is not installed, or the settings of the machine are wrong.
    """
    what = f"staging of {what}"
    match options:
        case S3Staging():
            bucket = await s3.open_store(options, options.root, gate, what)
            lend = bucket.keys if options.lend_keys else None
            return Staging(
                store=bucket, locate=bucket.locate, lend=lend, gate=gate, scratch=scratch, keep=options.keep, what=what
            )
        case LocalStaging():
            root = await gate.run(lambda: Path(options.path).expanduser().resolve())
            folder = LocalStore(root, gate, what)
            return Staging(
                store=folder, locate=folder.locate, lend=None, gate=gate, scratch=scratch, keep=options.keep, what=what
            )
