"""Asking an enclave: verify it, and only then tell it anything.

1. Connect, send a fresh nonce; the enclave answers with evidence and its logged registration.
2. Fetch from the log what belongs to it: collateral, release, rebuild verdicts, the newest checkpoint.
3. Verify all of it (``verify_enclave``). Whatever fails ends the conversation here; no prompt has left.
4. Seal the request to the HPKE key that the fresh quote binds, and send it.
5. Open the streamed answer; check that its receipt commits to exactly what was asked and answered.
6. Take the proof that the receipt is logged (from the enclave, else by submitting the receipt ourselves).
7. Put everything into a bundle and verify that offline, as anyone else will.
"""

from collections.abc import Callable
from dataclasses import dataclass

from assay.attest import channel, claims, entry, jcs, merkle_json, output, p256, receipt
from assay.attest.bundle import Bundle, HeldAnswer, Logged, format_bundle
from assay.attest.channel import Answer, Ask, ReplyStream
from assay.attest.entry import ReceiptEntry
from assay.client import collect
from assay.client.connection import Connection, connect
from assay.client.log import LogClient
from assay.client.trust import Policy
from assay.client.verdict import RefusedError, Verdict
from assay.client.verify import verify_bundle
from assay.client.verify_enclave import Attested, verify_attested
from assay.tlog import strict, tlog_proof
from assay.tlog.errors import MalformedError, UnavailableError, UntrustedError

TIMEOUT_S = 300.0
"""For a whole conversation: models take their time."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What asking takes from the machine it runs on.

    Attributes:
        now_ms: the clock, Unix ms.
        random_bytes: secret random bytes, as many as asked for.
        on_text: is given the answer's text piece by piece; it comes from the verified enclave, but is proved
            to be logged only at the end.
    """

    now_ms: Callable[[], int]
    random_bytes: Callable[[int], bytes]
    on_text: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer, the bundle that proves it, and the verdict on that bundle."""

    result: str
    bundle: bytes
    verdict: Verdict


def ask(
    request: jcs.Json,
    *,
    address: tuple[str, int],
    policy: Policy,
    log: LogClient,
    surroundings: Surroundings,
    timeout_s: float = TIMEOUT_S,
) -> Asked:
    """Ask an enclave one thing.

    Args:
        request: of the Messages API: ``model``, ``max_tokens``, ``messages``, perhaps ``system``.
        address: host and port of the enclave's host.
        policy: whom the caller trusts.
        log: where the enclave's entries are looked up.
        surroundings: clock, randomness, and where text goes.
        timeout_s: for the whole conversation with the host.

    Raises:
        RefusedError: the enclave did not verify; nothing was sent to it.
        MalformedError, UntrustedError: the enclave or its host broke the protocol, or the answer's receipt is
            of something else.
        UnavailableError: host or log do not answer now.
    """
    channel.parse_request(request)
    with connect(address, timeout_s=timeout_s) as connection:
        nonce = surroundings.random_bytes(claims.NONCE_SIZE)
        attested = _attested(connection, log, policy, nonce)  # 1 and 2
        verdict = verify_attested(attested, policy=policy, nonce=nonce, now_ms=surroundings.now_ms())  # 3
        if not verdict.verified:
            raise RefusedError("the enclave is not verified, nothing was sent", verdict=verdict)
        asked = Ask(
            request_id=surroundings.random_bytes(channel.REQUEST_ID_SIZE),
            reply_secret=surroundings.random_bytes(channel.REPLY_SECRET_SIZE),
            auth=None,
            request=request,
        )
        answer = _converse(connection, asked, attested, surroundings.on_text)  # 4 and 5
        held = _held(asked, answer, attested)
        logged = _logged(connection, log, answer)  # 6
    bundle = Bundle(logged, held, attested.enclave, attested.material.release, attested.material.rebuilds)
    data = format_bundle(bundle)
    return Asked(answer.result, data, verify_bundle(data, policy=policy, now_ms=surroundings.now_ms()))  # 7


def messages_request(prompt: str, *, model: str, max_tokens: int, system: str | None = None) -> jcs.Json:
    """A Messages API request of one user message."""
    request: dict[str, jcs.Json] = {
        "max_tokens": max_tokens,
        "messages": [{"content": prompt, "role": "user"}],
        "model": model,
    }
    return request if system is None else {**request, "system": system}


def _attested(connection: Connection, log: LogClient, policy: Policy, nonce: bytes) -> Attested:
    connection.send({"type": "hello", "nonce": strict.base64_text(nonce)})
    shown = connection.receive("attestation")
    evidence = claims.parse_evidence(shown.value("evidence"), what=shown.name("evidence"))
    registered = Logged(shown.base64("registration"), _proof(shown))
    # What is fetched is chosen by unverified bytes; the verification that follows judges it all.
    mr_enclave = collect.unverified_mr_enclave(registered.leaf)
    return Attested(
        evidence=evidence,
        enclave=collect.collect_enclave(log, registered),
        material=collect.collect_release(log, mr_enclave=mr_enclave, policy=policy),
        checkpoint=log.checkpoint(),
    )


def _converse(
    connection: Connection, asked: Ask, attested: Attested, on_text: Callable[[str], None]
) -> Answer:
    """Send the sealed ask, pass on the text as it comes, and return the answer."""
    boot_claims = attested.evidence.claims
    sealed = channel.seal_ask(asked, enclave_id=attested.enclave_id, boot_claims=boot_claims)
    replies = ReplyStream(asked.reply_secret, sealed_ask=sealed)
    connection.send({"type": "ask", "sealed": strict.base64_text(sealed)})
    pieces: list[str] = []
    while True:
        message = connection.receive("delta", "answer")
        last = message.text("type") == "answer"
        plaintext = replies.open(_sealed(message), last=last)
        if last:
            answer = channel.parse_answer(plaintext)
            break
        pieces.append(_text(plaintext))
        on_text(pieces[-1])
    if not pieces:
        on_text(answer.result)
    elif "".join(pieces) != answer.result:
        raise UntrustedError("the streamed text is not the answer", code="other-answer")
    return answer


def _held(asked: Ask, answer: Answer, attested: Attested) -> HeldAnswer:
    """Open the receipt's commitments, having checked that they are to what was asked and answered.

    Only the caller can check this: a verifier of the bundle does not know what was asked.

    Raises:
        UntrustedError: the receipt is of another enclave, or commits to something else (code ``commitment``).
    """
    said = receipt.verify_receipt(receipt.parse_receipt(answer.cose), public_key=attested.evidence.public_key)
    values = {
        "model": asked.request["model"],
        "nonce": strict.base64_text(asked.request_id),
        "parameters": channel.parameters_of(asked.request),
        "prompt": output.prompt_value(asked.request),
        "result": answer.result,
    }
    commitments = merkle_json.commit(values, answer.salts)
    if commitments.root != said.commitments:
        raise UntrustedError("the receipt is not of what was asked and answered", code="commitment")
    shown = output.Output(
        output.prompt_bytes(asked.request),
        answer.result,
        answer.timestamp_ms,
        collect.unverified_mr_enclave(attested.enclave.logged.leaf),
    )
    output.verify_output(p256.parse_spki(attested.evidence.public_key), answer.signature, shown)
    return HeldAnswer(dict(commitments.openings), answer.timestamp_ms, answer.signature)


def _logged(connection: Connection, log: LogClient, answer: Answer) -> Logged:
    """The logged receipt: with the enclave's proof, or, if its host brings none, with one we get ourselves.

    Raises:
        LogError: neither the enclave's host nor we can have it logged and proved now.
    """
    leaf = entry.format_entry(ReceiptEntry(receipt.parse_receipt(answer.cose)))
    try:
        return Logged(leaf, _proof(connection.receive("logged")))
    except (MalformedError, UntrustedError, UnavailableError):
        return log.submit(leaf).logged


def _proof(message: jcs.Fields) -> tlog_proof.TlogProof:
    text = message.value("proof")
    if not isinstance(text, str):
        raise MalformedError(f"{message.name('proof')}: not a str")
    return tlog_proof.parse_proof(text.encode())


def _sealed(message: jcs.Fields) -> bytes:
    return message.base64("sealed", max_length=channel.MAX_FRAME_SIZE)


def _text(plaintext: bytes) -> str:
    value = jcs.parse_canonical(plaintext, what="delta", max_bytes=channel.MAX_FRAME_SIZE)
    text = jcs.Fields(value, what="delta", required=("text",)).value("text")
    if not isinstance(text, str):
        raise MalformedError("delta.text: not a str")
    return text
