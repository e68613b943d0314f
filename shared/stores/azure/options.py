"""Options of a container, the same in every place that names one."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta, field

from shared.reading.units import Duration

_CONTAINER = re.compile(r"\$root|[a-z0-9](?:-?[a-z0-9]){2,62}")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_ENDPOINT = re.compile(r"https?://[^?#\s@]+")

SECRET = {"secret": True}


class AzureOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container of Azure Blob Storage and how to reach it: with the account's key, with a shared access signature, or with a
    connection string that holds either."""

    container: Annotated[str, Meta(min_length=1, description="the container; it must exist")]
    account: Annotated[str | None, Meta(description="the storage account")] = None
    account_key: Annotated[str | None, Meta(description="one of the account's two keys", extra=SECRET)] = None
    sas_token: Annotated[
        str | None,
        Meta(
            description="a shared access signature of the container or the account, with the rights to read, create, write, delete "
            "and list (`rcwdl`)",
            extra=SECRET,
        ),
    ] = None
    connection_string: Annotated[
        str | None, Meta(description="as the portal shows it, instead of `account`, `account_key` and `sas_token`", extra=SECRET)
    ] = None
    endpoint_url: Annotated[
        str | None,
        Meta(description="address of the account, where it is not `https://<account>.blob.core.windows.net`"),
    ] = None
    timeout: Annotated[Duration, Meta(description="longest wait for one answer")] = field(default_factory=lambda: Duration(30))
    attempts: Annotated[int, Meta(ge=1, le=10, description="how often a request is tried, with growing waits in between")] = 4

    def __post_init__(self) -> None:
        if not _CONTAINER.fullmatch(self.container):
            raise ValueError(
                f"container {self.container!r}: expected 3 to 63 lower-case letters, digits and single hyphens, without an address"
            )
        if self.endpoint_url is not None and not _ENDPOINT.fullmatch(self.endpoint_url):
            raise ValueError("endpoint_url: expected http:// or https:// with host, and nothing behind the account")
        if self.timeout <= 0:
            raise ValueError("timeout must be more than 0")
        if self.connection_string is not None:
            if self.account or self.account_key or self.sas_token or self.endpoint_url:
                raise ValueError("connection_string stands alone: it names account, address and key")
            return
        if self.account is None or not _ACCOUNT.fullmatch(self.account):
            raise ValueError("account: expected the name of the storage account, 3 to 24 lower-case letters and digits")
        if (self.account_key is None) == (self.sas_token is None):
            raise ValueError("expected account_key or sas_token, one of them; or connection_string alone")

    @property
    def where(self) -> str:
        """The container's name in messages."""
        at = self.endpoint_url or (f"account {self.account}" if self.account else "the account of connection_string")
        return f"container {self.container} at {at}"
