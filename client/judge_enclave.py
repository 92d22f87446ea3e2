"""What a quote and its collateral show of an enclave, under the policy's root and rules."""

import hashlib
from dataclasses import dataclass

from assay.attest import claims, p256
from assay.attest.claims import Claims, Evidence
from assay.attest.entry import Appraisal, Registration
from assay.attest.quote.collateral import Collateral, parse_collateral
from assay.attest.quote.parse import parse_quote
from assay.attest.quote.policy import IdentityPolicy, TcbPolicy, require_identity, require_tcb
from assay.attest.quote.verify import VerifiedQuote, VerifiedSgxQuote, require_no_debug, verify_sgx_quote
from assay.attest.roots import TrustedRoot
from assay.client.judge_log import CLOCK_TOLERANCE_S
from assay.client.verdict import Passed
from assay.tlog.errors import StaleError, UntrustedError


@dataclass(frozen=True, slots=True)
class Bracket:
    """Between which times something happened: no earlier, no later; Unix seconds."""

    not_before_s: int
    not_after_s: int


def judge_collateral(data: bytes, appraisal: Appraisal) -> Passed[Collateral]:
    """Check that this is the collateral that the log judged the quote with.

    Raises:
        UntrustedError: another (code ``collateral``).
        MalformedError: not collateral.
    """
    digest = hashlib.sha256(data).digest()
    if digest != appraisal.collateral["dcap"]:
        raise UntrustedError("not the collateral that the appraisal names", code="collateral")
    return Passed(parse_collateral(data), f"SHA-256 {digest.hex()}, as the appraisal names it")


def judge_quote(
    quote: bytes, collateral: Collateral, *, root: TrustedRoot, at_s: int
) -> Passed[VerifiedSgxQuote]:
    """Verify a quote under the policy's root, at a time.

    Raises:
        MalformedError, StaleError, UntrustedError: as ``verify_sgx_quote``.
    """
    verified = verify_sgx_quote(quote, collateral, root=root, now_s=at_s)
    return Passed(
        verified,
        f"verifies under the root {root.name!r} ({root.platform}), MRENCLAVE {verified.mr_enclave.hex()}",
    )


def judge_debug(quote: bytes) -> Passed[None]:
    """Check that the quote is not of a debug enclave, whatever else it is.

    Raises:
        MalformedError: not a quote.
        UntrustedError: of a debug enclave, quoted or quoting (code ``debug``).
    """
    require_no_debug(parse_quote(quote))
    return Passed(None, "not a debug enclave")


def judge_possession(evidence: Evidence) -> Passed[bytes]:
    """Check that whoever registered holds the signing key; its enclave id is the value.

    Raises:
        MalformedError, UntrustedError: as ``verify_possession``.
    """
    claims.verify_possession(evidence)
    signer = p256.signer_id(evidence.public_key)
    return Passed(bytes.fromhex(signer), f"signed by the enclave's key {signer}")


def judge_binding(evidence: Evidence, quote: VerifiedSgxQuote) -> Passed[Claims]:
    """Check that the quote's report_data binds the signing key and the claims.

    Raises:
        UntrustedError: it binds others (code ``report-data``).
    """
    bound = claims.verify_binding(evidence, quoted_report_data=quote.report_data)
    return Passed(bound, "report_data binds the signing key and the claims")


def judge_identity(quote: VerifiedQuote, policy: IdentityPolicy) -> Passed[None]:
    """Check that the enclave is one that the policy means.

    Raises:
        UntrustedError: another, as :func:`~assay.attest.quote.policy.require_identity` says.
    """
    require_identity(quote, policy)
    return Passed(None, "the policy leaves it open" if policy.is_open else "one that the policy means")


def judge_tcb(quote: VerifiedQuote, policy: TcbPolicy) -> Passed[None]:
    """Check the platform's state against the policy.

    Raises:
        UntrustedError: not good enough, as :func:`~assay.attest.quote.policy.require_tcb` says.
    """
    require_tcb(quote, policy)
    advisories = ", ".join(sorted(set(quote.advisories))) or "none"
    return Passed(
        None, f"{quote.tcb_status}, evaluation number {quote.evaluation_number}, advisories: {advisories}"
    )


def judge_collateral_age(quote: VerifiedSgxQuote, *, at_s: int, max_age_s: int) -> Passed[None]:
    """Check that the collateral was recent when it was used.

    Raises:
        StaleError: older than ``max_age_s`` (code ``collateral-age``).
    """
    age_s = at_s - quote.valid_from_s
    if age_s > max_age_s:
        raise StaleError(f"the collateral was {age_s} s old, {max_age_s} are allowed", code="collateral-age")
    return Passed(None, f"issued {age_s} s before its use")


def judge_appraisal(registration: Registration, quote: VerifiedSgxQuote) -> Passed[None]:
    """Check that the log recorded what we find ourselves; its name for the root is its own affair.

    Raises:
        UntrustedError: it recorded something else (code ``appraisal``).
    """
    recorded = registration.appraisal
    ours = (str(quote.platform), str(quote.tcb_status), tuple(sorted(set(quote.advisories))))
    if (recorded.platform, recorded.tcb_status, recorded.advisories) != ours:
        raise UntrustedError("the log recorded another appraisal than ours", code="appraisal")
    return Passed(None, "the log recorded what we find")


def judge_appraisal_time(appraisal: Appraisal, *, logged_by_s: int) -> Passed[int]:
    """Check that the log appraised before it logged; the value is the appraisal's time in Unix seconds.

    Otherwise a log could choose a time at which old collateral looked good.

    Raises:
        UntrustedError: later than the witnesses saw the registration (code ``appraisal-time``).
    """
    appraised_s = appraisal.appraised_at_ms // 1000
    if appraised_s > logged_by_s + CLOCK_TOLERANCE_S:
        raise UntrustedError(
            f"appraised at {appraised_s}, but witnesses saw it at {logged_by_s}", code="appraisal-time"
        )
    return Passed(appraised_s, f"appraised at {appraised_s}, seen by the quorum at {logged_by_s}")


def judge_registration_age(appraised_s: int, *, used: Bracket, max_age_s: int) -> Passed[None]:
    """Check that the registration was young enough when it was used, at the latest.

    Raises:
        StaleError: older than ``max_age_s`` (code ``registration-age``).
    """
    age_s = used.not_after_s - appraised_s
    if age_s > max_age_s:
        raise StaleError(
            f"the registration was {age_s} s old, {max_age_s} are allowed", code="registration-age"
        )
    return Passed(None, f"registered {max(age_s, 0)} s before its use")


def judge_same_enclave(
    fresh: Evidence, fresh_quote: VerifiedSgxQuote, registered: Evidence, registered_quote: VerifiedSgxQuote
) -> Passed[None]:
    """Check that a fresh quote is of the enclave, key, boot and configuration that were registered.

    The HPKE key may be newer: each attestation has its own, bound by the fresh quote.

    Raises:
        UntrustedError: of another (code ``other-enclave``).
    """

    def lasting(evidence: Evidence, quote: VerifiedSgxQuote) -> dict[str, object]:
        said = evidence.claims
        return {
            "signing key": evidence.public_key,
            "MRENCLAVE": quote.mr_enclave,
            "boot id": said.boot_id,
            "log": said.log_origin,
            "log policy": said.log_policy_sha256,
            "configuration": said.config_sha256,
        }

    now, then = lasting(fresh, fresh_quote), lasting(registered, registered_quote)
    if different := [name for name in now if now[name] != then[name]]:
        raise UntrustedError(
            f"the fresh quote and the registration differ in {', '.join(different)}", code="other-enclave"
        )
    return Passed(None, "key, boot, MRENCLAVE and configuration are the registered ones")


def judge_nonce(fresh: Claims, *, nonce: bytes, required: bool) -> Passed[None]:
    """Check that the fresh claims carry the nonce that we sent.

    Raises:
        UntrustedError: another, or none although the policy requires one (code ``nonce``).
    """
    if fresh.nonce is None and not required:
        return Passed(None, "none, and the policy requires none")
    if fresh.nonce != nonce:
        raise UntrustedError("the evidence does not carry our nonce", code="nonce")
    return Passed(None, "ours")
