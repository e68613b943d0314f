"""APIs over HTTP that answer with rows as JSON, NDJSON or CSV: described in the project file, without code.

    shop:
      type: http_api
      base_url: https://api.example.com/v1
      auth: {type: bearer, token: "${SHOP_TOKEN}"}
      streams:
        orders: {path: orders, records: data, primary_key: [id], paging: {type: page}}

    options.py   what the user writes      request.py  one request, and texts with `{parent.id}`    login.py    who we are
    link.py      sends it, patiently       page.py     the rows of an answer                        paging.py   the next request
    fields.py    values in a row           cursor.py   how far a stream is                          schema.py   types from a page
    reading.py   one read of a stream      source.py   the calls

Traps: an API that ignores a parameter gives its first page for ever; a next link may name any address; a page may be no JSON although the
status is 200; an API that filters by time gives the rows of the last moment again.
"""

from __future__ import annotations

from connector_runner.contract import Environment, Source
from connector_runner.sources.http_api.options import OPTIONS as OPTIONS


async def open_source(name: str, options: OPTIONS, environment: Environment) -> Source:
    """Returns the source; its first call connects."""
    from connector_runner.sources.http_api.source import HttpApiSource

    return HttpApiSource(name, options, environment)
