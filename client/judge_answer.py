"""What a receipt shows of one answer, and what its holder can show besides."""

from collections.abc import Iterable
from itertools import pairwise

from assay.attest import jcs, merkle_json, output, p256, receipt
from assay.attest.bundle import HeldAnswer
from assay.attest.entry import Registration
from assay.attest.merkle_json import FIELDS
from assay.attest.output import Output
from assay.attest.quote.verify import VerifiedSgxQuote
from assay.attest.receipt import Receipt, SignedReceipt
from assay.client.judge_enclave import Bracket
from assay.client.judge_log import CLOCK_TOLERANCE_S, Proven, quorum_time_s
from assay.client.verdict import Passed, Skipped
from assay.tlog import merkle
from assay.tlog.errors import InconsistentError, MalformedError, StaleError, UntrustedError
from assay.tlog.policy import CosignedCheckpoint


def judge_receipt_signature(signed: SignedReceipt, registration: Registration) -> Passed[Receipt]:
    """Verify the receipt under the registered key.

    Raises:
        MalformedError: an unusable key or signature.
        UntrustedError: another enclave's, or a bad signature (code ``receipt-signature``).
    """
    verified = receipt.verify_receipt(signed, public_key=registration.evidence.public_key)
    return Passed(verified, f"receipt {verified.sequence} of enclave {verified.enclave_id.hex()}")


def judge_receipt_registration(
    signed: SignedReceipt, registration: Registration, *, registration_leaf: bytes, origin: str
) -> Passed[None]:
    """Check that the receipt is of this registration, this boot and this log.

    Raises:
        UntrustedError: of another (code ``registration``).
    """
    said, registered = signed.receipt, registration.evidence
    if said.registration != merkle.leaf_hash(registration_leaf):
        raise UntrustedError("the receipt names another registration", code="registration")
    if said.boot_id != registered.claims.boot_id:
        raise UntrustedError("the receipt is of another boot", code="registration")
    if said.enclave_id.hex() != p256.signer_id(registered.public_key):
        raise UntrustedError("the receipt is of another enclave", code="registration")
    if registered.claims.log_origin != origin:
        raise UntrustedError("the enclave's receipts belong into another log", code="registration")
    return Passed(None, f"of boot {said.boot_id.hex()}, as registered")


def judge_log_head(said: Receipt, proven: Proven, seen: Iterable[CosignedCheckpoint]) -> Passed[None]:
    """Check that the log head that the enclave saw is a beginning of the tree that holds the receipt.

    Witnesses hold the log to one history; what is checked here is that the receipt came after the head, and that
    the enclave saw no other root than the witnesses, if there is a checkpoint of that size to compare with.

    Raises:
        UntrustedError: the receipt was in the log before it was made (code ``log-head``).
        InconsistentError: one size, two roots (code ``split-view``).
    """
    head = said.log_head
    if head.size > proven.index:
        raise UntrustedError(
            f"the enclave saw {head.size} entries, but its receipt is entry {proven.index}", code="log-head"
        )
    for tree in (cosigned.checkpoint for cosigned in seen):
        if (tree.origin, tree.size) == (proven.origin, head.size) and tree.root != head.root:
            raise InconsistentError(
                "the enclave saw another root than the witnesses",
                evidence={"checkpoint": tree.text.encode(), "seen": bytes(head.root)},
                code="split-view",
            )
    return Passed(None, f"the enclave saw {head.size} entries before its receipt became entry {proven.index}")


def judge_time(said: Receipt, proven: Proven, *, now_s: int) -> Passed[Bracket]:
    """Check the times against each other; between which the answer was made is the value.

    Raises:
        StaleError: the log head, the claimed time, the quorum's time and now are not in this order (code
            ``time``).
    """
    bracket = Bracket(said.log_head.cosigned_at_s, quorum_time_s(proven.cosigned))
    times = (bracket.not_before_s, said.time_claimed_s, bracket.not_after_s, now_s)
    if any(late - CLOCK_TOLERANCE_S > later for late, later in pairwise(times)):
        raise StaleError(
            "log head, claimed time, witnesses and now are not in order: " + ", ".join(map(str, times)),
            code="time",
        )
    return Passed(bracket, f"made between {bracket.not_before_s} and {bracket.not_after_s}")


def judge_commitments(answer: HeldAnswer | None, said: Receipt) -> Passed[dict[str, jcs.Json]] | Skipped:
    """Check every field that is shown; the values by their names are the value.

    Raises:
        MalformedError, UntrustedError: the receipt does not commit to one of them (code ``commitment``).
    """
    if answer is None or not answer.openings:
        return Skipped("no field of the receipt is shown")
    values = {
        name: merkle_json.verify_opening(opening, root=said.commitments)
        for name, opening in answer.openings.items()
    }
    hidden = ", ".join(name for name in FIELDS if name not in values) or "none"
    return Passed(values, f"shown: {', '.join(values)}; not shown: {hidden}")


def judge_output_signature(
    answer: HeldAnswer | None,
    values: dict[str, jcs.Json],
    *,
    said: Receipt,
    registration: Registration,
    quote: VerifiedSgxQuote,
) -> Passed[str] | Skipped:
    """Verify the output signature over the shown prompt and result; the result is the value.

    Raises:
        MalformedError: the result is no text, or the signature not one.
        UntrustedError: it does not verify (code ``output-signature``), or is of another time than the receipt
            (``output-time``).
    """
    if answer is None or not {"prompt", "result"} <= set(values):
        return Skipped("the prompt or the result is not shown")
    result = values["result"]
    if not isinstance(result, str):
        raise MalformedError("the receipt's result is no text")
    shown = Output(jcs.canonical(values["prompt"]), result, answer.timestamp_ms, quote.mr_enclave)
    output.verify_output(p256.parse_spki(registration.evidence.public_key), answer.signature, shown)
    if said.time_claimed_s != answer.timestamp_ms // 1000:
        raise UntrustedError("the output signature is of another time than the receipt", code="output-time")
    return Passed(result, "prompt and result are signed by the enclave's key, with its MRENCLAVE")
