r"""State that outlives a boot: one file, sealed to this measurement on this machine, replaced atomically.

Sealed file: ``"assay-sealed-v1\0"`` ‖ nonce[12] ‖ AES-256-GCM ciphertext and tag, key = HKDF-SHA256(seal key,
info "assay-seal-v1"), associated data the file's name. Where the file system seals (a Gramine encrypted mount)
the content stands plain in it. Neither protects against an old copy being put back: receipts chain in public
for that reason.
"""

import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from assay.tlog.errors import MalformedError, UnavailableError, UntrustedError

MAX_STATE_SIZE = 1 << 20

_MAGIC = b"assay-sealed-v1\0"
_NONCE_SIZE = 12


class SealedFile:
    """One sealed file.

    Args:
        path: where it lies.
        seal_key: from the platform; None if the file system seals.
    """

    def __init__(self, path: Path, *, seal_key: bytes | None) -> None:
        self._path = path
        self._cipher = None if seal_key is None else AESGCM(_derived(seal_key))

    def read(self) -> bytes | None:
        """The content, or None if the file is not there: only then may new keys be made.

        Raises:
            MalformedError: too long, or not a sealed file.
            UntrustedError: sealed by another measurement or machine, or changed (code ``sealed``).
            UnavailableError: it cannot be read, which is not the same as that it is not there (code ``state``).
        """
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_STATE_SIZE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnavailableError(f"the sealed state cannot be read: {error}", code="state") from error
        if len(data) > MAX_STATE_SIZE:
            raise MalformedError(f"{self._path}: too long")
        return data if self._cipher is None else self._open(data, self._cipher)

    def write(self, content: bytes) -> None:
        """Replace the content, durably.

        Raises:
            UnavailableError: it cannot be written (code ``state``); what was there before still is.
        """
        data = content
        if self._cipher is not None:
            nonce = os.urandom(_NONCE_SIZE)
            data = _MAGIC + nonce + self._cipher.encrypt(nonce, content, self._name())
        try:
            self._replace(data)
        except OSError as error:
            raise UnavailableError(f"the sealed state cannot be written: {error}", code="state") from error

    def _replace(self, data: bytes) -> None:
        temporary = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)

    def _open(self, data: bytes, cipher: AESGCM) -> bytes:
        body = data.removeprefix(_MAGIC)
        if len(body) == len(data) or len(body) < _NONCE_SIZE + 16:
            raise MalformedError(f"{self._path}: not a sealed file")
        try:
            return cipher.decrypt(body[:_NONCE_SIZE], body[_NONCE_SIZE:], self._name())
        except InvalidTag as error:
            raise UntrustedError(
                f"{self._path} was sealed by another measurement or machine, or was changed; "
                "a new release needs a new state directory",
                code="sealed",
            ) from error

    def _name(self) -> bytes:
        return self._path.name.encode()


def _derived(seal_key: bytes) -> bytes:
    return HKDF(hashes.SHA256(), length=32, salt=None, info=b"assay-seal-v1").derive(seal_key)
