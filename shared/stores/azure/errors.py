"""Translates errors of Azure Blob Storage and its driver, and says what to do about them.

https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes, `azure/core/exceptions.py`
"""

from __future__ import annotations

from typing import Any

from shared.errors import NotConnected, PenstockError, SetupError, Transient, UnknownDriverError, unknown
from shared.stores.azure.options import AzureOptions
from shared.stores.contract import KeyRefused


class Unmet(Transient):
    """A condition of a request did not hold: the object is another, is there, or is not there."""


_RIGHTS = "the key must be one of the account's, and a signature needs the rights to read, create, write, delete and list (rcwdl)"
_UNMET = frozenset(
    {"ConditionNotMet", "SourceConditionNotMet", "TargetConditionNotMet", "BlobAlreadyExists", "BlobNotFound",
     "CannotVerifyCopySource"}
)  # fmt: skip
_SETUP = {
    "ContainerNotFound": "the container does not exist; create it, or correct `container`",
    "ContainerBeingDeleted": "the container is being removed; create another, or wait",
    "ContainerDisabled": "the container is disabled; ask the owner of the account",
    "InvalidResourceName": "the server takes no container of this name; correct `container`",
    "AccountIsDisabled": "the account is disabled; ask its owner",
    "InsufficientAccountPermissions": f"access denied; {_RIGHTS}",
    "AuthorizationFailure": f"access denied; {_RIGHTS}, and the account's firewall must let this machine in",
    "AuthorizationPermissionMismatch": f"access denied; {_RIGHTS}",
    "AuthorizationResourceTypeMismatch": "access denied; a signature of the account must be for containers and objects",
    "AuthorizationProtocolMismatch": "the signature is for https only; correct `endpoint_url`",
    "AuthorizationSourceIPMismatch": "the signature is for other addresses; make another",
    "KeyBasedAuthenticationNotPermitted": "the account takes no keys; allow them, or use a signature that it takes",
    "AuthenticationFailed": f"access denied; {_RIGHTS}, a signature must not be over, and this machine's clock must be right",
    "NoAuthenticationInformation": f"access denied; {_RIGHTS}",
    "InvalidAuthenticationInfo": f"access denied; {_RIGHTS}",
    "BlobImmutableDueToPolicy": "a policy forbids changes of objects; Penstock writes some objects again, so give it a container without one",
    "LeaseIdMissing": "another program holds a lease of this object; end the lease",
    "AccountRequiresHttps": "the account wants https; correct `endpoint_url`",
}  # fmt: skip


def translate(error: BaseException, what: str, options: AzureOptions) -> PenstockError:
    """Returns our error for an error of the driver.

    Args:
        error: the driver's error.
        what: what failed, on what.
        options: the options of the container, to name the one to change. No secret gets into the message.
    """
    import aiohttp
    from azure.core import exceptions as azure

    if isinstance(error, PenstockError):
        return error
    what = f"{what} ({options.where})"
    if isinstance(error, azure.HttpResponseError):
        return _answered(error, what)
    if isinstance(error, TimeoutError | azure.ServiceRequestTimeoutError | azure.ServiceResponseTimeoutError):
        return NotConnected(f"{what}: no answer within {options.timeout:g} s; check the network, or raise `timeout`")
    cause = error.__cause__ or error.__context__
    if isinstance(cause, aiohttp.ClientSSLError) or isinstance(error, aiohttp.ClientSSLError):
        return SetupError(f"{what}: {error}; check the certificate, or `endpoint_url`")
    if isinstance(error, azure.ServiceRequestError | azure.ServiceResponseError | aiohttp.ClientError | OSError):
        return NotConnected(f"{what}: {error}; check `account` or `endpoint_url`, and the network")
    return unknown(error, f"{what}: {type(error).__name__}: {error}")


def code_of(error: BaseException) -> str:
    """Returns the code of the service's answer; empty if there is none."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")


def _answered(error: Any, what: str) -> PenstockError:
    code, status = code_of(error), int(error.status_code or 0)
    said = f"{what}: {code or f'status {status}'}"
    if code in _SETUP:
        return SetupError(f"{said}: {_SETUP[code]}")
    if code in _UNMET or status == 412:
        return Unmet(said)
    if code in ("InvalidUri", "OutOfRangeInput", "InvalidInput") and status == 400:
        return KeyRefused(
            f"{said}: the service takes no object of this name; a name has 1024 characters at most; shorten `prefix`"
        )
    if status in (401, 403):
        return SetupError(f"{said}: access denied; {_RIGHTS}")
    if status >= 500 or status in (408, 409, 429):
        return Transient(said)
    if not code:
        return SetupError(f"{said}: the answer is not Azure's; check `endpoint_url`, and what stands in between")
    return UnknownDriverError(f"{said}: {str(error.message).splitlines()[0] if error.message else ''}")
