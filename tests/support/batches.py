"""A client of the trial's edge: batches that are sent until they are acknowledged, and the ids of acknowledged ones."""

from __future__ import annotations

import itertools
import json
import ssl
import threading
import time
import urllib.request

BATCH = 50
PAUSE_SECONDS = 0.2
UNVERIFIED = ssl._create_unverified_context()  # the edge's certificate is made for the trial


class Sender:
    """Sends batches of events to an edge or its balancer until it is told to end, each until it is acknowledged; a repeat has the same ids."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sent: list[str] = []
        """Ids that were acknowledged."""
        self.repeats = 0
        self._longest = 0.0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._send_all, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def wait_for(self, batches: int, seconds: float = 180.0) -> None:
        """Waits until so many batches more are acknowledged."""
        wanted, end = len(self.sent) + batches * BATCH, time.monotonic() + seconds
        while len(self.sent) < wanted:
            if time.monotonic() > end:
                raise SystemExit(f"{wanted - len(self.sent)} events more were not acknowledged within {seconds:.0f} s")
            time.sleep(0.05)

    def gap(self) -> float:
        """Returns the longest time in seconds without an acknowledgement since it was asked last."""
        longest, self._longest = self._longest, 0.0
        return longest

    def end(self) -> set[str]:
        """Ends; returns all ids that were acknowledged."""
        self._ending.set()
        self._thread.join()
        return set(self.sent)

    def _send_all(self) -> None:
        last = time.monotonic()
        for number in itertools.count():
            if self._ending.is_set():
                return
            ids = [f"m-{number}-{each}" for each in range(BATCH)]
            events = [
                {"type": "track", "event": "Tried", "userId": f"u{each}", "messageId": each, "properties": {"n": number}}
                for each in ids
            ]
            body = json.dumps({"batch": events}).encode()
            request = urllib.request.Request(
                f"{self.url}/v1/batch",
                body,
                {"content-type": "application/json", "authorization": "Basic c2hvcC13ZWI6"},
            )
            while True:
                try:
                    with urllib.request.urlopen(request, timeout=15, context=UNVERIFIED) as answer:
                        if answer.status == 200:
                            break
                except OSError:
                    self.repeats += 1
                    time.sleep(0.2)
            self.sent += ids
            self._longest, last = max(self._longest, time.monotonic() - last), time.monotonic()
            self._ending.wait(PAUSE_SECONDS)
