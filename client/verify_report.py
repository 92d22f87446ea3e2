"""One SEV-SNP report, judged by itself: every check, and what the report says. Nothing here rests on a log.

The checks, in their order; as in ``verify_quote`` those of the evidence pass together, or one failed and the rest is
``not-checked``:

- ``structure``            the report parses; nothing is hidden behind its signature
- ``certificates``         leaf, intermediate and root lead to the pinned key; dates; the revocation list, if given
- ``report-signature``     the leaf signed the report, and is the kind of key that it names
- ``tcb-version``          the reported TCB version is the one that the leaf's key was derived for
- ``chip``                 the report is of the leaf's chip
- ``debug``                the guest may not be debugged
- ``revocation``           that a list was held against the certificates; without one ``not-checked``
- ``report-data``          what the caller expects (only if given)
- ``identity``, ``tcb``    the policy's rules; without a policy ``not-checked``, and not required
"""

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from assay.attest import jcs
from assay.attest.measurement import Tee
from assay.attest.quote import snp
from assay.attest.quote.pinned_chain import MAX_CHAIN_SIZE, load_pem_chain
from assay.attest.quote.policy import require_report_data
from assay.attest.quote.snp_certificates import SnpChain, parse_chain_pem
from assay.attest.quote.snp_policy import SnpRules, judge_snp, require_snp_identity
from assay.attest.quote.verify_snp import Revocation, VerifiedSnpReport, verify_snp_report
from assay.attest.roots.pinned import SnpRoot
from assay.client.evidence import evidence_steps, shown_time
from assay.client.verdict import Checklist, Passed, Skipped, Step, Verdict
from assay.tlog.errors import MalformedError

_EVIDENCE: Mapping[str, frozenset[str]] = {
    "certificates": frozenset(
        {
            "cert-expired",
            "cert-not-yet-valid",
            "collateral-expired",
            "collateral-not-yet-valid",
            "malformed-collateral",
            "missing-crl",
            "revoked",
            "untrusted-chain",
            "wrong-root",
        }
    ),
    "report-signature": frozenset({"bad-quote-signature", "wrong-signing-key"}),
    "tcb-version": frozenset({"tcb-mismatch"}),
    "chip": frozenset({"chip-mismatch"}),
    "debug": frozenset({"debug"}),
}
"""Check -> the codes of ``verify_snp_report`` that are its own."""


def judge_one_report(
    report: bytes,
    collateral: bytes,
    *,
    root: SnpRoot,
    at_s: int,
    crl: bytes | None = None,
    rules: SnpRules | None = None,
    report_data: bytes | None = None,
) -> Verdict:
    """Judge a report under a pinned root key, at a time.

    Args:
        report: the 1184 bytes.
        collateral: three certificates, as :func:`parse_snp_collateral` reads them.
        root: the only anchor.
        at_s: the time of judgement, Unix seconds.
        crl: the root's revocation list as DER.
        rules: a policy's.
        report_data: the 64 bytes that the report should bind.
    """
    book = Checklist()
    parsed = book.run("structure", lambda: _structure(report))
    chain = book.run("collateral", lambda: Passed(parse_snp_collateral(collateral), "three certificates"))
    verified = evidence_steps(
        book,
        _EVIDENCE,
        lambda: verify_snp_report(report, chain.value, root=root, now_s=at_s, crl=crl),
        tell=lambda name, found: _told(name, found, at_s=at_s),
        after=(parsed, chain),
    )
    book.run("revocation", lambda: _revocation(verified.value), after=(verified,), required=False)
    if report_data is not None:
        book.run("report-data", lambda: _report_data(verified.value, report_data), after=(verified,))
    _policy_steps(book, verified, rules)
    if not verified.passed:
        return Verdict(book.checks)
    facts = {"quote": report_facts(verified.value), "tcb": tcb_facts(verified.value), "at_s": at_s}
    return Verdict(book.checks, verified.value.platform, facts)


def parse_snp_collateral(data: bytes) -> SnpChain:
    """Read the certificates behind a report: PEM of leaf, intermediate and root in this order, or JSON.

    The JSON object has PEM texts under ``ark``, ``ask`` (or ``asvk``) and ``vcek`` (or ``vlek``).

    Raises:
        MalformedError: neither (code ``malformed-collateral``).
    """
    if not data.lstrip().startswith(b"{"):
        return parse_chain_pem(data)
    try:
        value = jcs.parse_json(data, what="SNP collateral", max_bytes=MAX_CHAIN_SIZE)
        fields = jcs.Fields(
            value, what="SNP collateral", required=("ark",), optional=("ask", "asvk", "vcek", "vlek")
        )
        leaf, intermediate = (_either(fields, *names) for names in (("vcek", "vlek"), ("ask", "asvk")))
        return SnpChain(*(_der(fields, name) for name in (leaf, intermediate, "ark")))
    except MalformedError as error:
        raise MalformedError(str(error), code="malformed-collateral") from error


def report_facts(verified: VerifiedSnpReport) -> dict[str, Any]:
    """What a verdict tells of a report that verified."""
    report = verified.report
    return {
        "tee": str(Tee.SNP),
        "measurement": report.measurement.hex(),
        "report_data": report.report_data.hex(),
        "host_data": report.host_data.hex(),
        "vmpl": report.vmpl,
        "guest_svn": report.guest_svn,
        "policy": f"{report.policy:#x}",
        "product": str(verified.product),
        "signing_key": verified.signing_key.name,
        "chip": str(verified.chip),
        "chip_id_sha256": verified.chip_id_sha256,
        "evidence_id": verified.evidence_id,
        "root": verified.root_name,
    }


def tcb_facts(verified: VerifiedSnpReport) -> dict[str, Any]:
    """A platform's firmware versions. AMD names no states and no advisories: a minimum is a policy's to set."""

    def named(tcb: snp.SnpTcb) -> dict[str, int]:
        names = ("bootloader", "tee", "snp", "microcode", "fmc")
        return dict(zip(names, tcb.components, strict=False))

    return {
        "status": None,
        "advisories": [],
        "evaluation_number": None,
        "reported": named(verified.reported_tcb),
        "committed": named(verified.committed_tcb),
        "launch": named(verified.launch_tcb),
        "valid_from_s": verified.valid_from_s,
        "valid_until_s": verified.valid_until_s,
    }


def _structure(report: bytes) -> Passed[snp.SnpReport]:
    parsed = snp.parse_report(report)
    return Passed(parsed, f"SEV-SNP report of version {parsed.version}, evidence {parsed.evidence_id}")


def _either(fields: jcs.Fields, one: str, other: str) -> str:
    if fields.has(one) == fields.has(other):
        raise MalformedError(f"SNP collateral: exactly one of {one} and {other}")
    return one if fields.has(one) else other


def _der(fields: jcs.Fields, name: str) -> bytes:
    pem = fields.value(name)
    if not isinstance(pem, str):
        raise MalformedError(f"{fields.name(name)}: not text")
    (certificate,) = load_pem_chain(pem.encode(errors="replace"), count=1, what=fields.name(name))
    return certificate.public_bytes(Encoding.DER)


def _told(name: str, verified: VerifiedSnpReport, *, at_s: int) -> str:
    period = f"valid from {shown_time(verified.valid_from_s)} to {shown_time(verified.valid_until_s)}"
    tcb = ", ".join(f"{part} {svn}" for part, svn in tcb_facts(verified)["reported"].items())
    return {
        "certificates": f"lead to the root {verified.root_name!r} ({verified.platform}); {period}, judged as of "
        f"{shown_time(at_s)}",
        "report-signature": f"by a {verified.signing_key.name} of {verified.product}",
        "tcb-version": f"{tcb}, for which the key was derived",
        "chip": str(verified.chip),
        "debug": "off",
    }[name]


def _revocation(verified: VerifiedSnpReport) -> Passed[None] | Skipped:
    if verified.revocation is Revocation.CHECKED:
        return Passed(None, "the list names none of the certificates")
    return Skipped("no revocation list is given")


def _report_data(verified: VerifiedSnpReport, expected: bytes) -> Passed[None]:
    require_report_data(verified.report_data, expected)
    return Passed(None, "the 64 bytes that were expected")


def _policy_steps(book: Checklist, verified: Step[VerifiedSnpReport], rules: SnpRules | None) -> None:
    if rules is None:
        for name in ("identity", "tcb"):
            book.run(name, lambda: Skipped("no policy is given"), required=False)
        return
    book.run("identity", lambda: _identity(verified.value, rules), after=(verified,))
    book.run("tcb", lambda: _platform(verified.value, rules), after=(verified,))


def _identity(verified: VerifiedSnpReport, rules: SnpRules) -> Passed[None]:
    require_snp_identity(verified, rules)
    return Passed(
        None, "the policy leaves it open" if rules.measurements is None else "one that the policy means"
    )


def _platform(verified: VerifiedSnpReport, rules: SnpRules) -> Passed[None]:
    judge_snp(verified, rules.policy)
    return Passed(None, "at least the policy's minimum")
