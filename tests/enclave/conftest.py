"""A log over loopback made of tlog's functions, a simulated platform in process, an agent, and peers that misbehave."""

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from assay.attest import channel, claims, entry, jcs
from assay.attest.channel import Answer, Ask, ReplyStream
from assay.attest.claims import Evidence
from assay.attest.entry import Appraisal, EnclaveSubmission, Registration
from assay.attest.simulated.platform import SimulatedPlatform
from assay.enclave.boot import Boot, SealedState
from assay.enclave.config import Measured
from assay.enclave.llm import Model
from assay.enclave.log_link import LoggedEntry, LogLink
from assay.enclave.receipts import Receipts
from assay.enclave.sealing import SealedFile
from assay.enclave.session import Agent, RequestMemory, Session
from assay.tlog import merkle, proof
from assay.tlog.checkpoint import Checkpoint, sign_checkpoint
from assay.tlog.cosignature import cosign
from assay.tlog.errors import UnavailableError
from assay.tlog.keys import KeyType, SignerKey
from assay.tlog.merkle import Hash
from assay.tlog.note import Note, format_note
from assay.tlog.policy import Policy, parse_policy
from assay.tlog.strict import base64_bytes, base64_text
from assay.tlog.tlog_proof import TlogProof, format_proof

ROOT = Path(__file__).parents[2]
T0 = 1_800_000_000
ORIGIN = "log.example"
MR_ENCLAVE = hashlib.sha256(b"this enclave").digest()
CONFIG = {
    "product": "a-product",
    "platform": "simulated",
    "llm_host": "llm.standin.example",
    "models": ["a-model", "b-model"],
    "max_tokens": 100,
    "connections": 3,
    "request_memory": 1000,
    "registration_wait_s": 30,
}
PROMPT = "the very secret prompt"
REQUEST = {"max_tokens": 64, "messages": [{"content": PROMPT, "role": "user"}], "model": "a-model"}


@cache
def note_key(name: str, kind: KeyType, seed: str = "") -> SignerKey:
    return SignerKey(name, kind, hashlib.sha256(f"{name}/{kind}/{seed}".encode()).digest())


LOG_KEYS = (note_key(ORIGIN, KeyType.ED25519), note_key(ORIGIN, KeyType.COSIGNATURE_ML_DSA_44))
OTHER_LOG_KEYS = tuple(note_key(ORIGIN, key.type, "another") for key in LOG_KEYS)
WITNESSES = (
    note_key("w1.example", KeyType.COSIGNATURE_ED25519),
    note_key("w2.example", KeyType.COSIGNATURE_ML_DSA_44),
)


def policy_text(quorum: str = "q") -> str:
    rows = [f"log {key.verifier} http://log.invalid" for key in LOG_KEYS]
    rows += [f"witness w{n} {key.verifier}" for n, key in enumerate(WITNESSES, start=1)]
    return "\n".join([*rows, "group q all w1 w2", f"quorum {quorum}", ""])


POLICY = parse_policy(policy_text())
NO_QUORUM = parse_policy(policy_text("none"))


@cache
def device(seed: str = "machine") -> SimulatedPlatform:
    return SimulatedPlatform(hashlib.sha256(seed.encode()).digest(), epoch_s=T0)


class LocalPlatform:
    """The simulated device without its socket."""

    def __init__(self, mr_enclave: bytes = MR_ENCLAVE) -> None:
        self.mr_enclave = mr_enclave
        self.change: Callable[[bytes], bytes] = lambda quote: quote
        self.broken = False

    def quote(self, report_data: bytes) -> bytes:
        if self.broken:
            raise UnavailableError("none today", code="no-quote")
        report = device().report(
            mr_enclave=self.mr_enclave, mr_signer=bytes(32), isv_prod_id=1, isv_svn=1, report_data=report_data
        )
        return self.change(device().quote(report))

    def seal_key(self) -> bytes:
        return device().seal_key(self.mr_enclave)


Answering = Callable[[str, str, bytes], tuple[int, bytes] | None]


class FakeLog:
    """A log that keeps leaves in memory and can be told to misbehave.

    ``instead`` may answer a request in the log's place; ``tamper`` changes the answer to a submission.
    """

    def __init__(self) -> None:
        self.leaves: list[bytes] = []
        self.submitted: list[bytes] = []
        self.log_keys: Sequence[SignerKey] = LOG_KEYS
        self.witnesses: Sequence[SignerKey] = WITNESSES
        self.time_s = T0
        self.instead: Answering = lambda method, path, body: None
        self.tamper: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
        self.paths: list[str] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def down(self, status: int = 503, code: str = "quorum-unavailable") -> None:
        self.instead = lambda method, path, body: (
            status,
            json.dumps({"code": code, "detail": "no"}).encode(),
        )

    def up(self) -> None:
        self.instead = lambda method, path, body: None

    def read_hashes(self, nodes: Sequence[merkle.Node]) -> list[Hash]:
        hashes = [merkle.leaf_hash(leaf) for leaf in self.leaves]
        return [
            merkle.root_of(hashes[node.index << node.level : (node.index + 1) << node.level])
            for node in nodes
        ]

    def checkpoint(self, size: int | None = None) -> bytes:
        size = len(self.leaves) if size is None else size
        head = Checkpoint(ORIGIN, size, proof.tree_root(size, self))
        lines = sign_checkpoint(head, self.log_keys, time_s=self.time_s).signatures
        lines += tuple(cosign(head, key, time_s=self.time_s) for key in self.witnesses)
        return format_note(Note(head.text, lines))

    def prove(self, index: int) -> str:
        hashes = proof.prove_inclusion(index=index, size=len(self.leaves), reader=self)
        return format_proof(TlogProof(index, tuple(hashes), self.checkpoint())).decode()

    def append(self, data: bytes) -> tuple[int, bytes]:
        self.submitted.append(data)
        leaf = registered(data) or data
        if leaf not in self.leaves:
            self.leaves.append(leaf)
        return self.leaves.index(leaf), leaf

    def submit(self, data: bytes) -> dict[str, Any]:
        index, leaf = self.append(data)
        return {
            "index": index,
            "leaf_hash": merkle.leaf_hash(leaf).hex(),
            "leaf": base64_text(leaf),
            "proof": self.prove(index),
        }

    def receipts(self) -> list[entry.ReceiptEntry]:
        parsed = [entry.parse_entry(leaf) for leaf in self.leaves]
        return [each for each in parsed if isinstance(each, entry.ReceiptEntry)]

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        with self._lock:
            self.paths.append(path)
            if (said := self.instead(method, path, body)) is not None:
                return said
            parts = urlsplit(path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            match method, parts.path:
                case "POST", "/api/v1/entries":
                    return 201, json.dumps(self.tamper(self.submit(body))).encode()
                case "GET", "/checkpoint":
                    return 200, self.checkpoint()
                case "GET", "/api/v1/consistency":
                    hashes = proof.prove_consistency(
                        old_size=int(query["from"]), new_size=int(query["to"]), reader=self
                    )
                    return 200, json.dumps({"hashes": [base64_text(each) for each in hashes]}).encode()
            return 404, b"{}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        log = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self._reply("POST", self.rfile.read(int(self.headers["content-length"])))

            def do_GET(self) -> None:
                self._reply("GET", b"")

            def _reply(self, method: str, body: bytes) -> None:
                status, content = log._answer(method, self.path, body)
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def registered(data: bytes) -> bytes | None:
    """The leaf that a log makes of an enclave's submission."""
    try:
        submission = entry.parse_entry(data)
    except Exception:  # noqa: BLE001  # whatever is no entry of ours stays as it is
        return None
    if not isinstance(submission, EnclaveSubmission):
        return None
    appraisal = Appraisal({"dcap": bytes(32)}, "simulated", "simulated", "UpToDate", (), T0 * 1000)
    return entry.format_entry(Registration(submission.evidence, appraisal))


class FakeModel:
    """Says what it is told to, or raises it."""

    def __init__(self) -> None:
        self.pieces: list[str] = ["an ", "answer"]
        self.error: Exception | None = None
        self.before: Callable[[], None] = lambda: None
        self.asked: list[Any] = []

    def answer(self, request: Any, *, delta: Callable[[str], None]) -> str:
        self.asked.append(request)
        self.before()
        for piece in self.pieces:
            delta(piece)
        if self.error is not None:
            raise self.error
        return "".join(self.pieces)


def measured(**changes: Any) -> Measured:
    values = {**CONFIG, **changes}
    return Measured(
        **{**values, "models": tuple(values["models"])},
        config_sha256=hashlib.sha256(b"config").digest(),
        log_policy=POLICY,
        log_policy_sha256=hashlib.sha256(policy_text().encode()).digest(),
        llm_ca_pem="",
    )


@dataclass
class Enclave:
    """An agent in process, with everything that can be turned against it."""

    log: FakeLog
    folder: Path
    platform: LocalPlatform
    model: FakeModel
    state: SealedState
    state_file: SealedFile
    boot: Boot
    link: LogLink
    registration: LoggedEntry
    receipts: Receipts
    agent: Agent
    now_ms: list[int]
    sockets: list[socket.socket] = field(default_factory=list)

    def connect(self) -> "Peer":
        """A peer on a session of its own, over loopback."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname(), timeout=10)
            theirs, _ = listener.accept()
        thread = threading.Thread(target=Session(self.agent, theirs).serve, daemon=True)
        thread.start()
        self.sockets.append(ours)
        return Peer(ours, self, thread)


class Peer:
    """A client of the channel that knows no manners."""

    def __init__(self, sock: socket.socket, enclave: Enclave, thread: threading.Thread | None = None) -> None:
        self.socket = sock
        self.enclave = enclave
        self.thread = thread

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send(self, **message: Any) -> None:
        self.raw(channel.format_frame(message))

    def receive(self) -> dict[str, Any] | None:
        """The next message, or None if the other side closed."""
        head = self._read(4)
        if len(head) < 4:
            return None
        message = json.loads(self._read(int.from_bytes(head, "big")))
        channel.parse_frame(jcs.canonical(message))
        return message

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            try:
                piece = self.socket.recv(length - len(data))
            except ConnectionResetError:
                return data
            if not piece:
                return data
            data += piece
        return data

    def hello(self, nonce: bytes | None = None) -> Evidence:
        self.send(type="hello", **({} if nonce is None else {"nonce": base64_text(nonce)}))
        said = self.receive()
        assert said is not None
        assert said["type"] == "attestation", said
        return claims.parse_evidence(said["evidence"], what="evidence")

    def ask(self, evidence: Evidence, **changes: Any) -> tuple[Ask, bytes]:
        """Send an ask sealed to this evidence."""
        usual: dict[str, Any] = {
            "request_id": hashlib.sha256(evidence.claims.hpke_public_key).digest()[:16],
            "reply_secret": bytes(range(32)),
            "auth": None,
            "request": REQUEST,
        }
        ask = Ask(**{**usual, **changes})
        enclave_id = hashlib.sha256(evidence.public_key).digest()
        sealed = channel.seal_ask(ask, enclave_id=enclave_id, boot_claims=evidence.claims)
        self.send(type="ask", sealed=base64_text(sealed))
        return ask, sealed

    def collect(self, ask: Ask, sealed: bytes) -> tuple[list[str], Answer, dict[str, Any]]:
        """Deltas, the answer, and what came after it."""
        stream = ReplyStream(ask.reply_secret, sealed_ask=sealed)
        pieces: list[str] = []
        while (said := self.receive()) is not None and said["type"] == "delta":
            pieces.append(json.loads(stream.open(base64_bytes(said["sealed"], what="x"), last=False))["text"])
        assert said is not None
        assert said["type"] == "answer", said
        answer = channel.parse_answer(stream.open(base64_bytes(said["sealed"], what="x"), last=True))
        after = self.receive()
        assert after is not None
        return pieces, answer, after

    def refused(self) -> str:
        """The code of the error that must come next (after what was streamed)."""
        while (said := self.receive()) is not None and said["type"] == "delta":
            pass
        assert said is not None
        assert set(said) == {"type", "code", "detail"}
        assert said["type"] == "error"
        return str(said["code"])


@pytest.fixture
def fake_log() -> Iterator[FakeLog]:
    with closing(FakeLog()) as log:
        yield log


@pytest.fixture
def policy() -> Policy:
    return POLICY


@pytest.fixture
def make_measured() -> Callable[..., Measured]:
    return measured


@pytest.fixture
def platform() -> LocalPlatform:
    return LocalPlatform()


@pytest.fixture
def standin_ca() -> str:
    return (ROOT / "reproducible" / "agent-standin" / "llm-ca.pem").read_text()


def start(folder: Path, log: FakeLog, **changes: Any) -> Enclave:
    """Boot an agent whose state is in ``folder``."""
    from assay.enclave.boot import open_state

    platform, told = LocalPlatform(), measured(**changes)
    folder.mkdir(exist_ok=True)
    state_file = SealedFile(folder / "agent.sealed", seal_key=platform.seal_key())
    state = open_state(state_file)
    boot = Boot(told, platform, state)
    link = LogLink(log.url, policy=POLICY, monotonic_s=iter(range(0, 10**9, 100)).__next__)
    registration = boot.register(link, pause=lambda _: None)
    receipts = Receipts(
        boot,
        registration=registration,
        log=link,
        outbox=folder / "outbox",
        state=state,
        state_file=state_file,
    )
    model, now_ms = FakeModel(), [(T0 + 10) * 1000]
    agent = Agent(
        measured=told,
        boot=boot,
        registration=registration,
        receipts=receipts,
        log=link,
        model=model,  # type: ignore[arg-type]
        memory=RequestMemory(told.request_memory),
        region="here",
        load=lambda: 1,
        now_ms=lambda: now_ms[0],
    )
    return Enclave(
        log, folder, platform, model, state, state_file, boot, link, registration, receipts, agent, now_ms
    )


@pytest.fixture
def boot_enclave(tmp_path: Path, fake_log: FakeLog) -> Iterator[Callable[..., Enclave]]:
    """Boots agents that share one state folder and one log."""
    started: list[Enclave] = []

    def go(name: str = "state", **changes: Any) -> Enclave:
        started.append(start(tmp_path / name, fake_log, **changes))
        return started[-1]

    yield go
    for each in started:
        for sock in each.sockets:
            sock.close()


@pytest.fixture
def enclave(boot_enclave: Callable[..., Enclave]) -> Enclave:
    return boot_enclave()


@pytest.fixture
def p256_key() -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(b"a key").digest()) >> 1, ec.SECP256R1())


@pytest.fixture
def standin_model(standin_ca: str) -> Callable[..., Model]:
    """A client of a server on loopback that should be the stand-in."""

    def make(port: int, **changes: Any) -> Model:
        usual: dict[str, Any] = {
            "host": "llm.standin.example",
            "ca_pem": standin_ca,
            "address": ("127.0.0.1", port),
            "api_key": "sk-very-secret",
            "timeout_s": 10.0,
        }
        return Model(**{**usual, **changes})

    return make


@pytest.fixture
def log_policy_text() -> str:
    return policy_text()


@pytest.fixture
def peer_at() -> Iterator[Callable[[str], Peer]]:
    """Peers of an agent that is a process of its own."""
    sockets: list[socket.socket] = []

    def connect(address: str) -> Peer:
        host, _, port = address.rpartition(":")
        sockets.append(socket.create_connection((host, int(port)), timeout=20))
        return Peer(sockets[-1], None)  # type: ignore[arg-type]

    yield connect
    for sock in sockets:
        sock.close()
