"""Online verification of an enclave, before anything is told to it.

The enclave shows fresh evidence (with the asking client's nonce) and its logged registration. Both are judged:
the registration as an offline bundle's is, the fresh evidence now, and that they are of one enclave and boot.
The checks are named as in ``verify``, and beside them:

- ``checkpoint-age``       the log's newest checkpoint is recent and cosigned by the quorum
- ``log-origin``           the enclave's receipts go to the log that holds its registration
- ``fresh-quote``, ``fresh-possession``, ``fresh-binding``, ``fresh-identity``, ``fresh-tcb``,
  ``fresh-collateral-age``
- ``nonce``                the fresh evidence carries the nonce that we sent
- ``same-enclave``         key, boot, MRENCLAVE and configuration are those that were registered
- ``measurement``          the fresh quote is of the release
"""

import hashlib
from dataclasses import dataclass

from assay.attest.bundle import Logged, LoggedEnclave
from assay.attest.claims import Evidence
from assay.attest.quote.verify import VerifiedSgxQuote
from assay.client import judge_enclave, judge_log, judge_release, steps
from assay.client.collect import ReleaseMaterial
from assay.client.judge_enclave import Bracket
from assay.client.judge_log import Proven
from assay.client.trust import Policy
from assay.client.verdict import Checklist, Passed, Step, Verdict
from assay.tlog import strict
from assay.tlog.errors import UntrustedError


@dataclass(frozen=True, slots=True)
class Attested:
    """What an enclave showed, and what the log had about it. Nothing is believed.

    Attributes:
        evidence: fresh.
        enclave: the registration, and its collateral.
        material: the release of the quoted measurement, and its rebuilds.
        checkpoint: the log's newest.
    """

    evidence: Evidence
    enclave: LoggedEnclave
    material: ReleaseMaterial
    checkpoint: bytes

    @property
    def enclave_id(self) -> bytes:
        """SHA-256 of the SPKI of the key that the evidence names."""
        return hashlib.sha256(self.evidence.public_key).digest()


def verify_attested(attested: Attested, *, policy: Policy, nonce: bytes, now_ms: int) -> Verdict:
    """Verify an enclave that is about to be asked.

    Args:
        attested: what it and the log showed.
        policy: whom the relying party trusts.
        nonce: the 32 bytes that were sent to it.
        now_ms: Unix ms.
    """
    book, now_s = Checklist(), now_ms // 1000
    material, fresh = attested.material, attested.evidence
    registration = steps.registration_step(book, attested.enclave)
    registered = _proven(book, "registration", attested.enclave.logged, policy, registration)
    attestation = steps.release_step(book, material.release)
    released = _proven(book, "release", material.release, policy, attestation)
    seen = steps.verified_checkpoints(registered, released)
    book.run("checkpoints-agree", lambda: judge_log.judge_agreement(seen), after=(registered, released))
    book.run("checkpoint-age", lambda: _judge_newest(attested.checkpoint, policy, now_s))
    used = book.run(
        "time", lambda: _judge_now(registered.value, released.value, now_s), after=(registered, released)
    )
    appraised = steps.enclave_steps(
        book,
        registration,
        attested.enclave.collateral,
        proven=registered,
        seen=seen,
        used=used,
        policy=policy,
    )
    book.run(
        "log-origin",
        lambda: _judge_origin(fresh, registered.value),
        after=(registered,),
    )
    quote = _fresh_steps(book, fresh, appraised, policy=policy, nonce=nonce, now_s=now_s)
    book.run(
        "same-enclave",
        lambda: judge_enclave.judge_same_enclave(
            fresh, quote.value, registration.value.evidence, appraised.quote.value
        ),
        after=(registration, quote, appraised.quote),
    )
    published = steps.release_steps(
        book, attestation, material.rebuilds, proven=released, seen=seen, used=used, policy=policy
    )
    book.run(
        "measurement",
        lambda: judge_release.judge_measurement(quote.value, published.value.release),
        after=(quote, published),
    )
    facts = {"enclave": steps.enclave_facts(registration.value, quote.value)} if quote.passed else {}
    return Verdict(book.checks, quote.value.platform if quote.passed else None, facts)


def _proven(
    book: Checklist, name: str, logged: Logged | None, policy: Policy, parsed: Step[object]
) -> Step[Proven]:
    return steps.prove_steps(book, name, logged, policy=policy.log, after=(parsed,))


def _fresh_steps(
    book: Checklist,
    fresh: Evidence,
    appraised: steps.Appraised,
    *,
    policy: Policy,
    nonce: bytes,
    now_s: int,
) -> Step[VerifiedSgxQuote]:
    """The fresh evidence, judged now with the collateral of the registration."""
    quote = book.run(
        "fresh-quote",
        lambda: judge_enclave.judge_quote(
            fresh.quote, appraised.collateral.value, root=policy.quotes.root, at_s=now_s
        ),
        after=(appraised.collateral,),
    )
    book.run("fresh-possession", lambda: judge_enclave.judge_possession(fresh))
    bound = book.run("fresh-binding", lambda: judge_enclave.judge_binding(fresh, quote.value), after=(quote,))
    rules = policy.quotes
    book.run(
        "fresh-identity", lambda: judge_enclave.judge_identity(quote.value, rules.identity), after=(quote,)
    )
    book.run("fresh-tcb", lambda: judge_enclave.judge_tcb(quote.value, rules.tcb), after=(quote,))
    max_age_s = policy.freshness.collateral_max_age_s
    book.run(
        "fresh-collateral-age",
        lambda: judge_enclave.judge_collateral_age(quote.value, at_s=now_s, max_age_s=max_age_s),
        after=(quote,),
    )
    required = policy.freshness.nonce_required
    book.run(
        "nonce",
        lambda: judge_enclave.judge_nonce(bound.value, nonce=nonce, required=required),
        after=(bound,),
    )
    return quote


def _judge_newest(checkpoint: bytes, policy: Policy, now_s: int) -> Passed[None]:
    cosigned = judge_log.judge_checkpoint(checkpoint, policy=policy.log).value
    return judge_log.judge_checkpoint_age(
        cosigned, max_age_s=policy.freshness.checkpoint_max_age_s, now_s=now_s
    )


def _judge_now(registered: Proven, released: Proven, now_s: int) -> Passed[Bracket]:
    for proven in (registered, released):
        judge_log.judge_not_future(proven.cosigned, now_s=now_s)
    return Passed(Bracket(now_s, now_s), f"judged at {now_s}")


def _judge_origin(fresh: Evidence, registered: Proven) -> Passed[None]:
    if fresh.claims.log_origin != registered.origin:
        raise UntrustedError("the enclave's receipts go to another log", code="other-log")
    return Passed(None, f"receipts go to {strict.shown(registered.origin)}")
