"""The output signature: the enclave's word for one answer, for whoever already has the answer.

Signed bytes (``lp(x)`` is u64 big-endian length ‖ x)::

    lp("assay-output-v1") ‖ lp(prompt) ‖ lp(result) ‖ lp(u64 Unix ms) ‖ lp(MRENCLAVE[32])

prompt is RFC 8785 of ``{"messages", "system"}`` of the request, result the answer's UTF-8. The signature
travels only inside the sealed answer: outside it would let anyone test guesses of the prompt.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from assay.attest import jcs, p256
from assay.tlog.errors import UntrustedError

_TAG = b"assay-output-v1"


@dataclass(frozen=True, slots=True)
class Output:
    """What an output signature is over."""

    prompt: bytes
    result: str
    timestamp_ms: int
    mr_enclave: bytes

    def message(self) -> bytes:
        """The signed bytes."""
        parts = (
            _TAG,
            self.prompt,
            self.result.encode(),
            self.timestamp_ms.to_bytes(8, "big"),
            self.mr_enclave,
        )
        return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def prompt_value(request: jcs.Json) -> jcs.Json:
    """The part of a Messages API request that is the prompt: its ``system`` (null if absent) and ``messages``."""
    return {"messages": request["messages"], "system": request.get("system")}


def prompt_bytes(request: jcs.Json) -> bytes:
    """RFC 8785 of :func:`prompt_value`."""
    return jcs.canonical(prompt_value(request))


def sign_output(key: ec.EllipticCurvePrivateKey, output: Output) -> bytes:
    """Sign an answer: raw low-s, 64 bytes."""
    return p256.sign(key, output.message())


def verify_output(key: ec.EllipticCurvePublicKey, signature: bytes, output: Output) -> Output:
    """Verify an answer's signature.

    Raises:
        MalformedError: not 64 bytes with low s.
        UntrustedError: it does not verify (code ``output-signature``).
    """
    try:
        p256.verify(key, signature, output.message())
    except UntrustedError as error:
        raise UntrustedError(
            "the answer is not signed by this enclave's key", code="output-signature"
        ) from error
    return output
