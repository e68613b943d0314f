"""Any HTML or script, put into the page for each event. It needs no vendor and no network of its own.

`{{ event }}`, `{{ event.properties.total }}` and so on stand for values of the event: JSON in a script and in attributes such as
`onclick`, text elsewhere, percent-encoded inside an address. The page's script puts them into the parsed document, never into
markup, so the value of an event cannot become an element or a script.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from shared.errors import Problem

HOSTS = ()

_HOLE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_PATH = re.compile(r"\s*event(\.[A-Za-z0-9_$ -]+)*\s*")
_SCRIPT = re.compile(r"<script\b[^>]*>(.*?)</script|\son[a-z]+\s*=\s*'([^']*)'", re.IGNORECASE | re.DOTALL)
_WORDS = re.compile(r"//[^\n]*|/\*.*?\*/|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`|(\"(?:\\.|[^\"\\\n])*\")", re.DOTALL)
"""Comments and texts of JavaScript; the group is a text in double quotes. It may err on a regular expression that has a quote."""
_SRCDOC = re.compile(r"srcdoc\s*=\s*(\"[^\"]*\{\{|'[^']*\{\{|[^\s\"'>]*\{\{)", re.IGNORECASE)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may write for a tag."""

    html: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="HTML that is added to the page for each event; its scripts run"),
    ] = None
    script: Annotated[
        Annotated[str, Meta(min_length=1)] | None, Meta(description="JavaScript that runs for each event; `event` is the event")
    ] = None
    load: Annotated[
        Annotated[str, Meta(min_length=1)] | None, Meta(description="HTML that is added to the page once, before the first event")
    ] = None
    revoke: Annotated[
        Annotated[str, Meta(min_length=1)] | None, Meta(description="JavaScript that runs when the visitor takes consent back")
    ] = None


OPTIONS = Options


def check(path: str, options: Options) -> list[Problem]:
    """Returns what is wrong with the options."""
    problems: list[Problem] = []
    if not options.html and not options.script:
        problems.append(Problem(path, "expected `html` or `script`: what the page does with an event"))
    for name in ("html", "script", "load"):
        text = getattr(options, name) or ""
        for found in _HOLE.finditer(text):
            if not _PATH.fullmatch(found[1]):
                text_of = f"expected a path into the event such as {{{{ event.properties.total }}}}, got {found[0]!r}"
                problems.append(Problem(f"{path}.{name}", text_of))
        scripts = [text] if name == "script" else [found[1] or found[2] or "" for found in _SCRIPT.finditer(text)]
        for quoted in (found[1] for script in scripts for found in _WORDS.finditer(script)):
            if quoted and _HOLE.search(quoted):
                meant = "a value comes with quotes of its own, and would end this text; write it without quotes around, or join with +"
                problems.append(Problem(f"{path}.{name}", f"{meant}: {quoted[:100]}"))
        if name != "script" and _SRCDOC.search(text):
            problems.append(
                Problem(f"{path}.{name}", "`srcdoc` takes no value of an event, it would become markup; use a script instead")
            )
    if options.load and "{{" in options.load:
        problems.append(Problem(f"{path}.load", "is added once, before any event, so it holds no `{{ event }}`"))
    if options.revoke and "{{" in options.revoke:
        problems.append(Problem(f"{path}.revoke", "runs for no event, so it holds no `{{ event }}`"))
    return problems
