"""The address of a broker: one text that says where it is, who asks, and which authority must have signed its certificate.

    nats://127.0.0.1:4222
    nats://loader:password@nats-1:4222,nats://nats-2:4222,nats://nats-3:4222
    tls://loader:password@nats-1:4222,tls://nats-2:4222?ca=/etc/penstock/ca.pem

User and password stand in the first address that has them and count for all; special characters in them are written as `%40`. With
`tls://` or `ca` the client speaks to no server without TLS, so a password never crosses the network in clear. `ca` is the file of the
authority; without it the system's authorities count. `cert` and `key` name a certificate that the client shows.

A client that has a user gets its answers below `_INBOX.<user>`, so the broker can keep users from reading each other's answers.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from shared.errors import ConfigError, Problem

INBOX = "_INBOX"
_FILES = ("ca", "cert", "key")
_WHERE = "the broker's address"


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address. `servers` have neither user nor password in them."""

    servers: tuple[str, ...]
    user: str | None = None
    password: str | None = None
    token: str | None = None
    """Stands alone before the `@`."""
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @property
    def inbox_prefix(self) -> str:
        """Returns where answers to this user arrive."""
        return f"{INBOX}.{self.user}" if self.user and re.fullmatch(r"[A-Za-z0-9_-]+", self.user) else INBOX

    def context(self) -> ssl.SSLContext | None:
        """Returns what TLS needs; None if the address names neither `tls://` nor a file.

        Raises:
            ConfigError: a file is missing or holds no certificate.
        """
        if not self.tls:
            return None
        try:
            made = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError([Problem(_WHERE, f"ca: {self.ca} cannot be read as a certificate: {_why(exc)}")]) from exc
        if self.cert is not None:
            try:
                made.load_cert_chain(self.cert, self.key)
            except (OSError, ssl.SSLError) as exc:
                raise ConfigError([Problem(_WHERE, f"cert, key: {self.cert} cannot be used: {_why(exc)}")]) from exc
        return made


def parse_address(text: str) -> Address:
    """Reads an address.

    Args:
        text: one or more addresses, separated by commas.

    Raises:
        ConfigError: it names no server, or a parameter that does not exist. The text is not repeated, because it may hold a password.
    """
    servers: list[str] = []
    user = password = token = None
    tls = False
    files: dict[str, str] = {}
    for one in (part.strip() for part in text.split(",")):
        if not one:
            continue
        try:
            parts = urlsplit(one if "://" in one else f"nats://{one}")
            host, port = parts.hostname, parts.port or 4222
        except ValueError:
            host, port = None, 0
        if host is None or parts.scheme not in ("nats", "tls", "ws", "wss"):
            raise ConfigError([Problem(_WHERE, "expected nats://host:4222 or tls://host:4222, several separated by commas")])
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name not in _FILES:
                raise ConfigError([Problem(_WHERE, f"?{name}= is not known; expected {', '.join(_FILES)}")])
            files[name] = value
        if parts.username and parts.password is None:
            token = unquote(parts.username)
        elif parts.username and user is None:
            user, password = unquote(parts.username), unquote(parts.password or "")
        tls = tls or parts.scheme in ("tls", "wss")
        shown = f"[{host}]" if ":" in host else host
        servers.append(f"{shown}:{port}" if parts.scheme in ("nats", "tls") else f"{parts.scheme}://{shown}:{port}{parts.path}")
    if not servers:
        raise ConfigError([Problem(_WHERE, "is empty; expected nats://host:4222")])
    tls = tls or bool(files)
    scheme = "tls" if tls else "nats"
    named = tuple(server if "://" in server else f"{scheme}://{server}" for server in servers)
    return Address(
        servers=named,
        user=user,
        password=password,
        token=token,
        tls=tls,
        ca=files.get("ca"),
        cert=files.get("cert"),
        key=files.get("key"),
    )


def without_password(url: str) -> str:
    """Returns addresses without users, passwords and files."""
    return ",".join(part.split("@")[-1].partition("?")[0] for part in url.split(","))


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__
