"""What a log lets in: enclaves under a named root, receipts of registered boots, and nothing that only looks like it."""

import hashlib
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from assay.attest import claims, entry, p256, receipt
from assay.attest.claims import Claims
from assay.attest.entry import EnclaveSubmission, ReceiptEntry, Registration
from assay.attest.hashedrekord import HashedRekord, VerifierKind
from assay.attest.quote.collateral import format_collateral
from assay.attest.receipt import LogHead, Receipt
from assay.attest.simulated.platform import SimulatedPlatform
from assay.log_server.admission import EnclaveKeys
from assay.tlog import merkle, strict
from assay.tlog.merkle import Hash

NOW_S = int(time.time())
PLATFORM = SimulatedPlatform(bytes(32), epoch_s=NOW_S)
OTHER = SimulatedPlatform(bytes([1]) * 32, epoch_s=NOW_S)
KEY = ec.derive_private_key(31, ec.SECP256R1())
ROOTS = '[[admission.roots]]\nname = "simulated"\ncertificate = "root.der"\ncollateral = "collateral"\n'


@pytest.fixture
def log(make_log):
    log = make_log(extra=ROOTS)
    (log.folder / "root.der").write_bytes(PLATFORM.root_der)
    (log.folder / "collateral").mkdir()
    write_collateral(log, issued_s=NOW_S - 60)
    log.open()
    return log


def write_collateral(log, *, issued_s):
    path = log.folder / "collateral" / f"{PLATFORM.fmspc.hex()}.json"
    path.write_bytes(format_collateral(PLATFORM.collateral(issued_s=issued_s)))


def evidence(*, platform=PLATFORM, origin="log.test.example", debug=False, key=KEY, boot=1, bound_to=None):
    said = Claims(
        kem=claims.KEM_X25519,
        kdf=claims.KDF_HKDF_SHA256,
        aead=claims.AEAD_CHACHA20_POLY1305,
        hpke_public_key=X25519PrivateKey.from_private_bytes(bytes([5]) * 32).public_key().public_bytes_raw(),
        nonce=None,
        boot_id=bytes([boot]) * 16,
        log_origin=origin,
        log_policy_sha256=bytes(32),
        config_sha256=bytes(32),
        last_receipt=None,
    )
    report = platform.report(
        mr_enclave=bytes([7]) * 32,
        mr_signer=bytes(32),
        isv_prod_id=1,
        isv_svn=1,
        report_data=claims.report_data(p256.spki((bound_to or key).public_key()), said),
        debug=debug,
    )
    return claims.sign_evidence(key, platform.quote(report), said)


def submit(log, item):
    return log.client().post("/api/v1/entries", data=entry.format_entry(item))


def make_receipt(registration_leaf, *, key=KEY, boot=1):
    said = Receipt(
        enclave_id=bytes.fromhex(p256.signer_id(p256.spki(key.public_key()))),
        boot_id=bytes([boot]) * 16,
        registration=registration_leaf,
        sequence=0,
        previous=None,
        log_head=LogHead(1, Hash(bytes(32)), NOW_S - 5),
        time_claimed_s=NOW_S,
        commitments=Hash(bytes(32)),
    )
    return ReceiptEntry(receipt.sign_receipt(key, said))


def registered(log, **how):
    answer = submit(log, EnclaveSubmission(evidence(**how)))
    assert answer.status_code == 201, answer.json
    return Hash(bytes.fromhex(answer.json["leaf_hash"]))


def test_an_enclave_registers_once_and_its_appraisal_is_kept_with_the_collateral(log):
    leaf_hash = registered(log)
    leaf = log.service.store.entry(0)
    assert merkle.leaf_hash(leaf) == leaf_hash
    parsed = entry.parse_entry(leaf)
    assert isinstance(parsed, Registration)
    assert (parsed.appraisal.platform, parsed.appraisal.tcb_status) == ("simulated", "UpToDate")
    blob = log.client().get(f"/api/v1/blobs/sha256/{parsed.appraisal.collateral['dcap'].hex()}")
    assert blob.status_code == 200
    write_collateral(log, issued_s=NOW_S - 10)
    again = submit(log, EnclaveSubmission(evidence()))
    assert (again.status_code, again.json["index"]) == (200, 0)
    assert Hash(bytes.fromhex(again.json["leaf_hash"])) == leaf_hash


def test_a_receipt_of_a_registered_boot_is_admitted_once_and_labelled(log):
    leaf_hash = registered(log)
    first, again = (submit(log, make_receipt(leaf_hash)) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    client = log.client()
    assert client.get("/entry/1.json").json["platform"] == "simulated"
    for page in ("/", "/entry/0", "/entry/1"):
        assert b"simulated" in client.get(page, headers={"Accept": "text/html"}).data.lower()
    assert [each["index"] for each in client.get("/api/v1/entries?kind=receipt").json["entries"]] == [1]


ENCLAVES = [
    ("a quote under another root", {"platform": OTHER}, 403, ("wrong-root", "untrusted-chain")),
    ("claims that name another log", {"origin": "other.example"}, 403, ("other-log",)),
    ("a debug enclave", {"debug": True}, 403, ("debug",)),
    (
        "a quote that binds another key",
        {"bound_to": ec.derive_private_key(9, ec.SECP256R1())},
        403,
        ("report-data",),
    ),
]


@pytest.mark.parametrize(
    ("how", "status", "codes"), [case[1:] for case in ENCLAVES], ids=[case[0] for case in ENCLAVES]
)
def test_an_enclave_is_refused_for(log, how, status, codes):
    answer = submit(log, EnclaveSubmission(evidence(**how)))
    assert answer.status_code == status
    assert answer.json["code"] in codes
    assert log.client().get("/api/v1/log").json["size"] == 0


def test_expired_or_missing_collateral_admits_nobody(log):
    write_collateral(log, issued_s=NOW_S - 40 * 86400)
    answer = submit(log, EnclaveSubmission(evidence()))
    assert (answer.status_code, answer.json["code"]) == (403, "collateral-expired")
    (log.folder / "collateral" / f"{PLATFORM.fmspc.hex()}.json").unlink()
    answer = submit(log, EnclaveSubmission(evidence()))
    assert (answer.status_code, answer.json["code"]) == (503, "no-collateral")


def test_a_log_without_roots_admits_no_enclave(make_log):
    log = make_log()
    log.open()
    answer = submit(log, EnclaveSubmission(evidence()))
    assert (answer.status_code, answer.json["code"]) == (403, "wrong-root")


def test_the_appraisal_is_the_log_s_to_add(log):
    registered(log)
    answer = submit(log, entry.parse_entry(log.service.store.entry(0)))
    assert (answer.status_code, answer.json["code"]) == (400, "appraisal-submitted")


def test_receipts_of_strangers_are_refused(log):
    leaf_hash = registered(log)
    stranger = ec.derive_private_key(77, ec.SECP256R1())
    for item in (
        make_receipt(leaf_hash, key=stranger),
        make_receipt(leaf_hash, boot=2),
        make_receipt(Hash(bytes(32))),
    ):
        answer = submit(log, item)
        assert (answer.status_code, answer.json["code"]) == (403, "unregistered")


def test_a_receipt_under_another_boot_s_registration_is_refused(log):
    registered(log, boot=1)
    second = registered(log, boot=2)
    answer = submit(log, make_receipt(second, boot=1))
    assert answer.status_code == 403


# Signatures over digests


def hashedrekord(key, *, message=b"x", certificate=False):
    der = p256.spki(key.public_key())
    kind = VerifierKind.CERTIFICATE if certificate else VerifierKind.PUBLIC_KEY
    return HashedRekord(
        hashlib.sha256(message).digest(),
        key.sign(message, ec.ECDSA(hashes.SHA256())),
        "PKIX_ECDSA_P256_SHA_256",
        kind,
        self_signed(key) if certificate else der,
    )


def self_signed(key):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "enclave")])
    day = datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(day).not_valid_after(day + timedelta(1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("certificate", [False, True])
def test_a_registered_enclave_signs_nothing_of_this_kind(log, certificate):
    registered(log)
    answer = submit(log, hashedrekord(KEY, certificate=certificate))
    assert (answer.status_code, answer.json["code"]) == (403, "enclave-key")
    assert submit(log, hashedrekord(ec.derive_private_key(32, ec.SECP256R1()))).status_code == 201
    over_rekor = log.client().post("/api/v2/log/entries", json=as_request(hashedrekord(KEY)))
    assert (over_rekor.status_code, over_rekor.json["code"]) == (403, 7)


def as_request(rekord):
    return {
        "hashedRekordRequestV002": {
            "digest": strict.base64_text(rekord.digest),
            "signature": {
                "content": strict.base64_text(rekord.signature),
                "verifier": {
                    "keyDetails": rekord.key_details,
                    rekord.verifier_kind.value: {"rawBytes": strict.base64_text(rekord.verifier)},
                },
            },
        }
    }


class FakeState:
    """A log in which some enclaves are registered; counts how often it is asked."""

    def __init__(self):
        self.registered = set()
        self.asked = 0

    def find_terms(self, terms, *, limit=None):
        self.asked += 1
        return [0] if terms["enclave"] in self.registered else []

    def entry(self, index):
        return None


def test_a_key_becomes_an_enclaves_within_a_second_and_stays_one():
    state = FakeState()
    keys = EnclaveKeys(state)
    assert not keys.has("a", now_ms=0)
    state.registered.add("a")
    assert keys.has("a", now_ms=1000)
    state.registered.clear()
    assert keys.has("a", now_ms=2000)
    assert not keys.has("b", now_ms=2000)


def test_a_key_that_signs_often_is_looked_up_once_a_second():
    state = FakeState()
    keys = EnclaveKeys(state)
    for now_ms in (0, 1, 500, 999, 1000, 1500, 1999):
        assert not keys.has("a", now_ms=now_ms)
    assert state.asked == 2


def test_a_clock_that_steps_back_does_not_keep_an_answer_for_ever():
    state = FakeState()
    keys = EnclaveKeys(state)
    assert not keys.has("a", now_ms=10**9)
    state.registered.add("a")
    assert keys.has("a", now_ms=0)


def test_the_memory_of_keys_is_bounded():
    state = FakeState()
    keys = EnclaveKeys(state)
    for number in range(10_000):
        keys.has(str(number), now_ms=0)
    assert len(keys._absent_until_ms) <= 4096
