"""Rekor v2's write protocol without HTTP: a request into an entry. What is answered: attest.transparency_entry.

A request is a protobuf message as JSON (``rekor/v2/entry.proto``, CLIENTS.md of sigstore/rekor-tiles). It is read as
leniently as protojson reads it: either case of a field's name, enums by name or number, any base64; but unknown and
repeated fields are refused.
"""

import base64
import binascii
import hashlib
from collections.abc import Collection, Sequence

from assay.attest import dsse, hashedrekord, jcs
from assay.attest.hashedrekord import HashedRekord, VerifierKind
from assay.tlog import strict
from assay.tlog.errors import MalformedError

MAX_REQUEST_SIZE = 4 * 1024 * 1024
"""As rekor-tiles has it: a DSSE envelope carries its payload."""

_KEY_DETAILS_NUMBERS = {
    5: "PKIX_ECDSA_P256_SHA_256",
    8: "PKIX_ED25519_PH",
    9: "PKIX_RSA_PKCS1V15_2048_SHA256",
    10: "PKIX_RSA_PKCS1V15_3072_SHA256",
    11: "PKIX_RSA_PKCS1V15_4096_SHA256",
    12: "PKIX_ECDSA_P384_SHA_384",
    13: "PKIX_ECDSA_P521_SHA_512",
}
"""The numbers of ``dev.sigstore.common.v1.PublicKeyDetails``, for those that an entry may have."""

_HASHES = {"SHA2_256": hashlib.sha256, "SHA2_384": hashlib.sha384, "SHA2_512": hashlib.sha512}


def parse_request(data: bytes) -> HashedRekord:
    """Read a CreateEntryRequest: ``hashedRekordRequestV002``, or ``dsseRequestV002`` as its equivalent.

    Raises:
        MalformedError: longer than 4 MiB (code ``too-large``), not JSON, an unknown, repeated or missing field, or
            an entry that the format cannot carry.
    """
    value = jcs.parse_json(data, what="request", max_bytes=MAX_REQUEST_SIZE)
    request = _Message(value, what="request", known=("hashedRekordRequestV002", "dsseRequestV002"))
    name, spec = request.one_of("hashedRekordRequestV002", "dsseRequestV002")
    return _hashed(spec) if name == "hashedRekordRequestV002" else _enveloped(spec)


def _hashed(value: jcs.Json) -> HashedRekord:
    request = _Message(value, what="hashedRekordRequestV002", known=("digest", "signature"))
    signature = request.message("signature", known=("content", "verifier"))
    verifier = signature.message("verifier", known=_VERIFIER)
    return _rekord(request.bytes("digest"), signature.bytes("content"), verifier)


def _enveloped(value: jcs.Json) -> HashedRekord:
    """A DSSE envelope, logged as the hash of its pre-authentication encoding and its one signature."""
    request = _Message(value, what="dsseRequestV002", known=("envelope", "verifiers"))
    envelope = request.message("envelope", known=("payload", "payloadType", "signatures"))
    signatures = envelope.array("signatures")
    verifiers = request.array("verifiers")
    if len(signatures) != 1 or len(verifiers) != 1:
        raise MalformedError(
            "dsseRequestV002: only one signature and its verifier can be logged in one entry"
        )
    signature = _Message(signatures[0], what="dsseRequestV002.signatures", known=("sig", "keyid"))
    verifier = _Message(verifiers[0], what="dsseRequestV002.verifiers", known=_VERIFIER)
    encoded = dsse.pae(envelope.text("payloadType"), envelope.bytes("payload", empty=True))
    details = _key_details(verifier)
    digest = _HASHES[hashedrekord.KEY_DETAILS[details]](encoded).digest()
    return _rekord(digest, signature.bytes("sig"), verifier)


_VERIFIER = ("publicKey", "x509Certificate", "keyDetails")


def _rekord(digest: bytes, content: bytes, verifier: "_Message") -> HashedRekord:
    kind, key = verifier.one_of("publicKey", "x509Certificate")
    raw = _Message(key, what=verifier.name(kind), known=("rawBytes",)).bytes("rawBytes")
    return HashedRekord(
        digest=digest,
        signature=content,
        key_details=_key_details(verifier),
        verifier_kind=VerifierKind(kind),
        verifier=raw,
    )


def _key_details(verifier: "_Message") -> str:
    value = verifier.enum("keyDetails", _KEY_DETAILS_NUMBERS)
    if value not in hashedrekord.KEY_DETAILS:
        raise MalformedError(f"keyDetails {strict.shown(value)} is not admitted", code="unsupported-key")
    return value


class _Message:
    """One protobuf message as JSON; a field that is null counts as absent, as protojson has it.

    Args:
        value: what should be an object.
        what: its name, for messages.
        known: the fields' names in lowerCamelCase.

    Raises:
        MalformedError: no object, an unknown field, or one that stands twice under two names.
    """

    def __init__(self, value: jcs.Json, *, what: str, known: Collection[str]) -> None:
        if not isinstance(value, dict):
            raise MalformedError(f"{what}: not a JSON object")
        names = {spelling: name for name in known for spelling in (name, _snake_case(name))}
        self._what = what
        self._fields: dict[str, jcs.Json] = {}
        for spelling, item in value.items():
            if spelling not in names:
                raise MalformedError(f"{what}: {strict.shown(spelling)} is not a known field")
            if names[spelling] in self._fields:
                raise MalformedError(f"{what}: {names[spelling]} stands twice")
            self._fields[names[spelling]] = item

    def name(self, key: str) -> str:
        """The path of a field, for messages."""
        return f"{self._what}.{key}"

    def one_of(self, *names: str) -> tuple[str, jcs.Json]:
        """The one field of several that is there."""
        present = [name for name in names if self._fields.get(name) is not None]
        if len(present) != 1:
            raise MalformedError(f"{self._what}: one of {', '.join(names)}, not {len(present)} of them")
        return present[0], self._fields[present[0]]

    def message(self, key: str, *, known: Collection[str]) -> "_Message":
        """A field that is itself a message."""
        return _Message(self._present(key), what=self.name(key), known=known)

    def array(self, key: str) -> Sequence[jcs.Json]:
        """A repeated field."""
        value = self._present(key)
        if not isinstance(value, list):
            raise MalformedError(f"{self.name(key)}: not a list")
        return value

    def text(self, key: str) -> str:
        """Text that is not empty."""
        value = self._present(key)
        if not isinstance(value, str) or not value:
            raise MalformedError(f"{self.name(key)}: not text, or empty")
        return value

    def bytes(self, key: str, *, empty: bool = False) -> bytes:
        """Bytes in base64 of either alphabet, padded or not; empty ones may be left out, if they may be empty."""
        if empty and not self._fields.get(key):
            return b""
        text = self.text(key).rstrip("=").translate(_STANDARD)
        try:
            return base64.b64decode((text + "=" * (-len(text) % 4)).encode("ascii"), validate=True)
        except (UnicodeEncodeError, binascii.Error) as error:
            raise MalformedError(f"{self.name(key)}: not base64") from error

    def enum(self, key: str, numbers: dict[int, str]) -> str:
        """An enum by its name or number."""
        value = self._present(key)
        if type(value) is int:
            return numbers.get(value, str(value))
        if not isinstance(value, str):
            raise MalformedError(f"{self.name(key)}: neither a name nor a number")
        return value

    def _present(self, key: str) -> jcs.Json:
        value = self._fields.get(key)
        if value is None:
            raise MalformedError(f"{self._what}: {key} is missing")
        return value


_STANDARD = str.maketrans("-_", "+/")


def _snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
