"""Makers of one good value of each format in attest/, with fixed keys and times: the same bytes every run.

Tests change one thing in a good value and want it refused, so the good value is made in one place.
"""

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from assay.attest import claims, dsse, jcs, merkle_json, p256, receipt, statement
from assay.attest.bundle import Bundle, HeldAnswer, Logged, LoggedEnclave
from assay.attest.channel import Answer, Ask
from assay.attest.claims import Claims, Evidence
from assay.attest.entry import Appraisal, Attestation, EnclaveSubmission, ReceiptEntry, Registration
from assay.attest.merkle_json import Commitments
from assay.attest.output import Output, prompt_bytes, sign_output
from assay.attest.quote.collateral import Collateral
from assay.attest.receipt import LogHead, Receipt, SignedReceipt
from assay.attest.roots import TrustedRoot
from assay.attest.simulated.platform import SimulatedPlatform
from assay.attest.statement import (
    Digests,
    Predicate,
    Provenance,
    Rebuild,
    Release,
    Statement,
    Verdict,
    build_subjects,
    release_subjects,
)
from assay.tlog import merkle
from assay.tlog.checkpoint import sign_checkpoint
from assay.tlog.keys import KeyType, SignerKey
from assay.tlog.merkle import Hash
from assay.tlog.note import format_note
from assay.tlog.tlog_proof import TlogProof
from assay.tlog.tree_head import Checkpoint

VECTORS = Path(__file__).parents[1] / "vectors" / "attest"


class Make:
    """Good values. ``**changes`` replace members of them."""

    T = 1_760_000_000
    ORIGIN = "log.example"
    MR_ENCLAVE = b"\x11" * 32
    MR_SIGNER = b"\x22" * 32
    BOOT_ID = bytes(range(16))
    REQUEST: ClassVar[dict[str, Any]] = {
        "max_tokens": 100,
        "messages": [{"content": "Is ℵ₀ countable?", "role": "user"}],
        "model": "claude-example",
        "system": "Be brief.",
    }
    RESULT = "Yes — by definition."

    @staticmethod
    @functools.cache
    def key(number: int = 1) -> ec.EllipticCurvePrivateKey:
        """The private key whose scalar is ``number``."""
        return ec.derive_private_key(number, ec.SECP256R1())

    @classmethod
    @functools.cache
    def spki(cls, number: int = 1) -> bytes:
        return p256.spki(cls.key(number).public_key())

    @classmethod
    def enclave_id(cls) -> bytes:
        return bytes.fromhex(p256.signer_id(cls.spki()))

    @staticmethod
    def hpke_key() -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(b"\x77" * 32)

    @classmethod
    def digests(cls, **changes: Any) -> Digests:
        good = Digests(cls.MR_ENCLAVE, b"\x33" * 32, b"\x44" * 32, b"\x55" * 32)
        return replace(good, **changes)

    @classmethod
    def release(cls, **changes: Any) -> Release:
        good = Release(
            product="agent",
            release="1.0.0",
            digests=cls.digests(),
            mr_signer=cls.MR_SIGNER,
            sigstruct_sha256=b"\xab" * 32,
            isv_prod_id=7,
            isv_svn=3,
            attributes_flags=4,
            gramine_version="1.9",
            trusted_files_sha256=b"\x66" * 32,
            source_sha256=b"\x77" * 32,
            source_commit="88" * 20,
            advisories=("INTEL-SA-00334", "INTEL-SA-00615"),
            valid_from_ms=cls.T * 1000,
            valid_until_ms=cls.T * 1000 + 1,
            effective_after_ms=cls.T * 1000 + 60_000,
            supersedes=Hash(b"\x99" * 32),
        )
        return replace(good, **changes)

    @classmethod
    def rebuild(cls, **changes: Any) -> Rebuild:
        good = Rebuild(
            product="agent",
            release="1.0.0",
            release_leaf=Hash(b"\xaa" * 32),
            verdict=Verdict.REPRODUCED,
            expected=cls.digests(),
            observed=cls.digests(),
            differences=(),
            log_tail="measuring …\nMRENCLAVE as published\n",
            log_sha256=b"\xbb" * 32,
            started_ms=cls.T * 1000,
            finished_ms=cls.T * 1000 + 5000,
        )
        return replace(good, **changes)

    @staticmethod
    def provenance(**changes: Any) -> Provenance:
        good = Provenance(
            build_type="urn:assay:build:v1",
            external_parameters={"recipe": "reproducible/agent"},
            builder_id="https://builder.example/",
            resolved_dependencies=({"digest": {"sha256": "cc" * 32}, "name": "recipe.lock"},),
            invocation_id="run 1",
        )
        return replace(good, **changes)

    @classmethod
    def statement(cls, predicate: Predicate | None = None) -> Statement:
        said = predicate or cls.release()
        about = release_subjects(said) if isinstance(said, Release) else build_subjects(cls.digests())
        return Statement(about, said)

    @classmethod
    def attestation(cls, payload: bytes | None = None, *, keys: tuple[int, ...] = (2,)) -> Attestation:
        body = cls.statement().payload() if payload is None else payload
        envelope = dsse.sign(statement.PAYLOAD_TYPE, body, [cls.key(number) for number in keys])
        return Attestation(envelope, tuple(cls.spki(number) for number in keys))

    @classmethod
    def claims(cls, **changes: Any) -> Claims:
        good = Claims(
            kem=claims.KEM_X25519,
            kdf=claims.KDF_HKDF_SHA256,
            aead=claims.AEAD_CHACHA20_POLY1305,
            hpke_public_key=cls.hpke_key().public_key().public_bytes_raw(),
            nonce=None,
            boot_id=cls.BOOT_ID,
            log_origin=cls.ORIGIN,
            log_policy_sha256=b"\xdd" * 32,
            config_sha256=b"\xee" * 32,
            last_receipt=None,
        )
        return replace(good, **changes)

    @classmethod
    def evidence(cls, quote: bytes = b"a quote", said: Claims | None = None, *, key: int = 1) -> Evidence:
        return claims.sign_evidence(cls.key(key), quote, said or cls.claims())

    @staticmethod
    @functools.cache
    def platform() -> SimulatedPlatform:
        return SimulatedPlatform(bytes(range(32)), epoch_s=Make.T)

    @classmethod
    @functools.cache
    def root(cls) -> TrustedRoot:
        return TrustedRoot("sim", cls.platform().root_der)

    @classmethod
    @functools.cache
    def collateral(cls) -> Collateral:
        return cls.platform().collateral(issued_s=cls.T)

    @classmethod
    def quote(cls, report_data: bytes, *, debug: bool = False) -> bytes:
        platform = cls.platform()
        return platform.quote(
            platform.report(
                mr_enclave=cls.MR_ENCLAVE,
                mr_signer=cls.MR_SIGNER,
                isv_prod_id=7,
                isv_svn=3,
                report_data=report_data,
                debug=debug,
            )
        )

    @classmethod
    def quoted_evidence(cls, said: Claims | None = None, *, debug: bool = False) -> Evidence:
        """Evidence whose quote the simulated platform made, bound to the claims."""
        said = said or cls.claims()
        return cls.evidence(cls.quote(claims.report_data(cls.spki(), said), debug=debug), said)

    @staticmethod
    def appraisal(**changes: Any) -> Appraisal:
        good = Appraisal(
            collateral={"dcap": b"\xcc" * 32},
            root="sim",
            platform="simulated",
            tcb_status="UpToDate",
            advisories=("INTEL-SA-00615",),
            appraised_at_ms=Make.T * 1000,
        )
        return replace(good, **changes)

    @classmethod
    def submission(cls) -> EnclaveSubmission:
        return EnclaveSubmission(cls.evidence())

    @classmethod
    def registration(cls) -> Registration:
        return Registration(cls.evidence(), cls.appraisal())

    @staticmethod
    def salts() -> dict[str, bytes]:
        """Thirty-two times the field's position, from 1."""
        return {name: bytes([position]) * 32 for position, name in enumerate(merkle_json.FIELDS, 1)}

    @classmethod
    def values(cls) -> dict[str, jcs.Json]:
        return {
            "model": cls.REQUEST["model"],
            "parameters": {"max_tokens": 100},
            "prompt": {"messages": cls.REQUEST["messages"], "system": cls.REQUEST["system"]},
            "result": cls.RESULT,
        }

    @classmethod
    def commitments(cls) -> Commitments:
        return merkle_json.commit(cls.values(), cls.salts())

    @classmethod
    def receipt(cls, **changes: Any) -> Receipt:
        good = Receipt(
            enclave_id=cls.enclave_id(),
            boot_id=cls.BOOT_ID,
            registration=Hash(b"\xab" * 32),
            sequence=0,
            previous=None,
            log_head=LogHead(42, Hash(b"\xcd" * 32), cls.T - 10),
            time_claimed_s=cls.T,
            commitments=cls.commitments().root,
        )
        return replace(good, **changes)

    @classmethod
    def signed_receipt(cls, **changes: Any) -> SignedReceipt:
        return receipt.sign_receipt(cls.key(), cls.receipt(**changes))

    @classmethod
    def output(cls, **changes: Any) -> Output:
        good = Output(prompt_bytes(cls.REQUEST), cls.RESULT, cls.T * 1000, cls.MR_ENCLAVE)
        return replace(good, **changes)

    @classmethod
    def ask(cls, **changes: Any) -> Ask:
        return replace(Ask(b"\x01" * 16, b"\x02" * 32, None, cls.REQUEST), **changes)

    @classmethod
    def answer(cls, **changes: Any) -> Answer:
        good = Answer(
            result=cls.RESULT,
            timestamp_ms=cls.T * 1000,
            signature=sign_output(cls.key(), cls.output()),
            cose=cls.signed_receipt().cose,
            salts=cls.salts(),
        )
        return replace(good, **changes)

    @classmethod
    def log_key(cls) -> SignerKey:
        return SignerKey(cls.ORIGIN, KeyType.ED25519, b"\x0f" * 32)

    @classmethod
    def logged(cls, leaves: list[bytes]) -> list[Logged]:
        """The leaves of one small log, each with its proof; the checkpoint has the log's Ed25519 line only."""
        hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
        checkpoint = Checkpoint(cls.ORIGIN, len(leaves), merkle.root_of(hashes))
        note = format_note(sign_checkpoint(checkpoint, [cls.log_key()], time_s=cls.T))
        return [
            Logged(leaf, TlogProof(index, tuple(_path(hashes, index)), note))
            for index, leaf in enumerate(leaves)
        ]

    @classmethod
    def bundle(cls) -> Bundle:
        """A bundle with every member, over leaves that are short stand-ins."""
        subject, enclave, release, rebuild = cls.logged([b"receipt", b"enclave", b"release", b"rebuild"])
        opened = cls.commitments().openings
        answer = HeldAnswer(
            openings={name: opened[name] for name in ("prompt", "result")},
            timestamp_ms=cls.T * 1000,
            signature=sign_output(cls.key(), cls.output()),
        )
        return Bundle(subject, answer, LoggedEnclave(enclave, b"collateral"), release, (rebuild,))

    @classmethod
    def entries(cls) -> dict[str, Attestation | EnclaveSubmission | Registration | ReceiptEntry]:
        """One entry of every form."""
        return {
            "attestation": cls.attestation(),
            "submission": cls.submission(),
            "registration": cls.registration(),
            "receipt": ReceiptEntry(cls.signed_receipt()),
        }


def _path(hashes: list[Hash], index: int) -> list[Hash]:
    """PATH(m, D[n]) of RFC 6962 §2.1.1."""
    if len(hashes) == 1:
        return []
    middle = 1 << (len(hashes) - 1).bit_length() - 1
    if index < middle:
        return [*_path(hashes[:middle], index), merkle.root_of(hashes[middle:])]
    return [*_path(hashes[middle:], index - middle), merkle.root_of(hashes[:middle])]


def twin(signature: bytes) -> bytes:
    """The other valid spelling of a raw ECDSA signature: (r, n - s)."""
    s = int.from_bytes(signature[32:], "big")
    return signature[:32] + (p256.ORDER - s).to_bytes(32, "big")


@pytest.fixture(scope="session")
def make() -> type[Make]:
    """The makers."""
    return Make


@pytest.fixture(scope="session")
def high_s():
    """A raw ECDSA signature -> its twin."""
    return twin


@pytest.fixture(scope="session")
def golden():
    """Name of a file in tests/vectors/attest -> its content."""
    return lambda name: json.loads((VECTORS / f"{name}.json").read_text())
