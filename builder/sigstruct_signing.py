"""Who signs a build's SIGSTRUCT: a key in a file, or a program that holds the key elsewhere (HSM, key service).

The signature does not enter MRENCLAVE, so whoever rebuilds needs neither.
"""

import hashlib
import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from assay.attest.gramine.sigstruct import NO_DATE, SignedBody, SigStruct, date_of, sign_with
from assay.tlog import strict
from assay.tlog.errors import MalformedError, UnavailableError

EPOCH_VARIABLE = "SOURCE_DATE_EPOCH"
COMMAND_TIMEOUT_S = 300
"""How long a signing command may take; somebody may have to touch a token."""


class SignerInput(StrEnum):
    """What a signing command reads: the 256 signed bytes, or their SHA-256."""

    DATA = "data"
    DIGEST = "digest"


@dataclass(frozen=True, slots=True)
class Signing:
    """How a build is signed.

    Attributes:
        public_key: RSA-3072 with exponent 3.
        sign: see :func:`assay.attest.gramine.sigstruct.sign_with`.
        date: ``YYYY-MM-DD``; reproducible SIGSTRUCTs have none.
        private_key: if it is in memory: what Gramine's own tools are compared with.
    """

    public_key: RSAPublicKey
    sign: Callable[[bytes], bytes]
    date: str = NO_DATE
    private_key: RSAPrivateKey | None = None

    def signed(self, body: SignedBody) -> SigStruct:
        """Sign a body and verify what the signer gave.

        Raises:
            LogError: see :func:`assay.attest.gramine.sigstruct.sign_with`.
        """
        return sign_with(body, self.public_key, self.sign)


def key_signing(key: RSAPrivateKey, *, date: str = NO_DATE) -> Signing:
    """Sign with a key in memory."""
    return Signing(
        key.public_key(), lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256()), date, key
    )


def command_signing(
    command: str, public_key: RSAPublicKey, *, reads: SignerInput, date: str = NO_DATE
) -> Signing:
    """Sign with a program, which reads its standard input and writes 384 big-endian bytes to its output.

    ``openssl dgst -sha256 -sign KEY`` is one that reads the data.

    Args:
        command: split as a POSIX shell splits words, but run without one.
        public_key: of the key that it signs with; its answer is verified.
        reads: what it is given.
        date: the SIGSTRUCT's.

    Raises:
        MalformedError: no command, or an open quotation.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise MalformedError(f"signing command: {error}") from error
    if not words:
        raise MalformedError("signing command: empty")

    def sign(data: bytes) -> bytes:
        return _run(words, hashlib.sha256(data).digest() if reads is SignerInput.DIGEST else data)

    return Signing(public_key, sign, date)


def load_private_key(path: Path) -> RSAPrivateKey:
    """Read an unencrypted RSA key in PEM.

    Raises:
        MalformedError: it is none.
        OSError: it cannot be read.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError(f"{path}: not an unencrypted private key in PEM") from error
    if not isinstance(key, RSAPrivateKey):
        raise MalformedError(f"{path}: not an RSA key")
    return key


def load_public_key(path: Path) -> RSAPublicKey:
    """Read an RSA public key in PEM.

    Raises:
        MalformedError: it is none.
        OSError: it cannot be read.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError(f"{path}: not a public key in PEM") from error
    if not isinstance(key, RSAPublicKey):
        raise MalformedError(f"{path}: not an RSA key")
    return key


def epoch_date() -> str:
    """The date that the environment variable SOURCE_DATE_EPOCH asks for, in UTC.

    Raises:
        MalformedError: it is not set, or no number of seconds.
    """
    text = os.environ.get(EPOCH_VARIABLE)
    if text is None:
        raise MalformedError(f"{EPOCH_VARIABLE} is not set", code="no-epoch")
    return date_of(strict.decimal(text, what=EPOCH_VARIABLE))


def _run(words: list[str], data: bytes) -> bytes:
    try:
        result = subprocess.run(
            words, input=data, stdout=subprocess.PIPE, timeout=COMMAND_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"the signing command gave no signature ({error})", code="signer") from error
    return result.stdout
