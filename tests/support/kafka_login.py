"""The broker's side of a login to Kafka: PLAIN (RFC 4616) and SCRAM (RFC 5802), in the requests of KIP-152."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

ROUNDS = 4096
REFUSED, UNSUPPORTED = 58, 33


@dataclass(frozen=True)
class Login:
    """The users with their passwords, and the mechanisms that are taken."""

    users: Mapping[str, str]
    mechanisms: tuple[str, ...] = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

    def talk(self) -> Talk:
        """Returns the login of one connection."""
        return Talk(self)


class Talk:
    """The login of one connection; `passed` once it succeeded."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._mechanism = ""
        self._said: list[str] = []
        self._salt = os.urandom(16)
        self.passed = False

    def answer(self, kind: int, version: int, body: bytes) -> bytes:
        """Returns the answer to a request of the login, without its number."""
        if kind == 17:
            self._mechanism = body[2:].decode()
            names = b"".join(struct.pack(">h", len(each)) + each.encode() for each in self._login.mechanisms)
            error = 0 if self._mechanism in self._login.mechanisms else UNSUPPORTED
            return struct.pack(">hi", error, len(self._login.mechanisms)) + names
        said = body[4:].decode()
        reply = self._plain(said) if self._mechanism == "PLAIN" else self._scram(said)
        error, words, token = (REFUSED, b"Authentication failed", b"") if reply is None else (0, b"", reply)
        lifetime = struct.pack(">q", 0) if version >= 1 else b""
        return struct.pack(">hh", error, len(words)) + words + struct.pack(">i", len(token)) + token + lifetime

    def _plain(self, said: str) -> bytes | None:
        _, user, password = said.split("\0")
        self.passed = self._login.users.get(user) == password
        return b"" if self.passed else None

    def _scram(self, said: str) -> bytes | None:
        self._said.append(said)
        fields = dict(each.split("=", 1) for each in said.split(",") if "=" in each)
        if len(self._said) == 1:
            self._user = fields["n"]
            first = f"r={fields['r']}{os.urandom(8).hex()},s={base64.b64encode(self._salt).decode()},i={ROUNDS}"
            self._said.append(first)
            return first.encode()
        name = "sha256" if self._mechanism.endswith("256") else "sha512"
        password = self._login.users.get(self._user)
        if password is None:
            return None
        salted = hashlib.pbkdf2_hmac(name, password.encode(), self._salt, ROUNDS)
        bare = self._said[0].removeprefix("n,,")
        message = f"{bare},{self._said[1]},{said.rpartition(',p=')[0]}".encode()
        key = hmac.digest(salted, b"Client Key", name)
        signature = hmac.digest(hashlib.new(name, key).digest(), message, name)
        proof = bytes(one ^ two for one, two in zip(key, signature, strict=True))
        if base64.b64decode(fields["p"]) != proof:
            return None
        self.passed = True
        return b"v=" + base64.b64encode(hmac.digest(hmac.digest(salted, b"Server Key", name), message, name))
