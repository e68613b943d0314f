"""Translates errors of S3, botocore and aiohttp, and says what to do about them.

https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, `botocore/exceptions.py`
"""

from __future__ import annotations

from typing import Any

from shared.errors import NotConnected, PenstockError, SetupError, Transient, UnknownDriverError, unknown
from shared.stores.contract import KeyRefused
from shared.stores.s3.options import S3Options


class UploadGone(Transient):
    """The upload was ended: by a newer holder, by a rule of the bucket, or because it is complete."""


_RIGHTS = (
    "s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on its objects"
)

_SETUP = {
    "NoSuchBucket": "the bucket does not exist; create it, or correct `bucket`",
    "InvalidBucketName": "the server takes no bucket of this name; correct `bucket`",
    "AccessDenied": f"access denied; grant this user {_RIGHTS}",
    "AllAccessDisabled": "access to the bucket is disabled; ask the owner of the account",
    "AccountProblem": "the account is blocked; ask its owner",
    "NotSignedUp": "the account is not signed up for S3",
    "InvalidAccessKeyId": "the server does not know this key; correct `access_key_id`",
    "SignatureDoesNotMatch": "the secret does not belong to the key; correct `secret_access_key`",
    "InvalidToken": "the server does not take the session token; correct `session_token`",
    "ExpiredToken": "the session token is expired; renew it, or let the usual chain of credentials do so",
    "TokenRefreshRequired": "the session token is expired; renew it",
    "RequestTimeTooSkewed": "the clock of this machine is wrong by more than 15 minutes; set it, or start a time service",
    "RequestExpired": "the clock of this machine is wrong; set it, or start a time service",
    "MethodNotAllowed": "the server does not allow this request; check `endpoint_url` and the policy of the bucket",
    "NotImplemented": "the server cannot do this; Penstock needs multipart uploads and lists of objects",
    "InvalidStorageClass": "the server does not know this class; correct `storage_class`",
    "InvalidEncryptionAlgorithmError": "the server does not know this encryption; correct `sse`",
    "XAmzContentSHA256Mismatch": "something between here and the server changes the bytes; check proxies",
    "QuotaExceeded": "the bucket is full; raise its quota or remove objects",
    "EntityTooLarge": "the server takes no object of this size; load smaller batches (`max_rows`)",
    "KMS.NotFoundException": "there is no such key; correct `kms_key_id`",
    "KMS.DisabledException": "the key is disabled; enable it, or correct `kms_key_id`",
}
_REGION = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
_CHECKSUM = frozenset({"InvalidRequest", "BadDigest", "InvalidDigest"})
_SOON = frozenset(
    {"SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable", "InternalError", "RequestTimeout", "OperationAborted",
     "InvalidPart", "InvalidPartOrder", "IncompleteBody",
     "RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequests", "ServerBusy"}
)  # fmt: skip
_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound", "TokenRetrievalError",
     "NoAuthTokenError", "UnauthorizedSSOTokenError", "SSOTokenLoadError", "InvalidConfigError", "ConfigParseError"}
)  # fmt: skip


def translate(error: BaseException, what: str, options: S3Options) -> PenstockError:
    """Returns our error for an error of the driver.

    Args:
        error: the driver's error.
        what: what failed, on what.
        options: the options of the bucket, to name the one to change. No secret gets into the message.
    """
    import aiohttp
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    if isinstance(error, PenstockError):
        return error
    what = f"{what} ({options.where})"
    if isinstance(error, boto.ClientError):
        return _answered(error, what, options)
    if type(error).__name__ in _CREDENTIALS:
        return SetupError(f"{what}: {error}; set access_key_id and secret_access_key, or check the environment and ~/.aws")
    if isinstance(error, boto.SSLError | aiohttp.ClientSSLError | aiohttp.ServerFingerprintMismatch):
        return SetupError(f"{what}: {error}; check the certificate, name an authority in AWS_CA_BUNDLE, or check `endpoint_url`")
    if isinstance(error, TimeoutError | boto.ConnectTimeoutError | boto.ReadTimeoutError):
        return NotConnected(f"{what}: no answer within {options.timeout:g} s; check the network, or raise `timeout`")
    if isinstance(error, boto.HTTPClientError | boto.ConnectionError | aiohttp.ClientError | OSError):
        return NotConnected(f"{what}: {error}; check `endpoint_url` and the network")
    if isinstance(error, ResponseParserError):
        return NotConnected(f"{what}: the answer is not S3's; check that `endpoint_url` names the S3 port and no web page")
    return unknown(error, f"{what}: {type(error).__name__}: {error}")


def _answered(error: Any, what: str, options: S3Options) -> PenstockError:
    answer = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    words = str(answer.get("Error", {}).get("Message", "")).strip()
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"{what}: {code}: {words}" if words else f"{what}: {code}"
    if code == "NoSuchUpload":
        return UploadGone(said)
    if code in _REGION:
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or answer.get("Error", {}).get("Region")
        told = f"set region: {region}" if region else "set `region` to the bucket's"
        return SetupError(
            f"{said}: the bucket is not in region {options.region or 'us-east-1'}; {told}, or correct `endpoint_url`"
        )
    if code in _SETUP:
        return SetupError(f"{said}: {_SETUP[code]}")
    if code == "KeyTooLongError":
        return KeyRefused(f"{said}: the object's key is longer than 1024 bytes; shorten `prefix`")
    if code in _CHECKSUM and "checksum" in words.lower() and options.checksums:
        return SetupError(f"{said}: if the server does not know checksums, set checksums: false")
    if code.isdecimal():
        # S3 says what is wrong in words
        said += "; the answer is not S3's: check that `endpoint_url` names the port of S3, and what stands in between"
        return SetupError(said) if 300 <= status < 500 and status != 429 else Transient(said)
    if code in _SOON or code in _CHECKSUM or status >= 500 or status == 429:
        return Transient(said)
    if status in (401, 403):
        return SetupError(f"{said}: {_SETUP['AccessDenied']}")
    return UnknownDriverError(said)
