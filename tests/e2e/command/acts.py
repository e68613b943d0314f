"""What tests of the command do with a stack: change its project, send events."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import yaml

from tests.support.command import Done, LocalStack


def changed(stack: LocalStack, name: str, **changes: Any) -> Path:
    """A copy of the project in which connection `shop-live` differs."""
    document = yaml.safe_load(stack.project.read_text())
    document["connections"]["shop-live"].update(changes)
    file = stack.folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def send(stack: LocalStack, *events: object) -> Done:
    lines = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    return stack.run("send", "-", "--key", "shop-web", "--json", stdin=b"\n".join(lines))


def page(**fields: Any) -> dict[str, Any]:
    return {"type": "page", "name": "Tea", "userId": "u", "messageId": uuid.uuid4().hex, **fields}


def revision(stack: LocalStack) -> int:
    return int(stack.run("status", "--json").json["revision"])
