"""What a bucket keeps of replaced and removed objects: versions, and locks that keep them for a time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from shared.errors import PenstockError, SetupError

if TYPE_CHECKING:
    from shared.stores.s3 import S3Store

REMEDY = (
    "remove them with `aws s3api list-object-versions` and `delete-object --version-id`, or let a lifecycle rule "
    "NoncurrentVersionExpiration end them"
)


async def kept_versions(store: S3Store, root: str) -> str:
    """Returns what the bucket keeps, as `KeepsVersions` says; `root` is the prefix of the store's keys."""
    where = f"the bucket {store.options.bucket}" + (f" below {root}" if root else "")
    try:
        answer = await store.call("get_bucket_versioning", "looking at the versioning of the bucket")
    except SetupError:
        return f"whether {where} keeps old versions is unknown, because this user may not ask (s3:GetBucketVersioning). If it does, {REMEDY}"
    if answer.get("Status") not in ("Enabled", "Suspended"):
        return ""
    locked = ""
    with contextlib.suppress(PenstockError):  # a bucket without locks answers with an error
        found = await store.call("get_object_lock_configuration", "looking at the locks of the bucket")
        rule = found.get("ObjectLockConfiguration", {}).get("Rule", {}).get("DefaultRetention", {})
        if rule:
            time = f"{rule['Days']} days" if "Days" in rule else f"{rule.get('Years')} years"
            locked = f"; its lock ({rule.get('Mode')}) keeps each for {time} first"
    return f"{where} keeps old versions of rewritten objects: {REMEDY}{locked}"
