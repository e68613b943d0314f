"""Options of a bucket, the same in every place that names one."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from shared.reading.units import Duration

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_ENDPOINT = re.compile(r"https?://[^/?#\s@]+/?")

SECRET = {"secret": True}


class S3Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bucket of S3, or of any server that speaks its protocol, and how to reach it."""

    bucket: Annotated[str, Meta(min_length=1, description="the bucket; it must exist")]
    region: Annotated[
        str | None, Meta(description="region of the bucket; default: what the environment says, else us-east-1")
    ] = None
    endpoint_url: Annotated[
        str | None, Meta(description="address of another server than Amazon's, such as `https://minio.example.com:9000`")
    ] = None
    path_style: Annotated[
        bool | None,
        Meta(description="name the bucket in the path and not in the host; default: `true` where `endpoint_url` is set"),
    ] = None
    access_key_id: Annotated[
        str | None, Meta(description="default: the usual chain of environment, `~/.aws`, and the role of container or machine")
    ] = None
    secret_access_key: Annotated[str | None, Meta(description="belongs to `access_key_id`", extra=SECRET)] = None
    session_token: Annotated[str | None, Meta(description="of temporary keys", extra=SECRET)] = None
    profile: Annotated[str | None, Meta(description="a profile of `~/.aws`, instead of keys")] = None
    sse: Annotated[
        Literal["AES256", "aws:kms"] | None, Meta(description="encryption by the server; default: as the bucket is set up")
    ] = None
    kms_key_id: Annotated[str | None, Meta(description="key of `aws:kms`; default: Amazon's own for S3")] = None
    storage_class: Annotated[str | None, Meta(description="such as `STANDARD_IA`; default: STANDARD")] = None
    checksums: Annotated[
        bool, Meta(description="send a CRC32 with each part, which the server checks; `false` for servers that do not know it")
    ] = True
    timeout: Annotated[Duration, Meta(description="longest wait for one answer")] = field(default_factory=lambda: Duration(30))
    attempts: Annotated[int, Meta(ge=1, le=10, description="how often a request is tried, with growing waits in between")] = 4

    def __post_init__(self) -> None:
        if not _BUCKET.fullmatch(self.bucket):
            raise ValueError(f"bucket {self.bucket!r}: letters, digits, `.`, `-` and `_` only, without s3:// and without a path")
        if self.endpoint_url is not None and not _ENDPOINT.fullmatch(self.endpoint_url):
            raise ValueError("endpoint_url: expected http:// or https:// with host and perhaps port, and nothing behind")
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key belong together: write both or neither")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token belongs to access_key_id")
        if self.profile is not None and self.access_key_id is not None:
            raise ValueError("profile and access_key_id exclude each other")
        if self.kms_key_id is not None and self.sse != "aws:kms":
            raise ValueError("kms_key_id needs sse: aws:kms")
        if self.timeout <= 0:
            raise ValueError("timeout must be more than 0")

    @property
    def in_path(self) -> bool:
        """Whether the bucket is named in the path of an address, and not in its host."""
        return self.path_style if self.path_style is not None else self.endpoint_url is not None

    @property
    def where(self) -> str:
        """The bucket's name in messages."""
        return f"bucket {self.bucket}" + (f" at {self.endpoint_url}" if self.endpoint_url else "")
