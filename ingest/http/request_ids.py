"""Names of requests, in `X-Request-Id` of every answer and in the log."""

from __future__ import annotations

import os
from itertools import count

_PROCESS = os.urandom(5).hex().encode()
_next_number = count(1).__next__


def new_request_id() -> bytes:
    """Returns the name of one answer, in `X-Request-Id` and in the log: the process and a number."""
    return b"%b-%x" % (_PROCESS, _next_number())
