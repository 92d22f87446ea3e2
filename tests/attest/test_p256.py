"""ECDSA P-256: one spelling of a key, one of the two spellings of a signature."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.attest import p256
from assay.tlog.errors import LogError, MalformedError, UntrustedError

KEY = ec.derive_private_key(1, ec.SECP256R1())
PUBLIC = KEY.public_key()
SPKI = p256.spki(PUBLIC)
POINT = SPKI[-65:]
ALGORITHM = bytes.fromhex("06072a8648ce3d0201")
CURVE = bytes.fromhex("06082a8648ce3d030107")


def tlv(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    head = bytes([len(body)]) if len(body) < 128 else b"\x82" + len(body).to_bytes(2, "big")
    return bytes([tag]) + head + body


def spki(algorithm: bytes, parameters: bytes, point: bytes, *, unused: bytes = b"\x00") -> bytes:
    return tlv(0x30, tlv(0x30, algorithm, parameters), tlv(0x03, unused + point))


def explicit_parameters() -> bytes:
    """SpecifiedECDomain (SEC 1 §C.2) with the constants of P-256 spelt out."""
    prime = bytes.fromhex("00ffffffff00000001000000000000000000000000ffffffffffffffffffffffff")
    a = bytes.fromhex("ffffffff00000001000000000000000000000000fffffffffffffffffffffffc")
    b = bytes.fromhex("5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b")
    field = tlv(0x30, bytes.fromhex("06072a8648ce3d0101"), tlv(0x02, prime))
    curve = tlv(0x30, tlv(0x04, a), tlv(0x04, b))
    order = tlv(0x02, b"\x00" + p256.ORDER.to_bytes(32, "big"))
    return tlv(0x30, b"\x02\x01\x01", field, curve, tlv(0x04, POINT), order, b"\x02\x01\x01")


def compressed(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def test_the_layout_is_the_expected_one():
    assert spki(ALGORITHM, CURVE, POINT) == SPKI
    assert len(SPKI) == 91
    assert p256.spki(p256.parse_spki(SPKI)) == SPKI


OTHER_KEYS = {
    "empty": b"",
    "compressed point": spki(ALGORITHM, CURVE, compressed(PUBLIC)),
    "hybrid point": spki(ALGORITHM, CURVE, bytes([6 + (POINT[-1] & 1)]) + POINT[1:]),
    "point at infinity": spki(ALGORITHM, CURVE, b"\x00"),
    "point off the curve": spki(ALGORITHM, CURVE, POINT[:-1] + bytes([POINT[-1] ^ 1])),
    "x coordinate beyond the prime": spki(ALGORITHM, CURVE, b"\x04" + b"\xff" * 64),
    "explicit parameters": spki(ALGORITHM, explicit_parameters(), POINT),
    "implicit parameters": spki(ALGORITHM, b"\x05\x00", POINT),
    "no parameters": spki(ALGORITHM, b"", POINT),
    "unknown curve": spki(ALGORITHM, bytes.fromhex("06082a8648ce3d03017f"), POINT),
    "unknown algorithm": spki(bytes.fromhex("06072a8648ce3d027f"), CURVE, POINT),
    "ECDH-only algorithm": spki(bytes.fromhex("06052b8104010c"), CURVE, POINT),
    "unused bits": spki(ALGORITHM, CURVE, POINT, unused=b"\x01"),
    "trailing byte": SPKI + b"\x00",
    "trailing byte inside": tlv(0x30, tlv(0x30, ALGORITHM, CURVE), tlv(0x03, b"\x00" + POINT), b"\x05\x00"),
    "long-form length": b"\x30\x81\x59" + SPKI[2:],
    "indefinite length": b"\x30\x80" + SPKI[2:] + b"\x00\x00",
    "PEM": p256.public_pem(PUBLIC),
    "bare point": POINT,
    "P-384": p256.spki(ec.derive_private_key(1, ec.SECP384R1()).public_key()),
    "secp256k1": p256.spki(ec.derive_private_key(1, ec.SECP256K1()).public_key()),
    "Ed25519": ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "RSA": rsa.generate_private_key(65537, 2048)
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
}


@pytest.mark.parametrize("der", OTHER_KEYS.values(), ids=OTHER_KEYS.keys())
def test_a_key_has_one_spelling(der):
    with pytest.raises(MalformedError):
        p256.parse_spki(der)


def test_every_truncation_and_every_changed_bit_of_a_key_is_refused():
    for end in range(len(SPKI)):
        with pytest.raises(MalformedError):
            p256.parse_spki(SPKI[:end])
    for position in range(len(SPKI) * 8):
        changed = bytearray(SPKI)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(MalformedError):
            p256.parse_spki(bytes(changed))


def test_public_pem_round_trips_and_other_keys_are_refused():
    assert p256.spki(p256.parse_public_pem(p256.public_pem(PUBLIC))) == SPKI
    others = [
        ec.derive_private_key(1, ec.SECP384R1()).public_key(),
        ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key(),
    ]
    pems = [key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in others]
    unknown = b"-----BEGIN PUBLIC KEY-----\nMBIwCQYHKoZIzj0CfwMFAAQBAgM=\n-----END PUBLIC KEY-----\n"
    for pem in [*pems, unknown, b"", b"text", p256.private_pem(KEY)]:
        with pytest.raises(MalformedError):
            p256.parse_public_pem(pem)


def test_private_pem_round_trips_and_other_keys_are_refused():
    pem = p256.private_pem(KEY)
    assert p256.private_pem(p256.parse_private_pem(pem)) == pem
    pkcs8 = (Encoding.PEM, PrivateFormat.PKCS8)
    for other in (
        b"",
        b"text",
        p256.public_pem(PUBLIC),
        b" " + pem,
        KEY.private_bytes(*pkcs8, BestAvailableEncryption(b"x")),
        KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        ec.derive_private_key(1, ec.SECP384R1()).private_bytes(*pkcs8, NoEncryption()),
        ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).private_bytes(*pkcs8, NoEncryption()),
        pem.replace(b"MIG", b"MIH"),
    ):
        with pytest.raises(MalformedError) as caught:
            p256.parse_private_pem(other)
        assert "MI" not in str(caught.value)


@given(st.binary(max_size=64))
def test_what_is_signed_verifies_has_low_s_and_one_spelling(message):
    signature = p256.sign(KEY, message)
    assert len(signature) == p256.SIGNATURE_SIZE
    assert 1 <= int.from_bytes(signature[32:], "big") <= p256.ORDER // 2
    assert p256.sign(KEY, message) == signature
    assert p256.verify(PUBLIC, signature, message) == message


def test_the_nonce_is_that_of_rfc6979():
    """RFC 6979 §A.2.5, P-256 with SHA-256, message "sample"; its s is the high one of the two."""
    key = ec.derive_private_key(
        0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721, ec.SECP256R1()
    )
    r = "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"
    s = 0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8
    assert p256.sign(key, b"sample").hex() == r + f"{p256.ORDER - s:064x}"


def test_the_twin_of_a_signature_is_refused(high_s):
    other = high_s(p256.sign(KEY, b"m"))
    with pytest.raises(MalformedError) as caught:
        p256.verify(PUBLIC, other, b"m")
    assert caught.value.code == "high-s"


@pytest.mark.parametrize("size", [0, 1, 63, 65, 70, 72, 128])
def test_a_signature_has_64_bytes(size):
    with pytest.raises(MalformedError):
        p256.verify(PUBLIC, bytes(size), b"m")


def test_der_signatures_are_refused():
    from cryptography.hazmat.primitives.hashes import SHA256

    with pytest.raises(MalformedError):
        p256.verify(PUBLIC, KEY.sign(b"m", ec.ECDSA(SHA256())), b"m")


def test_numbers_out_of_range_are_refused():
    good = p256.sign(KEY, b"m")
    r, n = good[:32], p256.ORDER
    zero = bytes(32)
    for signature in (
        bytes(64),
        r + zero,
        zero + good[32:],
        n.to_bytes(32, "big") + good[32:],
        b"\xff" * 32 + good[32:],
        r + n.to_bytes(32, "big"),
        r + (n // 2 + 1).to_bytes(32, "big"),
        b"\xff" * 64,
    ):
        with pytest.raises(LogError) as caught:
            p256.verify(PUBLIC, signature, b"m")
        assert caught.value.code in ("high-s", "signature")


@settings(max_examples=50)
@given(st.integers(0, 511))
def test_every_changed_bit_of_a_signature_is_refused(bit):
    changed = bytearray(p256.sign(KEY, b"m"))
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(LogError):
        p256.verify(PUBLIC, bytes(changed), b"m")


def test_another_message_or_key_does_not_verify():
    signature = p256.sign(KEY, b"m")
    other = ec.derive_private_key(2, ec.SECP256R1()).public_key()
    for key, message in ((PUBLIC, b"M"), (PUBLIC, b""), (other, b"m")):
        with pytest.raises(UntrustedError) as caught:
            p256.verify(key, signature, message)
        assert caught.value.code == "signature"


@given(st.binary(max_size=80))
def test_signatures_of_other_formats_are_read_or_refused(data):
    try:
        raw = p256.signature_from_der(data)
    except MalformedError:
        return
    assert len(raw) == p256.SIGNATURE_SIZE


def test_a_signature_of_another_format_gets_the_low_s(make, high_s):
    raw = p256.sign(make.key(1), b"message")
    assert p256.signature_from_der(p256.signature_to_der(raw)) == raw
    assert p256.signature_from_der(p256.signature_to_der(high_s(raw))) == raw
