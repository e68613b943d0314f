"""Judges dead letters of the edge and of feeds again, by the present rules of their protocol or feed."""

from __future__ import annotations

import uuid
from typing import NamedTuple

from connector_runner.feeds.registry import parse_feed
from connector_runner.feeds.rules.letters import STAGE, shape_again
from ingest.contract import Admission, Parsed
from ingest.registry import protocol_of
from ingest.trackers.schemas import schemas_of
from shared.errors import ConfigError
from shared.events.dead import DeadLetter
from shared.events.frame import Head
from shared.events.outcome import Dead
from shared.project.model import Project, Site
from shared.secrets.references import with_placeholders

JUDGED = ("ingest", STAGE)
"""Stages whose letters are no events yet."""

LARGEST_BYTES = 1024 * 1024 - 64 * 1024
"""The largest event that a broker takes by default, with room for its frame."""


class Refusal(NamedTuple):
    """Why a letter is refused again."""

    reason: str
    detail: str


def judge_again(letter: DeadLetter, project: Project) -> tuple[Head, bytes] | Refusal:
    """Returns head and body of a letter as its protocol or its feed accepts it now, or why it is refused."""
    site = project.sites.get(letter.site, Site())
    return _of_feed(letter, project, site) if letter.stage == STAGE else _of_edge(letter, site)


def _of_edge(letter: DeadLetter, site: Site) -> tuple[Head, bytes] | Refusal:
    admission = Admission(
        site=letter.site,
        key="",
        kind="server",
        limits=site.limits,
        require_id=site.require_id,
        ip=site.ip,
        snowplow=site.snowplow,
        schemas=schemas_of(Project(sites={letter.site: site})).get(letter.site),
    )
    parsed = Parsed(admission)
    # the same id however often a replay is repeated
    made = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{letter.origin}.{letter.at}"))
    protocol = protocol_of(letter.request.protocol if letter.request else None)
    protocol.judge_again(parsed, letter.body, letter.form, lambda: letter.message_id or made)
    if parsed.heads:
        return parsed.heads[0], parsed.bodies[0]
    return Refusal(str(parsed.rejects[0].reason), parsed.rejects[0].detail)


def _of_feed(letter: DeadLetter, project: Project, site: Site) -> tuple[Head, bytes] | Refusal:
    name = letter.request.key if letter.request else ""
    document = project.feeds.get(name)
    if document is None:
        return Refusal(letter.reason, f'the feed "{name}" left the project, so nothing says how its records are read')
    try:
        _, rules, _ = parse_feed(name, with_placeholders(document))
    except ConfigError as exc:
        return Refusal(letter.reason, f"the feed cannot be read by this version: {exc}")
    found = shape_again(letter, rules, site.limits, LARGEST_BYTES)
    return Refusal(str(found.reason), found.detail) if isinstance(found, Dead) else found
