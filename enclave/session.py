"""One connection to the agent: attest, answer, prove that the answer was logged.

Every failure is answered with a short fixed sentence and a code; details, and never a prompt or an answer, go
to the agent's standard error. An answer leaves only together with its signed receipt.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from assay.attest import channel, claims, jcs, output
from assay.attest.channel import Ask, ReplyStream
from assay.attest.output import Output
from assay.attest.receipt import LogHead
from assay.enclave.boot import Attested, Boot
from assay.enclave.config import Measured
from assay.enclave.llm import Model
from assay.enclave.log_link import LoggedEntry, LogLink
from assay.enclave.receipts import Issued, Receipts
from assay.tlog import strict
from assay.tlog.errors import LogError, MalformedError, UnavailableError, UntrustedError

IDLE_TIMEOUT_S = 60.0
"""How long a peer may take to send, or to take, one whole frame."""
_TURN_AWAY_S = 1.0
_CHUNK = 65_536
KEY_LIFETIME_S = 600.0
"""How long a connection's HPKE key opens asks."""

_DETAILS = {
    "auth": "this enclave serves anonymous callers only",
    "clock-behind": "the host's clock is behind the log's",
    "full": "the enclave takes no more at the moment",
    "log-unavailable": "the log shows nothing that verifies; a receipt that was signed is posted again later",
    "malformed": "that is no message of the channel",
    "model": "the model gave no answer",
    "model-refused": "the model's API refused the request",
    "no-quote": "the platform gives no quote",
    "not-allowed": "this enclave does not pass such a request on",
    "order": "say hello before you ask, and ask once for each hello",
    "replayed": "this request id was used before",
    "too-large": "the message is too long",
    "unsealable": "the ask is not sealed to this connection's key",
}
"""Every code that a caller can get, and its sentence."""


class RequestMemory:
    """The request ids of a boot. Bounded: when it is full, asks are refused rather than ids forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: set[bytes] = set()
        self._lock = threading.Lock()

    def take(self, request_id: bytes) -> None:
        """Use an id once.

        Raises:
            UntrustedError: it was used before (code ``replayed``).
            UnavailableError: the memory is full (code ``full``).
        """
        with self._lock:
            if request_id in self._seen:
                raise UntrustedError("a request id came twice", code="replayed")
            if len(self._seen) >= self._limit:
                raise UnavailableError("the memory of request ids is full", code="full")
            self._seen.add(request_id)


@dataclass(frozen=True, slots=True)
class Agent:
    """What all connections share."""

    measured: Measured
    boot: Boot
    registration: LoggedEntry
    receipts: Receipts
    log: LogLink
    model: Model
    memory: RequestMemory
    region: str
    load: Callable[[], int]
    now_ms: Callable[[], int]


class Session:
    """One connection, served by one thread until either side ends it."""

    def __init__(self, agent: Agent, connection: socket.socket) -> None:
        self._agent = agent
        self._connection = connection
        self._attested: tuple[Attested, float] | None = None

    def serve(self) -> None:
        """Answer messages until the peer leaves or breaks the framing."""
        try:
            while self._serve_one():
                pass
        except OSError:
            return  # the peer is gone, or silent for too long
        finally:
            self._connection.close()

    def _serve_one(self) -> bool:
        try:
            message = self._receive()
        except MalformedError as error:
            self._refuse(error)
            return False
        if message is None:
            return False
        try:
            self._handle(message)
        except LogError as error:
            self._refuse(error)
            return not isinstance(error, MalformedError)
        return True

    def _handle(self, message: jcs.Fields) -> None:
        match message.value("type"):
            case "hello":
                self._hello(message)
            case "ask":
                self._ask(message.base64("sealed", max_length=channel.MAX_FRAME_SIZE))
            case "status":
                self._send({"type": "state", "load": self._agent.load(), "region": self._agent.region})
            case _:
                raise MalformedError("a message that only the enclave sends")

    def _hello(self, message: jcs.Fields) -> None:
        nonce = message.base64("nonce", length=claims.NONCE_SIZE) if message.has("nonce") else None
        attested = self._agent.boot.attest(nonce)
        self._attested = (attested, time.monotonic())
        registration = self._agent.registration
        self._send(
            {
                "type": "attestation",
                "evidence": attested.evidence.to_json(),
                "registration": strict.base64_text(registration.leaf),
                "proof": registration.proof,
            }
        )

    def _ask(self, sealed: bytes) -> None:
        attested = self._take_key()
        ask = channel.open_ask(
            sealed,
            key=attested.hpke_key,
            enclave_id=bytes.fromhex(self._agent.boot.enclave_id),
            boot_claims=attested.evidence.claims,
        )
        self._allow(ask)
        self._agent.memory.take(ask.request_id)
        self._require_receipt()
        replies = ReplyStream(ask.reply_secret, sealed_ask=sealed)
        result = self._agent.model.answer(ask.request, delta=lambda text: self._delta(replies, text))
        issued = self._answer(ask, result, replies)
        self._log(issued)

    def _take_key(self) -> Attested:
        """This connection's key: for one ask, and for ten minutes."""
        if self._attested is None or time.monotonic() - self._attested[1] > KEY_LIFETIME_S:
            raise UntrustedError("an ask without a fresh hello", code="order")
        attested, _ = self._attested
        self._attested = None
        return attested

    def _allow(self, ask: Ask) -> None:
        if ask.auth is not None:
            raise UntrustedError("a caller that names itself", code="auth")
        measured = self._agent.measured
        if ask.request["model"] not in measured.models or ask.request["max_tokens"] > measured.max_tokens:
            raise UntrustedError("a model or a length that is not allowed", code="not-allowed")

    def _delta(self, replies: ReplyStream, text: str) -> None:
        sealed = replies.seal(jcs.canonical({"text": text}), last=False)
        self._send({"type": "delta", "sealed": strict.base64_text(sealed)})

    def _require_receipt(self) -> None:
        """Ask no model while no receipt could be signed: pieces of its answer would leave without one."""
        self._agent.receipts.require_room(head=self._head(), now_s=self._agent.now_ms() // 1000)

    def _head(self) -> LogHead:
        """The log's head. That it is not to be had is the log's fault, not the caller's, whatever the cause."""
        try:
            return self._agent.log.head()
        except LogError as error:
            note(f"no log head: [{error.code}] {error}")
            raise UnavailableError("no log head", code="log-unavailable") from error

    def _answer(self, ask: Ask, result: str, replies: ReplyStream) -> Issued:
        agent = self._agent
        head = self._head()
        now_ms = agent.now_ms()
        values = {
            "model": ask.request["model"],
            "nonce": strict.base64_text(ask.request_id),
            "parameters": channel.parameters_of(ask.request),
            "prompt": output.prompt_value(ask.request),
            "result": result,
        }
        issued = agent.receipts.issue(values, head=head, now_s=now_ms // 1000)
        said = Output(
            output.prompt_bytes(ask.request), result, now_ms, agent.boot.mr_enclave(agent.registration.leaf)
        )
        answer = channel.Answer(
            result=result,
            timestamp_ms=now_ms,
            signature=output.sign_output(agent.boot.key, said),
            cose=issued.signed.cose,
            salts={name: opening.salt for name, opening in issued.commitments.openings.items()},
        )
        sealed = replies.seal(answer.plaintext(), last=True)
        self._send({"type": "answer", "sealed": strict.base64_text(sealed)})
        return issued

    def _log(self, issued: Issued) -> None:
        try:
            logged = self._agent.receipts.post(issued.signed)
        except LogError as error:
            note(f"receipt {issued.signed.id.hex()} waits: [{error.code}] {error}")
            self._send({"type": "error", "code": "log-unavailable", "detail": _DETAILS["log-unavailable"]})
            return
        self._send(
            {
                "type": "logged",
                "index": logged.index,
                "leaf_hash": logged.leaf_hash.hex(),
                "proof": logged.proof,
            }
        )

    def _refuse(self, error: LogError) -> None:
        code = error.code if error.code in _DETAILS else _code_of(error)
        note(f"refused: [{error.code}] {type(error).__name__}")
        self._send({"type": "error", "code": code, "detail": _DETAILS[code]})

    def _receive(self) -> jcs.Fields | None:
        """The next message; None if the peer left. A whole frame has one deadline, however slowly it drips."""
        deadline = time.monotonic() + IDLE_TIMEOUT_S
        head = self._read(channel.FRAME_HEAD_SIZE, deadline)
        if len(head) < channel.FRAME_HEAD_SIZE:
            return None
        return channel.parse_frame(self._read(channel.frame_length(head), deadline))

    def _read(self, length: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < length:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise TimeoutError
            self._connection.settimeout(remaining_s)
            piece = self._connection.recv(min(length - len(data), _CHUNK))
            if not piece:
                break
            data += piece
        return bytes(data)

    def _send(self, message: jcs.Json) -> None:
        self._connection.settimeout(IDLE_TIMEOUT_S)
        self._connection.sendall(channel.format_frame(message))


def turn_away(connection: socket.socket) -> None:
    """Tell a peer for whom there is no place, and close."""
    with connection, contextlib.suppress(OSError):
        connection.settimeout(_TURN_AWAY_S)
        connection.sendall(
            channel.format_frame({"type": "error", "code": "full", "detail": _DETAILS["full"]})
        )


def _code_of(error: LogError) -> str:
    """The code for errors whose own codes say more than a caller should learn."""
    if isinstance(error, MalformedError):
        return "malformed"
    return "log-unavailable" if isinstance(error, UnavailableError) else "full"


def note(line: str) -> None:
    """One line, whatever it was made of. Not sys.stderr: its lock can stop a process that is ending."""
    text = "".join(char if char.isprintable() else "?" for char in line)
    with contextlib.suppress(OSError):
        os.write(2, f"agent: {text}\n".encode("ascii", "backslashreplace"))
