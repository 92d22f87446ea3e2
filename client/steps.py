"""The steps that several verifications share: a logged leaf, a registered enclave, a published release.

Each takes its checks on a :class:`Checklist` and returns the steps that others rest on. Nothing here does I/O.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from assay.attest import entry
from assay.attest.bundle import Logged, LoggedEnclave
from assay.attest.entry import Attestation, Registration
from assay.attest.quote.collateral import Collateral
from assay.attest.quote.verify import VerifiedQuote, VerifiedSgxQuote
from assay.client import judge_enclave, judge_log, judge_release
from assay.client.judge_enclave import Bracket
from assay.client.judge_log import Proven
from assay.client.judge_release import Published
from assay.client.trust import Policy
from assay.client.verdict import Checklist, Passed, Skipped, Step
from assay.tlog.errors import MalformedError
from assay.tlog.policy import CosignedCheckpoint
from assay.tlog.policy import Policy as LogPolicy


def prove_steps(
    book: Checklist, name: str, logged: Logged | None, *, policy: LogPolicy, after: Sequence[Step[Any]]
) -> Step[Proven]:
    """``<name>-checkpoint``: the log's signatures and the quorum; ``<name>-inclusion``: the leaf is in that tree."""

    def judge_checkpoint() -> Passed[CosignedCheckpoint]:
        assert logged is not None
        return judge_log.judge_checkpoint(logged.proof.checkpoint, policy=policy)

    def judge_inclusion() -> Passed[Proven]:
        assert logged is not None
        return judge_log.judge_inclusion(logged, checkpoint.value)

    checkpoint = book.run(f"{name}-checkpoint", judge_checkpoint, after=after)
    return book.run(f"{name}-inclusion", judge_inclusion, after=(*after, checkpoint))


def registration_step(book: Checklist, enclave: LoggedEnclave | None) -> Step[Registration]:
    """``registration``: there is one, and it is a registration."""

    def judge() -> Passed[Registration] | Skipped:
        if enclave is None:
            return Skipped("the file holds no registration")
        parsed = entry.parse_entry(enclave.logged.leaf)
        if not isinstance(parsed, Registration):
            raise MalformedError("registration: a leaf of another kind, or without the log's appraisal")
        return Passed(parsed, f"boot {parsed.evidence.claims.boot_id.hex()}")

    return book.run("registration", judge)


def release_step(book: Checklist, logged: Logged | None) -> Step[Attestation]:
    """``release``: there is one, and it is a signed statement."""

    def judge() -> Passed[Attestation] | Skipped:
        if logged is None:
            return Skipped("there is no release statement for this measurement")
        attestation = judge_release.parse_attestation(logged.leaf, what="release")
        return Passed(attestation, f"a statement with {len(attestation.verifiers)} signatures")

    return book.run("release", judge)


@dataclass(frozen=True, slots=True)
class Appraised:
    """What an enclave's registration gave; ``collateral`` and ``quote`` are of the appraisal's time."""

    collateral: Step[Collateral]
    quote: Step[VerifiedSgxQuote]


def enclave_steps(
    book: Checklist,
    registration: Step[Registration],
    collateral: bytes,
    *,
    proven: Step[Proven],
    seen: Sequence[CosignedCheckpoint],
    used: Step[Bracket],
    policy: Policy,
) -> Appraised:
    """Judge a registration: collateral, time, quote, keys, claims, platform state.

    Args:
        book: takes the checks.
        registration: parsed.
        collateral: the bytes that came with it.
        proven: its inclusion.
        seen: all checkpoints that verified; the earliest that covers the registration bounds its time.
        used: when the enclave was used.
        policy: the relying party's.
    """
    rules, freshness = policy.quotes, policy.freshness

    def appraisal() -> Any:
        return registration.value.appraisal

    found = book.run(
        "collateral",
        lambda: judge_enclave.judge_collateral(collateral, appraisal()),
        after=(registration,),
    )
    appraised = book.run(
        "appraisal-time",
        lambda: judge_enclave.judge_appraisal_time(
            appraisal(), logged_by_s=judge_log.logged_by_s(proven.value, seen)
        ),
        after=(registration, proven),
    )
    quote = book.run(
        "quote",
        lambda: judge_enclave.judge_quote(
            registration.value.evidence.quote,
            found.value,
            root=rules.root,
            at_s=appraisal().appraised_at_ms // 1000,
        ),
        after=(registration, found),
    )
    book.run(
        "debug", lambda: judge_enclave.judge_debug(registration.value.evidence.quote), after=(registration,)
    )
    book.run(
        "possession",
        lambda: judge_enclave.judge_possession(registration.value.evidence),
        after=(registration,),
    )
    book.run(
        "claims-binding",
        lambda: judge_enclave.judge_binding(registration.value.evidence, quote.value),
        after=(registration, quote),
    )
    book.run(
        "appraisal", lambda: judge_enclave.judge_appraisal(registration.value, quote.value), after=(quote,)
    )
    book.run("identity", lambda: judge_enclave.judge_identity(quote.value, rules.identity), after=(quote,))
    book.run("tcb", lambda: judge_enclave.judge_tcb(quote.value, rules.tcb), after=(quote,))
    book.run(
        "collateral-age",
        lambda: judge_enclave.judge_collateral_age(
            quote.value,
            at_s=appraisal().appraised_at_ms // 1000,
            max_age_s=freshness.collateral_max_age_s,
        ),
        after=(quote,),
    )
    book.run(
        "registration-age",
        lambda: judge_enclave.judge_registration_age(
            appraised.value, used=used.value, max_age_s=freshness.registration_max_age_s
        ),
        after=(appraised, used),
    )
    return Appraised(found, quote)


def release_steps(
    book: Checklist,
    attestation: Step[Attestation],
    rebuilds: Sequence[Logged],
    *,
    proven: Step[Proven],
    seen: Sequence[CosignedCheckpoint],
    used: Step[Bracket],
    policy: Policy,
) -> Step[Published]:
    """Judge a release: signatures, publishers, validity, rebuilders; revocation is not known offline.

    Args:
        book: takes the checks.
        attestation: the release's entry, parsed.
        rebuilds: verdicts of rebuilders with their proofs.
        proven: the release's inclusion.
        seen: all checkpoints that verified.
        used: when the release was used.
        policy: the relying party's.
    """
    published = book.run(
        "release-signature",
        lambda: judge_release.judge_release_signature(attestation.value),
        after=(attestation,),
    )
    book.run(
        "release-publishers",
        lambda: judge_release.judge_publishers(
            published.value, policy, logged_by_s=lambda: judge_log.logged_by_s(proven.value, seen)
        ),
        after=(published, proven) if _is_certified(published) else (published,),
    )
    book.run(
        "release-validity",
        lambda: judge_release.judge_validity(
            published.value.release,
            logged_by_s=judge_log.logged_by_s(proven.value, seen),
            used=used.value,
            announcement_delay_s=policy.freshness.announcement_delay_s,
        ),
        after=(published, proven, used),
    )
    book.run(
        "rebuilders",
        lambda: judge_release.judge_rebuilds(
            rebuilds, published.value.release, leaf=proven.value.leaf_hash, policy=policy
        ),
        after=(published, proven),
    )
    book.run("revocation", _judge_revocation, required=False)
    return published


def _is_certified(published: Step[Published]) -> bool:
    """Whether certificates are among the signers, which are judged at the time of logging."""
    return published.passed and bool(published.value.certificates)


def _judge_revocation() -> Passed[None] | Skipped:
    return Skipped("revocations are not in this file; only a monitor's recent state could tell")


def verified_checkpoints(*steps: Step[Proven]) -> list[CosignedCheckpoint]:
    """The checkpoints of the proofs that passed."""
    return [step.value.cosigned for step in steps if step.passed]


def enclave_facts(registration: Registration, quote: VerifiedSgxQuote) -> dict[str, Any]:
    """What a verdict tells of an enclave whose quote verified."""
    return {
        "mr_enclave": quote.mr_enclave.hex(),
        "mr_signer": quote.mr_signer.hex(),
        "boot_id": registration.evidence.claims.boot_id.hex(),
        "root": quote.root_name,
        "tcb": tcb_facts(quote),
    }


def tcb_facts(quote: VerifiedQuote) -> dict[str, Any]:
    """What a verdict always tells of a platform: its state, why, and from when to when that is known."""
    return {
        "status": str(quote.tcb_status),
        "advisories": sorted(set(quote.advisories)),
        "evaluation_number": quote.evaluation_number,
        "valid_from_s": quote.valid_from_s,
        "valid_until_s": quote.valid_until_s,
    }


def log_facts(proven: Proven) -> dict[str, Any]:
    """What a verdict tells of where a leaf is logged."""
    return {
        "origin": proven.origin,
        "index": proven.index,
        "leaf_hash": proven.leaf_hash.hex(),
        "size": proven.cosigned.checkpoint.size,
        "quorum_time_s": proven.cosigned.quorum_time_s,
        "witnesses": sorted({item.key.name for item in proven.cosigned.cosignatures}),
    }
