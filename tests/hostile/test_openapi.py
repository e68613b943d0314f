"""Requests made from the OpenAPI document, good and bad: no 5xx, and no status that the document does not name."""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import status_code_conformance

from ingest.openapi import document
from tests.hostile.edge import KEY, Target

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "15"))
"""For each operation. `make hostile` asks for more."""

pytestmark = pytest.mark.timeout(60 + EXAMPLES)

schema = schemathesis.openapi.from_dict(document())
# a fixed hundred of requests for every operation; the generated ones find more in less time
schema.config.phases.coverage.enabled = EXAMPLES > 100


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_the_edge_answers_as_its_document_says(case: Any, target: Target) -> None:
    answer = case.call(base_url=target.url, headers={"X-Write-Key": KEY})
    case.validate_response(answer, checks=(not_a_server_error, status_code_conformance))
    assert answer.headers["x-request-id"]
