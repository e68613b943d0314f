"""The functions' runtime as a service: one worker for every enabled connection whose frames go through functions.

Every replica tries for every connection; the lease decides which one runs its functions. New code is in force with the next frame.
"""

from __future__ import annotations

from functions_runtime.connection import ConnectionFunctions
from functions_runtime.definition import Definition, definitions
from functions_runtime.forgetting import keep_forgetting
from functions_runtime.host.fetch import Fetcher
from functions_runtime.lookups.tables import Tables
from functions_runtime.sandbox.pool import Pool
from functions_runtime.settings import PREFIX, FunctionsSettings, guard_of
from shared.errors import ConfigError, Problem
from shared.service import ServiceContext
from shared.settings import read_settings
from shared.tasks import first_of, task_group
from shared.workers import Workers, keep_on


async def main(context: ServiceContext) -> None:
    """Runs the functions of every connection of the project until the service drains.

    Raises:
        ConfigError: a setting is wrong.
    """
    settings = read_settings(FunctionsSettings, PREFIX)
    if settings.lease < 2:
        raise ConfigError([Problem(f"{PREFIX}LEASE", f"expected at least 2s, got {settings.lease:g}s")])
    fetcher = Fetcher(guard_of(settings))
    pool = Pool(
        settings.sandboxes,
        float(settings.idle),
        lambda count: context.telemetry.gauge("functions_sandboxes", count),
    )
    tables = Tables(context)
    connections: Workers[Definition] = Workers(
        context,
        what="connection",
        prefix="functions",
        lease_seconds=float(settings.lease),
        wanted=definitions,
        make=lambda _, definition: ConnectionFunctions(
            context, definition=definition, settings=settings, pool=pool, fetcher=fetcher, tables=tables
        ),
    )
    connections.bear("meanwhile the functions of others run")
    try:
        async with task_group() as group:
            keeping = [
                group.create_task(pool.keep_idle_ended(), name="sandboxes"),
                group.create_task(
                    keep_on(context.health, "forget", lambda: keep_forgetting(context, float(settings.lease))), name="forget"
                ),
            ]
            await connections.run()
            for task in keeping:
                task.cancel()
    except BaseExceptionGroup as exc:
        raise first_of(exc) from exc
    finally:
        await tables.close()
        await pool.close()
        await fetcher.close()
