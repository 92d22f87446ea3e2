"""The verdict on a quote: the library's checks, and a strict layer for what the library leaves open.

One path of code for every root, so that simulated and real evidence are judged alike. Trust comes from the
root that the caller names and from nothing else; the time is the caller's. The TCB status is reported, not
judged: which states are good enough is a policy's decision. What the quote's report_data binds is checked by
the caller, who knows the claims.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from assay.attest import jcs
from assay.attest.measurement import Measurement, Tee
from assay.attest.quote import dcap, pck, sgx, tdx
from assay.attest.quote.certificates import parse_chain
from assay.attest.quote.collateral import MAX_COLLATERAL_SIZE, Collateral
from assay.attest.quote.parse import Quote, parse_quote
from assay.attest.quote.sgx import QuoteV3
from assay.attest.quote.tcb import TcbStatus
from assay.attest.quote.tdx import TdBody, TdQuote
from assay.attest.roots import Platform, TrustedRoot
from assay.tlog.errors import MalformedError, StaleError, UntrustedError

_TCB_SIGNER = "SGX TCB Signing"
"""How the common name of the only certificate ends that may sign TCB info and QE identity."""


_NO_SERVICE_TD = bytes(48)


@dataclass(frozen=True, slots=True)
class VerifiedQuote(ABC):
    """What every quote proves that verified under one root, at one time, with one set of collateral.

    Attributes:
        platform: whose word it is, derived from the root.
        root_name: the caller's name of the root that verified.
        tcb_status: the state of the platform, converged with the quoting enclave's and the TDX module's.
        advisories: Intel's advisories behind that state, such as ``INTEL-SA-00615``.
        evaluation_number: the lower TCB evaluation data number of TCB info and QE identity.
        fmspc: 6 bytes: the family, model, stepping, platform type and custom SKU.
        ppid_sha256: hex SHA-256 of the machine's lasting id, which itself is not for publication.
        evidence_id: hex SHA-256 of the quote's signed bytes.
        collateral_id: hex SHA-256 of the collateral's canonical bytes.
        valid_from_s: the latest date of issue among all that was used, in Unix seconds.
        valid_until_s: the earliest date of expiry among it; from that second on it no longer counts.
    """

    platform: Platform
    root_name: str
    tcb_status: TcbStatus
    advisories: tuple[str, ...]
    evaluation_number: int
    fmspc: bytes
    ppid_sha256: str
    evidence_id: str
    collateral_id: str
    valid_from_s: int
    valid_until_s: int

    @property
    @abstractmethod
    def measurement(self) -> Measurement:
        """What was loaded: MRENCLAVE or MRTD, as the hash of one TEE among others."""
        ...

    @property
    @abstractmethod
    def report_data(self) -> bytes:
        """The 64 bytes that the enclave or TD put into its report."""
        ...


@dataclass(frozen=True, slots=True)
class VerifiedSgxQuote(VerifiedQuote):
    """A verified quote of an SGX enclave; never of a debug enclave."""

    report: sgx.ReportBody

    @property
    def measurement(self) -> Measurement:
        """MRENCLAVE."""
        return Measurement(Tee.SGX, self.report.mr_enclave)

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the enclave put into its report."""
        return self.report.report_data

    @property
    def mr_enclave(self) -> bytes:
        """Hash of what was loaded into the enclave (32 bytes)."""
        return self.report.mr_enclave

    @property
    def mr_signer(self) -> bytes:
        """Hash of the key that signed the enclave (32 bytes)."""
        return self.report.mr_signer

    @property
    def isv_prod_id(self) -> int:
        """The signer's product number."""
        return self.report.isv_prod_id

    @property
    def isv_svn(self) -> int:
        """The signer's security version of that product."""
        return self.report.isv_svn

    @property
    def attributes(self) -> bytes:
        """ATTRIBUTES: flags and xfrm (16 bytes)."""
        return self.report.attributes


@dataclass(frozen=True, slots=True)
class VerifiedTdxQuote(VerifiedQuote):
    """A verified quote of a trust domain: never a debug or migratable one, nor one with a service TD."""

    body: TdBody

    @property
    def measurement(self) -> Measurement:
        """MRTD. What the TD loaded afterwards is in the RTMRs."""
        return Measurement(Tee.TDX, self.body.report.mr_td)

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the TD put into its report."""
        return self.body.report.report_data


class _Common(NamedTuple):
    """The members of :class:`VerifiedQuote`, in their order."""

    platform: Platform
    root_name: str
    tcb_status: TcbStatus
    advisories: tuple[str, ...]
    evaluation_number: int
    fmspc: bytes
    ppid_sha256: str
    evidence_id: str
    collateral_id: str
    valid_from_s: int
    valid_until_s: int


def verify_quote(
    quote: bytes, collateral: Collateral, *, root: TrustedRoot, now_s: int
) -> VerifiedSgxQuote | VerifiedTdxQuote:
    """Verify a quote of any TEE that is read here and return what it proves.

    Steps: 1. the quote's layout, every nested length filled exactly; 2. the issuer chains are read once,
    and the library sees exactly these certificates; 3. the library: chains, signatures, revocation, QE
    identity, TCB level, and for TDX the module and the TD's attributes; 4. the signers of TCB info and QE
    identity; 5. the CRLs' dates; 6. the PCK certificate, read a second time, and its PCEID; 7. the quoting
    enclave's report binds the attestation key and nothing else; 8. no debug enclave or TD, quoting or quoted,
    and no TD that something else may read or replace.

    Args:
        quote: the bytes, without padding.
        collateral: parsed; its PCK chain, if it came with one, is already gone.
        root: the only anchor.
        now_s: the time to judge at, in Unix seconds.

    Raises:
        MalformedError: quote or collateral are in no form that is read here.
        UntrustedError: something does not verify under this root; ``code`` says what.
        StaleError: collateral or certificates are not valid at ``now_s``.
    """
    parsed = parse_quote(quote)
    if isinstance(parsed, QuoteV3):
        return _verify_sgx(quote, parsed, collateral, root=root, now_s=now_s)
    return _verify_tdx(quote, parsed, collateral, root=root, now_s=now_s)


def verify_sgx_quote(
    quote: bytes, collateral: Collateral, *, root: TrustedRoot, now_s: int
) -> VerifiedSgxQuote:
    """Verify a quote that must be an SGX enclave's, as :func:`verify_quote` does.

    Raises:
        MalformedError: another TEE's (code ``unsupported``), or as above.
        UntrustedError, StaleError: as above.
    """
    return _verify_sgx(quote, sgx.parse_quote(quote), collateral, root=root, now_s=now_s)


def _verify_sgx(
    quote: bytes, parsed: QuoteV3, collateral: Collateral, *, root: TrustedRoot, now_s: int
) -> VerifiedSgxQuote:
    common = _verify_platform(quote, parsed, collateral, root=root, now_s=now_s)
    require_no_debug(parsed)
    return VerifiedSgxQuote(*common, parsed.body)


def _verify_tdx(
    quote: bytes, parsed: TdQuote, collateral: Collateral, *, root: TrustedRoot, now_s: int
) -> VerifiedTdxQuote:
    common = _verify_platform(quote, parsed, collateral, root=root, now_s=now_s)
    require_no_debug(parsed)
    _require_td_alone(parsed.body)
    return VerifiedTdxQuote(*common, parsed.body)


def require_no_debug(quote: Quote) -> None:
    """Refuse a quote of a debug enclave or TD, or by a debug quoting enclave.

    Raises:
        UntrustedError: code ``debug``.
    """
    quoted = quote.body if isinstance(quote, QuoteV3) else quote.body.report
    if quoted.debug or quote.signature.qe_report.debug:
        raise UntrustedError("a debug enclave protects nothing", code="debug")


def _verify_platform(
    quote: bytes, parsed: Quote, collateral: Collateral, *, root: TrustedRoot, now_s: int
) -> _Common:
    """All that is the same for every TEE."""
    tcb_chain = _issuer_chain(collateral.tcb_info_issuer_chain, what="TCB info")
    qe_chain = _issuer_chain(collateral.qe_identity_issuer_chain, what="QE identity")
    seen = replace(collateral, tcb_info_issuer_chain=_pem(tcb_chain), qe_identity_issuer_chain=_pem(qe_chain))
    claims = dcap.appraise(quote, seen, root=root, now_s=now_s)
    _require_tcb_signer(tcb_chain, root, what="TCB info")
    _require_tcb_signer(qe_chain, root, what="QE identity")
    _require_crls_issued(collateral, now_s=now_s)
    _require_platform(parsed, collateral, claims)
    _require_pure_binding(parsed)
    return _Common(
        platform=root.platform,
        root_name=root.name,
        tcb_status=_status(claims.tcb_status),
        advisories=claims.advisories,
        evaluation_number=claims.evaluation_number,
        fmspc=claims.fmspc,
        ppid_sha256=hashlib.sha256(claims.ppid).hexdigest(),
        evidence_id=parsed.evidence_id,
        collateral_id=collateral.collateral_id,
        valid_from_s=claims.latest_issue_s,
        valid_until_s=claims.earliest_expiration_s,
    )


def _require_pure_binding(quote: Quote) -> None:
    """The quoting enclave's report_data holds the attestation key's hash, which the library compares, and zeros."""
    if any(quote.signature.qe_report.report_data[32:]):
        raise UntrustedError(
            "the quoting enclave's report binds something beside the attestation key",
            code="bad-attestation-key-binding",
        )


def _require_td_alone(body: TdBody) -> None:
    """Nobody else may read, move or service the TD, and it sees no injected page faults.

    The library refuses these too, but knows nothing of the service TDs that the extended report names.
    """
    attributes = body.report.attributes
    hashes = [body.td15.mr_service_td] if body.td15 else []
    if body.td15_ex:
        hashes += [body.td15_ex.initial_service_td_hash, body.td15_ex.current_service_td_hash]
    if (
        not attributes & tdx.SEC_SEPT_VE_DISABLE
        or attributes & (tdx.TUD_BITS | tdx.SEC_MIGRATABLE)
        or any(each != _NO_SERVICE_TD for each in hashes)
    ):
        raise UntrustedError("the TD is profiled, migratable, serviced or sees #VE", code="td-attributes")


def _issuer_chain(pem: str, *, what: str) -> list[x509.Certificate]:
    try:
        data = pem.encode()
    except UnicodeEncodeError as error:
        raise MalformedError(f"{what}: no PEM issuer chain", code="malformed-collateral") from error
    return parse_chain(data, what=what, code="malformed-collateral")


def _pem(chain: list[x509.Certificate]) -> str:
    """The chain as PEM without the free text that PEM allows, which two parsers might read differently."""
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in chain)


def _require_tcb_signer(chain: list[x509.Certificate], root: TrustedRoot, *, what: str) -> None:
    """The signer is the root's own TCB signing certificate, not any certificate below the root.

    The library takes any end-entity key under the root. A PCK key is one, and there is one in every
    machine: whoever extracts a single one could declare every platform up to date.
    """
    leaf = chain[0]
    try:
        leaf.verify_directly_issued_by(root.certificate)
        names = [str(name.value) for name in leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        is_pck = any(extension.oid == pck.SGX_EXTENSION for extension in leaf.extensions)
    except (ValueError, TypeError, InvalidSignature, x509.DuplicateExtension) as error:
        raise _wrong_signer(what) from error
    if is_pck or len(chain) > 2 or len(names) != 1 or not names[0].endswith(_TCB_SIGNER):
        raise _wrong_signer(what)


def _wrong_signer(what: str) -> UntrustedError:
    return UntrustedError(f"{what}: not signed by the root's TCB signer", code="wrong-collateral-signer")


def _require_crls_issued(collateral: Collateral, *, now_s: int) -> None:
    """Neither CRL's thisUpdate lies after ``now_s``; the library holds only nextUpdate against the time."""
    if max(_crl_issued_s(collateral.root_ca_crl), _crl_issued_s(collateral.pck_crl)) > now_s:
        raise StaleError("a CRL was issued after the time of judgement", code="collateral-not-yet-valid")


def _crl_issued_s(der: bytes) -> int:
    try:
        return int(x509.load_der_x509_crl(der).last_update_utc.timestamp())
    except (ValueError, x509.InvalidVersion, CryptographyDeprecationWarning) as error:
        raise MalformedError("CRL: not X.509 DER", code="malformed-collateral") from error


def _require_platform(quote: Quote, collateral: Collateral, claims: dcap.Claims) -> None:
    """The PCK certificate says the same to both parsers, and the TCB info is of its PCEID."""
    extension = pck.unverified_pck(quote).extension
    ours = (extension.ppid, extension.cpu_svn, extension.pce_id, extension.fmspc)
    if ours != (claims.ppid, claims.cpu_svn, claims.pce_id, claims.fmspc):
        raise MalformedError("the PCK certificate reads in two ways", code="malformed-quote")
    if _pce_id(collateral.tcb_info) != extension.pce_id:
        raise UntrustedError("the TCB info is of another PCEID than the platform", code="pceid-mismatch")


def _pce_id(tcb_info: str) -> bytes:
    try:
        value = jcs.parse_json(tcb_info.encode(), what="TCB info", max_bytes=MAX_COLLATERAL_SIZE)
        return bytes.fromhex(value["pceId"])
    except (MalformedError, ValueError, KeyError, TypeError) as error:
        raise MalformedError("TCB info: no PCEID", code="malformed-collateral") from error


def _status(text: str) -> TcbStatus:
    try:
        return TcbStatus(text)
    except ValueError as error:
        raise UntrustedError(f"unknown TCB status {text[:40]!r}", code="invalid") from error
