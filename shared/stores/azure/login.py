"""Which account is meant, and by which right. Pure.

https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from shared.errors import SetupError
from shared.stores.azure.options import AzureOptions

EMULATOR = "devstoreaccount1"
# the emulator's key is the same on every machine and public
_EMULATOR_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True, slots=True)
class Login:
    """An account's address, and its key or a signature; no message shows the secrets."""

    endpoint: str
    account: str
    key: str | None = field(default=None, repr=False)
    sas: str | None = field(default=None, repr=False)


def login_of(options: AzureOptions) -> Login:
    """Returns the login that the options mean.

    Raises:
        SetupError: the connection string is none, or lacks a part.
    """
    if options.connection_string is None:
        account = options.account or ""
        endpoint = options.endpoint_url or f"https://{account}.blob.core.windows.net"
        return _checked(Login(endpoint.rstrip("/"), account, options.account_key, _bare(options.sas_token)))
    parts = _parts(options.connection_string)
    if parts.get("usedevelopmentstorage", "").lower() == "true":
        return Login(f"http://127.0.0.1:10000/{EMULATOR}", EMULATOR, _EMULATOR_KEY)
    account, key, sas = parts.get("accountname", ""), parts.get("accountkey"), _bare(parts.get("sharedaccesssignature"))
    blobs = parts.get("blobendpoint", "").rstrip("/")
    if not blobs and account:
        suffix = parts.get("endpointsuffix", "core.windows.net")
        blobs = f"{parts.get('defaultendpointsprotocol', 'https')}://{account}.blob.{suffix}"
    if not blobs or not (sas or (account and key)):
        raise SetupError(
            "connection_string: expected AccountName and AccountKey, or BlobEndpoint and SharedAccessSignature, as the portal shows it"
        )
    return _checked(Login(blobs, account, None if sas else key, sas))


def _checked(login: Login) -> Login:
    try:
        base64.b64decode(login.key or "", validate=True)
    except ValueError:
        raise SetupError("the account's key is not base64; copy it whole from the portal") from None
    return login


def _parts(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.strip().split(";") if part.strip())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _bare(sas: str | None) -> str | None:
    return sas.lstrip("?") if sas else None
