"""Opens a client of Azure Blob Storage. The driver is imported on a thread, as it takes half a second."""

from __future__ import annotations

import logging
from typing import Any

from shared.errors import SetupError
from shared.stores.azure.login import Login
from shared.stores.azure.options import AzureOptions
from shared.threads import ThreadGate

API_VERSION = "2023-11-03"
"""Of the protocol. Older than the driver's newest, so that emulators and private clouds know it."""

CONNECT_SECONDS = 10.0
LONGEST_WAIT = 20.0
"""Between two attempts."""


async def connect(options: AzureOptions, login: Login, gate: ThreadGate) -> Any:
    """Returns a client of the container. It connects with its first request.

    Raises:
        SetupError: the driver is not installed, or the key is none.
    """
    make, policy, signed = await gate.run(_driver)
    credential = {"account_name": login.account, "account_key": login.key} if login.key else signed(login.sas or "")
    retries = options.attempts - 1
    return make(
        login.endpoint,
        options.container,
        credential=credential,
        api_version=API_VERSION,
        connection_timeout=min(CONNECT_SECONDS, float(options.timeout)),
        read_timeout=float(options.timeout),
        retry_policy=policy(initial_backoff=1, increment_base=2, retry_total=retries, random_jitter_range=1),
        user_agent="penstock",
    )


def _driver() -> tuple[Any, Any, Any]:
    try:
        from azure.core.credentials import AzureSasCredential
        from azure.storage.blob.aio import ContainerClient, ExponentialRetry
    except ImportError as error:
        raise SetupError(
            "Azure Blob Storage needs the package azure-storage-blob; install it with: pip install 'penstock[azure]'"
        ) from error
    # it tells every request at the level info
    logging.getLogger("azure").setLevel(logging.WARNING)
    return ContainerClient, ExponentialRetry, AzureSasCredential
