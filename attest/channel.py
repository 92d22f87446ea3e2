"""The channel between a client and an enclave: framing, the sealed ask, the sealed replies.

A frame is u32 big-endian length ‖ JSON (RFC 8785), at most 1 MiB. The host forwards ciphertext only:

- ask: HPKE base mode (RFC 9180; X25519, HKDF-SHA256, ChaCha20-Poly1305), one shot, ``enc ‖ ciphertext``;
  info = "assay-ask-v1" ‖ enclave id[32] ‖ boot id[16] ‖ SHA-256 of the claims' canonical JSON.
- replies: ChaCha20-Poly1305 under key = HKDF-SHA256(ikm = reply secret, salt = SHA-256(sealed ask),
  info = "assay-reply-v1"), nonce = u96 counter from 0, AAD = "assay-reply-v1" ‖ u8 (1 on the last, else 0).

The last flag is authenticated, so that a cut-off answer cannot pass for a whole one; the counter, so that
frames cannot be dropped, repeated or reordered.
"""

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from assay.attest import claims, jcs, merkle_json, p256, receipt
from assay.attest.claims import Claims
from assay.tlog import strict
from assay.tlog.errors import MalformedError, UntrustedError

DEFAULT_PORT = 7777
FRAME_HEAD_SIZE = 4
MAX_FRAME_SIZE = 1 << 20
REQUEST_ID_SIZE = 16
REPLY_SECRET_SIZE = 32

_ASK_TAG = b"assay-ask-v1"
_REPLY_TAG = b"assay-reply-v1"
_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


def format_frame(message: jcs.Json) -> bytes:
    """One message with its length before it.

    Raises:
        MalformedError: longer than a frame may be (code ``too-large``).
    """
    body = jcs.canonical(message)
    if len(body) > MAX_FRAME_SIZE:
        raise MalformedError(f"frame: {len(body)} bytes are more than {MAX_FRAME_SIZE}", code="too-large")
    return len(body).to_bytes(4, "big") + body


def frame_length(head: bytes) -> int:
    """The length of the body that follows a frame's 4-byte head.

    Raises:
        MalformedError: 0, or more than 1 MiB (code ``too-large``): refused before a byte of it is read; or a
            head that is not 4 bytes.
    """
    if len(head) != FRAME_HEAD_SIZE:
        raise MalformedError(f"frame: a head of {len(head)} bytes")
    length = int.from_bytes(head, "big")
    if not 1 <= length <= MAX_FRAME_SIZE:
        raise MalformedError(f"frame: a length of {length} is not in [1, {MAX_FRAME_SIZE}]", code="too-large")
    return length


def parse_frame(body: bytes) -> jcs.Fields:
    """The message of a frame: an object with a ``type``, read further by whoever knows the type.

    Raises:
        MalformedError: not canonical JSON, or no known type.
    """
    value = jcs.parse_canonical(body, what="frame", max_bytes=MAX_FRAME_SIZE)
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in MESSAGES:
        raise MalformedError("frame: not a message of the channel")
    required, optional = MESSAGES[kind]
    return jcs.Fields(value, what=kind, required=("type", *required), optional=optional)


MESSAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "hello": ((), ("nonce",)),
    "attestation": (("evidence", "registration", "proof"), ()),
    "ask": (("sealed",), ()),
    "delta": (("sealed",), ()),
    "answer": (("sealed",), ()),
    "logged": (("index", "leaf_hash", "proof"), ()),
    "status": ((), ()),
    "state": (("load", "region"), ()),
    "error": (("code", "detail"), ()),
}
"""Message type -> its required and its optional members, beside ``type``."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The plaintext of an ask.

    Attributes:
        request_id: 16 random bytes; the enclave answers each once per boot.
        reply_secret: 32 random bytes; the replies' key derives from it.
        auth: the caller's authentication, or None for an anonymous caller.
        request: a Messages API request: ``model``, ``max_tokens``, ``messages`` and more.
    """

    request_id: bytes
    reply_secret: bytes
    auth: str | None
    request: jcs.Json

    def plaintext(self) -> bytes:
        """Canonical JSON of the four members."""
        return jcs.canonical(
            {
                "auth": self.auth,
                "reply_secret": strict.base64_text(self.reply_secret),
                "request": self.request,
                "request_id": strict.base64_text(self.request_id),
            }
        )


def parse_ask(plaintext: bytes) -> Ask:
    """Read the plaintext of an ask; the request is checked by :func:`parse_request`.

    Raises:
        MalformedError: not that.
    """
    value = jcs.parse_canonical(plaintext, what="ask", max_bytes=MAX_FRAME_SIZE)
    fields = jcs.Fields(value, what="ask", required=("auth", "reply_secret", "request", "request_id"))
    return Ask(
        request_id=fields.base64("request_id", length=REQUEST_ID_SIZE),
        reply_secret=fields.base64("reply_secret", length=REPLY_SECRET_SIZE),
        auth=fields.nullable("auth", fields.text),
        request=parse_request(fields.value("request")),
    )


def parse_request(value: jcs.Json) -> jcs.Json:
    """Check the outline of a Messages API request and return it.

    Raises:
        MalformedError: no model, no messages, no token limit, or a member that is not passed on.
    """
    fields = jcs.Fields(
        value,
        what="request",
        required=("max_tokens", "messages", "model"),
        optional=("metadata", "stop_sequences", "system"),
    )
    fields.text("model", max_length=128)
    fields.integer("max_tokens", high=1_000_000)
    for item in fields.array("messages", max_items=1000):
        message = jcs.Fields(item, what="message", required=("content", "role"))
        if message.text("role") not in ("user", "assistant"):
            raise MalformedError("message.role: neither user nor assistant")
    if not fields.value("messages"):
        raise MalformedError("request.messages: empty")
    return value


def parameters_of(request: jcs.Json) -> jcs.Json:
    """The members of a request that are neither prompt nor model."""
    return {key: value for key, value in request.items() if key not in ("messages", "model", "system")}


def ask_info(*, enclave_id: bytes, boot_claims: Claims) -> bytes:
    """The HPKE ``info`` that binds an ask to one enclave, boot and set of claims."""
    digest = hashlib.sha256(jcs.canonical(boot_claims.to_json())).digest()
    return _ASK_TAG + enclave_id + boot_claims.boot_id + digest


def seal_ask(ask: Ask, *, enclave_id: bytes, boot_claims: Claims) -> bytes:
    """Seal an ask to the HPKE key of claims that the caller has verified.

    Raises:
        UntrustedError: the claims name a suite that is not this one (code ``hpke-suite``).
        MalformedError: the key is not one of X25519, or one of its points of low order.
    """
    suite = (boot_claims.kem, boot_claims.kdf, boot_claims.aead)
    if suite != (claims.KEM_X25519, claims.KDF_HKDF_SHA256, claims.AEAD_CHACHA20_POLY1305):
        raise UntrustedError(
            "the enclave offers an HPKE suite that this client does not use", code="hpke-suite"
        )
    plaintext, info = ask.plaintext(), ask_info(enclave_id=enclave_id, boot_claims=boot_claims)
    try:
        key = X25519PublicKey.from_public_bytes(boot_claims.hpke_public_key)
        return _SUITE.encrypt(plaintext, key, info=info)
    except ValueError as error:
        raise MalformedError("claims.hpke_public_key: not an X25519 key") from error


def open_ask(sealed: bytes, *, key: X25519PrivateKey, enclave_id: bytes, boot_claims: Claims) -> Ask:
    """Open an ask inside the enclave.

    Raises:
        UntrustedError: not sealed to this key and these claims; one message for every cause (code ``unsealable``).
        MalformedError: sealed well, but not an ask.
    """
    info = ask_info(enclave_id=enclave_id, boot_claims=boot_claims)
    try:
        plaintext = _SUITE.decrypt(sealed, key, info=info)
    except (InvalidTag, ValueError) as error:
        raise UntrustedError(
            "the ask is not sealed to this enclave's present key", code="unsealable"
        ) from error
    return parse_ask(plaintext)


class ReplyStream:
    """One direction's keys of one ask: seals replies in the enclave, opens them at the client, in order.

    Args:
        reply_secret: from the ask's plaintext.
        sealed_ask: the exact sealed bytes of that ask.
    """

    def __init__(self, reply_secret: bytes, *, sealed_ask: bytes) -> None:
        salt = hashlib.sha256(sealed_ask).digest()
        key = HKDF(hashes.SHA256(), length=32, salt=salt, info=_REPLY_TAG).derive(reply_secret)
        self._cipher = ChaCha20Poly1305(key)
        self._counter = 0
        self._ended = False

    def seal(self, plaintext: bytes, *, last: bool) -> bytes:
        """Seal the next reply; after the last one there is none."""
        assert not self._ended, "a reply after the last one"
        nonce, aad = self._next(last=last)
        return self._cipher.encrypt(nonce, plaintext, aad)

    def open(self, sealed: bytes, *, last: bool) -> bytes:
        """Open the next reply.

        Raises:
            UntrustedError: changed, out of order, after the last one, or not (or wrongly) the last one
                (code ``unsealable``). The stream is of no more use then.
        """
        if self._ended:
            raise UntrustedError("a reply after the last one", code="unsealable")
        nonce, aad = self._next(last=last)
        try:
            return self._cipher.decrypt(nonce, sealed, aad)
        except InvalidTag as error:
            self._ended = True
            raise UntrustedError(
                "a reply is not the next one that the enclave sealed", code="unsealable"
            ) from error

    def _next(self, *, last: bool) -> tuple[bytes, bytes]:
        nonce = self._counter.to_bytes(12, "big")
        self._counter += 1
        self._ended = last
        return nonce, _REPLY_TAG + bytes([last])


@dataclass(frozen=True, slots=True)
class Answer:
    """The plaintext of an answer: no answer exists without its signed receipt.

    Attributes:
        result: the answer's text.
        timestamp_ms: the host's clock, as in the output signature.
        signature: the output signature (``output``).
        cose: the signed receipt, exactly as it is logged.
        salts: field -> salt, for every field; whoever holds them can open the receipt's commitments.
    """

    result: str
    timestamp_ms: int
    signature: bytes
    cose: bytes
    salts: dict[str, bytes]

    def plaintext(self) -> bytes:
        """Canonical JSON of the five members."""
        return jcs.canonical(
            {
                "cose": strict.base64_text(self.cose),
                "result": self.result,
                "salts": {name: strict.base64_text(salt) for name, salt in self.salts.items()},
                "signature": strict.base64_text(self.signature),
                "timestamp": self.timestamp_ms,
            }
        )


def parse_answer(plaintext: bytes) -> Answer:
    """Read the plaintext of an answer.

    Raises:
        MalformedError: not that.
    """
    value = jcs.parse_canonical(plaintext, what="answer", max_bytes=MAX_FRAME_SIZE)
    fields = jcs.Fields(value, what="answer", required=("cose", "result", "salts", "signature", "timestamp"))
    if not isinstance(result := fields.value("result"), str):
        raise MalformedError("answer.result: not a str")
    salts = fields.fields("salts", required=merkle_json.FIELDS)
    return Answer(
        result=result,
        timestamp_ms=fields.integer("timestamp"),
        signature=fields.base64("signature", length=p256.SIGNATURE_SIZE),
        cose=fields.base64("cose", max_length=receipt.MAX_RECEIPT_SIZE),
        salts={name: salts.base64(name, length=merkle_json.SALT_SIZE) for name in merkle_json.FIELDS},
    )
