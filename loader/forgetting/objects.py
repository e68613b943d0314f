"""A person in the files of one destination: counted before the queues are waited for, and rewritten behind it.

A load that is under way, or that its loader repeats after a crash, writes objects under the names of its plan. Frames of the person are in
the queue for as long. So behind the wait no load writes an object that holds the person, and the objects can be rewritten. Loads that began
meanwhile are read too: all objects that were written since the count began.
"""

from __future__ import annotations

import time

from loader.contract.forgets import Changed, ForgetsPeopleInObjects
from shared.forget.person import hide
from shared.forget.requests import PartReceipt, Place, Request
from shared.forget.worker import Save

NAMED_FILES = 200
"""Files with a line of their own in the receipt, which is one message of the broker; others are one line together."""
BEFORE_SECONDS = 3600.0
"""Of the clocks of this machine and of a store, which may differ."""
SAVE_SECONDS = 1.0


class ObjectsOfPerson:
    """What one worker knows of the files of a destination.

    Args:
        where: the destination, as the receipt calls it.
        request: what is asked.
    """

    def __init__(self, where: str, request: Request) -> None:
        self._where = where
        self._request = request
        self._left: dict[str, int] = {}
        """Rows of the person by key, of objects that hold some."""
        self._changed: Changed | None = None
        self._saved_at = 0.0

    async def count(self, destination: ForgetsPeopleInObjects, receipt: PartReceipt, save: Save) -> None:
        """Counts rows of the person in all objects. Raises as `forget_in_objects`."""
        began, self._left = time.time(), {}
        async for key, rows, note in destination.forget_in_objects(
            self._request.names, columns=self._request.columns, epoch=0, delete=False
        ):
            if note:
                self._not_searched(receipt, key, note)
            else:
                self._left[key] = rows
        self._changed = Changed(began - BEFORE_SECONDS, self._left)
        self._tell(receipt)
        await self._remains(destination, receipt)
        await save()

    async def rewrite(self, destination: ForgetsPeopleInObjects, receipt: PartReceipt, save: Save, *, epoch: int) -> None:
        """Rewrites the objects that hold rows of the person. Raises as `forget_in_objects`."""
        async for key, rows, note in destination.forget_in_objects(
            self._request.names, columns=self._request.columns, epoch=epoch, delete=True, changed=self._changed
        ):
            if note:
                self._not_searched(receipt, key, note)
                continue
            new = rows > self._left.get(key, 0)
            self._left[key] = rows
            if new or time.monotonic() > self._saved_at + SAVE_SECONDS:  # the number is noted before rows go
                self._tell(receipt)
                await save()
                self._saved_at = time.monotonic()
        gone = [key for key, rows in self._left.items() if not rows]
        for key in gone:
            del self._left[key]
        self._tell(receipt)
        await self._remains(destination, receipt)
        await save()

    def _tell(self, receipt: PartReceipt) -> None:
        """Brings the receipt to what is left now."""
        file, others = f"{self._where}, file ", f"{self._where}, further files"
        own = {where for where, place in receipt.places.items() if where.startswith(file) and place.covered}
        together = 0
        for key, rows in self._left.items():
            where = hide(file + key, self._request.names)
            if where not in own and len(own) >= NAMED_FILES:
                together += rows
                continue
            own.add(where)
            self._look(receipt, where, rows)
        seen = {hide(file + key, self._request.names) for key in self._left}
        for where in own - seen:
            self._look(receipt, where, 0)
        if together or others in receipt.places:
            self._look(receipt, others, together)
        if self._request.verify and not own:
            self._look(receipt, f"{self._where}, all files", 0)

    def _look(self, receipt: PartReceipt, where: str, rows: int) -> None:
        receipt.place(where).look(rows, verify=self._request.verify)

    def _not_searched(self, receipt: PartReceipt, key: str, note: str) -> None:
        where = hide(f"{self._where}, file {key}", self._request.names)
        if where in receipt.places or sum(not place.covered for place in receipt.places.values()) < NAMED_FILES:
            receipt.places[where] = Place(where=where, covered=False, note=note)
        else:
            where = f"{self._where}, further files that were not searched"
            receipt.places[where] = Place(where=where, covered=False, note="more than the receipt names; see the others")

    async def _remains(self, destination: ForgetsPeopleInObjects, receipt: PartReceipt) -> None:
        where = f"{self._where}, old versions"
        if note := await destination.remains():
            receipt.places[where] = Place(where=where, covered=False, note=note)
        else:
            receipt.places.pop(where, None)
