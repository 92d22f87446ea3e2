"""Offline verification: one file, one policy, one time; a verdict, and no exception for bad input.

Everything is judged by the relying party's own policy. The file is evidence only: it carries no key and no
rule that is used here. The caller reads the files and the clock.

An answer's bundle, step by step; steps of one number rest on nothing but the steps they name:

1. ``bundle``            the file is in its one spelling, and its subject is of a kind that is known
2. ``receipt-checkpoint``, ``receipt-inclusion``   log signatures, witness quorum, Merkle proof
3. ``registration``, ``registration-checkpoint``, ``registration-inclusion``   the same of the enclave's entry
4. ``release``, ``release-checkpoint``, ``release-inclusion``   the same of the release statement
5. ``checkpoints-agree`` no two checkpoints show two histories
6. ``time``              log head <= claimed time <= quorum time <= now: between which times it was made
7. ``collateral``, ``appraisal-time``, ``quote``, ``debug``, ``possession``, ``claims-binding``, ``appraisal``,
   ``identity``, ``tcb``, ``collateral-age``, ``registration-age``   the enclave, under the policy's root
8. ``receipt-signature``, ``receipt-registration``, ``log-head``   the receipt is of that enclave and boot
9. ``commitments``, ``output-signature``   what the holder shows of the answer
10. ``release-signature``, ``release-publishers``, ``release-validity``, ``rebuilders``, ``revocation``
11. ``measurement``      the quoted enclave is the release
12. ``artifact``         a file at hand is the answer, or one of the release's files (only if given)

A release's bundle takes 1, 4, 6 (now), 10 and 12. Not checked here: that no other entry of the log contradicts these
(a monitor's task), and revocations.
"""

import hashlib
from typing import Any

from assay.attest import bundle as bundles
from assay.attest import entry
from assay.attest.bundle import Bundle, Logged
from assay.attest.entry import Attestation, Entry, ReceiptEntry
from assay.attest.receipt import SignedReceipt
from assay.client import judge_answer, judge_log, judge_release, steps
from assay.client.judge_enclave import Bracket
from assay.client.judge_log import Proven
from assay.client.judge_release import Published
from assay.client.trust import Policy
from assay.client.verdict import Checklist, Passed, Step, Verdict
from assay.tlog import tlog_proof
from assay.tlog.errors import MalformedError

PROOF_PREFIX = b"c2sp.org/tlog-proof@"
"""How a ``.tlog-proof`` file begins."""


def verify_bundle(data: bytes, *, policy: Policy, now_ms: int, artifact: bytes | None = None) -> Verdict:
    """Verify the bundle of an answer or of a release.

    Args:
        data: the file.
        policy: whom the relying party trusts.
        now_ms: the time to judge at, Unix ms.
        artifact: a file that should be the answer or belong to the release, if the caller has one.
    """
    book = Checklist()
    # 1. The file.
    parsed = book.run("bundle", lambda: _judge_bundle(data))
    if not parsed.passed:
        return Verdict(book.checks)
    bundle, subject = parsed.value
    if isinstance(subject, ReceiptEntry):
        return _verify_answer(book, bundle, subject.signed, policy, now_ms // 1000, artifact)
    return _verify_release(book, bundle, policy, now_ms // 1000, artifact)


def verify_logged(proof: bytes, *, leaf: bytes, policy: Policy, now_ms: int) -> Verdict:
    """Verify a ``.tlog-proof`` file: that a log holds exactly this leaf. What the leaf says is not looked at.

    Args:
        proof: the file.
        leaf: the exact bytes that were logged.
        policy: whom the relying party trusts.
        now_ms: the time to judge at, Unix ms.
    """
    book = Checklist()
    parsed = book.run("proof", lambda: Passed(Logged(leaf, tlog_proof.parse_proof(proof)), "a tlog-proof"))
    if not parsed.passed:
        return Verdict(book.checks)
    proven = steps.prove_steps(book, "leaf", parsed.value, policy=policy.log, after=())
    book.run("time", lambda: _judge_now(proven.value, now_ms // 1000), after=(proven,))
    return Verdict(book.checks, facts={"subject": steps.log_facts(proven.value)} if proven.passed else {})


def _judge_bundle(data: bytes) -> Passed[tuple[Bundle, Entry]]:
    bundle = bundles.parse_bundle(data)
    subject = entry.parse_entry(bundle.subject.leaf)
    if isinstance(subject, Attestation):
        if bundle.answer is not None or bundle.enclave is not None or bundle.release is not None:
            raise MalformedError("bundle: a release's bundle holds the release and its rebuilds only")
    elif not isinstance(subject, ReceiptEntry):
        raise MalformedError(f"bundle: a leaf of kind {entry.kind_of(subject)} is no subject")
    return Passed((bundle, subject), f"of kind {entry.kind_of(subject)}")


def _verify_answer(
    book: Checklist, bundle: Bundle, signed: SignedReceipt, policy: Policy, now_s: int, artifact: bytes | None
) -> Verdict:
    enclave = bundle.enclave
    # 2. The receipt is logged.
    proven = steps.prove_steps(book, "receipt", bundle.subject, policy=policy.log, after=())
    # 3. The enclave's registration is logged.
    registration = steps.registration_step(book, enclave)
    registered = steps.prove_steps(
        book,
        "registration",
        None if enclave is None else enclave.logged,
        policy=policy.log,
        after=(registration,),
    )
    # 4. The release is logged.
    attestation = steps.release_step(book, bundle.release)
    released = steps.prove_steps(book, "release", bundle.release, policy=policy.log, after=(attestation,))
    # 5. One history.
    seen = steps.verified_checkpoints(proven, registered, released)
    book.run("checkpoints-agree", lambda: judge_log.judge_agreement(seen), after=(proven,))
    # 6. The time. The claims are believed only together with the receipt's signature, which is required too.
    used = book.run(
        "time", lambda: judge_answer.judge_time(signed.receipt, proven.value, now_s=now_s), after=(proven,)
    )
    # 7. The enclave.
    appraised = steps.enclave_steps(
        book,
        registration,
        b"" if enclave is None else enclave.collateral,
        proven=registered,
        seen=seen,
        used=used,
        policy=policy,
    )
    # 8. The receipt is the enclave's.
    said = book.run(
        "receipt-signature",
        lambda: judge_answer.judge_receipt_signature(signed, registration.value),
        after=(registration,),
    )
    book.run(
        "receipt-registration",
        lambda: judge_answer.judge_receipt_registration(
            signed,
            registration.value,
            registration_leaf=registered.value.leaf,
            origin=proven.value.origin,
        ),
        after=(registration, registered, proven),
    )
    book.run(
        "log-head", lambda: judge_answer.judge_log_head(signed.receipt, proven.value, seen), after=(proven,)
    )
    # 9. What the holder shows.
    values = book.run(
        "commitments",
        lambda: judge_answer.judge_commitments(bundle.answer, said.value),
        after=(said,),
        required=False,
    )
    result = book.run(
        "output-signature",
        lambda: judge_answer.judge_output_signature(
            bundle.answer,
            values.value,
            said=said.value,
            registration=registration.value,
            quote=appraised.quote.value,
        ),
        after=(said, values, appraised.quote),
        required=False,
    )
    # 10. The release.
    published = steps.release_steps(
        book, attestation, bundle.rebuilds, proven=released, seen=seen, used=used, policy=policy
    )
    # 11. The enclave is the release.
    book.run(
        "measurement",
        lambda: judge_release.judge_measurement(appraised.quote.value, published.value.release),
        after=(appraised.quote, published),
    )
    # 12. The file at hand.
    if artifact is not None:
        _answer_artifact_step(book, artifact, result, published)
    quote = appraised.quote
    facts = _facts(proven, used, published, released)
    if quote.passed:
        facts["enclave"] = steps.enclave_facts(registration.value, quote.value)
    return Verdict(book.checks, quote.value.platform if quote.passed else None, facts)


def _verify_release(
    book: Checklist, bundle: Bundle, policy: Policy, now_s: int, artifact: bytes | None
) -> Verdict:
    # 4. The release is logged.
    attestation = steps.release_step(book, bundle.subject)
    released = steps.prove_steps(book, "release", bundle.subject, policy=policy.log, after=(attestation,))
    seen = steps.verified_checkpoints(released)
    # 6. It is judged as if used now; the proof must not be from the future.
    used = book.run("time", lambda: _judge_now(released.value, now_s), after=(released,))
    # 10. The release.
    published = steps.release_steps(
        book, attestation, bundle.rebuilds, proven=released, seen=seen, used=used, policy=policy
    )
    # 12. The file at hand.
    if artifact is not None:
        digest = hashlib.sha256(artifact).digest()
        book.run(
            "artifact",
            lambda: judge_release.judge_artifact(digest, published.value.release),
            after=(published,),
        )
    return Verdict(book.checks, facts=_facts(released, used, published, released))


def _judge_now(proven: Proven, now_s: int) -> Passed[Bracket]:
    judge_log.judge_not_future(proven.cosigned, now_s=now_s)
    return Passed(Bracket(now_s, now_s), f"judged at {now_s}")


def _answer_artifact_step(
    book: Checklist, artifact: bytes, result: Step[str], published: Step[Published]
) -> None:
    """The file is the answer or one of the release's files; either needs its own checks to have passed."""

    def judge() -> Passed[str]:
        digest = hashlib.sha256(artifact).digest()
        if result.passed and artifact == result.value.encode():
            return Passed("result", "the answer, byte for byte")
        return judge_release.judge_artifact(digest, published.value.release)

    book.run("artifact", judge, after=(published,))


def _facts(
    subject: Step[Proven], used: Step[Bracket], published: Step[Published], released: Step[Proven]
) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if subject.passed:
        facts["subject"] = steps.log_facts(subject.value)
    if used.passed:
        facts["time"] = {"not_before_s": used.value.not_before_s, "not_after_s": used.value.not_after_s}
    if published.passed:
        facts["release"] = judge_release.release_facts(
            published.value, released.value if released.passed else None
        )
    return facts
