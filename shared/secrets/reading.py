"""Reads the secrets that a document refers to: each time a destination is opened, so a changed secret needs no restart.

Nothing is kept but the last values of each reference, to hide them in messages (`seen`). A failed login closes a destination; the next try
opens it again, with the value of that moment.
"""

from __future__ import annotations

import http.client
import json
import shlex
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from shared.errors import NotConnected, PenstockError, SetupError
from shared.secrets.references import Reference, references_in, with_values
from shared.settings import read_settings

PREFIX, VAULT_PREFIX = "PENSTOCK_SECRETS_", "VAULT_"
MOST_BYTES = 64 * 1024
PATIENCE_SECONDS = 10.0
REMEMBERED = 4
"""Values of a reference that are hidden in messages: the newest ones."""

_seen: dict[Reference, deque[str]] = {}


class SecretsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where secrets may come from, prefix `PENSTOCK_SECRETS_`."""

    folders: Annotated[str, Meta(description="folders, separated by colons, below which `${file:…}` may read")] = "/run/secrets"
    commands: Annotated[bool, Meta(description="whether `${command:…}` may run programs on this machine")] = False


class VaultSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The vault of `${vault:…}`, by the variables that its own tools read, prefix `VAULT_`."""

    addr: Annotated[str, Meta(description="address of the vault of `${vault:…}`, such as https://vault.example.com:8200")] = ""
    token: Annotated[str, Meta(description="its token")] = ""
    token_file: Annotated[str, Meta(description="or a file with the token, read at each use")] = ""
    namespace: Annotated[str, Meta(description="its namespace, if it has several")] = ""


def reveal(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a document with the secrets that it refers to; blocks if it refers to any.

    Raises:
        SetupError: a secret is not there, or may not be read.
        NotConnected: the vault does not answer.
    """
    values = {reference: _read(reference) for reference in references_in(dict(document))}
    for reference, value in values.items():
        known = _seen.setdefault(reference, deque(maxlen=REMEMBERED))
        if value not in known:
            known.append(value)
    revealed: dict[str, Any] = with_values(dict(document), values.__getitem__) if values else dict(document)
    return revealed


def seen(document: Mapping[str, Any]) -> list[str]:
    """Returns the last values of the references in a document, to hide them in messages; empty if none was read."""
    return [value for reference in references_in(dict(document)) for value in tuple(_seen.get(reference, ()))]


def _read(reference: Reference) -> str:
    try:
        value = _READERS[reference.kind](reference.where)
    except PenstockError:
        raise
    except (OSError, UnicodeError, ValueError, subprocess.SubprocessError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else type(exc).__name__
        raise SetupError(f"the secret {reference} cannot be read: {reason}") from None
    if not value:
        raise SetupError(f"the secret {reference} is empty")
    return value


def secret_folders() -> list[Path]:
    """Returns the folders below which secrets lie."""
    return [Path(folder).resolve() for folder in read_settings(SecretsSettings, PREFIX).folders.split(":") if folder]


def _of_file(where: str) -> str:
    path = Path(where).resolve()
    folders = secret_folders()
    if not any(path.is_relative_to(folder) for folder in folders):
        raise SetupError(f"the secret ${{file:{where}}} is outside of {PREFIX}FOLDERS ({':'.join(map(str, folders))})")
    with path.open("rb") as file:
        return _text(file.read(MOST_BYTES + 1))


def _of_command(where: str) -> str:
    if not read_settings(SecretsSettings, PREFIX).commands:
        raise SetupError(f"${{command:…}} runs no program here; an operator allows it with {PREFIX}COMMANDS=true")
    words = shlex.split(where)
    if not words:
        raise SetupError("${command:…} names no program")
    done = subprocess.run(  # noqa: S603 - the author of the project file is trusted, and an operator allowed it
        words, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_SECONDS, check=False
    )
    if done.returncode:
        raise SetupError(f"the command of a secret, {words[0]}, ended with {done.returncode}")
    return _text(done.stdout)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the request has a token, and urllib would carry it to any host."""

    def redirect_request(self, *_: Any) -> None:
        return None


_VAULT = urllib.request.build_opener(_NoRedirects)


def _of_vault(where: str) -> str:
    """Reads `path#key` of a KV engine, version 1 or 2 (https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#read-secret-version)."""
    settings = read_settings(VaultSettings, VAULT_PREFIX)
    path, _, key = where.partition("#")
    if not settings.addr.startswith(("http://", "https://")):
        raise SetupError(f"the secret ${{vault:{where}}} needs VAULT_ADDR, an http or https address")
    token = Path(settings.token_file).read_text().strip() if settings.token_file else settings.token
    headers = {"X-Vault-Token": token, "X-Vault-Request": "true"}
    if settings.namespace:
        headers["X-Vault-Namespace"] = settings.namespace
    address = f"{settings.addr.rstrip('/')}/v1/{urllib.parse.quote(path.strip('/'))}"
    try:
        with _VAULT.open(urllib.request.Request(address, headers=headers), timeout=PATIENCE_SECONDS) as answer:  # noqa: S310
            found = json.loads(answer.read(1024 * 1024))
    except urllib.error.HTTPError as exc:
        if 300 <= exc.code < 400:
            raise SetupError(
                "the vault sends to another address, which gets no token; set VAULT_ADDR to the active node"
            ) from None
        raise (NotConnected if exc.code >= 500 or exc.code == 429 else SetupError)(
            f"the vault answers {exc.code} for {path}; look at the token's policy and the path"
        ) from None
    except http.client.InvalidURL as exc:
        raise SetupError(f"VAULT_ADDR is no address: {exc}") from None
    except (OSError, http.client.HTTPException) as exc:  # `HTTPException` is no `OSError`: a server that speaks something else
        reason = getattr(exc, "reason", "") or str(exc) or type(exc).__name__
        raise NotConnected(f"the vault at VAULT_ADDR does not answer: {reason}") from None
    data = found.get("data") if isinstance(found, dict) else None
    if isinstance(data, dict) and isinstance(data.get("data"), dict) and "metadata" in data:
        data = data["data"]
    value = data.get(key or "value") if isinstance(data, dict) else None
    if not isinstance(value, str):
        raise SetupError(f"the vault has no text {key or 'value'!r} at {path}")
    return value


def _text(data: bytes) -> str:
    if len(data) > MOST_BYTES:
        raise SetupError(f"a secret has more than {MOST_BYTES} bytes")
    return data.decode().removesuffix("\n").removesuffix("\r")


_READERS = {"file": _of_file, "vault": _of_vault, "command": _of_command}
