"""API tokens: who may use this log's capacity. They say nothing about an entry, whose signatures do.

The file ``tokens.toml`` holds names and SHA-256 hashes, never a token. It is read again when it changes, so
that a token is made or revoked without a restart.
"""

import hashlib
import hmac
import os
import secrets
import threading
import tomllib
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from assay.tlog.errors import MalformedError, UntrustedError

PREFIX = "assay_"
_TOKEN_BYTES = 32
_MAX_NAME = 64


class TokenError(UntrustedError):
    """No token, or not one of this log's."""

    code = "token"


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept: its name, the hex SHA-256 of its text, and when it was made (Unix ms)."""

    name: str
    sha256: str
    created_ms: int


class TokenFile:
    """The tokens of one log; a missing file means none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._read_at: tuple[int, int] | None = None
        self._tokens: tuple[Token, ...] = ()

    def tokens(self) -> tuple[Token, ...]:
        """All tokens, as the file has them now.

        Raises:
            MalformedError: not such a file (code ``config``).
        """
        with self._lock:
            try:
                status = self._path.stat()
            except FileNotFoundError:
                self._read_at, self._tokens = None, ()
                return ()
            seen = (status.st_mtime_ns, status.st_ino)
            if seen != self._read_at:
                self._tokens = _parse(self._path.read_bytes())
                self._read_at = seen
            return self._tokens

    def verify(self, authorization: str | None) -> Token:
        """The token of an ``Authorization`` header.

        Raises:
            TokenError: there is none, or it is unknown.
        """
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not text:
            raise TokenError("a write needs a token: Authorization: Bearer ...")
        digest = hashlib.sha256(text.strip().encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for token in self.tokens():
            if hmac.compare_digest(token.sha256, digest):
                found = token
        if found is None:
            raise TokenError("this token is not known here; it may have been revoked")
        return found

    def create(self, name: str, *, now_ms: int) -> str:
        """Add a token and return its text, which is kept nowhere.

        Raises:
            MalformedError: a name that is taken (code ``exists``) or none.
        """
        if not name.isprintable() or not 1 <= len(name) <= _MAX_NAME:
            raise MalformedError("a token's name has 1 to 64 printable characters", code="token-name")
        if any(token.name == name for token in self.tokens()):
            raise MalformedError(f"there is a token {name!r} already", code="exists")
        text = PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
        made = Token(name, hashlib.sha256(text.encode()).hexdigest(), now_ms)
        self._write((*self.tokens(), made))
        return text

    def revoke(self, name: str) -> None:
        """Remove a token.

        Raises:
            MalformedError: no token of that name (code ``not-found``).
        """
        left = tuple(token for token in self.tokens() if token.name != name)
        if len(left) == len(self.tokens()):
            raise MalformedError(f"there is no token {name!r}", code="not-found")
        self._write(left)

    def _write(self, tokens: tuple[Token, ...]) -> None:
        rows = [{"name": token.name, "sha256": token.sha256, "created": token.created_ms} for token in tokens]
        temporary = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(tomli_w.dumps({"token": rows}).encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)


def _parse(data: bytes) -> tuple[Token, ...]:
    try:
        rows = tomllib.loads(data.decode()).get("token", [])
        tokens = tuple(Token(row["name"], row["sha256"], row["created"]) for row in rows)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise MalformedError(f"the token file cannot be read: {error}", code="config") from error
    if not all(isinstance(t.name, str) and isinstance(t.sha256, str) and len(t.sha256) == 64 for t in tokens):
        raise MalformedError("the token file has a token without a name or hash", code="config")
    return tokens
