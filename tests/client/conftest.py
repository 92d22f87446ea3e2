"""A whole synthetic world in memory: a log, two witnesses, a simulated platform, a publisher, rebuilders, an enclave.

Every time is fixed. A :class:`Story` tells how one answer came to be and can be told wrongly in every detail.
"""

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from assay.attest import (
    admission,
    channel,
    dsse,
    entry,
    jcs,
    merkle_json,
    output,
    p256,
    receipt,
    statement,
)
from assay.attest import claims as claims_format
from assay.attest.bundle import Bundle, HeldAnswer, Logged, LoggedEnclave, format_bundle
from assay.attest.channel import Answer, Ask, ReplyStream
from assay.attest.claims import Claims, Evidence
from assay.attest.entry import Appraisal, Attestation, ReceiptEntry, Registration
from assay.attest.quote.collateral import format_collateral
from assay.attest.receipt import LogHead, Receipt
from assay.attest.simulated.platform import HEALTHY, SimulatedPlatform, Variant
from assay.attest.statement import Digests, Rebuild, Release, Statement
from assay.attest.statement import Verdict as Outcome
from assay.client.trust import Policy, parse_policy
from assay.tlog import merkle, proof
from assay.tlog.checkpoint import Checkpoint, sign_checkpoint
from assay.tlog.cosignature import cosign
from assay.tlog.errors import LogError
from assay.tlog.keys import KeyType, SignerKey
from assay.tlog.merkle import Hash
from assay.tlog.note import Note, format_note
from assay.tlog.strict import base64_text
from assay.tlog.tlog_proof import TlogProof, format_proof

T0 = 1_800_000_000
ORIGIN = "log.example"
PRODUCT = "agent"
MR_SIGNER = hashlib.sha256(b"signer").digest()
DIGESTS = Digests(*(hashlib.sha256(name).digest() for name in (b"enclave", b"manifest", b"tree", b"libpal")))
REQUEST = {
    "max_tokens": 64,
    "messages": [{"content": "How tall is Ben Nevis?", "role": "user"}],
    "model": "a-model",
    "system": "Be brief.",
}
RESULT = "1,345 m. Grüße!"
INTEL_ROOT = b"only its name is used unless a policy asks for it"


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    """A P-256 key that is a function of its name."""
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(name.encode()).digest()) >> 1, ec.SECP256R1())


@cache
def note_key(name: str, kind: KeyType, seed: str = "") -> SignerKey:
    return SignerKey(name, kind, hashlib.sha256(f"{name}/{kind}/{seed}".encode()).digest())


LOG_KEYS = (note_key(ORIGIN, KeyType.ED25519), note_key(ORIGIN, KeyType.COSIGNATURE_ML_DSA_44))
WITNESSES = (
    note_key("w1.example", KeyType.COSIGNATURE_ED25519),
    note_key("w2.example", KeyType.COSIGNATURE_ML_DSA_44),
)


@cache
def platform(variant: Variant = HEALTHY, seed: str = "machine") -> SimulatedPlatform:
    return SimulatedPlatform(hashlib.sha256(seed.encode()).digest(), epoch_s=T0, variant=variant)


def log_policy_text(log_keys: Sequence[SignerKey] = LOG_KEYS, quorum: str = "all") -> str:
    rows = [f"log {key.verifier} http://log.invalid" for key in log_keys]
    rows += [f"witness w{n} {key.verifier}" for n, key in enumerate(WITNESSES, start=1)]
    return "\n".join([*rows, f"group q {quorum} w1 w2", "quorum q", ""])


def pem(name: str) -> str:
    return p256.public_pem(ec_key(name).public_key()).decode()


POLICY = """
[log]
inline = '''
{log}'''
[publishers.{product}]
threshold = 1
keys = ["publisher.pub"]
[rebuilders]
threshold = 1
keys = ["rebuilder.pub", "rebuilder-2.pub"]
[revokers]
keys = []
[quotes]
root = "root.der"
tcb_status = ["UpToDate"]
min_evaluation_number = 1
[quotes.advisories]
[freshness]
registration_max_age_s = 86400
collateral_max_age_s = 864000
checkpoint_max_age_s = 300
nonce_required = true
announcement_delay_s = 0
"""


def policy_text(log: str | None = None, **changes: str) -> str:
    """The usual policy's TOML; ``changes`` are ``name=new line value`` for lines ``name = …``."""
    text = POLICY.format(log=log or log_policy_text(), product=PRODUCT)
    for name, value in changes.items():
        (old,) = [line for line in text.split("\n") if line.startswith(f"{name} = ")]
        text = text.replace(old, f"{name} = {value}")
    return text


def resolve(name: str) -> bytes:
    """The files that the policies name: ``<key>.pub``, and roots."""
    if name.endswith(".pub"):
        return pem(name.removesuffix(".pub")).encode()
    return {"root.der": platform().root_der, "other-root.der": platform(seed="other").root_der}[name]


def make_policy(text: str | None = None, **changes: str) -> Policy:
    return parse_policy((text or policy_text(**changes)).encode(), resolve=resolve, intel_root=INTEL_ROOT)


class MemoryLog:
    """Leaves, and proofs of them in trees of any size."""

    def __init__(self) -> None:
        self.leaves: list[bytes] = []

    def append(self, leaf: bytes) -> int:
        self.leaves.append(leaf)
        return len(self.leaves) - 1

    def read_hashes(self, nodes: Sequence[merkle.Node]) -> list[Hash]:
        hashes = [merkle.leaf_hash(leaf) for leaf in self.leaves]
        return [
            merkle.root_of(hashes[node.index << node.level : (node.index + 1) << node.level])
            for node in nodes
        ]

    def root(self, size: int) -> Hash:
        return proof.tree_root(size, self)

    def checkpoint(
        self,
        *,
        time_s: int,
        size: int | None = None,
        log_keys: Sequence[SignerKey] = LOG_KEYS,
        witnesses: Sequence[SignerKey] = WITNESSES,
    ) -> bytes:
        size = len(self.leaves) if size is None else size
        head = Checkpoint(log_keys[0].name, size, self.root(size))
        lines = sign_checkpoint(head, log_keys, time_s=time_s).signatures
        lines += tuple(cosign(head, key, time_s=time_s) for key in witnesses)
        return format_note(Note(head.text, lines))

    def prove(self, index: int, *, checkpoint: bytes, size: int | None = None) -> TlogProof:
        size = len(self.leaves) if size is None else size
        hashes = proof.prove_inclusion(index=index, size=size, reader=self)
        return TlogProof(index, tuple(hashes), checkpoint)

    def log(self, leaf: bytes, *, time_s: int, **how: Any) -> Logged:
        """Append a leaf and prove it in the tree that it ends."""
        index = self.append(leaf)
        return Logged(leaf, self.prove(index, checkpoint=self.checkpoint(time_s=time_s, **how)))


def signed_statement(predicate: Any, digests: Digests, keys: Sequence[str]) -> bytes:
    if isinstance(predicate, Release):
        about = statement.release_subjects(predicate)
    else:
        about = statement.build_subjects(digests)
    payload = Statement(about, predicate).payload()
    envelope = dsse.sign(statement.PAYLOAD_TYPE, payload, [ec_key(name) for name in keys])
    spkis = tuple(p256.spki(ec_key(name).public_key()) for name in keys)
    return entry.format_entry(Attestation(envelope, spkis))


def release(**changes: Any) -> Release:
    usual = Release(
        product=PRODUCT,
        release="1.0",
        digests=DIGESTS,
        mr_signer=MR_SIGNER,
        sigstruct_sha256=hashlib.sha256(b"a SIGSTRUCT").digest(),
        isv_prod_id=1,
        isv_svn=2,
        attributes_flags=4,
        gramine_version="1.9",
        trusted_files_sha256=bytes(32),
        source_sha256=bytes(32),
        source_commit=None,
        advisories=(),
        valid_from_ms=T0 * 1000,
        valid_until_ms=None,
        effective_after_ms=T0 * 1000,
        supersedes=None,
    )
    return replace(usual, **changes)


OTHER_DIGESTS = replace(DIGESTS, mr_enclave=hashlib.sha256(b"another enclave").digest())


def rebuild(leaf: bytes, said: Release, outcome: Outcome = Outcome.REPRODUCED, **changes: Any) -> Rebuild:
    observed = {
        Outcome.REPRODUCED: said.digests,
        Outcome.DIFFERENT: OTHER_DIGESTS if said.digests != OTHER_DIGESTS else DIGESTS,
        Outcome.FAILED: None,
    }[outcome]
    usual = Rebuild(
        product=said.product,
        release=said.release,
        release_leaf=merkle.leaf_hash(leaf),
        verdict=outcome,
        expected=said.digests,
        observed=observed,
        differences=("MRENCLAVE differs.",) if outcome is Outcome.DIFFERENT else (),
        log_tail="",
        log_sha256=bytes(32),
        started_ms=T0 * 1000,
        finished_ms=T0 * 1000,
    )
    return replace(usual, **changes)


@dataclass(frozen=True)
class Story:
    """How one answer came to be; the defaults are a good one. Times are Unix seconds."""

    publishers: tuple[str, ...] = ("publisher",)
    release: dict[str, Any] = field(default_factory=dict)
    rebuilds: tuple[tuple[str, Outcome], ...] = (("rebuilder", Outcome.REPRODUCED),)
    rebuild: dict[str, Any] = field(default_factory=dict)
    machine: SimulatedPlatform = field(default_factory=platform)
    report: dict[str, Any] = field(default_factory=dict)
    key: str = "enclave"
    possession_key: str | None = None
    claims: dict[str, Any] = field(default_factory=dict)
    quoted_claims: dict[str, Any] = field(default_factory=dict)
    appraisal: dict[str, Any] = field(default_factory=dict)
    appraised_s: int = T0 + 100
    collateral_s: int = T0
    registered_s: int = T0 + 101
    head_s: int = T0 + 110
    receipt: dict[str, Any] = field(default_factory=dict)
    receipt_key: str | None = None
    committed: dict[str, Any] = field(default_factory=dict)
    """Values that the receipt commits to instead of the true ones."""
    answered_ms: int = (T0 + 120) * 1000 + 345
    output: dict[str, Any] = field(default_factory=dict)
    logged_s: int = T0 + 121
    logged: dict[str, Any] = field(default_factory=dict)
    """How the receipt's checkpoint is signed: ``log_keys``, ``witnesses``."""

    def boot_claims(self, **changes: Any) -> Claims:
        usual = Claims(
            kem=claims_format.KEM_X25519,
            kdf=claims_format.KDF_HKDF_SHA256,
            aead=claims_format.AEAD_CHACHA20_POLY1305,
            hpke_public_key=HPKE_KEY.public_key().public_bytes_raw(),
            nonce=None,
            boot_id=bytes(range(16)),
            log_origin=ORIGIN,
            log_policy_sha256=bytes(32),
            config_sha256=bytes(32),
            last_receipt=None,
        )
        return replace(usual, **(self.claims | changes))

    def evidence(self, **changes: Any) -> Evidence:
        """Fresh evidence of this enclave and boot."""
        said = self.boot_claims(**changes)
        spki = p256.spki(ec_key(self.key).public_key())
        quoted = replace(said, **self.quoted_claims)
        fields = {
            "mr_enclave": DIGESTS.mr_enclave,
            "mr_signer": MR_SIGNER,
            "isv_prod_id": 1,
            "isv_svn": 2,
            "report_data": claims_format.report_data(spki, quoted),
        }
        quote = self.machine.quote(self.machine.report(**(fields | self.report)))
        signer = ec_key(self.possession_key or self.key)
        signature = p256.sign(signer, claims_format.possession_message(quote, said))
        return Evidence(quote, said, spki, signature)

    def registration(self) -> tuple[bytes, bytes]:
        """The leaf, and the collateral's bytes."""
        collateral = format_collateral(self.machine.collateral(issued_s=self.collateral_s))
        usual = Appraisal(
            collateral={"dcap": hashlib.sha256(collateral).digest()},
            root="simulated",
            platform="simulated",
            tcb_status="UpToDate",
            advisories=(),
            appraised_at_ms=self.appraised_s * 1000,
        )
        appraised = Registration(self.evidence(), replace(usual, **self.appraisal))
        return entry.format_entry(appraised), collateral

    def tell(self) -> SimpleNamespace:
        """Everything that was made: ``log``, ``bundle`` and its ``data``, and the parts."""
        log = MemoryLog()
        log.append(b"something older")
        said = release(**self.release)
        release_leaf = signed_statement(said, said.digests, self.publishers)
        released = log.log(release_leaf, time_s=T0 + 1)
        rebuilds = tuple(
            log.log(
                signed_statement(
                    made := rebuild(release_leaf, said, outcome, **self.rebuild), made.expected, [key]
                ),
                time_s=T0 + 10,
            )
            for key, outcome in self.rebuilds
        )
        registration_leaf, collateral = self.registration()
        registered = log.log(registration_leaf, time_s=self.registered_s)
        head = LogHead(len(log.leaves), log.root(len(log.leaves)), self.head_s)
        log.append(b"somebody else's entry")
        made = self.answer(registration_leaf, head)
        logged = log.log(made.leaf, time_s=self.logged_s, **self.logged)
        bundle = Bundle(
            subject=logged,
            answer=made.held,
            enclave=LoggedEnclave(registered, collateral),
            release=released,
            rebuilds=rebuilds,
        )
        return SimpleNamespace(
            log=log,
            bundle=bundle,
            data=format_bundle(bundle),
            release=said,
            release_leaf=release_leaf,
            made=made,
        )

    def answer(
        self,
        registration_leaf: bytes,
        head: LogHead,
        *,
        request: Any = None,
        nonce: bytes = b"nonce",
        **changes: Any,
    ) -> SimpleNamespace:
        """The receipt's leaf, its signed form, and what its caller holds."""
        key = ec_key(self.receipt_key or self.key)
        salts = {name: hashlib.sha256(name.encode()).digest() for name in merkle_json.FIELDS}
        request = REQUEST if request is None else request
        values = {
            "model": request["model"],
            "nonce": base64_text(nonce),
            "parameters": channel.parameters_of(request),
            "prompt": output.prompt_value(request),
            "result": RESULT,
        }
        commitments = merkle_json.commit(values | self.committed, salts)
        usual = Receipt(
            enclave_id=hashlib.sha256(p256.spki(key.public_key())).digest(),
            boot_id=bytes(range(16)),
            registration=merkle.leaf_hash(registration_leaf),
            sequence=0,
            previous=None,
            log_head=head,
            time_claimed_s=self.answered_ms // 1000,
            commitments=commitments.root,
        )
        signed = receipt.sign_receipt(key, replace(usual, **(self.receipt | changes)))
        shown = {
            "prompt": output.prompt_bytes(request),
            "result": RESULT,
            "timestamp_ms": self.answered_ms,
            "mr_enclave": DIGESTS.mr_enclave,
        }
        signature = output.sign_output(ec_key(self.key), output.Output(**(shown | self.output)))
        return SimpleNamespace(
            leaf=entry.format_entry(ReceiptEntry(signed)),
            signed=signed,
            signature=signature,
            salts=salts,
            held=HeldAnswer(dict(commitments.openings), self.answered_ms, signature),
        )


class FakeLog:
    """The log's HTTP interface over loopback, from a story's leaves; ``lies`` replace single answers.

    ``lies`` maps a method and path (without query) to (status, body).
    """

    def __init__(self, told: SimpleNamespace, *, time_s: int = T0 + 125) -> None:
        self.log: MemoryLog = told.log
        self.time_s = time_s
        self.blobs = {hashlib.sha256(data).hexdigest(): data for data in (told.bundle.enclave.collateral,)}
        self.how: dict[str, Any] = {}
        self.lies: dict[str, tuple[int, bytes]] = {}
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        parts = urlsplit(target)
        self.requests.append(f"{method} {target}")
        if lie := self.lies.get(f"{method} {parts.path}"):
            return lie
        query = dict(parse_qsl(parts.query))
        match [method, *parts.path.strip("/").split("/")]:
            case ["GET", "checkpoint"]:
                return 200, self.checkpoint(len(self.log.leaves))
            case ["POST", "api", "v1", "entries"]:
                index = self.log.append(body) if body not in self.log.leaves else self.log.leaves.index(body)
                value = self.row(index) | {"proof": self.proof(index).decode()}
                return 201, json.dumps(value).encode()
            case ["GET", "api", "v1", "entries"]:
                return 200, json.dumps(self.search(query)).encode()
            case ["GET", "api", "v1", "entries", index, "proof"]:
                size = int(query["size"]) if "size" in query else None
                return 200, self.proof(int(index), size)
            case ["GET", "api", "v1", "leaves", wanted]:
                hashes = [merkle.leaf_hash(leaf).hex() for leaf in self.log.leaves]
                return 200, json.dumps(self.row(hashes.index(wanted))).encode()
            case ["GET", "api", "v1", "blobs", "sha256", wanted] if wanted in self.blobs:
                return 200, self.blobs[wanted]
            case ["GET", "api", "v1", "checkpoints"]:
                sizes = range(min(int(query["before"]) - 1, len(self.log.leaves)), 0, -1)
                rows = [{"size": size, "published": 1} for size in sizes]
                return 200, json.dumps({"checkpoints": rows}).encode()
        return 404, b'{"code": "not-found", "detail": "nothing there"}'

    def checkpoint(self, size: int) -> bytes:
        return self.log.checkpoint(time_s=self.time_s, size=size, **self.how)

    def proof(self, index: int, size: int | None = None) -> bytes:
        size = len(self.log.leaves) if size is None else size
        return format_proof(self.log.prove(index, checkpoint=self.checkpoint(size), size=size))

    def row(self, index: int) -> dict[str, Any]:
        return {"index": index, "leaf": base64_text(self.log.leaves[index]), "float": 0.5}

    def search(self, query: dict[str, str]) -> dict[str, Any]:
        limit, before = int(query.pop("limit")), int(query.pop("before", len(self.log.leaves)))
        found = [n for n in range(before) if set(query.items()) <= set(self.terms(self.log.leaves[n]))][::-1]
        more = found[limit - 1] if len(found) > limit else None
        return {"size": before, "entries": [self.row(n) for n in found[:limit]], "before": more}

    def terms(self, leaf: bytes) -> Sequence[tuple[str, str]]:
        try:
            parsed = entry.parse_entry(leaf)
        except LogError:
            return ()
        if not isinstance(parsed, Attestation):
            return ()
        return admission.admit_attestation(parsed, publishers=None).terms

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def reply(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                status, body = fake.answer(self.command, self.path, self.rfile.read(length))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = reply

            def log_message(self, *_: object) -> None:
                pass

        return Handler


HPKE_KEY = X25519PrivateKey.from_private_bytes(bytes(31) + b"\1")


@dataclass
class FakeEnclave:
    """An enclave's channel over loopback. It keeps every ask that reaches it: a refused one must not."""

    story: Story
    told: SimpleNamespace
    log: FakeLog
    show: dict[str, Any] = field(default_factory=dict)
    """Changes of the attestation message's members."""
    fresh: dict[str, Any] = field(default_factory=dict)
    """Changes of the fresh claims; the nonce is the client's unless it is here."""
    replies: Callable[["FakeEnclave", Ask, ReplyStream], Sequence[dict[str, Any]]] | None = None
    asks: list[Ask] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(5)
        self.address = self._socket.getsockname()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes an accept that nobody needs any more
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        connection.settimeout(5)
        with connection:
            try:
                self._converse(connection)
            except (OSError, EOFError):
                return

    def _converse(self, connection: socket.socket) -> None:
        hello = self._receive(connection)
        evidence = self.story.evidence(**({"nonce": hello.base64("nonce")} | self.fresh))
        registered = self.told.bundle.enclave.logged
        shown = {
            "type": "attestation",
            "evidence": evidence.to_json(),
            "registration": base64_text(registered.leaf),
            "proof": format_proof(registered.proof).decode(),
        }
        connection.sendall(channel.format_frame(shown | self.show))
        asked = self._receive(connection).base64("sealed")
        enclave_id = hashlib.sha256(evidence.public_key).digest()
        ask = channel.open_ask(asked, key=HPKE_KEY, enclave_id=enclave_id, boot_claims=evidence.claims)
        self.asks.append(ask)
        stream = ReplyStream(ask.reply_secret, sealed_ask=asked)
        for message in (self.replies or FakeEnclave.good_replies)(self, ask, stream):
            connection.sendall(channel.format_frame(message))

    def _receive(self, connection: socket.socket) -> Any:
        data = bytearray()
        while len(data) < 4 or len(data) < 4 + channel.frame_length(bytes(data[:4])):
            if not (piece := connection.recv(65_536)):
                raise EOFError
            data += piece
        self.heard.append(bytes(data))
        return channel.parse_frame(bytes(data[4:]))

    def made(self, ask: Ask, **changes: Any) -> SimpleNamespace:
        head = LogHead(len(self.told.log.leaves), self.told.log.root(len(self.told.log.leaves)), T0 + 125)
        return self.story.answer(
            self.told.bundle.enclave.logged.leaf, head, request=ask.request, nonce=ask.request_id, **changes
        )

    def answer(self, made: SimpleNamespace, result: str = RESULT) -> Answer:
        return Answer(result, self.story.answered_ms, made.signature, made.signed.cose, made.salts)

    def good_replies(self, ask: Ask, stream: ReplyStream) -> Iterator[dict[str, Any]]:
        yield from self.deltas(stream, RESULT[:5], RESULT[5:])
        made = self.made(ask)
        yield self.last(stream, self.answer(made))
        yield self.logged(made)

    def deltas(self, stream: ReplyStream, *texts: str) -> Iterator[dict[str, Any]]:
        for text in texts:
            sealed = stream.seal(jcs.canonical({"text": text}), last=False)
            yield {"type": "delta", "sealed": base64_text(sealed)}

    def last(self, stream: ReplyStream, answer: Answer) -> dict[str, Any]:
        return {"type": "answer", "sealed": base64_text(stream.seal(answer.plaintext(), last=True))}

    def logged(self, made: SimpleNamespace) -> dict[str, Any]:
        _, body = self.log.answer("POST", "/api/v1/entries", made.leaf)
        row = json.loads(body)
        leaf_hash = merkle.leaf_hash(made.leaf).hex()
        return {"type": "logged", "index": row["index"], "leaf_hash": leaf_hash, "proof": row["proof"]}


@pytest.fixture(scope="session")
def world() -> SimpleNamespace:
    """The makers of this module, because tests cannot import it."""
    return SimpleNamespace(**{name: value for name, value in globals().items() if not name.startswith("_")})


@pytest.fixture(scope="session")
def story(world: SimpleNamespace) -> SimpleNamespace:
    """The good story, told once."""
    return world.Story().tell()
