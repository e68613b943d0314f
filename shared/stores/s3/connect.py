"""Opens a client of S3. The driver is imported and its models are read on a thread: together they take half a second."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

from shared.errors import SetupError
from shared.stores.s3.options import S3Options
from shared.threads import ThreadGate

CONNECT_SECONDS = 10.0
CONNECTIONS = 16


class Driver(NamedTuple):
    """A client to enter, and the session that knows its credentials."""

    client: AbstractAsyncContextManager[Any]
    session: Any


async def connect(options: S3Options, gate: ThreadGate) -> Driver:
    """Returns a client to enter. It connects with its first request.

    Raises:
        SetupError: the driver is not installed.
        botocore's errors about profiles and files of settings.
    """
    session = await gate.run(_session, options)
    from aiobotocore.config import AioConfig

    endpoint = options.endpoint_url
    place: dict[str, Any] = {"addressing_style": "path" if options.in_path else "auto"}
    if endpoint is None or endpoint.startswith("https:"):
        # TLS and the CRC32 guard the bytes; a SHA-256 besides would be computed on the event loop
        place["payload_signing_enabled"] = False
    when = "when_supported" if options.checksums else "when_required"
    config = AioConfig(
        connect_timeout=min(CONNECT_SECONDS, float(options.timeout)),
        read_timeout=float(options.timeout),
        retries={"mode": "standard", "total_max_attempts": options.attempts},
        max_pool_connections=CONNECTIONS,
        s3=place,
        request_checksum_calculation=when,
        response_checksum_validation=when,
        user_agent_extra="penstock",
    )
    client: AbstractAsyncContextManager[Any] = session.client(
        "s3",
        region_name=options.region or session.region_name or "us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id=options.access_key_id,
        aws_secret_access_key=options.secret_access_key,
        aws_session_token=options.session_token or None,
        config=config,
    )
    return Driver(client, session)


def _session(options: S3Options) -> Any:
    try:
        import aioboto3
        import aiobotocore.session
    except ImportError as error:
        raise SetupError("S3 needs the package aioboto3; install it with: pip install 'penstock[s3]'") from error
    core = aiobotocore.session.AioSession(profile=options.profile)
    models = core.get_component("data_loader")
    for kind in ("service-2", "endpoint-rule-set-1"):
        models.load_service_model("s3", kind)
    for name in ("partitions", "endpoints", "_retry", "sdk-default-configuration"):
        models.load_data(name)
    return aioboto3.Session(botocore_session=core)
