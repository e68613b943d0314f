"""Exit codes of the command, one meaning each."""

from __future__ import annotations

from shared.errors import ConfigError, Conflict, PenstockError, SetupError, Transient

OK = 0
NO = 1
"""The command worked, and its answer is no: a check failed, events were refused, something is not healthy."""
WRONG_INPUT = 2
"""Wrong usage or a wrong project file; nothing was changed."""
UNREACHABLE = 3
"""A server does not answer; trying again may help."""
SETUP = 4
"""A person must change something first: no stack runs, a file is missing, a port is taken."""
CONFLICT = 5
"""Another person changed the project first; look again."""
PARTIAL = 6
"""Part of the work failed, and the rest is done."""
CANCELLED = 7
"""A person ended it before its end."""
TIMED_OUT = 8
"""It took longer than it may."""
INTERRUPTED = 130

MEANINGS = {
    OK: "done",
    NO: "the answer is no: a check failed, events were refused, something is not healthy",
    WRONG_INPUT: "wrong usage or a wrong project file; nothing was changed",
    UNREACHABLE: "a server does not answer; trying again may help",
    SETUP: "a person must change something first",
    CONFLICT: "another person changed the project first; look again",
    PARTIAL: "part of the work failed, and the rest is done: some streams of a run",
    CANCELLED: "a person ended it before its end",
    TIMED_OUT: "it took longer than it may",
    INTERRUPTED: "interrupted",
}


def exit_code(error: PenstockError) -> int:
    """Returns the exit code an error ends the command with."""
    match error:
        case ConfigError():
            return WRONG_INPUT
        case Transient():
            return UNREACHABLE
        case SetupError():
            return SETUP
        case Conflict():
            return CONFLICT
        case _:
            return NO
