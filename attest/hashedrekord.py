"""Rekor v2's entry ``hashedrekord`` 0.0.2: somebody signed something of which the log knows the digest.

The leaf is RFC 8785 JSON, byte for byte what Rekor v2 logs (sigstore/rekor-tiles, ``hashedrekord`` 0.0.2)::

    {"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{
      "data":{"algorithm":"SHA2_256","digest":base64},
      "signature":{"content":base64,"verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256",
                   "publicKey":{"rawBytes":base64 SPKI}   or   "x509Certificate":{"rawBytes":base64 DER}}}}}}

Parsing believes nothing; :mod:`assay.attest.prehashed` checks the signature.
"""

from dataclasses import dataclass

from assay.attest import jcs
from assay.tlog import strict
from assay.tlog.errors import MalformedError

KIND = "hashedrekord"
API_VERSION = "0.0.2"

DIGEST_SIZES = {"SHA2_256": 32, "SHA2_384": 48, "SHA2_512": 64}
"""Digest algorithm, as Sigstore names it -> bytes of a digest."""

ALGORITHMS = {
    "PKIX_ECDSA_P256_SHA_256": "SHA2_256",
    "PKIX_ECDSA_P384_SHA_384": "SHA2_384",
    "PKIX_ECDSA_P521_SHA_512": "SHA2_512",
    "PKIX_RSA_PKCS1V15_2048_SHA256": "SHA2_256",
    "PKIX_RSA_PKCS1V15_3072_SHA256": "SHA2_256",
    "PKIX_RSA_PKCS1V15_4096_SHA256": "SHA2_256",
}
"""Key details, as Sigstore names them -> the digest algorithm that they sign."""

MAX_SIGNATURE_SIZE = 1024
MAX_VERIFIER_SIZE = 16_384


@dataclass(frozen=True, slots=True)
class HashedRekord:
    """A parsed entry; the signature is not verified.

    Attributes:
        algorithm: of the digest, a key of :data:`DIGEST_SIZES`.
        digest: of what was signed.
        signature: DER ``ECDSA-Sig-Value``, or the bytes of an RSA signature.
        key_details: a key of :data:`ALGORITHMS`.
        verifier: SPKI DER, or a certificate's DER if ``certificate``.
    """

    algorithm: str
    digest: bytes
    signature: bytes
    key_details: str
    verifier: bytes
    certificate: bool

    def spec(self) -> jcs.Json:
        """``{"hashedRekordV002": ...}``."""
        kind = "x509Certificate" if self.certificate else "publicKey"
        return {
            "hashedRekordV002": {
                "data": {"algorithm": self.algorithm, "digest": strict.base64_text(self.digest)},
                "signature": {
                    "content": strict.base64_text(self.signature),
                    "verifier": {
                        "keyDetails": self.key_details,
                        kind: {"rawBytes": strict.base64_text(self.verifier)},
                    },
                },
            }
        }


def parse_spec(spec: jcs.Json) -> HashedRekord:
    """Read the ``spec`` member.

    Raises:
        MalformedError: not that, an algorithm that is not known (code ``algorithm``), or a digest or signature
            of a length that its algorithm has not.
    """
    record = jcs.Fields(spec, what=KIND, required=("hashedRekordV002",)).fields(
        "hashedRekordV002", required=("data", "signature")
    )
    data = record.fields("data", required=("algorithm", "digest"))
    signature = record.fields("signature", required=("content", "verifier"))
    verifier = signature.fields(
        "verifier", required=("keyDetails",), optional=("publicKey", "x509Certificate")
    )
    if verifier.has("publicKey") == verifier.has("x509Certificate"):
        raise MalformedError("hashedrekord: one verifier, a publicKey or an x509Certificate")
    certificate = verifier.has("x509Certificate")
    raw = verifier.fields("x509Certificate" if certificate else "publicKey", required=("rawBytes",))
    return check(
        HashedRekord(
            algorithm=data.text("algorithm"),
            digest=data.base64("digest", max_length=64),
            signature=signature.base64("content", max_length=MAX_SIGNATURE_SIZE),
            key_details=verifier.text("keyDetails"),
            verifier=raw.base64("rawBytes", max_length=MAX_VERIFIER_SIZE),
            certificate=certificate,
        )
    )


def check(record: HashedRekord) -> HashedRekord:
    """Check what can be checked without the key, and return the record.

    Raises:
        MalformedError: see :func:`parse_spec`.
    """
    if record.key_details not in ALGORITHMS:
        raise MalformedError(
            f"hashedrekord: the algorithm {strict.shown(record.key_details)} is not admitted",
            code="algorithm",
        )
    if record.algorithm != ALGORITHMS[record.key_details]:
        raise MalformedError(
            f"hashedrekord: {record.key_details} does not sign {strict.shown(record.algorithm)}",
            code="algorithm",
        )
    if len(record.digest) != DIGEST_SIZES[record.algorithm]:
        raise MalformedError(
            f"hashedrekord: a digest of {len(record.digest)} bytes is not {record.algorithm}"
        )
    if not record.signature:
        raise MalformedError("hashedrekord: no signature")
    return record
