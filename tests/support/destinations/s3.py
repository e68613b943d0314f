"""S3 under test: a bucket of its own, read by boto3."""

from __future__ import annotations

from tests.support.destinations.files import FilesSubject
from tests.support.s3 import S3Server


class S3Subject(FilesSubject):
    """A bucket of its own, in one format, read by boto3."""

    def __init__(self, server: S3Server, format_: str) -> None:
        super().__init__("s3", format_)
        self.server = server
        self.bucket = server.new_bucket()
        self.document |= server.document(self.bucket)
        self.client = server.client()

    def files(self) -> list[str]:
        return [key for key in self.all_keys() if not key.startswith("_penstock/")]

    def all_keys(self) -> list[str]:
        """Returns all keys, those of the store itself too."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return [each["Key"] for page in pages for each in page.get("Contents", ())]

    def uploads(self) -> list[str]:
        """Returns the keys of uploads that are neither complete nor ended."""
        return [key for key, _ in self.upload_ids()]

    def upload_ids(self) -> list[tuple[str, str]]:
        """Returns key and id of each such upload."""
        found = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", ())
        return [(each["Key"], each["UploadId"]) for each in found]

    def content(self, name: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.bucket, Key=name)["Body"].read()
        return data
