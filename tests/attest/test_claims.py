"""Claims, binding and possession: whoever changes one claim loses the quote, the signature, or both."""

import hashlib
import json
from dataclasses import fields, replace

import pytest

from assay.attest import claims, jcs
from assay.attest.claims import parse_claims, parse_evidence
from assay.tlog.errors import LogError, MalformedError, UntrustedError

CHANGES = {
    "kem": 0x647A,
    "kdf": 2,
    "aead": 1,
    "hpke_public_key": b"\x01" * 32,
    "nonce": b"\x02" * 32,
    "boot_id": b"\x03" * 16,
    "log_origin": "other.example",
    "log_policy_sha256": b"\x04" * 32,
    "config_sha256": b"\x05" * 32,
    "last_receipt": b"\x06" * 32,
}


def test_every_claim_is_changed_below(make):
    assert set(CHANGES) == {field.name for field in fields(make.claims())}


def test_parse_inverts_to_json(make):
    for said in (make.claims(), make.claims(**CHANGES)):
        assert parse_claims(said.to_json(), what="x") == said
        evidence = make.evidence(said=said)
        assert parse_evidence(evidence.to_json(), what="x") == evidence


def test_digest_and_report_data_are_those_of_the_layout(make):
    said = make.claims()
    text = json.dumps(said.to_json(), sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(b"assay-enclave-claims-v1" + text).digest()
    assert said.digest() == digest
    assert claims.report_data(make.spki(), said) == hashlib.sha256(make.spki()).digest() + digest


def test_good_evidence_verifies(make):
    evidence = make.evidence()
    assert claims.verify_possession(evidence).public_numbers() == make.key().public_key().public_numbers()
    bound = claims.report_data(evidence.public_key, evidence.claims)
    assert claims.verify_binding(evidence, quoted_report_data=bound) == evidence.claims


@pytest.mark.parametrize("name", CHANGES)
def test_every_claim_is_bound_and_signed(make, name):
    evidence = make.evidence()
    bound = claims.report_data(evidence.public_key, evidence.claims)
    changed = replace(evidence, claims=replace(evidence.claims, **{name: CHANGES[name]}))
    with pytest.raises(UntrustedError) as caught:
        claims.verify_binding(changed, quoted_report_data=bound)
    assert caught.value.code == "report-data"
    with pytest.raises(UntrustedError) as caught:
        claims.verify_possession(changed)
    assert caught.value.code == "possession"


def test_every_bit_of_report_data_counts(make):
    evidence = make.evidence()
    bound = claims.report_data(evidence.public_key, evidence.claims)
    assert len(bound) == 64
    for bit in range(512):
        changed = bytearray(bound)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UntrustedError):
            claims.verify_binding(evidence, quoted_report_data=bytes(changed))


def test_half_a_binding_binds_nothing(make):
    evidence = make.evidence()
    key_half, claims_half = evidence.claims.digest(), hashlib.sha256(evidence.public_key).digest()
    bound = claims.report_data(evidence.public_key, evidence.claims)
    for other in (
        bytes(64),
        b"",
        bound[:32],
        bound[:32] + bytes(32),
        bytes(32) + bound[32:],
        bound + b"\x00",
        key_half + claims_half,
        bound[32:] + bound[:32],
    ):
        with pytest.raises(UntrustedError):
            claims.verify_binding(evidence, quoted_report_data=other)


def test_possession_covers_quote_and_key(make, high_s):
    evidence = make.evidence()
    for changed in (
        replace(evidence, quote=evidence.quote + b"\x00"),
        replace(evidence, quote=b""),
        replace(evidence, public_key=make.spki(2)),
        replace(evidence, possession=bytes(64)),
        replace(evidence, possession=make.evidence(key=2).possession),
        replace(evidence, possession=high_s(evidence.possession)),
        replace(evidence, possession=evidence.possession[:-1]),
        replace(evidence, public_key=evidence.public_key + b"\x00"),
        replace(evidence, public_key=b""),
    ):
        with pytest.raises(LogError) as caught:
            claims.verify_possession(changed)
        assert caught.value.code in ("possession", "high-s", "malformed")


def test_a_possession_signature_is_no_other_signature_of_the_key(make):
    """Each of the five things that the enclave's key signs begins with bytes that no other begins with."""
    from assay.attest import dsse

    evidence = make.evidence()
    messages = [
        claims.possession_message(evidence.quote, evidence.claims),
        make.output().message(),
        make.signed_receipt().sig_structure,
        dsse.pae("t", b"x"),
    ]
    beginnings = [message[:16] for message in messages]
    assert len(set(beginnings)) == len(beginnings)
    assert not any(a.startswith(b) for a in beginnings for b in beginnings if a is not b)


WRONG_CLAIMS = {
    "kem": [-1, 65_536, "32", None, True],
    "kdf": [-1, 65_536, "1", None, True],
    "aead": [-1, 65_536, "3", None, True],
    "hpke_public_key": [None, 1, "AA", "A" * 2736],
    "nonce": ["", "AAAA", 0, [], False],
    "boot_id": [None, "", "AAAA", "AAAAAAAAAAAAAAAAAAAAAB=="],
    "log_origin": [None, "", "a\n", "a" * 256, 1],
    "log_policy_sha256": [None, "", "00", "AA" * 32],
    "config_sha256": [None, "", "00", "AA" * 32],
    "last_receipt": ["", "00", "AA" * 32, False, 0],
}


@pytest.mark.parametrize("name", WRONG_CLAIMS)
def test_claims_of_another_type_or_length_do_not_parse(make, name):
    good = make.claims().to_json()
    for wrong in WRONG_CLAIMS[name]:
        with pytest.raises(MalformedError):
            parse_claims({**good, name: wrong}, what="x")
    with pytest.raises(MalformedError):
        parse_claims({key: value for key, value in good.items() if key != name}, what="x")


def test_unknown_claims_do_not_parse(make):
    assert set(WRONG_CLAIMS) == set(make.claims().to_json())
    with pytest.raises(MalformedError):
        parse_claims({**make.claims().to_json(), "mr_enclave": "00" * 32}, what="x")


@pytest.mark.parametrize(
    "change",
    [
        {"quote": None},
        {"quote": "!"},
        {"quote": "A" * 21_848},
        {"claims": None},
        {"possession": None},
        {"possession": {}},
        {"possession": {"public_key": "", "signature": "AAAA"}},
        {"extra": 1},
    ],
    ids=lambda change: ascii(change)[:40],
)
def test_other_evidence_does_not_parse(make, change):
    good = make.evidence().to_json()
    with pytest.raises(MalformedError):
        parse_evidence({**good, **change}, what="x")
    for member in good:
        with pytest.raises(MalformedError):
            parse_evidence({key: value for key, value in good.items() if key != member}, what="x")
    for member in good["possession"]:
        for possession in (
            {key: value for key, value in good["possession"].items() if key != member},
            {**good["possession"], member: None},
            {**good["possession"], "kid": "1"},
        ):
            with pytest.raises(MalformedError):
                parse_evidence({**good, "possession": possession}, what="x")


def test_bounds_of_evidence_are_inclusive(make):
    assert parse_evidence(make.evidence(bytes(claims.MAX_QUOTE_SIZE)).to_json(), what="x")
    with pytest.raises(MalformedError):
        parse_evidence(make.evidence(bytes(claims.MAX_QUOTE_SIZE + 1)).to_json(), what="x")


def test_claims_are_hashed_in_their_canonical_form(make):
    shuffled = dict(reversed(make.claims().to_json().items()))
    assert jcs.canonical(shuffled) == jcs.canonical(make.claims().to_json())
    assert parse_claims(shuffled, what="x").digest() == make.claims().digest()
