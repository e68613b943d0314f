"""What is said of errors of S3: which of them wait, which ask a person, and for what."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from shared.errors import Defect, NotConnected, PenstockError, SetupError, Transient, UnknownDriverError
from shared.stores.contract import KeyRefused
from shared.stores.s3.errors import UploadGone, translate
from shared.stores.s3.options import S3Options

OPTIONS = S3Options(bucket="events", endpoint_url="http://minio:9000", access_key_id="key", secret_access_key="top-secret")


def answer(code: str, message: str = "words", status: int = 400, **headers: str) -> boto.ClientError:
    meta = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": meta}
    return boto.ClientError(response, "PutObject")


def told(error: BaseException) -> PenstockError:
    said = translate(error, "loading", OPTIONS)
    assert "top-secret" not in str(said)
    assert "bucket events at http://minio:9000" in str(said) or type(said) is type(error)
    return said


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (answer("NoSuchBucket", status=404), SetupError, "create it"),
        (answer("AccessDenied", status=403), SetupError, "s3:PutObject"),
        (answer("SomethingElseForbidden", status=403), SetupError, "s3:PutObject"),
        (answer("InvalidAccessKeyId", status=403), SetupError, "`access_key_id`"),
        (answer("SignatureDoesNotMatch", status=403), SetupError, "`secret_access_key`"),
        (answer("ExpiredToken"), SetupError, "renew it"),
        (answer("RequestTimeTooSkewed", status=403), SetupError, "clock"),
        (answer("PermanentRedirect", status=301, **{"x-amz-bucket-region": "eu-west-1"}), SetupError, "set region: eu-west-1"),
        (answer("AuthorizationHeaderMalformed"), SetupError, "set `region`"),
        (answer("InvalidStorageClass"), SetupError, "`storage_class`"),
        (answer("NotImplemented", status=501), SetupError, "multipart"),
        (answer("InvalidRequest", "Checksum algorithm is not supported"), SetupError, "checksums: false"),
        (answer("KeyTooLongError"), KeyRefused, "`prefix`"),
        (answer("NoSuchUpload", status=404), UploadGone, "NoSuchUpload"),
        (answer("SlowDown", status=503), Transient, "SlowDown"),
        (answer("InternalError", status=500), Transient, "InternalError"),
        (answer("NewlyInvented", status=502), Transient, "NewlyInvented"),
        (answer("BadDigest"), Transient, "BadDigest"),
        (answer("NewlyInvented"), UnknownDriverError, "NewlyInvented"),
        (answer("404", status=404), SetupError, "names the port of S3"),
        (answer("500", status=500), Transient, "names the port of S3"),
        (boto.NoCredentialsError(), SetupError, "access_key_id"),
        (boto.ProfileNotFound(profile="p"), SetupError, "~/.aws"),
        (boto.SSLError(endpoint_url="x", error="self-signed"), SetupError, "AWS_CA_BUNDLE"),
        (boto.EndpointConnectionError(endpoint_url="x"), NotConnected, "endpoint_url"),
        (boto.ReadTimeoutError(endpoint_url="x"), NotConnected, "30 s"),
        (TimeoutError(), NotConnected, "30 s"),
        (aiohttp.ServerDisconnectedError(), NotConnected, "endpoint_url"),
        (ConnectionResetError(), NotConnected, "endpoint_url"),
        (ResponseParserError("no XML"), NotConnected, "names the S3 port"),
        (IndexError("out of bounds"), Defect, "out of bounds"),
        (boto.ParamValidationError(report="bad"), UnknownDriverError, "bad"),
    ],
)
def test_an_error_says_what_to_do(error: BaseException, kind: type[PenstockError], words: str) -> None:
    said = told(error)
    assert type(said) is kind
    assert words in str(said)


def test_an_error_of_our_own_stays_what_it_is() -> None:
    error = SetupError("x")
    assert told(error) is error
