"""Signatures of calls to Amazon's services, compared with those of Amazon's own library."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from loader.calls.aws import Keys, signed

AT = 1_790_000_000.0


@pytest.mark.parametrize("token", ["", "a-token"])
@pytest.mark.parametrize("url", ["https://kinesis.eu-central-1.amazonaws.com/", "http://127.0.0.1:5000/"])
def test_a_call_is_signed_as_botocore_signs_it(url: str, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "Kinesis_20131202.PutRecords"}
    body = b'{"StreamName":"events"}'
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: datetime.fromtimestamp(AT, UTC))
    theirs: Any = AWSRequest("POST", url, headers=dict(headers), data=body)
    botocore.auth.SigV4Auth(Credentials("AK", "sk", token or None), "kinesis", "eu-central-1").add_auth(theirs)
    keys = Keys("AK", "sk", token)
    ours = signed(url, headers, body, keys=keys, region="eu-central-1", service="kinesis", at=AT)
    assert ours == dict(theirs.headers)
