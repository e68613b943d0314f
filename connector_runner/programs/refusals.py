"""What refusals of uv, and errors of a program that does not start, mean, and what a person can do. Pure.

uv tells why no set of packages fits, in sentences that begin with the cause. A program of Python whose environment does not fit it
ends at its first import.
"""

from __future__ import annotations

import re

SAID_CHARACTERS = 1000
"""Of uv's own words; the end of them says most."""
LOCKS = "what was installed stands in `connectors/packages/locks`"
_NO_WHEEL = re.compile(r"Because (?:all versions of )?([A-Za-z0-9._-]+)(?:==\S+)? (?:has|have) no usable wheels")
_NO_PACKAGE = re.compile(r"([A-Za-z0-9._-]+) was not found in the package registry")
_NO_VERSION = re.compile(r"there is no version of ([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)")
_ASKED = re.compile(r"you require ([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s,]+)")
_MISFITS = (
    (
        re.compile(r"No module named '(pkg_resources|setuptools)"),
        'it comes with older releases of setuptools: write `requires: ["setuptools<81"]`',
    ),
    (
        re.compile(r"mutable default .* use default_factory|No module named '(imp|distutils|asyncore|asynchat|cgi)'"),
        'its packages are older than this Python: write `python: "3.10"`, or take a newer version of the connector',
    ),
    (
        re.compile(r"\b(ImportError|ModuleNotFoundError)\b|AttributeError: (partially initialized )?module "),
        (
            "a package that it needs is missing or is of another version than it expects: `requires: [NAME==VERSION]` names one, "
            f"`build: [NAME]` lets uv build one that has no wheel; {LOCKS}"
        ),
    ),
)


def explained(said: str) -> str:
    """Returns uv's words with what they mean for a person before them."""
    asked = _ASKED.search(said)
    wheels = list(dict.fromkeys(_NO_WHEEL.findall(said)))
    hint = ""
    if wheels:
        names = ", ".join(wheels)
        hint = (
            f"{names} {'has' if len(wheels) == 1 else 'have'} no wheel for this interpreter; `build: [{names}]` lets uv build it"
        )
    elif missing := _NO_PACKAGE.search(said):
        hint = f"the index of packages has no {missing[1]}; is the name right? A connector written in Java is an image only"
    elif missing := _NO_VERSION.search(said):
        package, version = missing[1], missing[2]
        if asked is not None and (package, version) != (asked[1], asked[2]):
            hint = f"{asked[1]} {asked[2]} needs {package} {version}, which does not exist; take another version of {asked[1]}"
        else:
            hint = f"{package} has no version {version}; https://pypi.org/project/{package}/#history lists those of PyPI"
    said = said[-SAID_CHARACTERS:]
    return f"{hint} ({said})" if hint else said


def remedy(words: str) -> str:
    """Returns what to do about a program whose environment does not fit it, to put behind its last words; empty: it is another fault."""
    return next((f"; {hint}" for pattern, hint in _MISFITS if pattern.search(words)), "")
