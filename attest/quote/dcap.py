"""The call into dcap-qvl, and stable codes for its refusals.

The library verifies the chains, signatures, revocation, QE identity and TCB level (and refuses debug
enclaves). It names its reasons only in prose, so a table turns the prose into codes. Whatever it raises is a
refusal. What it leaves open is checked in ``verify``.
"""

import json
from dataclasses import dataclass
from typing import Any

import dcap_qvl

from assay.attest.quote.collateral import Collateral
from assay.attest.roots import TrustedRoot
from assay.tlog.errors import LogError, MalformedError, StaleError, UntrustedError

_MAX_TIME_S = 2**63
"""The library takes unsigned 64-bit times and raises an OverflowError beyond; any such time is far too late."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A refusal of the library, in our words: it wins if one of ``texts`` occurs in the library's message."""

    error: type[LogError]
    code: str
    message: str
    texts: tuple[str, ...]


_REFUSALS = (
    _Refusal(
        MalformedError,
        "malformed-quote",
        "the quote, or the PCK certificate in it, cannot be read",
        (
            "Failed to decode quote",
            "Invalid QE auth data length",
            "Certificate chain is too short in quote",
            "Failed to parse PCK certificate",
            "Intel extension not found",
        ),
    ),
    _Refusal(
        UntrustedError, "not-intel-qe", "the quoting enclave is of another vendor", ("Unknown QE vendor",)
    ),
    _Refusal(
        MalformedError,
        "unsupported",
        "a version, TEE or key type that is not judged here",
        (
            "Unsupported DCAP attestation key type",
            "must have version",
            "Unsupported TEE type",
            "Unsupported DCAP quote version",
        ),
    ),
    _Refusal(
        MalformedError,
        "unsupported-cert-data",
        "the quote carries no PCK certificate chain",
        ("Unsupported DCAP PCK cert format",),
    ),
    _Refusal(
        UntrustedError,
        "bad-quote-signature",
        "the attestation key did not sign this quote",
        ("ISV enclave report signature",),
    ),
    _Refusal(
        UntrustedError,
        "bad-qe-signature",
        "the PCK did not sign the quoting enclave's report",
        ("Signature is invalid for qe_report",),
    ),
    _Refusal(
        UntrustedError,
        "bad-attestation-key-binding",
        "the quoting enclave's report names another attestation key",
        ("QE report hash mismatch",),
    ),
    _Refusal(
        UntrustedError,
        "bad-tcb-info-signature",
        "the TCB info is not what its signer signed",
        ("Signature is invalid for tcb_info",),
    ),
    _Refusal(
        UntrustedError,
        "bad-qe-identity-signature",
        "the QE identity is not what its signer signed",
        ("Signature is invalid for qe_identity",),
    ),
    # Before "Revoked": the message about an unknown status lists every known one.
    _Refusal(
        MalformedError,
        "malformed-collateral",
        "TCB info or QE identity cannot be read",
        ("Failed to decode TcbInfo", "Failed to decode QeIdentity", "Unrecognized TCB status"),
    ),
    _Refusal(
        StaleError,
        "collateral-not-yet-valid",
        "TCB info or QE identity is of after the time of judgement",
        ("issue date is in the future",),
    ),
    _Refusal(
        StaleError,
        "collateral-expired",
        "TCB info, QE identity or a CRL has expired at the time of judgement",
        ("TCBInfo expired", "QE Identity expired", "CrlExpired"),
    ),
    _Refusal(
        StaleError, "cert-expired", "a certificate has expired at the time of judgement", ("CertExpired",)
    ),
    _Refusal(
        StaleError,
        "cert-not-yet-valid",
        "a certificate is not yet valid at the time of judgement",
        ("CertNotValidYet",),
    ),
    _Refusal(
        UntrustedError,
        "revoked",
        "a certificate, or the platform's TCB level, is revoked",
        ("CertRevoked", "Revoked"),
    ),
    _Refusal(
        UntrustedError,
        "wrong-root",
        "the root's CRL is not signed by this root: another root vouches for the collateral",
        ("InvalidCrlSignatureForPublicKey",),
    ),
    _Refusal(
        UntrustedError,
        "untrusted-chain",
        "a certificate chain does not lead to this root",
        ("InvalidSignatureForPublicKey", "UnknownIssuer", "CaUsedAsEndEntity"),
    ),
    _Refusal(
        UntrustedError,
        "missing-crl",
        "no CRL tells whether a certificate is revoked",
        ("UnknownRevocationStatus",),
    ),
    _Refusal(
        MalformedError,
        "malformed-collateral",
        "a CRL cannot be read",
        ("Failed to parse root CA CRL", "Failed to parse PCK CRL"),
    ),
    _Refusal(UntrustedError, "debug", "a debug enclave protects nothing", ("Debug mode",)),
    _Refusal(
        UntrustedError,
        "td-attributes",
        "the TD is profiled, migratable, serviced or sees #VE",
        (
            "TD profiling",
            "Reserved bits in TD attributes",
            "TD migration",
            "SERVTD_EXT",
            "SEPT_VE_DISABLE",
            "Invalid MR service TD",
        ),
    ),
    _Refusal(
        UntrustedError,
        "wrong-qe",
        "the quoting enclave is not the one that the QE identity names",
        ("QE MRSIGNER", "QE ISV", "QE ATTR", "QE MISC"),
    ),
    _Refusal(
        UntrustedError,
        "wrong-tdx-module",
        "the TDX module is not one that the TCB info names",
        ("TDX module",),
    ),
    _Refusal(
        UntrustedError, "tcb-unsupported", "the platform is below every TCB level", ("No matching TCB level",)
    ),
    _Refusal(
        UntrustedError,
        "wrong-collateral",
        "the collateral is of another platform family or TEE",
        ("Fmspc mismatch", "Unsupported QE Identity id/version", "non-TDX TCB info", "non-SGX TCB info"),
    ),
)
"""The first one with a text that occurs in the library's message wins. That message is the error's cause."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What the library states of a quote that it accepted; dates are Unix seconds.

    ``latest_issue_s`` and ``earliest_expiration_s`` bound the time in which every part that was used is
    valid: certificates, CRLs, TCB info and QE identity. (A CRL's date of issue is in the bound, but the
    library does not hold it against the time of judgement.)
    """

    tcb_status: str
    advisories: tuple[str, ...]
    evaluation_number: int
    ppid: bytes
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    latest_issue_s: int
    earliest_expiration_s: int


def appraise(quote: bytes, collateral: Collateral, *, root: TrustedRoot, now_s: int) -> Claims:
    """Let the library verify a quote at a time, and return its claims.

    ``verify_with_root_ca`` comes first because only it names the whole chain of causes.

    Raises:
        MalformedError: the library cannot read the quote or the collateral.
        UntrustedError: a check failed; the code says which (``invalid`` if the library has a new reason).
        StaleError: the collateral or a certificate is expired or not yet valid.
    """
    time_s = min(max(now_s, 0), _MAX_TIME_S)
    try:
        library_collateral = _library_collateral(collateral)
        dcap_qvl.verify_with_root_ca(quote, library_collateral, root.der, time_s)
        policy = dcap_qvl.QuotePolicy.claims_only(time_s)
        claims = dcap_qvl.QuoteVerifier(root.der).verify_with_policy(
            quote, library_collateral, time_s, policy
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise _refusal(str(error)) from error
    return _claims(json.loads(claims.to_json()))


def _library_collateral(collateral: Collateral) -> Any:
    return dcap_qvl.QuoteCollateralV3(
        pck_crl_issuer_chain=collateral.pck_crl_issuer_chain,
        root_ca_crl=collateral.root_ca_crl,
        pck_crl=collateral.pck_crl,
        tcb_info_issuer_chain=collateral.tcb_info_issuer_chain,
        tcb_info=collateral.tcb_info,
        tcb_info_signature=collateral.tcb_info_signature,
        qe_identity_issuer_chain=collateral.qe_identity_issuer_chain,
        qe_identity=collateral.qe_identity,
        qe_identity_signature=collateral.qe_identity_signature,
    )


def _refusal(message: str) -> LogError:
    for known in _REFUSALS:
        if any(text in message for text in known.texts):
            return known.error(known.message, code=known.code)
    return UntrustedError("the verification library refuses it for a reason without a code", code="invalid")


def _claims(value: Any) -> Claims:
    pck = value["platform"]["pck"]
    return Claims(
        tcb_status=value["tcb"]["status"],
        advisories=tuple(value["tcb"]["advisory_ids"]),
        evaluation_number=value["tcb"]["eval_data_number"],
        ppid=bytes(pck["ppid"]),
        cpu_svn=bytes(pck["cpu_svn"]),
        pce_id=bytes(pck["pce_id"]),
        fmspc=bytes(pck["fmspc"]),
        latest_issue_s=value["latest_issue_date"],
        earliest_expiration_s=value["earliest_expiration_date"],
    )
