"""API tokens: who may use this log's capacity. They say nothing about an entry, whose signatures do.

The file ``tokens.toml`` holds names and SHA-256 hashes, never a token. It is read again when it changes, so
that a token is made or revoked without a restart.
"""

import hashlib
import hmac
import secrets
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import tomli_w

from assay.log_server.files import lock_file, replace_file
from assay.tlog import strict
from assay.tlog.errors import LogError, MalformedError, UnavailableError, UntrustedError

_log = structlog.get_logger("tokens")

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
        self._read_at: tuple[int, int, int] | None = None
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
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen != self._read_at:
                self._tokens = _parse(self._path.read_bytes())
                self._read_at = seen
            return self._tokens

    def verify(self, authorization: str | None) -> Token:
        """The token of an ``Authorization`` header.

        Raises:
            TokenError: there is none, or it is unknown.
            UnavailableError: the file cannot be read, so that nobody is let in (code ``tokens``).
        """
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not text:
            raise TokenError("a write needs a token: Authorization: Bearer ...")
        digest = hashlib.sha256(text.strip().encode("utf-8", "surrogateescape")).hexdigest()
        try:
            tokens = self.tokens()
        except (LogError, OSError) as error:
            _log.error("the token file cannot be read", reason=str(error))
            raise UnavailableError("the log cannot read its tokens", code="tokens") from error
        found = None
        for token in tokens:
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
        text = PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
        made = Token(name, hashlib.sha256(text.encode()).hexdigest(), now_ms)
        with self._changing() as tokens:
            if any(token.name == name for token in tokens):
                raise MalformedError(f"there is a token {name!r} already", code="exists")
            self._write((*tokens, made))
        return text

    def revoke(self, name: str) -> None:
        """Remove a token.

        Raises:
            MalformedError: no token of that name (code ``not-found``).
        """
        with self._changing() as tokens:
            left = tuple(token for token in tokens if token.name != name)
            if len(left) == len(tokens):
                raise MalformedError(f"there is no token {name!r}", code="not-found")
            self._write(left)

    @contextmanager
    def _changing(self) -> Iterator[tuple[Token, ...]]:
        """The tokens, while nobody else changes them: a revoked one must not come back with another's change."""
        with lock_file(self._path.with_name(self._path.name + ".lock")):
            yield self.tokens()

    def _write(self, tokens: tuple[Token, ...]) -> None:
        rows = [{"name": token.name, "sha256": token.sha256, "created": token.created_ms} for token in tokens]
        replace_file(self._path, tomli_w.dumps({"token": rows}).encode(), mode=0o600)


def _parse(data: bytes) -> tuple[Token, ...]:
    try:
        values = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MalformedError(f"the token file is not TOML: {error}", code="config") from error
    rows = values.pop("token", [])
    if values or not isinstance(rows, list):
        raise MalformedError("the token file has something else than [[token]]", code="config")
    return tuple(map(_parse_row, rows))


def _parse_row(row: object) -> Token:
    match row:
        case {"name": str(name), "sha256": str(sha256), "created": int(created), **more} if not more:
            strict.hex_bytes(sha256, what="a token's hash", length=32)
            return Token(name, sha256, created)
        case _:
            raise MalformedError("a token has a name, its sha256, and when it was created", code="config")
