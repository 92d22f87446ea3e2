"""Keys: one spelling per vkey, ids that bind name and type, and no secret in any text but its own."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from assay.tlog.errors import LogError, MalformedError, UntrustedError
from assay.tlog.keys import (
    KeyType,
    SignerKey,
    VerifierKey,
    format_key_file,
    format_signer_key,
    parse_key_file,
    parse_signer_key,
    parse_vkey,
)
from assay.tlog.strict import base64_text

GOLDEN = json.loads((Path(__file__).parents[1] / "vectors/tlog/golden.json").read_text())
SIGNER_TYPES = [KeyType.ED25519, KeyType.COSIGNATURE_ED25519, KeyType.COSIGNATURE_ML_DSA_44]
NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], exclude_characters="+"), min_size=1
)
SEEDS = st.binary(min_size=32, max_size=32)


def spki(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def vkey_text(name: str, key_type: int, public_key: bytes) -> str:
    """A vkey by the words of the specification, without the code under test."""
    hashed = public_key if key_type == 2 else name.encode() + b"\n" + bytes([key_type]) + public_key
    key_id = hashlib.sha256(hashed).hexdigest()[:8]
    return f"{name}+{key_id}+{base64_text(bytes([key_type]) + public_key)}"


EXAMPLE = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"


def test_vectors_agree_on_every_vkey(vectors: Path) -> None:
    for case in json.loads((vectors / "tlog/signed_note.json").read_text())["vkeys"]:
        if not case["valid"]:
            with pytest.raises(MalformedError):
                parse_vkey(case["vkey"])
            continue
        key = parse_vkey(case["vkey"])
        assert (key.name, key.key_id.hex(), int(key.type)) == (case["name"], case["key_id"], case["type"])
        assert key.public_key.hex() == case["public_key_hex"]
        assert str(key) == case["vkey"]


@pytest.mark.parametrize("case", GOLDEN["keys"], ids=lambda case: f"{case['name']}-{case['type']}")
def test_golden_seed_gives_the_golden_texts(case: dict[str, str]) -> None:
    signer = SignerKey(case["name"], KeyType(case["type"]), bytes.fromhex(case["seed_hex"]))
    assert str(signer.verifier) == case["vkey"]
    assert format_signer_key(signer) == case["signer_key"]
    assert parse_signer_key(case["signer_key"]) == signer
    assert parse_vkey(case["vkey"]) == signer.verifier


@given(NAMES, st.sampled_from(SIGNER_TYPES), SEEDS)
def test_signer_key_and_vkey_format_back_to_themselves(name: str, key_type: KeyType, seed: bytes) -> None:
    try:
        signer = SignerKey(name, key_type, seed)
    except MalformedError:
        assert key_type is KeyType.COSIGNATURE_ML_DSA_44
        assert len(name.encode()) > 255
        return
    assert parse_vkey(str(signer.verifier)) == signer.verifier
    assert str(parse_vkey(str(signer.verifier))) == str(signer.verifier)
    assert parse_signer_key(format_signer_key(signer)) == signer
    signer.verifier.verify(signer.sign(b"m"), message=b"m")
    with pytest.raises(UntrustedError):
        signer.verifier.verify(signer.sign(b"m"), message=b"n")


@given(st.text(max_size=120))
def test_arbitrary_text_is_refused_or_formats_back(text: str) -> None:
    for candidate in (text, EXAMPLE + text, text + EXAMPLE):
        try:
            key = parse_vkey(candidate)
        except MalformedError:
            continue
        assert str(key) == candidate


def test_every_truncation_of_a_vkey_and_a_signer_key_is_refused() -> None:
    for case in GOLDEN["keys"]:
        for text, parse in ((case["vkey"], parse_vkey), (case["signer_key"], parse_signer_key)):
            for length in range(len(text)):
                with pytest.raises(MalformedError):
                    parse(text[:length])


def test_every_changed_character_of_a_vkey_and_a_signer_key_is_refused() -> None:
    for case in GOLDEN["keys"][:1] + GOLDEN["keys"][2:3]:
        for text, parse in ((case["vkey"], parse_vkey), (case["signer_key"], parse_signer_key)):
            for place, character in enumerate(text):
                for other in {chr(ord(character) ^ 1), chr(ord(character) ^ 0x20), "+", " ", "A", "\n"}:
                    if other != character:
                        with pytest.raises(MalformedError):
                            parse(text[:place] + other + text[place + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "++",
        EXAMPLE + "\n",
        " " + EXAMPLE,
        EXAMPLE + " ",
        EXAMPLE.replace("530d903a", "530D903A"),
        EXAMPLE.replace("530d903a", "0530d903a"),
        EXAMPLE[:-1] + "l",
        EXAMPLE + "=",
        EXAMPLE.replace("k", "\u212a"),
        "x" * 5000,
        vkey_text("x" * 5000, 1, bytes.fromhex("05" * 32)),
    ],
)
def test_second_spellings_of_a_vkey_are_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_vkey(text)


@pytest.mark.parametrize("key_type", sorted(set(range(256)) - {1, 2, 4, 6}))
def test_every_other_key_type_is_refused_as_unsupported(key_type: int) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_vkey(vkey_text("a.example", key_type, bytes(32)))
    assert caught.value.code == "unsupported-key-type"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "a+b",
        "a\tb",
        "a\u00a0b",
        "a\u2003b",
        "a\u2028",
        "a\u3000",
        "a\x85b",
        "a\nb",
        "a\x00b",
        "\ud800",
    ],
    ids=ascii,
)
def test_names_that_a_note_cannot_carry_are_refused(name: str) -> None:
    with pytest.raises(MalformedError):
        SignerKey(name, KeyType.ED25519, bytes(32))


@pytest.mark.parametrize("key_type", SIGNER_TYPES)
@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_seed_of_another_length_is_refused(key_type: KeyType, length: int) -> None:
    with pytest.raises(MalformedError):
        SignerKey("a.example", key_type, bytes(length))


@pytest.mark.parametrize(
    ("key_type", "length"),
    [(1, 0), (1, 31), (1, 33), (4, 31), (4, 64), (6, 32), (6, 1311), (6, 1313), (2, 0), (2, 91), (2, 300)],
)
def test_public_key_of_another_length_is_refused(key_type: int, length: int) -> None:
    with pytest.raises(MalformedError):
        parse_vkey(vkey_text("a.example", key_type, b"\x05" * length))


@pytest.mark.parametrize("sign", [0, 0x80])
@pytest.mark.parametrize(
    "y",
    [
        0,
        1,
        2**255 - 20,
        2**255 - 19,
        2**255 - 18,
        2**255 - 1,
        int("05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826", 16),
        int("7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7", 16),
    ],
)
def test_ed25519_keys_of_small_order_or_second_encoding_are_refused(y: int, sign: int) -> None:
    encoded = bytearray(y.to_bytes(32, "little"))
    encoded[31] |= sign
    with pytest.raises(MalformedError):
        VerifierKey("a.example", KeyType.ED25519, bytes(encoded))


def test_ml_dsa_name_is_bounded_by_one_length_byte() -> None:
    SignerKey("a" * 255, KeyType.COSIGNATURE_ML_DSA_44, bytes(32))
    SignerKey("a" * 256, KeyType.ED25519, bytes(32))
    for name in ("a" * 256, "é" * 128):
        with pytest.raises(MalformedError):
            SignerKey(name, KeyType.COSIGNATURE_ML_DSA_44, bytes(32))


def test_one_key_in_two_roles_has_two_ids_and_is_not_equal() -> None:
    note, cosigner = (SignerKey("a.example", each, bytes(32)).verifier for each in SIGNER_TYPES[:2])
    assert note.public_key == cosigner.public_key
    assert note.key_id != cosigner.key_id
    assert note != cosigner


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: c.name)
def test_ecdsa_key_verifies_and_its_id_is_the_hash_of_the_spki(curve: ec.EllipticCurve) -> None:
    private = ec.derive_private_key(0x1234567, curve)
    text = vkey_text("rekor.example", 2, spki(private))
    key = parse_vkey(text)
    assert str(key) == text
    assert key.key_id == hashlib.sha256(spki(private)).digest()[:4]
    signature = private.sign(b"message", ec.ECDSA(SHA256()))
    key.verify(signature, message=b"message")
    for place in range(len(signature)):
        changed = signature[:place] + bytes([signature[place] ^ 1]) + signature[place + 1 :]
        with pytest.raises(UntrustedError):
            key.verify(changed, message=b"message")
    for length in range(len(signature)):
        with pytest.raises(UntrustedError):
            key.verify(signature[:length], message=b"message")
    with pytest.raises(UntrustedError):
        key.verify(signature + b"\x00", message=b"message")


def test_ecdsa_keys_of_other_curves_algorithms_and_encodings_are_refused() -> None:
    p256 = ec.derive_private_key(5, ec.SECP256R1())
    compressed_point = p256.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    header = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    ed25519_key = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    rsa_key = rsa.generate_private_key(65537, 2048).public_key()
    refused = [
        spki(ec.derive_private_key(5, ec.SECP256K1())),
        spki(ec.derive_private_key(5, ec.SECP224R1())),
        rsa_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        ed25519_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        header + compressed_point,
        spki(p256) + b"\x00",
        b"\x30\x81\x59" + spki(p256)[2:],
        spki(p256)[:-1],
        p256.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ]
    for der in refused:
        with pytest.raises(MalformedError):
            parse_vkey(vkey_text("a.example", 2, der))


def test_ecdsa_keys_do_not_sign() -> None:
    with pytest.raises(MalformedError) as caught:
        SignerKey("a.example", KeyType.ECDSA, bytes(32))
    assert caught.value.code == "unsupported-key-type"


@pytest.mark.parametrize("key_type", SIGNER_TYPES)
def test_every_flipped_byte_of_a_bare_signature_is_refused(key_type: KeyType) -> None:
    signer = SignerKey("a.example", key_type, bytes(range(32)))
    signature = signer.sign(b"message")
    signer.verifier.verify(signature, message=b"message")
    for place in range(len(signature)):
        changed = signature[:place] + bytes([signature[place] ^ 0x10]) + signature[place + 1 :]
        with pytest.raises(UntrustedError):
            signer.verifier.verify(changed, message=b"message")
    for bad in (b"", signature[:-1], signature + b"\x00"):
        with pytest.raises(UntrustedError):
            signer.verifier.verify(bad, message=b"message")


def test_no_repr_or_message_shows_a_seed() -> None:
    seed = bytes(range(100, 132))
    for key_type in SIGNER_TYPES:
        signer = SignerKey("a.example", key_type, seed)
        text = format_signer_key(signer)
        assert seed.hex() not in repr(signer)
        assert repr(seed) not in repr(signer)
        secret = text[-44:]
        broken = [
            text[:-1],
            text + "\n",
            text + "=",
            text.replace("a.example", "b.example"),
            text.removeprefix("PRIVATE+KEY+"),
            f"PRIVATE+KEY+{text}",
            text[1:],
            secret,
        ]
        for candidate in broken:
            with pytest.raises(LogError) as caught:
                parse_signer_key(candidate)
            seen = caught.value
            assert seen.__cause__ is None
            assert secret[:20] not in str(seen)


def test_a_signer_key_is_not_pickled_by_accident() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(SignerKey("a.example", KeyType.ED25519, bytes(32)))


@pytest.mark.parametrize("which", ["log_key_file", "witness_key_file"])
def test_key_file_formats_back_and_every_truncation_is_refused(which: str) -> None:
    text = GOLDEN[which]
    keys = parse_key_file(text)
    assert format_key_file(keys) == text
    assert keys[1].type is KeyType.COSIGNATURE_ML_DSA_44
    for length in range(len(text)):
        with pytest.raises(MalformedError):
            parse_key_file(text[:length])


def test_key_file_holds_one_ed25519_then_one_ml_dsa_key_of_one_name_with_two_seeds() -> None:
    def key(key_type: KeyType, name: str = "a.example", seed: int = 1) -> SignerKey:
        return SignerKey(name, key_type, bytes([seed]) * 32)

    ed, cosigner, ml_dsa = SIGNER_TYPES
    refused = [
        (key(ed), key(ml_dsa)),
        (key(ml_dsa, seed=2), key(ed)),
        (key(ed), key(cosigner, seed=2)),
        (key(ml_dsa), key(ml_dsa, seed=2)),
        (key(ed), key(ml_dsa, name="b.example", seed=2)),
    ]
    for pair in refused:
        text = "".join(f"{format_signer_key(each)}\n" for each in pair)
        with pytest.raises(MalformedError):
            format_key_file(pair)
        with pytest.raises(MalformedError):
            parse_key_file(text)
    good = (key(ed), key(ml_dsa, seed=2))
    assert parse_key_file(format_key_file(good)) == good
    for text in (format_key_file(good) * 2, format_key_file(good) + "\n", "\n" + format_key_file(good)):
        with pytest.raises(MalformedError):
            parse_key_file(text)
