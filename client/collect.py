"""Collecting from a log what a bundle needs: registration, collateral, release, rebuild verdicts, proofs.

Nothing collected is believed: it is evidence for the verifier, chosen so that a good case can be shown. A log
that hides an entry can make a verification fail, or hide a rebuilder's contrary verdict; monitors find that.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from assay.attest import admission, entry, signers
from assay.attest.bundle import MAX_REBUILDS, Bundle, HeldAnswer, Logged, LoggedEnclave
from assay.attest.entry import Attestation, ReceiptEntry, Registration
from assay.attest.quote import sgx
from assay.attest.statement import Rebuild, Verdict
from assay.client import judge_log, judge_release
from assay.client.log import Found, LogClient
from assay.client.trust import Policy
from assay.tlog import merkle
from assay.tlog.errors import LogError, MalformedError
from assay.tlog.merkle import Hash
from assay.tlog.tlog_proof import TlogProof, verify_proof


@dataclass(frozen=True, slots=True)
class ReleaseMaterial:
    """A release statement and the verdicts of the policy's rebuilders on it; ``release`` is None if there is none."""

    release: Logged | None
    rebuilds: tuple[Logged, ...]


def collect_bundle(log: LogClient, receipt: Logged, *, answer: HeldAnswer | None, policy: Policy) -> Bundle:
    """Collect everything else about a logged receipt.

    Raises:
        MalformedError: no receipt, or it names something that is no registration.
        LogError: the log has something not, or does not answer.
    """
    parsed = entry.parse_entry(receipt.leaf)
    if not isinstance(parsed, ReceiptEntry):
        raise MalformedError(f"collect: a leaf of kind {entry.kind_of(parsed)}, not receipt")
    found = log.leaf(parsed.signed.receipt.registration)
    registered = Logged(found.leaf, log.prove(found.index))
    enclave = collect_enclave(log, registered)
    material = collect_release(log, mr_enclave=unverified_mr_enclave(registered.leaf), policy=policy)
    return Bundle(receipt, answer, enclave, material.release, material.rebuilds)


def collect_enclave(log: LogClient, registered: Logged) -> LoggedEnclave:
    """Add the collateral that a registration's appraisal names.

    Raises:
        MalformedError: no registration.
        LogError: the log has it not, or does not answer.
    """
    appraisal = _registration(registered.leaf).appraisal
    return LoggedEnclave(registered, log.blob(appraisal.collateral["dcap"]))


def collect_release(log: LogClient, *, mr_enclave: bytes, policy: Policy) -> ReleaseMaterial:
    """The newest release of a measurement by publishers of the policy, and rebuilders' verdicts on it.

    Raises:
        LogError: the log does not answer.
    """
    for found in log.search({"kind": "attestation", "mrenclave": mr_enclave.hex()}):
        if _is_release(log, found, mr_enclave, policy):
            released = Logged(found.leaf, _release_proof(log, found, policy))
            leaf_hash = merkle.leaf_hash(found.leaf)
            return ReleaseMaterial(released, collect_rebuilds(log, leaf_hash, policy=policy))
    return ReleaseMaterial(None, ())


def collect_rebuilds(log: LogClient, release_leaf: Hash, *, policy: Policy) -> tuple[Logged, ...]:
    """The verdicts of the policy's rebuilders on a release; contrary ones come first and are never left out.

    Raises:
        LogError: the log does not answer.
    """
    verdicts = sorted(_rebuilds(log, release_leaf, policy), key=lambda each: each[0] is not Verdict.DIFFERENT)
    return tuple(Logged(found.leaf, log.prove(found.index)) for _, found in verdicts[:MAX_REBUILDS])


def refresh_release(log: LogClient, bundle: Bundle, *, policy: Policy) -> Bundle:
    """A release's bundle with the verdicts that rebuilders have published since.

    Raises:
        LogError: the log does not answer.
    """
    leaf_hash = merkle.leaf_hash(bundle.subject.leaf)
    return replace(bundle, rebuilds=collect_rebuilds(log, leaf_hash, policy=policy))


def unverified_mr_enclave(registration_leaf: bytes) -> bytes:
    """The MRENCLAVE that a registration's quote names; nothing is verified.

    Raises:
        MalformedError: no registration, or no quote in it.
    """
    return sgx.parse_quote(_registration(registration_leaf).evidence.quote).body.mr_enclave


def _registration(leaf: bytes) -> Registration:
    parsed = entry.parse_entry(leaf)
    if not isinstance(parsed, Registration):
        raise MalformedError(f"collect: a leaf of kind {entry.kind_of(parsed)} is no registration")
    return parsed


def logged_by_s(log: LogClient, found: Found, *, policy: Policy) -> int:
    """The time by which witnesses saw an entry logged, as early as the log can show it; Unix seconds.

    Raises:
        LogError: the log does not answer, or its proof does not verify.
    """
    proof = log.prove(found.index, size=log.first_published_size(found.index))
    included = verify_proof(proof, leaf=merkle.leaf_hash(found.leaf), policy=policy.log)
    return judge_log.quorum_time_s(included.cosigned)


def _is_release(log: LogClient, found: Found, mr_enclave: bytes, policy: Policy) -> bool:
    """Whether this is a release that the verifier may accept. Strangers' entries are passed over, not errors."""
    try:
        attestation = judge_release.parse_attestation(found.leaf, what="release")
        published = judge_release.judge_release_signature(attestation).value
        judge_release.judge_publishers(
            published, policy, logged_by_s=lambda: logged_by_s(log, found, policy=policy)
        )
    except LogError:
        return False
    return published.release.digests.mr_enclave == mr_enclave


def _rebuilds(log: LogClient, release_leaf: Hash, policy: Policy) -> Iterator[tuple[Verdict, Found]]:
    for found in log.search({"kind": "attestation", "subject": release_leaf.hex()}):
        verdict = _listed_verdict(found.leaf, release_leaf, policy)
        if verdict is not None:
            yield verdict, found


def _listed_verdict(leaf: bytes, release_leaf: Hash, policy: Policy) -> Verdict | None:
    try:
        parsed = entry.parse_entry(leaf)
        if not isinstance(parsed, Attestation):
            return None
        predicate = admission.verify_attestation(parsed).predicate
    except LogError:
        return None
    if not isinstance(predicate, Rebuild) or predicate.release_leaf != release_leaf:
        return None
    listed = policy.rebuilders.signers.intersection(judge_release.signers_of(parsed))
    return predicate.verdict if listed else None


def _release_proof(log: LogClient, found: Found, policy: Policy) -> TlogProof:
    """A proof by the newest checkpoint; by the first, if it matters when the release was logged.

    It does if the policy asks how long a release has been announced, and if certificates signed.
    """
    attestation = judge_release.parse_attestation(found.leaf, what="release")
    if not policy.freshness.announcement_delay_s and not signers.certificates(attestation):
        return log.prove(found.index)
    return log.prove(found.index, size=log.first_published_size(found.index))
