"""Makes the bucket of the compose file's own S3 server, if it is not there: S3_ENDPOINT, S3_BUCKET, S3_KEY_ID and S3_SECRET name it."""

from __future__ import annotations

import asyncio
import os

import aioboto3
from botocore.exceptions import ClientError

THERE = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


async def main() -> None:
    """Makes it."""
    session = aioboto3.Session(aws_access_key_id=os.environ["S3_KEY_ID"], aws_secret_access_key=os.environ["S3_SECRET"])
    async with session.client("s3", endpoint_url=os.environ["S3_ENDPOINT"], region_name="us-east-1") as client:
        try:
            await client.create_bucket(Bucket=os.environ["S3_BUCKET"])
        except ClientError as exc:
            if exc.response["Error"]["Code"] not in THERE:
                raise


asyncio.run(main())
