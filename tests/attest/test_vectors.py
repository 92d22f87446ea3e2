"""The golden vectors, by the code and by a second reading of the layouts that shares nothing with it.

The files in tests/vectors/attest were written once and are not written again: a change that breaks one
changes a format that others rely on. Their values are those of docs/formats.md.
"""

import base64
import hashlib
import hmac
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from assay.attest import channel, claims, dsse, entry, jcs, merkle_json, output, p256, receipt, statement
from assay.attest.bundle import format_bundle, parse_bundle
from assay.tlog import merkle
from assay.tlog.policy import parse_policy
from assay.tlog.tlog_proof import verify_proof


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def lp(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data


def verifies(spki: bytes, signature: bytes, message: bytes) -> bool:
    key = load_der_public_key(spki)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))
    return True


def test_keys(golden):
    for case in golden("keys")["keys"]:
        key = ec.derive_private_key(case["scalar"], ec.SECP256R1())
        assert p256.spki(key.public_key()) == unhex(case["spki"])
        assert hashlib.sha256(unhex(case["spki"])).hexdigest() == case["signer_id"]
        assert p256.signer_id(unhex(case["spki"])) == case["signer_id"]
    for case in golden("keys")["signatures"]:
        key = ec.derive_private_key(case["scalar"], ec.SECP256R1())
        assert p256.sign(key, unhex(case["message"])) == unhex(case["signature"])


def test_pae(golden):
    for case in golden("pae")["cases"]:
        kind, payload = case["payload_type"].encode(), unhex(case["payload"])
        expected = f"DSSEv1 {len(kind)} ".encode() + kind + f" {len(payload)} ".encode() + payload
        assert dsse.pae(case["payload_type"], payload) == expected == unhex(case["pae"])


def test_claims(golden, make):
    vector = golden("claims")
    said = claims.parse_claims(json.loads(vector["canonical"]), what="x")
    assert said == make.claims()
    assert jcs.canonical(said.to_json()) == vector["canonical"].encode()
    digest = hashlib.sha256(b"assay-enclave-claims-v1" + vector["canonical"].encode()).hexdigest()
    assert said.digest().hex() == digest == vector["digest"]
    key_hash = hashlib.sha256(unhex(vector["public_key"])).hexdigest()
    assert claims.report_data(unhex(vector["public_key"]), said).hex() == key_hash + digest
    assert vector["report_data"] == key_hash + digest
    every = claims.parse_claims(json.loads(vector["with_every_claim"]), what="x")
    assert every.digest().hex() == vector["with_every_claim_digest"]


def test_possession(golden, make):
    vector = golden("claims")
    quote, public_key = unhex(vector["quote"]), unhex(vector["public_key"])
    message = (
        b'assay-enclave-entry-v1{"claims":'
        + vector["canonical"].encode()
        + b',"quote":"'
        + base64.b64encode(quote)
        + b'"}'
    )
    assert claims.possession_message(quote, make.claims()) == message
    assert message == unhex(vector["possession_message"])
    assert verifies(public_key, unhex(vector["possession"]), message)
    assert make.evidence(quote).possession == unhex(vector["possession"])


def test_commitments(golden, make):
    vector = golden("commitments")
    assert vector["fields"] == list(merkle_json.FIELDS)
    leaves = []
    for name in vector["fields"]:
        value = json.dumps(
            vector["values"].get(name), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        data = b"assay-field-v1" + unhex(vector["salts"][name]) + lp(name.encode()) + lp(value.encode())
        leaves.append(hashlib.sha256(b"\x00" + data).digest())
        assert leaves[-1].hex() == vector["leaves"][name]
    level = leaves[:8]
    while len(level) > 1:
        level = [
            hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=True)
        ]
    root = hashlib.sha256(b"\x01" + level[0] + leaves[8]).digest()
    assert root.hex() == vector["root"]
    salts = {name: unhex(salt) for name, salt in vector["salts"].items()}
    made = merkle_json.commit(vector["values"], salts)
    assert made.root == root
    assert {name: opening.to_json() for name, opening in made.openings.items()} == vector["openings"]
    for opening in merkle_json.parse_openings(vector["openings"], what="x").values():
        merkle_json.verify_opening(opening, root=made.root)


def test_output(golden, make):
    vector = golden("output")
    message = b"".join(
        lp(part)
        for part in (
            b"assay-output-v1",
            vector["prompt"].encode(),
            vector["result"].encode(),
            vector["timestamp_ms"].to_bytes(8, "big"),
            unhex(vector["mr_enclave"]),
        )
    )
    assert make.output().message() == message == unhex(vector["message"])
    assert output.sign_output(make.key(), make.output()) == unhex(vector["signature"])
    assert verifies(unhex(vector["public_key"]), unhex(vector["signature"]), message)


def head(major: int, argument: int) -> bytes:
    """RFC 8949 §3, shortest form."""
    if argument < 24:
        return bytes([major << 5 | argument])
    size = next(size for size in (1, 2, 4, 8) if argument < 1 << 8 * size)
    return bytes([major << 5 | 24 + size.bit_length() - 1]) + argument.to_bytes(size, "big")


def receipt_payload(case) -> bytes:
    """The claims, written in the order of their encoded labels."""

    def text(value: str) -> bytes:
        return head(3, len(value)) + value.encode()

    def octets(value: str) -> bytes:
        return head(2, len(value) // 2) + unhex(value)

    log_head = case["log_head"]
    members = [
        head(0, 1) + text("urn:assay:enclave:" + case["enclave_id"]),
        head(0, 6) + head(0, case["time_claimed_s"]),
        head(0, 265) + text("urn:assay:receipt:v1"),
        head(1, 70000) + octets(case["boot_id"]),
        head(1, 70001) + octets(case["registration"]),
        head(1, 70002) + head(0, case["sequence"]),
        head(1, 70003) + (b"\xf6" if case["previous"] is None else octets(case["previous"])),
        head(1, 70004)
        + head(4, 3)
        + head(0, log_head["size"])
        + octets(log_head["root"])
        + head(0, log_head["cosigned_at_s"]),
        head(1, 70005) + octets(case["commitments"]),
    ]
    return head(5, len(members)) + b"".join(members)


@pytest.mark.parametrize("index", [0, 1])
def test_receipts(golden, index):
    case = golden("receipt")["cases"][index]
    payload = receipt_payload(case)
    assert payload == unhex(case["payload"])
    protected = unhex("a2012810781d") + b"application/assay-receipt+cwt"
    structure = unhex("846a") + b"Signature1" + head(2, len(protected)) + protected
    structure += unhex("40") + head(2, len(payload)) + payload
    assert structure == unhex(case["sig_structure"])
    assert hashlib.sha256(structure).hexdigest() == case["id"]
    cose = unhex("d284") + head(2, len(protected)) + protected + unhex("a0")
    cose += head(2, len(payload)) + payload + head(2, 64) + unhex(case["signature"])
    assert cose == unhex(case["cose"])
    public_key = unhex(golden("receipt")["public_key"])
    assert verifies(public_key, unhex(case["signature"]), structure)

    signed = receipt.parse_receipt(cose)
    assert signed.cose == cose
    assert signed.id.hex() == case["id"]
    said = receipt.verify_receipt(signed, public_key=public_key)
    assert said.sequence == case["sequence"]
    assert said.log_head.size == case["log_head"]["size"]


def test_receipts_are_chained(golden):
    first, second = golden("receipt")["cases"]
    assert second["previous"] == first["id"]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_statements(golden, make, index):
    case = golden("statement")["cases"][index]
    payload = case["payload"].encode()
    said = statement.parse_statement(payload)
    assert said.payload() == payload
    assert said == make.statement(getattr(make, case["predicate"])())


@pytest.mark.parametrize("index", [0, 1, 2])
def test_subjects_of_statements(golden, index):
    said = json.loads(golden("statement")["cases"][index]["payload"])
    predicate = said["predicate"]
    sigstruct = {"sgxMrEnclave": "11" * 32}
    if predicate.get("sigstruct_sha256"):
        sigstruct["sha256"] = predicate["sigstruct_sha256"]
    expected = [
        {"digest": sigstruct, "name": "sigstruct"},
        {"digest": {"sha256": "33" * 32}, "name": "manifest.sgx"},
        {"digest": {"sha256": "55" * 32}, "name": "libpal"},
        {"digest": {"sha256": "44" * 32}, "name": "tree"},
    ]
    assert said["subject"] == expected


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_entries(golden, make, index):
    case = golden("entry")["cases"][index]
    data = case["data"].encode()
    parsed = entry.parse_entry(data)
    assert parsed == make.entries()[case["form"]]
    assert entry.format_entry(parsed) == data
    assert hashlib.sha256(b"\x00" + data).hexdigest() == case["leaf_hash"]


# RFC 9180 base mode with X25519, HKDF-SHA256 and ChaCha20-Poly1305, transcribed from §4 and §5

KEM_SUITE = b"KEM\x00\x20"
HPKE_SUITE = b"HPKE\x00\x20\x00\x01\x00\x03"


def extract(suite: bytes, salt: bytes, label: bytes, key: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + key, "sha256")


def expand(suite: bytes, key: bytes, label: bytes, info: bytes, size: int) -> bytes:
    assert size <= 32
    text = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(key, text + b"\x01", "sha256")[:size]


def hpke_open(private: X25519PrivateKey, sealed: bytes, info: bytes) -> bytes:
    enc, ciphertext = sealed[:32], sealed[32:]
    shared = private.exchange(X25519PublicKey.from_public_bytes(enc))
    context = enc + private.public_key().public_bytes_raw()
    secret = expand(KEM_SUITE, extract(KEM_SUITE, b"", b"eae_prk", shared), b"shared_secret", context, 32)
    schedule = (
        b"\x00" + extract(HPKE_SUITE, b"", b"psk_id_hash", b"") + extract(HPKE_SUITE, b"", b"info_hash", info)
    )
    base = extract(HPKE_SUITE, secret, b"secret", b"")
    key = expand(HPKE_SUITE, base, b"key", schedule, 32)
    nonce = expand(HPKE_SUITE, base, b"base_nonce", schedule, 12)
    return ChaCha20Poly1305(key).decrypt(nonce, ciphertext, b"")


def test_asks(golden, make):
    vector = golden("channel")
    info = (
        b"assay-ask-v1"
        + unhex(vector["enclave_id"])
        + make.BOOT_ID
        + hashlib.sha256(vector["claims"].encode()).digest()
    )
    assert channel.ask_info(enclave_id=make.enclave_id(), boot_claims=make.claims()) == info
    assert info == unhex(vector["info"])
    private = X25519PrivateKey.from_private_bytes(unhex(vector["hpke_private_key"]))
    assert hpke_open(private, unhex(vector["sealed"]), info) == vector["ask"].encode()
    opened = channel.open_ask(
        unhex(vector["sealed"]), key=private, enclave_id=make.enclave_id(), boot_claims=make.claims()
    )
    assert opened == make.ask()
    assert opened.plaintext() == vector["ask"].encode()


def test_replies(golden, make):
    vector = golden("channel")
    salt = hashlib.sha256(unhex(vector["sealed"])).digest()
    extracted = hmac.digest(salt, make.ask().reply_secret, "sha256")
    key = hmac.digest(extracted, b"assay-reply-v1" + b"\x01", "sha256")
    sealing, opening = (
        channel.ReplyStream(make.ask().reply_secret, sealed_ask=unhex(vector["sealed"])) for _ in range(2)
    )
    for counter, case in enumerate(vector["replies"]):
        sealed, plaintext, last = unhex(case["sealed"]), case["plaintext"].encode(), case["last"]
        aad = b"assay-reply-v1" + (b"\x01" if last else b"\x00")
        assert ChaCha20Poly1305(key).decrypt(counter.to_bytes(12, "big"), sealed, aad) == plaintext
        assert sealing.seal(plaintext, last=last) == sealed
        assert opening.open(sealed, last=last) == plaintext


def test_answers(golden, make):
    text = golden("channel")["answer"].encode()
    assert channel.parse_answer(text) == make.answer()
    assert make.answer().plaintext() == text


def test_frames(golden):
    for case in golden("channel")["frames"]:
        frame = unhex(case["frame"])
        body = json.dumps(case["message"], sort_keys=True, separators=(",", ":")).encode()
        assert frame == len(body).to_bytes(4, "big") + body
        assert channel.format_frame(case["message"]) == frame
        assert channel.parse_frame(frame[4:]).text("type") == case["message"]["type"]


def test_bundles(golden, make):
    vector = golden("bundle")
    data = vector["file"].encode()
    parsed = parse_bundle(data)
    assert parsed == make.bundle()
    assert format_bundle(parsed) == data
    policy = parse_policy(f"log {vector['log_vkey']}\nquorum none\n")
    logged = [parsed.subject, parsed.enclave.logged, parsed.release, *parsed.rebuilds]
    assert [item.leaf.decode() for item in logged] == vector["leaves"]
    for item in logged:
        assert verify_proof(item.proof, leaf=merkle.leaf_hash(item.leaf), policy=policy)
