"""Receipts: COSE in one spelling, the profile's claims and no others, and an id that no signature changes."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.attest import cbor, p256, receipt
from assay.attest.cbor import Tag
from assay.attest.receipt import LogHead, SignedReceipt, parse_receipt, sign_receipt, verify_receipt
from assay.tlog.errors import LogError, MalformedError, UntrustedError

PROTECTED = {1: -9, 16: "application/assay-receipt+cwt"}
LABELS = (1, 6, 265, -70001, -70002, -70003, -70004, -70005, -70006)


def cose(payload: bytes, *, protected: bytes | None = None, unprotected=None, signature=bytes(64)) -> bytes:
    head = cbor.encode(PROTECTED) if protected is None else protected
    return cbor.encode(Tag(18, [head, {} if unprotected is None else unprotected, payload, signature]))


def refuse_claims(claims) -> MalformedError:
    with pytest.raises(MalformedError) as caught:
        parse_receipt(cose(cbor.encode(claims)))
    return caught.value


def test_parse_inverts_sign_and_it_verifies(make):
    for signed in (make.signed_receipt(), make.signed_receipt(sequence=3, previous=b"\x0c" * 32)):
        parsed = parse_receipt(signed.cose)
        assert parsed == signed
        assert parsed.cose == signed.cose
        assert verify_receipt(parsed, public_key=make.spki()) == signed.receipt


NUMBERS = st.integers(0, 2**53 - 1)


@given(
    sequence=NUMBERS,
    size=NUMBERS,
    head_s=NUMBERS,
    later_s=NUMBERS,
    filling=st.binary(min_size=32, max_size=32),
)
def test_round_trip_of_any_receipt(make, sequence, size, head_s, later_s, filling):
    said = make.receipt(
        sequence=sequence,
        previous=filling if sequence else None,
        log_head=LogHead(size, filling, min(head_s, later_s)),
        time_claimed_s=max(head_s, later_s),
        registration=filling,
        commitments=filling,
        boot_id=filling[:16],
        enclave_id=filling,
    )
    encoded = cose(cbor.encode(said.to_claims()))
    assert parse_receipt(encoded).receipt == said
    assert parse_receipt(encoded).cose == encoded


def test_the_layout_is_cose_sign1(make):
    signed = make.signed_receipt()
    assert signed.cose[0] == 0xD2
    assert signed.cose == cose(signed.payload, signature=signed.signature)
    protected = bytes.fromhex("a2012810781d") + b"application/assay-receipt+cwt"
    structure = (
        b"\x84\x6aSignature1\x58\x23" + protected + b"\x40" + b"\x59" + len(signed.payload).to_bytes(2, "big")
    )
    assert signed.sig_structure == structure + signed.payload
    assert signed.id == hashlib.sha256(structure + signed.payload).digest()
    p256.verify(make.key().public_key(), signed.signature, structure + signed.payload)


def test_claims_are_exactly_those_of_the_profile(make):
    claims = make.receipt().to_claims()
    assert set(claims) == set(LABELS)
    for label in LABELS:
        refuse_claims({key: value for key, value in claims.items() if key != label})
    for label in (0, 2, 3, 4, 5, 7, 10, 264, -70000, -70007, "iss", b"\x01"):
        refuse_claims({**claims, label: 1})
    for other in ([*claims.values()], b"", "", 0, None, Tag(61, claims)):
        refuse_claims(other)


WRONG = {
    1: [
        None,
        b"urn:assay:enclave:" + b"0" * 64,
        "",
        "00" * 32,
        "urn:assay:enclave:",
        "urn:assay:enclave:" + "00" * 31,
        "urn:assay:enclave:" + "00" * 33,
        "urn:assay:enclave:" + "AA" * 32,
        "URN:assay:enclave:" + "00" * 32,
        "urn:assay:enclave:urn:assay:enclave:" + "00" * 32,
        " urn:assay:enclave:" + "00" * 32,
        "urn:assay:enclave:" + "00" * 32 + "\n",
    ],
    6: [None, -1, 2**53, True, "1", b"", [1], Tag(1, 1_760_000_000)],
    265: [None, "", "urn:assay:receipt:v2", b"urn:assay:receipt:v1", 1],
    -70001: [None, b"", bytes(15), bytes(17), "a" * 16, 0],
    -70002: [None, b"", bytes(31), bytes(33), "a" * 32],
    -70003: [None, -1, 2**53, True, False, "0"],
    -70004: [b"", bytes(31), bytes(32), bytes(33), 0, False, ""],
    -70005: [
        None,
        [],
        {},
        [1],
        [1, bytes(32)],
        [1, bytes(32), 1, 1],
        [1, bytes(31), 1],
        [1, bytes(33), 1],
        [1, "a" * 32, 1],
        [None, bytes(32), 1],
        [-1, bytes(32), 1],
        [2**53, bytes(32), 1],
        [True, bytes(32), 1],
        [1, bytes(32), None],
        [1, bytes(32), -1],
        [1, bytes(32), True],
        [1, bytes(32), 2**53],
        {0: 1, 1: bytes(32), 2: 1},
    ],
    -70006: [None, b"", bytes(31), bytes(33), "a" * 32],
}


@pytest.mark.parametrize(
    ("label", "value"), [(label, value) for label, values in WRONG.items() for value in values], ids=repr
)
def test_a_claim_of_another_type_or_out_of_range_is_refused(make, label, value):
    refuse_claims({**make.receipt().to_claims(), label: value})


def test_only_the_first_receipt_has_no_previous(make):
    for sequence, previous in ((0, bytes(32)), (1, None), (2**53 - 1, None)):
        with pytest.raises(MalformedError):
            make.signed_receipt(sequence=sequence, previous=previous)
    assert make.signed_receipt(sequence=1, previous=bytes(32))


def test_the_claimed_time_is_not_before_the_log_head(make):
    head = LogHead(1, bytes(32), make.T)
    assert make.signed_receipt(log_head=head)
    with pytest.raises(MalformedError) as caught:
        make.signed_receipt(log_head=head, time_claimed_s=make.T - 1)
    assert caught.value.code == "time-before-head"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {1: -9},
        {1: -7, 16: PROTECTED[16]},
        {1: -8, 16: PROTECTED[16]},
        {1: "ESP256", 16: PROTECTED[16]},
        {1: -9, 16: "application/cwt"},
        {1: -9, 16: 61},
        {**PROTECTED, 4: b"kid"},
        {**PROTECTED, 2: [16]},
    ],
    ids=repr,
)
def test_other_protected_headers_are_refused(make, headers):
    payload = make.signed_receipt().payload
    structure = cbor.encode(["Signature1", cbor.encode(headers), b"", payload])
    signature = p256.sign(make.key(), structure)
    with pytest.raises(MalformedError):
        parse_receipt(cose(payload, protected=cbor.encode(headers), signature=signature))


def test_an_empty_protected_header_is_refused(make):
    with pytest.raises(MalformedError):
        parse_receipt(cose(make.signed_receipt().payload, protected=b""))


@pytest.mark.parametrize("unprotected", [{1: -9}, {4: b"kid"}, {"x": None}, [], None, b""], ids=repr)
def test_the_unprotected_header_is_an_empty_map(make, unprotected):
    signed = make.signed_receipt()
    parts = [cbor.encode(PROTECTED), unprotected, signed.payload, signed.signature]
    with pytest.raises(MalformedError):
        parse_receipt(cbor.encode(Tag(18, parts)))


def test_other_containers_are_refused(make):
    signed = make.signed_receipt()
    parts = [cbor.encode(PROTECTED), {}, signed.payload, signed.signature]
    for other in (
        parts,
        Tag(17, parts),
        Tag(98, parts),
        Tag(61, Tag(18, parts)),
        Tag(18, Tag(18, parts)),
        Tag(18, parts[:3]),
        Tag(18, [*parts, b""]),
        Tag(18, [*parts[:2], None, parts[3]]),
        Tag(18, [PROTECTED, *parts[1:]]),
        Tag(18, [*parts[:3], "a" * 64]),
        Tag(18, {}),
        signed.cose,
        None,
    ):
        with pytest.raises(MalformedError):
            parse_receipt(cbor.encode(other))


@pytest.mark.parametrize("size", [0, 63, 65, 72, 96])
def test_the_signature_has_64_bytes(make, size):
    with pytest.raises(MalformedError):
        parse_receipt(cose(make.signed_receipt().payload, signature=bytes(size)))


def test_the_size_is_bounded_before_anything_is_decoded():
    with pytest.raises(MalformedError) as caught:
        parse_receipt(b"\xff" * (receipt.MAX_RECEIPT_SIZE + 1))
    assert caught.value.code == "too-large"


def test_the_twin_of_the_signature_has_the_same_id_and_is_refused(make, high_s):
    signed = make.signed_receipt()
    other = parse_receipt(replace(signed, signature=high_s(signed.signature)).cose)
    assert other.id == signed.id
    assert other.cose != signed.cose
    with pytest.raises(MalformedError) as caught:
        verify_receipt(other, public_key=make.spki())
    assert caught.value.code == "high-s"


def test_every_truncation_is_refused(make):
    encoded = make.signed_receipt().cose
    for end in range(len(encoded)):
        with pytest.raises(MalformedError):
            parse_receipt(encoded[:end])
    with pytest.raises(MalformedError):
        parse_receipt(encoded + b"\x00")


def test_every_changed_bit_is_refused(make):
    encoded = make.signed_receipt(sequence=1, previous=b"\x0c" * 32).cose
    for bit in range(len(encoded) * 8):
        changed = bytearray(encoded)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(LogError):
            verify_receipt(parse_receipt(bytes(changed)), public_key=make.spki())


def test_another_key_does_not_vouch(make):
    signed = make.signed_receipt()
    for public_key in (make.spki(2), make.spki() + b"\x00", b""):
        with pytest.raises(LogError) as caught:
            verify_receipt(signed, public_key=public_key)
        assert caught.value.code in ("receipt-signature", "malformed")
    forged = sign_receipt(make.key(2), make.receipt())
    for public_key in (make.spki(), make.spki(2)):
        with pytest.raises(UntrustedError) as caught:
            verify_receipt(forged, public_key=public_key)
        assert caught.value.code == "receipt-signature"


@pytest.mark.parametrize(
    "changes",
    [{"enclave_id": bytes(31)}, {"boot_id": bytes(15)}, {"sequence": -1}, {"time_claimed_s": 2**53}],
    ids=repr,
)
def test_what_would_not_parse_is_not_signed(make, changes):
    with pytest.raises(MalformedError):
        make.signed_receipt(**changes)


def test_an_unsigned_receipt_has_the_id_of_the_signed_one(make):
    signed = make.signed_receipt()
    assert SignedReceipt(signed.receipt, signed.payload, b"").id == signed.id
