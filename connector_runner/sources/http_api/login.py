"""Who we are: what each request carries, and tokens that are fetched, and fetched again when they are over."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlencode

import msgspec
from msgspec.structs import replace

from connector_runner.sources.http_api.options import ApiKey, Auth, Basic, Bearer, OAuth2
from shared.errors import UNREADABLE, SetupError, Transient
from shared.reading.mask import Mask

EARLY_SECONDS = 30.0
"""A token is fetched again so long before its end."""
_WORDS = 200

Ask = Callable[[str, Mapping[str, str], bytes], Awaitable[tuple[int, bytes]]]
"""Posts a body; returns status and answer."""


class _Token(msgspec.Struct):
    access_token: str
    token_type: str = "Bearer"  # noqa: S105  # the word before it
    expires_in: int | float | str | None = None
    refresh_token: str | None = None


class _Refusal(msgspec.Struct):
    error: str = ""
    error_description: str = ""


class Login:
    """The login of one connector.

    Args:
        ask: sends a request for a token.
        mask: learns the tokens.
    """

    def __init__(self, auth: Auth | None, ask: Ask, mask: Mask) -> None:
        self._auth = auth
        self._ask = ask
        self._mask = mask
        self._token: str | None = None
        self._over = 0.0
        self._lock = asyncio.Lock()
        self.changed: bytes | None = None
        """`auth` as JSON, if the service gave another refresh token that nobody has stored yet."""

    @property
    def renewable(self) -> bool:
        """Whether another token can be fetched."""
        return isinstance(self._auth, OAuth2)

    async def parts(self) -> tuple[dict[str, str], dict[str, str]]:
        """Returns headers and parameters that a request carries.

        Raises:
            SetupError, Transient: there is no token.
        """
        match self._auth:
            case Bearer(token=token, scheme=scheme):
                return {"Authorization": f"{scheme} {token}".strip()}, {}
            case Basic(user=user, password=password):
                return {"Authorization": _basic(user, password)}, {}
            case ApiKey(name=name, value=value, where=where):
                return ({name: value}, {}) if where == "header" else ({}, {name: value})
            case OAuth2() as auth:
                return {"Authorization": await self._fetched(auth)}, {}
            case _:
                return {}, {}

    async def refused(self, headers: Mapping[str, str]) -> None:
        """Forgets the token of a request that was refused, unless another one was fetched meanwhile."""
        if self._token is not None and headers.get("Authorization") == self._token:
            self._token = None

    async def _fetched(self, auth: OAuth2) -> str:
        async with self._lock:
            if self._token is None or time.monotonic() >= self._over:
                self._token = await self._fetch(auth)
            return self._token

    async def _fetch(self, auth: OAuth2) -> str:
        fields = {"grant_type": "client_credentials"}
        if auth.refresh_token is not None:
            fields = {"grant_type": "refresh_token", "refresh_token": auth.refresh_token}
        if auth.scope:
            fields["scope"] = auth.scope
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if auth.credentials_in == "header":
            headers["Authorization"] = _basic(auth.client_id, auth.client_secret)
        else:
            fields |= {"client_id": auth.client_id} | ({"client_secret": auth.client_secret} if auth.client_secret else {})
        status, answer = await self._ask(auth.token_url, headers, urlencode(fields | auth.params).encode())
        if status == 429 or status >= 500:
            raise Transient(f"{auth.token_url}: the address of tokens answers {status}")
        if status >= 300:
            raise SetupError(f"{auth.token_url}: the address of tokens answers {status}{_words(answer)}; check `auth`")
        try:
            token = msgspec.json.decode(answer, type=_Token)
        except UNREADABLE as exc:
            raise SetupError(
                f"{auth.token_url}: the address of tokens answers with no token ({exc}); check `auth.token_url`"
            ) from exc
        if token.refresh_token and auth.refresh_token is not None and token.refresh_token != auth.refresh_token:
            self._auth = replace(auth, refresh_token=token.refresh_token)
            self.changed = msgspec.json.encode(self._auth)
        self._mask.add([token.access_token, token.refresh_token or ""])
        self._over = time.monotonic() + _seconds(token.expires_in)
        return f"Bearer {token.access_token}"


def _seconds(expires_in: float | str | None) -> float:
    """Returns how long a token is good; for ever if nothing is said: a refusal tells then."""
    try:
        seconds = float("inf") if expires_in is None else float(expires_in)
    except ValueError:
        return float("inf")
    return max(seconds - EARLY_SECONDS, seconds / 2)


def _words(answer: bytes) -> str:
    """Returns what a refusal says by the words that the standard gives it, and no other, which might repeat a secret."""
    try:
        found = msgspec.json.decode(answer, type=_Refusal)
    except UNREADABLE:
        return ""
    return "".join(f": {each[:_WORDS]}" for each in (found.error, found.error_description) if each)


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
