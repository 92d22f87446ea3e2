"""Keys of signed notes: verifier keys ("vkeys"), Go-style signer keys, and the files that hold them.

A key is its name, its type and its key material together: the same 32 bytes as a note key and as a
cosigner's key are two keys with two ids, so that a signature made in one role never counts in another.
Sources: c2sp.org/signed-note (names, key ids, vkeys), c2sp.org/tlog-cosignature (types 0x04 and 0x06).
"""

import enum
import hashlib
import re
from dataclasses import dataclass, field
from typing import assert_never

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from assay.tlog.errors import MalformedError, UntrustedError
from assay.tlog.strict import base64_bytes, base64_text, hex_bytes, lines, shown

KEY_ID_SIZE = 4
SEED_SIZE = 32
MAX_KEY_TEXT = 4096
"""Characters of a vkey or signer key; the longest sensible one (ML-DSA-44) has about 2,000."""

MAX_COSIGNER_NAME = 255
"""Bytes of the name of an ML-DSA-44 key: its signed message carries the length in one byte."""

_SIGNER_PREFIX = "PRIVATE+KEY+"
_NAME = re.compile(r"[^\s+\x00-\x1f]+")
_SPKI_LIMIT = 256
_ED25519_FIELD = 2**255 - 19
_ED25519_SMALL_ORDER_Y = frozenset(
    {
        0,
        1,
        _ED25519_FIELD - 1,
        int.from_bytes(
            bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
        ),
        int.from_bytes(
            bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
        ),
    }
)

_PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | MLDSA44PublicKey
_PrivateKey = Ed25519PrivateKey | MLDSA44PrivateKey


class KeyType(enum.IntEnum):
    """The type byte of a vkey. 0x02 is verified only; every other byte is refused."""

    ED25519 = 0x01
    ECDSA = 0x02
    COSIGNATURE_ED25519 = 0x04
    COSIGNATURE_ML_DSA_44 = 0x06


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key in one role.

    ``public_key`` is 32 bytes for the Ed25519 types, 1312 for ML-DSA-44, and a DER SubjectPublicKeyInfo
    of P-256, P-384 or P-521 for ECDSA. ``key_id`` is SHA-256(name ‖ 0A ‖ type ‖ public key)[:4], except
    for ECDSA, where it is SHA-256(SPKI)[:4].

    Raises:
        MalformedError: a name with white space or plus, or key material that is no key of the type.
    """

    name: str
    type: KeyType
    public_key: bytes
    key_id: bytes = field(init=False, compare=False)
    _loaded: _PublicKey = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if self.type is KeyType.COSIGNATURE_ML_DSA_44 and len(self.name.encode()) > MAX_COSIGNER_NAME:
            raise MalformedError(f"key name {shown(self.name)}: longer than {MAX_COSIGNER_NAME} bytes")
        object.__setattr__(self, "_loaded", _load_public_key(self.type, self.public_key))
        object.__setattr__(self, "key_id", _key_id(self.name, self.type, self.public_key))

    def __str__(self) -> str:
        """The vkey: name, key id in hexadecimal and base64(type ‖ public key), joined by plus signs."""
        return f"{self.name}+{self.key_id.hex()}+{base64_text(bytes([self.type]) + self.public_key)}"

    def verify(self, signature: bytes, *, message: bytes) -> None:
        """Check a bare signature (without key id or timestamp) over the bytes that the type signs.

        ECDSA signatures are ASN.1 DER over SHA-256, with either of the two values of s.

        Raises:
            UntrustedError: it does not verify.
        """
        try:
            if isinstance(self._loaded, EllipticCurvePublicKey):
                self._loaded.verify(signature, message, ECDSA(hashes.SHA256()))
            else:
                self._loaded.verify(signature, message)
        except InvalidSignature as error:
            text = f"a signature of {shown(self.name)} ({self.key_id.hex()}) does not verify"
            raise UntrustedError(text, code="signature") from error


@dataclass(frozen=True, slots=True)
class SignerKey:
    """A private key in one role: a 32-byte seed, never shown in a repr.

    Raises:
        MalformedError: a name that no verifier would take, another seed length, or an ECDSA type.
    """

    name: str
    type: KeyType
    seed: bytes = field(repr=False)
    verifier: VerifierKey = field(init=False, compare=False)
    _private: _PrivateKey = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        private = _load_seed(self.type, self.seed)
        public_key = private.public_key().public_bytes_raw()
        object.__setattr__(self, "_private", private)
        object.__setattr__(self, "verifier", VerifierKey(self.name, self.type, public_key))

    def sign(self, message: bytes) -> bytes:
        """A bare signature over ``message``; ML-DSA-44 signatures are randomised and differ each time."""
        return self._private.sign(message)


def check_key_name(name: str) -> str:
    """Return ``name`` if a note may carry it: not empty, no Unicode space, no plus, no control character.

    Raises:
        MalformedError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise MalformedError(f"key name {shown(name)}: empty, or with white space or a plus sign")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise MalformedError(f"key name {shown(name)}: not UTF-8") from error
    return name


def parse_vkey(text: str) -> VerifierKey:
    """Parse a vkey; ``str(key)`` gives the same text back.

    Raises:
        MalformedError: another spelling, an unsupported type, or a key id that is not the key's own.
    """
    name, key_id, key_type, material = _split_key_text(text, what="vkey")
    key = VerifierKey(name, key_type, material)
    _check_key_id(key, key_id, what="vkey")
    return key


def parse_signer_key(text: str) -> SignerKey:
    """Parse ``PRIVATE+KEY+<name>+<key id>+<base64(type ‖ seed)>``, the form of golang.org/x/mod's notes.

    Messages never quote the text, because it is a secret.

    Raises:
        MalformedError: another spelling, an unsupported type, or a key id that is not the key's own.
    """
    if not text.startswith(_SIGNER_PREFIX):
        raise MalformedError(f"signer key: does not start with {_SIGNER_PREFIX}")
    try:
        name, key_id, key_type, seed = _split_key_text(text.removeprefix(_SIGNER_PREFIX), what="signer key")
    except MalformedError:
        # The chained message could quote the seed.
        raise MalformedError("signer key: not in the form name, key id, base64(type and seed)") from None
    key = SignerKey(name, key_type, seed)
    _check_key_id(key.verifier, key_id, what="signer key")
    return key


def format_signer_key(key: SignerKey) -> str:
    """The one-line text of a signer key; the inverse of :func:`parse_signer_key`."""
    material = base64_text(bytes([key.type]) + key.seed)
    return f"{_SIGNER_PREFIX}{key.name}+{key.verifier.key_id.hex()}+{material}"


def parse_key_file(text: str) -> tuple[SignerKey, SignerKey]:
    """Parse the key file of a log (types 0x01 and 0x06) or of a witness (types 0x04 and 0x06).

    Two lines: the Ed25519 key, then the ML-DSA-44 key, of one name and with independent seeds.

    Raises:
        MalformedError: anything else.
    """
    rows = lines(text, what="key file")
    if len(rows) != 2:
        raise MalformedError(f"key file: {len(rows)} lines, not 2")
    pair = parse_signer_key(rows[0]), parse_signer_key(rows[1])
    _check_key_pair(*pair)
    return pair


def format_key_file(keys: tuple[SignerKey, SignerKey]) -> str:
    """The text of a key file; the inverse of :func:`parse_key_file`.

    Raises:
        MalformedError: the two keys do not belong into one file.
    """
    _check_key_pair(*keys)
    return "".join(f"{format_signer_key(key)}\n" for key in keys)


def _check_key_pair(classic: SignerKey, post_quantum: SignerKey) -> None:
    if classic.type not in (KeyType.ED25519, KeyType.COSIGNATURE_ED25519):
        raise MalformedError("key file: the first key is not an Ed25519 key")
    if post_quantum.type is not KeyType.COSIGNATURE_ML_DSA_44:
        raise MalformedError("key file: the second key is not an ML-DSA-44 key")
    if classic.name != post_quantum.name:
        raise MalformedError("key file: the two keys have different names")
    if classic.seed == post_quantum.seed:
        raise MalformedError("key file: the two keys share one seed")


def _split_key_text(text: str, *, what: str) -> tuple[str, bytes, KeyType, bytes]:
    if len(text) > MAX_KEY_TEXT:
        raise MalformedError(f"{what}: longer than {MAX_KEY_TEXT} characters")
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise MalformedError(f"{what}: not name, key id and key joined by plus signs")
    name, id_hex, encoded = parts
    key_id = hex_bytes(id_hex, what=f"{what}'s key id", length=KEY_ID_SIZE)
    material = base64_bytes(encoded, what=f"{what}'s key")
    if not material:
        raise MalformedError(f"{what}: no key")
    try:
        key_type = KeyType(material[0])
    except ValueError as error:
        message = f"{what}: key type 0x{material[0]:02x} is not supported"
        raise MalformedError(message, code="unsupported-key-type") from error
    return name, key_id, key_type, material[1:]


def _check_key_id(key: VerifierKey, key_id: bytes, *, what: str) -> None:
    if key.key_id != key_id:
        raise MalformedError(f"{what}: key id {key_id.hex()} is not the key's own, {key.key_id.hex()}")


def _key_id(name: str, key_type: KeyType, public_key: bytes) -> bytes:
    hashed = public_key
    if key_type is not KeyType.ECDSA:
        hashed = name.encode() + b"\n" + bytes([key_type]) + public_key
    return hashlib.sha256(hashed).digest()[:KEY_ID_SIZE]


def _load_public_key(key_type: KeyType, public_key: bytes) -> _PublicKey:
    match key_type:
        case KeyType.ED25519 | KeyType.COSIGNATURE_ED25519:
            return _load_ed25519(public_key)
        case KeyType.ECDSA:
            return _load_ecdsa(public_key)
        case KeyType.COSIGNATURE_ML_DSA_44:
            try:
                return MLDSA44PublicKey.from_public_bytes(public_key)
            except ValueError as error:
                raise MalformedError("not an ML-DSA-44 public key of 1312 bytes") from error
        case _:
            assert_never(key_type)


def _load_ed25519(public_key: bytes) -> Ed25519PublicKey:
    """Load 32 bytes; refuse a second spelling of a point, and points under which anyone can sign."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
    except ValueError as error:
        raise MalformedError("not an Ed25519 public key of 32 bytes") from error
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    if y >= _ED25519_FIELD or y in _ED25519_SMALL_ORDER_Y:
        raise MalformedError("an Ed25519 public key of small order, or not in its canonical encoding")
    return key


def _load_ecdsa(spki: bytes) -> EllipticCurvePublicKey:
    if len(spki) > _SPKI_LIMIT:
        raise MalformedError("not an ECDSA public key: too long")
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError("not an ECDSA public key in DER") from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise MalformedError("not an ECDSA public key")
    if not isinstance(key.curve, SECP256R1 | SECP384R1 | SECP521R1):
        raise MalformedError(f"ECDSA on {key.curve.name}: not P-256, P-384 or P-521")
    canonical = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if canonical != spki:
        raise MalformedError("an ECDSA public key in another encoding than the canonical one")
    return key


def _load_seed(key_type: KeyType, seed: bytes) -> _PrivateKey:
    if len(seed) != SEED_SIZE:
        raise MalformedError(f"signer key: a seed has {SEED_SIZE} bytes, not {len(seed)}")
    match key_type:
        case KeyType.ED25519 | KeyType.COSIGNATURE_ED25519:
            return Ed25519PrivateKey.from_private_bytes(seed)
        case KeyType.COSIGNATURE_ML_DSA_44:
            return MLDSA44PrivateKey.from_seed_bytes(seed)
        case KeyType.ECDSA:
            raise MalformedError("signer key: ECDSA keys are verified only", code="unsupported-key-type")
        case _:
            assert_never(key_type)
