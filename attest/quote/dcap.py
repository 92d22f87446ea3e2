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

_REFUSALS: tuple[tuple[type[LogError], str, tuple[str, ...]], ...] = (
    (
        MalformedError,
        "malformed-quote",
        (
            "Failed to decode quote",
            "Invalid QE auth data length",
            "Certificate chain is too short in quote",
            "Failed to parse PCK certificate",
            "Intel extension not found",
        ),
    ),
    (UntrustedError, "not-intel-qe", ("Unknown QE vendor",)),
    (
        MalformedError,
        "unsupported",
        (
            "Unsupported DCAP attestation key type",
            "must have version",
            "Unsupported TEE type",
            "Unsupported DCAP quote version",
        ),
    ),
    (MalformedError, "unsupported-cert-data", ("Unsupported DCAP PCK cert format",)),
    (UntrustedError, "bad-quote-signature", ("ISV enclave report signature",)),
    (UntrustedError, "bad-qe-signature", ("Signature is invalid for qe_report",)),
    (UntrustedError, "bad-attestation-key-binding", ("QE report hash mismatch",)),
    (UntrustedError, "bad-tcb-info-signature", ("Signature is invalid for tcb_info",)),
    (UntrustedError, "bad-qe-identity-signature", ("Signature is invalid for qe_identity",)),
    # Before "Revoked": the message about an unknown status lists every known one.
    (MalformedError, "malformed-collateral", ("Failed to decode TcbInfo", "Failed to decode QeIdentity")),
    (StaleError, "collateral-not-yet-valid", ("issue date is in the future",)),
    (StaleError, "collateral-expired", ("TCBInfo expired", "QE Identity expired", "CrlExpired")),
    (StaleError, "cert-expired", ("CertExpired",)),
    (StaleError, "cert-not-yet-valid", ("CertNotValidYet",)),
    (UntrustedError, "revoked", ("CertRevoked", "Revoked")),
    (UntrustedError, "wrong-root", ("InvalidCrlSignatureForPublicKey",)),
    (
        UntrustedError,
        "untrusted-chain",
        ("InvalidSignatureForPublicKey", "UnknownIssuer", "CaUsedAsEndEntity"),
    ),
    (UntrustedError, "missing-crl", ("UnknownRevocationStatus",)),
    (MalformedError, "malformed-collateral", ("Failed to parse root CA CRL", "Failed to parse PCK CRL")),
    (UntrustedError, "debug", ("Debug mode",)),
    (
        UntrustedError,
        "td-attributes",
        (
            "TD profiling",
            "Reserved bits in TD attributes",
            "TD migration",
            "SERVTD_EXT",
            "SEPT_VE_DISABLE",
            "Invalid MR service TD",
        ),
    ),
    (UntrustedError, "wrong-qe", ("QE MRSIGNER", "QE ISV", "QE ATTR", "QE MISC")),
    (UntrustedError, "wrong-tdx-module", ("TDX module",)),
    (UntrustedError, "tcb-unsupported", ("No matching TCB level",)),
    (
        UntrustedError,
        "wrong-collateral",
        ("Fmspc mismatch", "Unsupported QE Identity id/version", "non-TDX TCB info", "non-SGX TCB info"),
    ),
)
"""(error, code, texts of the library): the first row with a text that occurs in the message wins."""


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
        raise _refusal(" ".join(str(error).split())) from error
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
    for error, code, texts in _REFUSALS:
        if any(text in message for text in texts):
            return error(message, code=code)
    return UntrustedError(message, code="invalid")


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
