"""Whose word on identities counts: Fulcio's CAs and their CT logs, from a file that somebody pinned.

The file is Sigstore's TrustedRoot as JSON (``sigstore_trustroot.proto`` of sigstore/protobuf-specs, media type v0.1),
of which only ``certificateAuthorities`` and ``ctlogs`` are read, or PEM with CA certificates, which then are trusted
without a CT log. There is no default, nothing is fetched, and no update happens behind anyone's back.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from assay.attest import jcs, p256
from assay.attest.sigstore_certificate import UNREADABLE
from assay.tlog import strict
from assay.tlog.errors import LogError, MalformedError

MEDIA_TYPE = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
MAX_ROOTS_SIZE = 1 << 20
_MAX_AUTHORITIES = 64
_MAX_CHAIN = 8
_CT_KEY = "PKIX_ECDSA_P256_SHA_256"
"""The keys of all CT logs that Sigstore runs today; an instance with another one vouches for nothing here."""


@dataclass(frozen=True, slots=True)
class Period:
    """From when to when something counts: Unix seconds, both included; ``end_s`` None means without end."""

    start_s: int
    end_s: int | None

    def covers(self, at_s: int) -> bool:
        """Whether a time is in it."""
        return self.start_s <= at_s and (self.end_s is None or at_s <= self.end_s)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA: its self-signed root, the certificates between, and when its word counts."""

    root: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    period: Period


@dataclass(frozen=True, slots=True)
class CtLog:
    """A CT log: the SHA-256 of its key's SPKI DER, the key, and when its word counts."""

    log_id: bytes
    key: ec.EllipticCurvePublicKey
    period: Period


@dataclass(frozen=True, slots=True)
class SigstoreRoots:
    """What identities are judged under.

    Attributes:
        authorities: at least one.
        ct_logs: those whose keys are usable.
        needs_sct: whether a certificate must carry a timestamp by one of them: yes, if the file names any.
    """

    authorities: tuple[Authority, ...]
    ct_logs: tuple[CtLog, ...]
    needs_sct: bool


def parse_roots(data: bytes) -> SigstoreRoots:
    """Read a TrustedRoot, or CA certificates as PEM.

    Raises:
        MalformedError: neither, no CA, or one that does not end in a self-signed certificate (code
            ``sigstore-roots``).
    """
    try:
        if data.startswith(b"-----BEGIN"):
            return SigstoreRoots(_pem_authorities(data), (), needs_sct=False)
        return _parse(jcs.parse_json(data, what="trusted root", max_bytes=MAX_ROOTS_SIZE))
    except (LogError, *UNREADABLE) as error:
        raise MalformedError(f"Sigstore roots: {error}", code="sigstore-roots") from error


def _parse(value: jcs.Json) -> SigstoreRoots:
    root = _Message(value, what="trusted root")
    if root.text("mediaType") != MEDIA_TYPE:
        raise MalformedError(f"mediaType: not {MEDIA_TYPE}")
    authorities = tuple(_authority(item) for item in root.messages("certificateAuthorities"))
    if not authorities:
        raise MalformedError("no certificate authority")
    ct_logs = root.messages("ctlogs")
    usable = (_ct_log(item.message("publicKey")) for item in ct_logs)
    return SigstoreRoots(
        authorities, tuple(log for log in usable if log is not None), needs_sct=bool(ct_logs)
    )


def _authority(message: "_Message") -> Authority:
    certificates = message.message("certChain").messages("certificates")
    if not 1 <= len(certificates) <= _MAX_CHAIN:
        raise MalformedError(f"a chain of {len(certificates)} certificates")
    *between, root = (x509.load_der_x509_certificate(item.base64("rawBytes")) for item in certificates)
    _require_self_signed(root)
    return Authority(root, tuple(between), _period(message))


def _ct_log(message: "_Message") -> CtLog | None:
    if message.text("keyDetails") != _CT_KEY:
        return None
    spki = message.base64("rawBytes")
    return CtLog(hashlib.sha256(spki).digest(), p256.parse_spki(spki), _period(message))


def _period(message: "_Message") -> Period:
    valid_for = message.message("validFor")
    end = valid_for.time_s("end") if valid_for.has("end") else None
    return Period(valid_for.time_s("start"), end)


def _pem_authorities(data: bytes) -> tuple[Authority, ...]:
    if len(data) > MAX_ROOTS_SIZE:
        raise MalformedError(f"longer than {MAX_ROOTS_SIZE} bytes")
    certificates = x509.load_pem_x509_certificates(data)
    roots = [each for each in certificates if each.issuer == each.subject]
    between = tuple(each for each in certificates if each.issuer != each.subject)
    if not roots or len(certificates) > _MAX_CHAIN:
        raise MalformedError(f"no self-signed certificate, or more than {_MAX_CHAIN} certificates")
    for root in roots:
        _require_self_signed(root)
    return tuple(Authority(root, between, Period(0, None)) for root in roots)


def _require_self_signed(certificate: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(certificate)
    except InvalidSignature as error:
        raise MalformedError("the last certificate of a chain is not self-signed") from error


class _Message:
    """A protobuf message as JSON, of which the named members are read and others left alone."""

    def __init__(self, value: jcs.Json, *, what: str) -> None:
        if not isinstance(value, dict):
            raise MalformedError(f"{what}: not an object")
        self._members, self._what = value, what

    def has(self, key: str) -> bool:
        return self._members.get(key) is not None

    def text(self, key: str) -> str:
        value = self._members.get(key)
        if not isinstance(value, str):
            raise MalformedError(f"{self._what}.{key}: not text")
        return value

    def base64(self, key: str) -> bytes:
        return strict.base64_bytes(self.text(key), what=f"{self._what}.{key}")

    def time_s(self, key: str) -> int:
        """A Timestamp (RFC 3339) in whole Unix seconds."""
        moment = datetime.fromisoformat(self.text(key))
        if moment.tzinfo is None:
            raise MalformedError(f"{self._what}.{key}: a time without its zone")
        return int(moment.timestamp())

    def message(self, key: str) -> "_Message":
        return _Message(self._members.get(key), what=f"{self._what}.{key}")

    def messages(self, key: str) -> list["_Message"]:
        items: Iterable[jcs.Json] = self._members.get(key) or []
        if not isinstance(items, list) or len(items) > _MAX_AUTHORITIES:
            raise MalformedError(f"{self._what}.{key}: not a list, or more than {_MAX_AUTHORITIES} items")
        return [_Message(item, what=f"{self._what}.{key}") for item in items]
