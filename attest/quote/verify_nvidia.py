"""The verdict on a GPU's evidence: NVIDIA's chain, the signature, the nonce, and the firmware behind the key.

This proves that a genuine device measured itself, for this nonce. It does not prove that the measurements are
good: that needs NVIDIA's signed reference values for driver and VBIOS, which are not read here, and revocation
is NVIDIA's online service. Both stand in the result as not checked.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509

from assay.attest import p256
from assay.attest.quote import nvidia
from assay.attest.quote.nvidia import GpuEvidence
from assay.attest.quote.pinned_chain import (
    Period,
    common_period,
    extensions_of,
    load_pem_chain,
    p384_key,
    period_at,
    require_issued,
    require_pinned,
    require_role,
    require_signature,
)
from assay.attest.roots import Platform
from assay.attest.roots.pinned import GpuRoot
from assay.tlog.errors import MalformedError, UntrustedError

CHAIN_LENGTH = 5
"""Leaf (firmware), device, provisioner, product, root."""

DICE_EXTENSIONS = frozenset({"2.23.133.5.4.1", "2.23.133.5.4.1.1"})
"""TCG DICE: what of the leaf says which firmware holds its key (Hopper and Blackwell spell it differently)."""

FWID_HEAD = bytes.fromhex("303d0609608648016503040202" + "0430")
"""DER of a FWID up to the digest: SEQUENCE { SHA-384, OCTET STRING (48) }."""
FWID_SIZE = 48

_VERSION = re.compile(rb"[0-9A-Za-z][0-9A-Za-z._-]{0,62}\0?")


class References(StrEnum):
    """Whether the measurements were held against the vendor's reference values."""

    NOT_CHECKED = "not-checked"


class GpuRevocation(StrEnum):
    """Whether somebody asked if a certificate is revoked."""

    NOT_CHECKED = "not-checked"


@dataclass(frozen=True, slots=True)
class VerifiedGpuEvidence:
    """Evidence that verified under one root, at one time, for one nonce.

    Attributes:
        platform: whose word it is, derived from the root.
        root_name: the caller's name of the root that verified.
        evidence: the measurements and everything else that was signed.
        device: the leaf's common name, such as ``GH100 A01 GSP FMC LF``.
        key_id: hex SHA-256 of the leaf's public key: of one device with one firmware.
        firmware_id: 48 bytes: the digest of the firmware that holds the key; the certificate says so too.
            None if the device sent none.
        driver_version: as the device measured it; None for a switch.
        vbios_version: dotted, such as ``96.00.A5.00.01``; None if the device sent none.
        references: whether the measurements were held against reference values.
        revocation: whether a certificate might be revoked was asked.
        valid_from_s: the latest notBefore of the chain, in Unix seconds.
        valid_until_s: the earliest expiry of it; from that second on it no longer counts.
    """

    platform: Platform
    root_name: str
    evidence: GpuEvidence
    device: str
    key_id: str
    firmware_id: bytes | None
    driver_version: str | None
    vbios_version: str | None
    references: References
    revocation: GpuRevocation
    valid_from_s: int
    valid_until_s: int

    @property
    def evidence_id(self) -> str:
        """Hex SHA-256 of the signed bytes."""
        return self.evidence.evidence_id


def verify_gpu_evidence(
    evidence: bytes, certificate_chain_pem: bytes, *, root: GpuRoot, now_s: int, nonce: bytes
) -> VerifiedGpuEvidence:
    """Verify a GPU's evidence and return what it proves.

    Steps: 1. the evidence's layout; 2. it is for this nonce; 3. five certificates up to the pinned root; 4. the
    signature, by the leaf, over all but itself; 5. the firmware that the evidence names is the leaf's; 6. the
    versions can be read.

    Args:
        evidence: request and response.
        certificate_chain_pem: leaf first, the root last.
        root: the only anchor.
        now_s: the time to judge at, in Unix seconds.
        nonce: 32 bytes that the evidence must be for; see :func:`nvidia.gpu_nonce`.

    Raises:
        MalformedError: evidence or certificates are in no form that is read here.
        UntrustedError: something does not verify under this root; ``code`` says what.
        StaleError: a certificate is not valid at ``now_s``.
    """
    parsed = nvidia.parse_evidence(evidence)
    if parsed.nonce != nonce:
        raise UntrustedError("the evidence is for another nonce", code="nonce-mismatch")
    chain = load_pem_chain(certificate_chain_pem, count=CHAIN_LENGTH, what="GPU chain")
    period = _verify_chain(chain, root=root, now_s=now_s)
    leaf = chain[0]
    key = p384_key(leaf, what="leaf")
    require_signature(
        key,
        r=int.from_bytes(parsed.signature[:48], "big"),
        s=int.from_bytes(parsed.signature[48:], "big"),
        message=parsed.signed_bytes,
    )
    firmware_id = parsed.field(nvidia.FIRMWARE_ID)
    if firmware_id is not None:
        _require_firmware(firmware_id, leaf)
    return VerifiedGpuEvidence(
        platform=root.platform_of(chain[-1]),
        root_name=root.name,
        evidence=parsed,
        device=_common_name(leaf),
        key_id=p256.signer_id(p256.spki(key)),
        firmware_id=firmware_id,
        driver_version=_text(parsed.field(nvidia.DRIVER_VERSION), what="driver version"),
        vbios_version=_vbios(parsed.field(nvidia.VBIOS_VERSION)),
        references=References.NOT_CHECKED,
        revocation=GpuRevocation.NOT_CHECKED,
        valid_from_s=period.from_s,
        valid_until_s=period.until_s,
    )


def _verify_chain(chain: tuple[x509.Certificate, ...], *, root: GpuRoot, now_s: int) -> Period:
    """Each issued by the next on P-384, the last by itself with the pinned key; all but the first are CAs."""
    require_pinned(chain[-1], root)
    periods = []
    for position, (certificate, issuer) in enumerate(zip(chain, (*chain[1:], chain[-1]), strict=True)):
        what = f"certificate {position} of the GPU chain"
        p384_key(issuer, what=what)
        require_issued(certificate, issuer, algorithm=x509.SignatureAlgorithmOID.ECDSA_WITH_SHA384, what=what)
        require_role(certificate, is_ca=position > 0, what=what)
        periods.append(period_at(certificate, now_s=now_s, what=what))
    return common_period(periods)


def _require_firmware(firmware_id: bytes, leaf: x509.Certificate) -> None:
    """The leaf was issued for a key that this firmware holds."""
    named = [
        extension.value.public_bytes()
        for extension in extensions_of(leaf, what="leaf")
        if extension.oid.dotted_string in DICE_EXTENSIONS
    ]
    if len(firmware_id) != FWID_SIZE or not any(FWID_HEAD + firmware_id in value for value in named):
        raise UntrustedError(
            "the evidence names another firmware than the certificate", code="wrong-firmware"
        )


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _text(data: bytes | None, *, what: str) -> str | None:
    if data is None:
        return None
    if not _VERSION.fullmatch(data):
        raise MalformedError(f"GPU evidence: the {what} is no short text", code="malformed-quote")
    return data.removesuffix(b"\0").decode("ascii")


def _vbios(data: bytes | None) -> str | None:
    """A switch sends text; a GPU a u32 and one byte more: 00 A5 00 96 01 00 00 00 is 96.00.A5.00.01."""
    if data is None or len(data) != 8 or any(data[5:]):
        return _text(data, what="VBIOS version")
    return ".".join(f"{octet:02X}" for octet in (*data[3::-1], data[4]))
