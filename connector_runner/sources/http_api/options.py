"""What a user writes for an API. The ways of login and of paging are alternatives, told apart by their `type`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, field

from connector_runner.sources.http_api.cursor import Cursor
from connector_runner.sources.http_api.paging import Paging
from shared.reading.units import ByteSize, Duration

Method = Literal["GET", "POST", "PUT"]
Format = Literal["json", "ndjson", "csv"]
ColumnType = Literal["text", "integer", "number", "boolean", "date", "timestamp", "json"]
NAMES = re.compile(r"\{parent\.([^{}]+)\}")


class Bearer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="bearer"):
    """A token in the header `Authorization`."""

    token: Annotated[str, Meta(min_length=1, description="the token; write ${NAME} and set the environment variable")]
    scheme: Annotated[str, Meta(description="the word before the token")] = "Bearer"


class Basic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="basic"):
    """User and password (RFC 7617)."""

    user: Annotated[str, Meta(description="user name")]
    password: Annotated[str, Meta(description="password")] = ""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="api_key"):
    """A key in a header or a parameter."""

    name: Annotated[str, Meta(min_length=1, description="name of the header or the parameter")]
    value: Annotated[str, Meta(min_length=1, description="the key")]
    where: Annotated[Literal["header", "query"], Meta(description="where it goes")] = "header"


class OAuth2(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="oauth2"):
    """A token that is fetched, and fetched again when it is over (RFC 6749): with client credentials, or with a refresh token."""

    token_url: Annotated[str, Meta(description="address that gives tokens")]
    client_id: Annotated[str, Meta(description="id of the client")]
    client_secret: Annotated[str, Meta(description="secret of the client")] = ""
    refresh_token: Annotated[str | None, Meta(description="a refresh token; without it, client credentials")] = None
    scope: Annotated[str, Meta(description="scopes, joined by blanks")] = ""
    credentials_in: Annotated[Literal["body", "header"], Meta(description="where client id and secret go")] = "body"
    params: Annotated[dict[str, str], Meta(description="fields more of the request for a token, such as `audience`")] = field(
        default_factory=dict
    )


Auth = Bearer | Basic | ApiKey | OAuth2


class ApiStream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stream: where its rows are, and how to ask for them."""

    path: Annotated[
        str, Meta(description="path below `base_url`, or a whole address; `{parent.id}` is a value of the parent's row")
    ]
    method: Annotated[Method, Meta(description="of the request")] = "GET"
    params: Annotated[
        dict[str, str | int | float | bool | list[str | int]],
        Meta(description="parameters of the query; a list stands there several times", extra={"secret": True}),
    ] = field(default_factory=dict)
    headers: Annotated[dict[str, str], Meta(description="headers more", extra={"secret": True})] = field(default_factory=dict)
    body: Annotated[dict[str, Any] | None, Meta(description="body of the request, sent as JSON")] = None
    format: Annotated[Format | None, Meta(description="of the answer; default: by its Content-Type, else JSON")] = None
    records: Annotated[
        str | None,
        Meta(
            description="where the rows are in the answer, such as `data.items` or `data.*.orders`; `.`: the answer itself is one row"
        ),
    ] = None
    missing: Annotated[Literal["error", "empty"], Meta(description="what an answer without `records` means")] = "error"
    empty_at: Annotated[list[int], Meta(description="statuses that mean that there are no rows, such as 404")] = field(
        default_factory=list
    )
    primary_key: Annotated[list[str], Meta(description="paths of the fields that identify a row")] = field(default_factory=list)
    cursor: Annotated[Cursor | None, Meta(description="how new and changed rows are found; none: each read gives all rows")] = (
        None
    )
    paging: Annotated[Paging | None, Meta(description="how further pages are asked for; none: there is one page")] = None
    parent: Annotated[str | None, Meta(description="stream for each row of which this one is asked for")] = None
    from_parent: Annotated[
        dict[str, str], Meta(description="columns more, from fields of the parent's row: `{order_id: id}`")
    ] = field(default_factory=dict)
    columns: Annotated[
        dict[str, ColumnType], Meta(description="types of columns; of CSV, how values are read. With it `discover` reads no page")
    ] = field(default_factory=dict)
    delimiter: Annotated[str, Meta(min_length=1, max_length=1, description="of CSV: the character between values")] = ","

    def __post_init__(self) -> None:
        used = self.parent_fields
        if used and self.parent is None:
            raise ValueError(f"path: it has {{parent.{used[0]}}}; write `parent`, the stream that has these rows")
        if self.parent is not None and not used:
            raise ValueError("parent: `path`, `params` or `body` must say where its values go, such as {parent.id}")
        if self.from_parent and self.parent is None:
            raise ValueError("from_parent: write `parent`, the stream that has these rows")
        if self.records is not None and self.format in ("ndjson", "csv"):
            raise ValueError(f"records: rows of {self.format} stand at no path; take it out")

    @property
    def parent_fields(self) -> list[str]:
        """Fields of the parent's row that the request names."""
        found: list[str] = []
        for text in (self.path, *texts_in(self.params), *texts_in(self.body)):
            found += NAMES.findall(text)
        return found


class OPTIONS(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of an API as a source."""

    base_url: Annotated[str, Meta(description="address that paths are added to, such as https://api.example.com/v1")]
    auth: Annotated[
        Auth | None,
        Meta(description="who we are: `bearer`, `basic`, `api_key` or `oauth2`; none: nobody", extra={"secret": True}),
    ] = None
    headers: Annotated[dict[str, str], Meta(description="headers of each request", extra={"secret": True})] = field(
        default_factory=dict
    )
    streams: Annotated[dict[str, ApiStream], Meta(min_length=1, description="streams by name")]
    allow_hosts: Annotated[
        list[str],
        Meta(description="other hosts to which redirects and next links may lead with our login; they may be private addresses"),
    ] = field(default_factory=list)
    requests_per_second: Annotated[Annotated[float, Meta(gt=0)] | None, Meta(description="most requests; none: unlimited")] = None
    connect_timeout: Annotated[Duration, Meta(description="how long opening a connection may take")] = field(
        default_factory=lambda: Duration(10)
    )
    timeout: Annotated[Duration, Meta(description="how long a whole answer may take")] = field(
        default_factory=lambda: Duration(300)
    )
    retries: Annotated[
        int, Meta(ge=0, le=20, description="how often a request is tried again after 5xx and broken connections")
    ] = 5
    longest_wait: Annotated[
        Duration, Meta(description="how long a request waits in all where the API says that it is asked too often")
    ] = field(default_factory=lambda: Duration(900))
    max_page: Annotated[ByteSize, Meta(description="largest answer, unpacked; it is in memory")] = field(
        default_factory=lambda: ByteSize(64 << 20)
    )

    def __post_init__(self) -> None:
        _require_address("base_url", self.base_url)
        if isinstance(self.auth, OAuth2):
            _require_address("auth", self.auth.token_url)
        if self.timeout <= 0 or self.connect_timeout <= 0:
            raise ValueError("timeout: expected more than 0")
        for name, each in self.streams.items():
            if "://" in each.path:
                _require_address(f"streams.{name}.path", each.path)
            seen, above = {name}, each.parent
            while above is not None:
                if above not in self.streams:
                    raise ValueError(f"streams: {name} has the parent {above!r}, which is no stream")
                if above in seen:
                    raise ValueError(f"streams: {name} is its own parent by way of {above}")
                seen.add(above)
                above = self.streams[above].parent


def texts_in(value: object) -> list[str]:
    """Returns all texts inside a value of JSON."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inner for text in texts_in(each)]


def _require_address(option: str, text: str) -> None:
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not fine:
        raise ValueError(f"{option}: expected an address such as https://api.example.com/v1")
    if "@" in parts.netloc:  # not quoted: a password may stand in it
        raise ValueError(f"{option}: user and password do not belong into it; write `auth: {{type: basic, …}}`")
