"""The contract of device destinations: vendors' scripts that run in the visitor's browser.

A device destination is two files in `shared/devices/kinds/`. The Python file says what a user may write in the project file:

    OPTIONS: type[msgspec.Struct]       the options; every visitor of the site can read them, so none is a secret
    HOSTS: tuple[str, ...]              origins that a page's Content-Security-Policy must allow, such as `https://*.vendor.com`
    def check(path, options) -> list[Problem]      faults that the types of the options do not show; pure
    ONE_A_PAGE: str                     optional: the option of which a page has one value; `penstock plan` warns of a second on a site

The script beside it is an ES module of the same name:

    export function load(options, tools) -> handle          may return a promise of it
    handle(event) -> anything                               may return a promise
    handle.reset()                                          optional: the visitor is another one from here, `analytics.reset()`
    handle.consent(may, granted)                            optional: what the visitor grants from here, `analytics.consent(…)`

`may` says whether the visitor still grants every category of the connection; while it is false no event comes. `granted` is true, false
or an object of categories. The page tells a device that is loaded, in turn, at each decision, also if nothing changes. A device tells its
vendor to stop, and to go on. Where the vendor has no public call for it, the page of the device in `docs/devices/` says so.

`options` is the Struct as JSON, without the options that have their defaults of None. The page's script calls `load` once a page,
when the first event for the device waits. It then calls `handle` with each event once, in the order of the calls of the page, and
waits for a returned promise before the next one. What either throws is told on the console, and nobody else suffers: an event on
which `handle` throws is not given again, and a device whose `load` fails gets nothing in this page.

An event comes only where the connection is enabled and its `where`, its consent categories and the event's `integrations` let it
pass. `event` is a copy that the device may change. `tools` is all that a device may use of the page's script:

    tools.script(url, attributes)       adds a script of the vendor with the page's nonce; a promise that it has run
    tools.trusted(kind, text)           a text of `options` for a place that trusted types guard: "HTML", "Script" or "ScriptURL"
    tools.nonce                         nonce of the page's Content-Security-Policy, "" where there is none
    tools.log(...)                      tells the console, in debug mode only
    tools.user()                        {userId, anonymousId, traits}

A vendor's script is loaded once even where two connections name the same one, and it must not be loaded before `load`: a visitor who
does not consent must not meet it.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from shared.errors import Problem


class Device(Protocol):
    """A module of `shared/devices/kinds/`."""

    OPTIONS: type[msgspec.Struct]
    HOSTS: tuple[str, ...]

    def check(self, path: str, options: Any) -> list[Problem]:
        """Returns the faults of options that decode, each with its path (below `path`) and the remedy."""
        ...
