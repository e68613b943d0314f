"""`penstock init`: a project file to begin with."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from penstock.control.project.projects import DEFAULT_FILE
from penstock.terminal import exits
from penstock.terminal.options import Setting, at_home
from penstock.terminal.screen import typed_command
from shared.errors import SetupError
from shared.project.model import NAME

_DESTINATIONS = {
    "duckdb": """\
  warehouse:
    type: duckdb                                      # one file, no server
    path: "${PENSTOCK_HOME:-.penstock}/warehouse.duckdb"
""",
    "postgres": """\
  warehouse:
    type: postgres
    dsn: "${PG_DSN}"                                  # postgresql://user:password@host:5432/database, in .env or the environment
    # schema: events                                  # default: public
""",
    "local": """\
  warehouse:
    type: local                                       # a directory of Parquet files
    path: "${PENSTOCK_HOME:-.penstock}/files"
    # format: ndjson                                  # or csv
""",
    "mysql": """\
  warehouse:
    type: mysql                                       # MySQL or MariaDB
    dsn: "${MYSQL_DSN}"                               # mysql://user:password@host:3306/database, in .env or the environment
""",
    "clickhouse": """\
  warehouse:
    type: clickhouse
    url: "${CLICKHOUSE_URL}"                          # http://host:8123 or https://host:8443, in .env or the environment
    user: default
    password: "${CLICKHOUSE_PASSWORD}"
    database: default                                 # must exist
""",
    "s3": """\
  warehouse:
    type: s3                                          # Parquet files in a bucket, which must exist
    bucket: "${S3_BUCKET}"                            # in .env or the environment; keys: as the AWS command finds them
    # endpoint_url: "http://127.0.0.1:9000"           # of another service than AWS
    # format: ndjson                                  # or csv
""",
    "azure": """\
  warehouse:
    type: azure                                       # Parquet files in a container, which must exist
    container: "${AZURE_CONTAINER}"                   # in .env or the environment
    connection_string: "${AZURE_CONNECTION_STRING}"   # as the portal shows it; or account and account_key or sas_token
    # format: ndjson                                  # or csv
""",
    "webhook": """\
  warehouse:
    type: webhook                                     # each event in a call
    url: "${WEBHOOK_URL}"                             # https://example.com/in, in .env or the environment
    # headers: {Authorization: "Bearer ${WEBHOOK_TOKEN}"}
""",
}

_VARIABLES = {
    "postgres": ("PG_DSN",),
    "mysql": ("MYSQL_DSN",),
    "clickhouse": ("CLICKHOUSE_URL", "CLICKHOUSE_PASSWORD"),
    "s3": ("S3_BUCKET",),
    "azure": ("AZURE_CONTAINER", "AZURE_CONNECTION_STRING"),
    "webhook": ("WEBHOOK_URL",),
}
"""What a person must set before the file is applied."""

_STREAM = """\
    # mode: stream                                      # load as events come
"""
"""Files are written in batches only."""

_TEMPLATE = """\
# A Penstock project. `penstock plan` shows what it would change, `penstock apply` makes it so.
# Every key: docs/configuration.md.

# Who sends. Keys are shown to everybody who loads a page, so they open nothing but this site's events.
sites:
  {site}:
    keys:
      - id: {key}
      # - {{id: {site}-server, kind: server, secret: "${{{variable}}}"}}   # for servers, which send `id:secret`
    # origins: ["https://www.example.com"]              # browsers may send from these pages only
    # limits: {{rate: 1000}}                              # events a second for each key

# Where data goes.
destinations:
{destination}
# Which site goes where, and how.
connections:
  {site}-warehouse:
    site: {site}
    destination: warehouse
    batch: {{period: 10s}}                                # how long the first event of a batch waits
{stream}    # where: [{{field: type, in: [track, identify]}}]     # which events
"""


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=DEFAULT_FILE)
@click.option("--site", default="web", show_default=True, help="Name of the site.")
@click.option(
    "--destination", type=click.Choice(list(_DESTINATIONS)), default="duckdb", show_default=True, help="Where data goes."
)
@at_home
def init(setting: Setting, file: Path, site: str, destination: str) -> int:
    """Writes FILE (default penstock.yaml): a small project with comments, one site and one destination. Keeps a file that exists.

    \b
    Example:
      penstock init && penstock up --detach --project penstock.yaml
    """
    if not NAME.fullmatch(site):
        raise click.BadParameter("a name is 1 to 63 of a-z, 0-9, _ and -, and starts with a letter or digit", param_hint="--site")
    key = f"{site}-{secrets.token_hex(8)}"
    variable = f"{site.upper().replace('-', '_')}_SECRET"
    variable = variable if variable[0].isalpha() else f"SITE_{variable}"
    text = _TEMPLATE.format(
        site=site,
        key=key,
        variable=variable,
        destination=_DESTINATIONS[destination],
        stream="" if destination in ("local", "s3", "azure") else _STREAM,
    )
    try:
        with file.open("x", encoding="utf-8") as output:
            output.write(text)
    except FileExistsError as exc:
        raise SetupError(f"{file} exists already and was kept; name another file: penstock init FILE") from exc
    except OSError as exc:
        raise SetupError(f"{file} cannot be written: {exc.strerror}") from exc
    setting.screen.result({"file": str(file), "site": site, "key": key})
    command = typed_command()
    setting.screen.say(f"written to {file}; the write key is {key}")
    if wanted := _VARIABLES.get(destination):
        setting.screen.say(f"set {' and '.join(wanted)} first, in a file .env beside it or in the environment")
    setting.screen.say(f"next: {command} up --detach --project {file}   (or {command} apply {file} where a stack runs)")
    return exits.OK
