"""An index of keys and domains, which finds a request's site; built once per revision of the project.

Pure except for the counters. A new index replaces the old one when the project changes, so a request sees one revision. A key
with a secret opens its site only as `id:secret`; the index has SHA-256 hashes of secrets and compares them in constant time.

If a request carries several keys, the strongest carrier wins (order of `contract.Carrier`). Two exceptions: a Bearer token that
is no key is an OAuth token and does not count, and a host name counts only if there is no key. The address of a webhook opens its
site for its own protocol alone, which then verifies the sender.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from ingest.contract import Admission, Credential, Hook, Refusal
from ingest.lookups import Checks
from ingest.webhooks.hook import hooks_of
from shared.project.model import Key, Project, Site, SiteLimits
from shared.project.snapshot import HASH_PREFIX
from shared.project.webhooks import address_id
from shared.reading.units import ByteSize

NO_SCHEMAS: Mapping[str, Checks] = MappingProxyType({})

_NO_KEY = Refusal(401, "missing_key", "no write key: send it as Basic user, X-Write-Key, `writeKey` in the body or the query")

_NO_HOOK = Refusal(404, "unknown_webhook", "no webhook of the project has this address")

_NO_PROJECT = Refusal(503, "unavailable", "no project is known yet: none is applied, or the broker is away", retry_after=2)


@dataclass(frozen=True, slots=True)
class _Entry:
    site_name: str
    site: Site
    key: Key | None
    digest: bytes | None
    admission: Admission


MASKED = ":***"
"""What Jitsu's SDK writes in place of the secret into each event, beside the whole key in a header."""


class KeyIndex:
    """Keys and domains of one revision of the project."""

    def __init__(
        self,
        project: Project | None,
        largest_event: int | None = None,
        hooks: Mapping[str, Hook] | None = None,
        schemas: Mapping[str, Checks] = NO_SCHEMAS,
    ) -> None:
        """
        Args:
            project: None while none is known: then no client hears that its key is wrong, because clients give up on that.
            largest_event: the most that one message of the broker can hold, whatever the sites allow.
            hooks: the webhooks by name, with their secrets; None: the project refers to none.
            schemas: of sites that have a folder of them.
        """
        self._known = project is not None
        project = project or Project()
        self._by_id: dict[str, _Entry] = {}
        self._by_host: dict[str, _Entry] = {}
        """By domain, and by a path of the site's own, which begins with a slash."""
        self.paths: dict[str, str] = {}
        """The sites' own paths, and what each takes."""
        self._hooks: dict[str, _Entry] = {}
        """Webhooks by their ids."""
        self._proven: dict[str, _Entry] = {}
        """Correct pairs of id and secret that came before: at most one for each key, hashed once a revision."""
        self.sites = project.sites
        for name, site in project.sites.items():
            for key in site.keys:
                self._by_id[key.id] = _entry(
                    name=name, site=site, key=key, largest_event=largest_event, schemas=schemas.get(name)
                )
            if site.domains or site.snowplow.paths:
                browser = next((key for key in site.keys if key.kind == "browser" and not key.secret), None)
                entry = _entry(name=name, site=site, key=browser, largest_event=largest_event, schemas=schemas.get(name))
                self._by_host.update(dict.fromkeys([*map(str.lower, site.domains), *site.snowplow.paths], entry))
                self.paths.update(site.snowplow.paths)
        hooks = hooks_of(project) if hooks is None else hooks
        for name, webhook in project.webhooks.items():
            self._hooks[address_id(name, webhook)] = _of_hook(
                name=name, site_name=webhook.site, site=project.sites[webhook.site], hook=hooks[name], largest_event=largest_event
            )
        limits = [int(site.limits.request_bytes) for site in project.sites.values()] or [8 * 2**20]
        self.smallest_request, self.largest_request = min(limits), max(limits)

    def admit(self, credentials: Sequence[Credential]) -> tuple[Admission, bool] | Refusal:
        """Returns (admission, whether carriers disagree), or the reason why no site opens.

        Args:
            credentials: in any order; their carriers decide.
        """
        if not self._known:
            return _NO_PROJECT
        chosen: _Entry | None = None
        refusal: Refusal | None = None
        stranger: Refusal | None = None
        disagree = False
        for credential in sorted(credentials, key=_strength) if len(credentials) > 1 else credentials:
            if credential.carrier == "webhook":
                chosen = self._hooks.get(credential.value)
                if chosen is None:
                    return _NO_HOOK
                continue
            if credential.carrier == "host":
                if chosen is None and refusal is None:
                    chosen = self._by_host.get(credential.value)
                continue
            found = self._look_up(credential.value)
            if chosen is None and refusal is None:
                if isinstance(found, _Entry):
                    chosen = found
                elif credential.carrier != "bearer":
                    refusal = found
                else:
                    stranger = found
            elif (
                chosen is not None
                and found is not chosen
                and (not isinstance(found, _Entry) or found.site_name != chosen.site_name)
                and credential.value != f"{chosen.admission.key}{MASKED}"
            ):
                disagree = True
        if refusal is not None:
            return refusal
        if chosen is None:
            return stranger or _NO_KEY
        if not chosen.site.enabled:
            return Refusal(
                401, "site_disabled", f"site {chosen.site_name!r} is disabled", site=chosen.site_name, key=chosen.admission.key
            )
        return chosen.admission, disagree

    def sender_of(self, credentials: Sequence[Credential]) -> tuple[str | None, str]:
        """Returns the names of site and key under which a refusal is counted; no site if none is known."""
        found = self.admit(credentials)
        sender = found if isinstance(found, Refusal) else found[0]
        return sender.site, sender.key

    def site_of_host(self, host: str) -> str | None:
        """Returns the name of the site that has `host` among its domains."""
        entry = self._by_host.get(host)
        return entry.site_name if entry else None

    def _look_up(self, presented: str) -> _Entry | Refusal:
        entry = self._by_id.get(presented)
        if entry is not None and entry.digest is None:
            return entry
        entry = self._proven.get(presented)
        if entry is not None:
            return entry
        id_, colon, secret = presented.partition(":")
        entry = self._by_id.get(id_)
        if entry is None:
            return Refusal(401, "unknown_key", "the write key is unknown; it may belong to another installation, or be deleted")
        if entry.digest is None:
            # `key:anything`: some clients send a password with a key without secret
            return entry
        if not colon or not secret:
            return Refusal(
                401, "missing_secret", "this key has a secret: send `id:secret`", site=entry.site_name, key=entry.admission.key
            )
        given = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        if hmac.compare_digest(given, entry.digest):
            self._proven[presented] = entry
            return entry
        return Refusal(401, "wrong_secret", "the secret of the key is wrong", site=entry.site_name, key=entry.admission.key)


def _entry(name: str, site: Site, key: Key | None, largest_event: int | None, schemas: Checks | None) -> _Entry:
    digest = _digest(key.secret) if key is not None and key.secret else None
    limits = _limits(site, largest_event)
    admission = Admission(
        site=name,
        key=_masked(key),
        kind=key.kind if key is not None else "browser",
        limits=limits,
        require_id=site.require_id,
        ip=site.ip,
        snowplow=site.snowplow,
        schemas=schemas,
        bucket=f"{name}/{key.id if key is not None else ''}",
    )
    return _Entry(site_name=name, site=site, key=key, digest=digest, admission=admission)


def _of_hook(name: str, site_name: str, site: Site, hook: Hook, largest_event: int | None) -> _Entry:
    admission = Admission(
        site=site_name,
        key=name,
        kind="server",
        limits=_limits(site, largest_event),
        require_id=False,
        bucket=f"{site_name}/webhook {name}",
        hook=hook,
    )
    return _Entry(site_name=site_name, site=site, key=None, digest=None, admission=admission)


def _limits(site: Site, largest_event: int | None) -> SiteLimits:
    if largest_event is None or site.limits.event_bytes <= largest_event:
        return site.limits
    return msgspec.structs.replace(site.limits, event_bytes=ByteSize(largest_event))


def _digest(secret: str) -> bytes:
    if secret.startswith(HASH_PREFIX):
        try:
            return bytes.fromhex(secret.removeprefix(HASH_PREFIX))
        except ValueError:
            return b""  # nothing matches
    return hashlib.sha256(secret.encode()).digest()


def _masked(key: Key | None) -> str:
    """Masks a server key without secret: its id alone opens the site. A browser's key and the id beside a secret are public."""
    if key is None:
        return ""
    if key.kind == "browser" or key.secret:
        return key.id
    return key.id[:4] + "…" if len(key.id) > 8 else "…"


def _strength(credential: Credential) -> int:
    return _STRENGTH[credential.carrier]


_STRENGTH = {"basic": 0, "bearer": 1, "header": 2, "body": 3, "event": 4, "path": 5, "query": 6, "host": 7, "webhook": 8}
