"""Plants a secret in every option of a plug-in that is marked as one; made from its options, so a new plug-in needs no line here."""

from __future__ import annotations

import base64
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import yaml

from shared.plugins import secret_options
from tests.meta.pages import ROOT, fences

PLANT = "Planted/7c1f+a93e&Zq"
"""With characters that addresses and forms encode."""
PLAIN = "Planted7c1fa93eZq0123456789abcdef"
"""For options that take no other characters."""
_HTTP = ("url", "endpoint", "endpoint_url", "base_url", "schema_registry", "schema_registry_url")
_SERVERS = ("bootstrap_servers", "servers", "server")


def forms(secret: str) -> list[bytes]:
    """Returns the forms in which a secret could be told."""
    coded = base64.b64encode(secret.encode())[:-4]
    return [secret.encode(), quote(secret, safe="").encode(), coded, secret.replace("/", "\\/").encode()]


def entry_of(kind: str, name: str) -> dict[str, Any]:
    """Returns an entry of a type as its page shows it; only the type, if it shows none."""
    page = ROOT / "docs" / kind / f"{name}.md"
    for fence in fences(page) if page.exists() else ():
        document = yaml.safe_load(fence.body) if fence.language == "yaml" else None
        for part in document.values() if isinstance(document, dict) else ():
            for each in part.values() if isinstance(part, dict) else ():
                if isinstance(each, dict) and each.get("type") == name:
                    return dict(each)
    return {"type": name}


def planted(kind: str, name: str, options: type[msgspec.Struct], *, port: int, secret: str, folder: Path) -> dict[str, Any]:
    """Returns an entry whose secret options hold `secret`, and whose addresses are a port of this machine.

    Args:
        kind: the part of the project file, such as `destinations`.
        name: the type.
        options: of the type.
        port: where each server of the entry is.
        secret: to plant.
        folder: for paths.
    """
    hints = typing.get_type_hints(options, include_extras=True)
    marked = secret_options(options)
    entry = {key: _without_variables(value) for key, value in entry_of(kind, name).items()}
    for option in marked:
        entry[option] = _filled(hints[option], secret)
    for option in hints:
        scheme = {"postgres": "postgresql"}.get(name, name)
        if option == "dsn":
            entry[option] = f"{scheme}://someone:{quote(secret, safe='')}@127.0.0.1:{port}/db"
        elif option in marked and option in _HTTP and (shown := str(entry_of(kind, name).get(option, ""))).startswith("https://"):
            entry[option] = f"{shown.rpartition('/')[0]}/{quote(secret, safe='')}"  # some take the hosts of a vendor only
        elif option in _HTTP:
            entry[option] = f"http://127.0.0.1:{port}/" + (quote(secret, safe="") if option in marked else "")
        elif option in _SERVERS:
            written = entry.get(option)
            address = f"mqtt://127.0.0.1:{port}" if name == "mqtt" else f"127.0.0.1:{port}"
            entry[option] = [address] if isinstance(written, list) else address
        elif option == "access_key_id":
            entry[option] = "AKIA0123456789"
        elif option == "host":
            entry[option] = "127.0.0.1"
        elif option == "port":
            entry[option] = port
        elif option == "path" and not str(entry.get("path", "")).startswith("http"):
            entry[option] = str(folder / "file")
    if "dsn" in hints:  # either an address, or its parts
        for option in ("host", "port", "password", "user", "database"):
            entry.pop(option, None)
    if "connection_string" in hints:  # three ways to log in, of which an entry has one
        for option in ("account_key", "connection_string"):
            entry.pop(option, None)
    if "s3" in entry:
        entry.pop("path", None)
    return entry


def _filled(type_: Any, secret: str) -> Any:
    """Returns a value of a type, with the secret in each place of a text."""
    origin, of = typing.get_origin(type_), typing.get_args(type_)
    if origin is typing.Annotated:
        return _filled(of[0], secret)
    if origin in (typing.Union, types.UnionType):
        return _filled(next(each for each in of if each is not type(None)), secret)
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        config = type_.__struct_config__
        found = {config.tag_field: config.tag} if config.tag_field else {}
        hints = typing.get_type_hints(type_, include_extras=True)
        return found | {
            field.name: _filled(hints[field.name], secret)
            for field in msgspec.structs.fields(type_)
            if field.required or field.name in secret_options(type_) or field.name == "access_key_id"
        }
    if origin in (dict, Mapping) or getattr(origin, "__name__", "") == "Mapping":
        return {"X-Credential": secret}
    if origin in (list, tuple):
        return [secret]
    return secret


def _without_variables(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("${"):
        return "x1234567"
    if isinstance(value, dict):
        return {key: _without_variables(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_variables(each) for each in value]
    return value
