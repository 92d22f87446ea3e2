"""One quote, judged by itself: every check, and what the quote says. Nothing here rests on a log.

The checks, in their order; those of the evidence pass together or the one that failed is named and the rest is
``not-checked``, because the first defect ends the verification:

- ``structure``            the quote parses, every length filled exactly
- ``collateral``           the collateral parses
- ``certificates``         all chains lead to the root; dates; revocation lists
- ``collateral-dates``     TCB info, QE identity and CRLs cover the time
- ``collateral-signers``   TCB info and QE identity: signatures, the signer's role, the right platform family
- ``quoting-enclave``      the quoting enclave is the vendor's, and its report names the attestation key
- ``quote-signature``      the attestation key signed the quote
- ``tcb-level``            the platform has a level
- ``debug``                neither enclave nor quoting enclave is in debug mode
- ``td``                   of a TD: nobody else may look into it or move it; its module is the vendor's
- ``report-data``          what the caller expects (only if given)
- ``identity``, ``tcb``    the policy's rules; without a policy ``not-checked``, and not required
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from assay.attest.measurement import Tee
from assay.attest.quote import tdx
from assay.attest.quote.collateral import Collateral, parse_collateral
from assay.attest.quote.parse import Quote, parse_quote
from assay.attest.quote.policy import require_report_data
from assay.attest.quote.verify import VerifiedQuote, VerifiedSgxQuote, VerifiedTdxQuote, verify_quote
from assay.attest.roots import TrustedRoot
from assay.client import judge_enclave, steps
from assay.client.trust import QuoteRules
from assay.client.verdict import Check, Checklist, Passed, Result, Skipped, Step, Verdict
from assay.tlog.errors import LogError

_EVIDENCE: Mapping[str, frozenset[str]] = {
    "certificates": frozenset(
        {"cert-expired", "cert-not-yet-valid", "missing-crl", "revoked", "untrusted-chain", "wrong-root"}
    ),
    "collateral-dates": frozenset({"collateral-expired", "collateral-not-yet-valid"}),
    "collateral-signers": frozenset(
        {
            "bad-qe-identity-signature",
            "bad-tcb-info-signature",
            "malformed-collateral",
            "pceid-mismatch",
            "wrong-collateral",
            "wrong-collateral-signer",
        }
    ),
    "quoting-enclave": frozenset(
        {
            "bad-attestation-key-binding",
            "bad-qe-signature",
            "malformed-quote",
            "not-intel-qe",
            "unsupported-cert-data",
            "wrong-qe",
        }
    ),
    "quote-signature": frozenset({"bad-quote-signature"}),
    "tcb-level": frozenset({"tcb-unsupported"}),
    "debug": frozenset({"debug"}),
    "td": frozenset({"td-attributes", "wrong-tdx-module"}),
}
"""Check -> the codes of ``verify_quote`` that are its own; any other code is the first one's."""


def judge_one_quote(
    quote: bytes,
    collateral: bytes,
    *,
    root: TrustedRoot,
    at_s: int,
    rules: QuoteRules | None = None,
    report_data: bytes | None = None,
) -> Verdict:
    """Judge a quote under a root, at a time.

    Args:
        quote: the bytes, without padding.
        collateral: QuoteCollateralV3 as JSON.
        root: the only anchor.
        at_s: the time of judgement, Unix seconds.
        rules: a policy's; its root is the same one.
        report_data: the 64 bytes that the quote should bind.
    """
    book = Checklist()
    parsed = book.run("structure", lambda: _structure(quote))
    material = book.run("collateral", lambda: _collateral(collateral))
    verified = _evidence_steps(book, quote, parsed, material, root=root, at_s=at_s)
    if report_data is not None:
        book.run("report-data", lambda: _report_data(verified.value, report_data), after=(verified,))
    _policy_steps(book, verified, rules)
    if not verified.passed:
        return Verdict(book.checks)
    facts = {"quote": quote_facts(verified.value), "tcb": steps.tcb_facts(verified.value), "at_s": at_s}
    return Verdict(book.checks, verified.value.platform, facts)


def quote_facts(quote: VerifiedQuote) -> dict[str, Any]:
    """What a verdict tells of a quote that verified."""
    common = {
        "report_data": quote.report_data.hex(),
        "fmspc": quote.fmspc.hex(),
        "ppid_sha256": quote.ppid_sha256,
        "evidence_id": quote.evidence_id,
        "collateral_id": quote.collateral_id,
        "root": quote.root_name,
    }
    match quote:
        case VerifiedSgxQuote():
            return {
                "tee": str(Tee.SGX),
                "mr_enclave": quote.mr_enclave.hex(),
                "mr_signer": quote.mr_signer.hex(),
                "isv_prod_id": quote.isv_prod_id,
                "isv_svn": quote.isv_svn,
                "attributes": quote.attributes.hex(),
                **common,
            }
        case VerifiedTdxQuote():
            report = quote.body.report
            rtmrs = [each.hex() for each in (report.rtmr0, report.rtmr1, report.rtmr2, report.rtmr3)]
            return {
                "tee": str(Tee.TDX),
                "mr_td": report.mr_td.hex(),
                "rtmrs": rtmrs,
                "mr_seam": report.mr_seam.hex(),
                "td_attributes": report.attributes.to_bytes(8, "little").hex(),
                **common,
            }
    raise AssertionError(f"no facts of {type(quote).__name__}")


def _structure(quote: bytes) -> Passed[Quote]:
    parsed = parse_quote(quote)
    tee = "TDX" if isinstance(parsed, tdx.TdQuote) else "SGX"
    return Passed(
        parsed,
        f"{tee} quote of version {parsed.header.version}, {len(quote)} bytes, evidence {parsed.evidence_id}",
    )


def _collateral(data: bytes) -> Passed[Collateral]:
    collateral = parse_collateral(data)
    return Passed(collateral, f"SHA-256 {collateral.collateral_id}")


def _evidence_steps(
    book: Checklist,
    quote: bytes,
    parsed: Step[Quote],
    material: Step[Collateral],
    *,
    root: TrustedRoot,
    at_s: int,
) -> Step[VerifiedQuote]:
    """One verification, told as the checks that it consists of."""
    names = [name for name in _EVIDENCE if name != "td" or not parsed.passed or _is_td(parsed.value)]
    if not (parsed.passed and material.passed):
        for name in names:
            book.run(name, lambda: Skipped("unreachable"), after=(parsed, material))
        return Step("evidence", None)
    try:
        verified = verify_quote(quote, material.value, root=root, now_s=at_s)
    except LogError as error:
        _tell_refusal(book, names, error)
        return Step("evidence", None)
    for name in names:
        book.add(Check(name, Result.PASS, _told(name, verified, at_s=at_s)))
    return Step("evidence", Passed(verified, ""))


def _is_td(quote: Quote) -> bool:
    return isinstance(quote, tdx.TdQuote)


def _tell_refusal(book: Checklist, names: list[str], error: LogError) -> None:
    owner = next((name for name in names if error.code in _EVIDENCE[name]), names[0])
    for name in names:
        if name == owner:
            book.add(Check(name, Result.FAIL, f"{error} ({error.code})", code=error.code))
        else:
            book.add(Check(name, Result.NOT_CHECKED, f"{owner} failed, which ended the verification"))


def _told(name: str, quote: VerifiedQuote, *, at_s: int) -> str:
    advisories = ", ".join(sorted(set(quote.advisories))) or "none"
    return {
        "certificates": f"lead to the root {quote.root_name!r} ({quote.platform}); none is revoked",
        "collateral-dates": f"valid from {_date(quote.valid_from_s)} to {_date(quote.valid_until_s)}, judged as of {_date(at_s)}",
        "collateral-signers": "TCB info and QE identity are the TCB signer's, for this platform family",
        "quoting-enclave": "the vendor's; its report names the attestation key",
        "quote-signature": "by the attestation key",
        "tcb-level": f"{quote.tcb_status}, advisories: {advisories}, evaluation number {quote.evaluation_number}",
        "debug": "off",
        "td": "not profiled, migratable or serviced; the vendor's TDX module",
    }[name]


def _date(time_s: int) -> str:
    try:
        return dt.datetime.fromtimestamp(time_s, tz=dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(time_s)


def _report_data(quote: VerifiedQuote, expected: bytes) -> Passed[None]:
    require_report_data(quote, expected)
    return Passed(None, "the 64 bytes that were expected")


def _policy_steps(book: Checklist, verified: Step[VerifiedQuote], rules: QuoteRules | None) -> None:
    if rules is None:
        for name in ("identity", "tcb"):
            book.run(name, lambda: Skipped("no policy is given"), required=False)
        return
    book.run(
        "identity", lambda: judge_enclave.judge_identity(verified.value, rules.identity), after=(verified,)
    )
    book.run("tcb", lambda: judge_enclave.judge_tcb(verified.value, rules.tcb), after=(verified,))
