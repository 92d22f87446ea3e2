"""Whether a signing certificate's identity counts: issued under pinned roots, and in force at one time.

Nothing here has a default: the roots and the time are the caller's. A log judges at its own clock when it admits an
entry; whoever relies on the entry judges again, at the time by which witnesses saw it logged. The certificate's key
lives for minutes, and a signature that came later says nothing.
"""

import hashlib
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification
from cryptography.x509.certificate_transparency import SignedCertificateTimestamp
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store

from assay.attest.sigstore_certificate import Identity, SigningCertificate
from assay.attest.sigstore_roots import Authority, CtLog, SigstoreRoots
from assay.tlog.errors import StaleError, UntrustedError

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # the library gives an SCT's time without a zone, in UTC
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class IdentityJudgement:
    """What certificates are judged by.

    Attributes:
        roots: whose word counts.
        at_s: the time to judge at, Unix seconds.
    """

    roots: SigstoreRoots
    at_s: int


def verify_identity(certificate: SigningCertificate, judgement: IdentityJudgement) -> Identity:
    """Verify that a pinned CA vouched for the certificate's identity at the time of judgement.

    Raises:
        StaleError: the certificate was not yet or no longer in force (code ``certificate-time``).
        UntrustedError: no pinned CA issued it (``certificate-chain``), or the pinned CT logs must have seen it and
            none says so (``certificate-sct``).
    """
    at = datetime.fromtimestamp(judgement.at_s, UTC)
    if not certificate.not_before <= at <= certificate.not_after:
        raise StaleError(
            f"the certificate of {certificate.identity} is in force from {certificate.not_before} to "
            f"{certificate.not_after}, not at {at}",
            code="certificate-time",
        )
    issuer = _issuer(certificate, judgement, at)
    if judgement.roots.needs_sct and not _is_logged(certificate, issuer, judgement.roots):
        raise UntrustedError(
            f"no pinned CT log has seen the certificate of {certificate.identity}", code="certificate-sct"
        )
    return certificate.identity


def _issuer(certificate: SigningCertificate, judgement: IdentityJudgement, at: datetime) -> x509.Certificate:
    """The certificate that the pinned CA signed this one with."""
    for authority in judgement.roots.authorities:
        if not authority.period.covers(judgement.at_s):
            continue
        try:
            return _build_chain(certificate.certificate, authority, at)[1]
        except (verification.VerificationError, x509.UnsupportedGeneralNameType):
            continue
    raise UntrustedError(
        f"no pinned CA issued the certificate of {certificate.identity}", code="certificate-chain"
    )


def _build_chain(leaf: x509.Certificate, authority: Authority, at: datetime) -> list[x509.Certificate]:
    """RFC 5280 §6 as the library has it for the web, but for the purpose: that was checked when it was parsed."""
    purpose = (x509.ExtendedKeyUsage, Criticality.AGNOSTIC, None)
    verifier = (
        PolicyBuilder()
        .store(Store([authority.root]))
        .time(at)
        .extension_policies(
            ca_policy=ExtensionPolicy.webpki_defaults_ca().may_be_present(*purpose),
            ee_policy=ExtensionPolicy.webpki_defaults_ee().may_be_present(*purpose),
        )
        .build_client_verifier()
    )
    return verifier.verify(leaf, list(authority.intermediates)).chain


def _is_logged(certificate: SigningCertificate, issuer: x509.Certificate, roots: SigstoreRoots) -> bool:
    spki = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    issuer_hash = hashlib.sha256(spki).digest()
    precertificate = certificate.certificate.tbs_precertificate_bytes if certificate.scts else b""
    return any(
        log.log_id == sct.log_id and _is_by(log, sct, _signed_entry(sct, precertificate, issuer_hash))
        for sct in certificate.scts
        for log in roots.ct_logs
    )


def _is_by(log: CtLog, sct: SignedCertificateTimestamp, signed: bytes) -> bool:
    if not log.period.covers(_time_ms(sct) // 1000):
        return False
    try:
        log.key.verify(sct.signature, signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _signed_entry(sct: SignedCertificateTimestamp, precertificate: bytes, issuer_hash: bytes) -> bytes:
    """What a CT log signs of a precertificate (RFC 6962 §3.2): v1, certificate_timestamp, precert_entry."""
    head = struct.pack(">BBQH", 0, 0, _time_ms(sct), 1) + issuer_hash
    body = struct.pack(">I", len(precertificate))[1:] + precertificate
    return head + body + struct.pack(">H", len(sct.extension_bytes)) + sct.extension_bytes


def _time_ms(sct: SignedCertificateTimestamp) -> int:
    return (sct.timestamp - _EPOCH) // _MILLISECOND
