"""hashedrekord: Rekor's bytes to the last one, and nothing that only looks like them."""

import base64
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from assay.attest import entry, jcs, p256, rekor_signature
from assay.attest.admission import admit_hashedrekord
from assay.attest.hashedrekord import KEY_DETAILS, PREFIX, HashedRekord, VerifierKind, parse_leaf
from assay.attest.index import index_leaf
from assay.tlog import merkle
from assay.tlog.errors import LogError, MalformedError, UntrustedError

BUNDLES = (
    "happy_path",
    "dsse_happy_path",
    "checkpoint_cosigned",
    "checkpoint_multiple_cosigs",
    "checkpoint_origin_not_first",
    "checkpoint_two_sigs_from_origin",
)
HASHES = {"SHA2_256": hashes.SHA256(), "SHA2_384": hashes.SHA384(), "SHA2_512": hashes.SHA512()}
CURVES = {
    "PKIX_ECDSA_P256_SHA_256": ec.SECP256R1(),
    "PKIX_ECDSA_P384_SHA_384": ec.SECP384R1(),
    "PKIX_ECDSA_P521_SHA_512": ec.SECP521R1(),
}
RSA_BITS = {
    "PKIX_RSA_PKCS1V15_2048_SHA256": 2048,
    "PKIX_RSA_PKCS1V15_3072_SHA256": 3072,
    "PKIX_RSA_PKCS1V15_4096_SHA256": 4096,
}
KEYS = {name: ec.derive_private_key(77, curve) for name, curve in CURVES.items()}
P256 = "PKIX_ECDSA_P256_SHA_256"


@pytest.fixture(scope="module")
def rsa_keys():
    return {
        name: rsa.generate_private_key(public_exponent=65537, key_size=bits)
        for name, bits in RSA_BITS.items()
    }


def der_of(key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def made(details=P256, key=None, message=b"what was signed") -> HashedRekord:
    """A good entry."""
    algorithm = HASHES[KEY_DETAILS[details]]
    digest = hashlib.new(algorithm.name, message).digest()
    key = key or KEYS[details]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(digest, ec.ECDSA(Prehashed(algorithm)))
    else:
        signature = key.sign(digest, padding.PKCS1v15(), Prehashed(algorithm))
    return HashedRekord(digest, signature, details, VerifierKind.PUBLIC_KEY, der_of(key))


def value_of(rekord: HashedRekord):
    return json.loads(rekord.leaf())


def refuse(data: bytes, code: str | None = None) -> LogError:
    with pytest.raises(LogError) as caught:
        rekor_signature.verify(parse(data))
    if code:
        assert caught.value.code == code
    return caught.value


def parse(data: bytes) -> HashedRekord:
    parsed = entry.parse_entry(data)
    assert isinstance(parsed, HashedRekord)
    return parsed


# Rekor's own entries


@pytest.fixture(params=BUNDLES)
def logged(request, vectors) -> bytes:
    """The canonical body of an entry of Sigstore's staging log."""
    bundle = json.loads((vectors / "rekor" / request.param / "bundle.sigstore.json").read_bytes())
    return base64.b64decode(bundle["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"])


def test_an_entry_of_rekor_is_read_and_written_byte_for_byte(logged):
    parsed = parse(logged)
    assert entry.format_entry(parsed) == logged
    assert parsed.leaf() == logged
    assert entry.kind_of(parsed) == "hashedrekord"
    assert parsed.verifier_kind is VerifierKind.CERTIFICATE


def test_an_entry_of_rekor_verifies_and_is_found_by_its_certificate(logged):
    admitted = admit_hashedrekord(parse(logged))
    certificate = x509.load_der_x509_certificate(parse(logged).verifier)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    (name,) = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert dict(admitted.terms) == {
        "kind": "hashedrekord",
        "sha256": parse(logged).digest.hex(),
        "signer": hashlib.sha256(spki).hexdigest(),
        "identity": name.value,
    }
    assert admitted.leaf == logged
    assert admitted.identity == merkle.leaf_hash(logged)
    assert admitted.blobs == ()


def flip(text: str) -> str:
    """Other bytes of the same length, in base64."""
    data = bytearray(base64.b64decode(text))
    data[len(data) // 2] ^= 1
    return base64.b64encode(data).decode()


def changed(value, path, change):
    copy = json.loads(json.dumps(value))
    place = copy
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = change(place[path[-1]])
    return jcs.canonical(copy)


BODY = ("spec", "hashedRekordV002")
SIGNATURE = (*BODY, "signature")


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (("apiVersion",), lambda _: "0.0.1"),
        (("apiVersion",), lambda _: "0.1.0"),
        (("kind",), lambda _: "dsse"),
        (("kind",), lambda _: "attestation"),
        (("spec",), lambda spec: {"hashedRekordV0_0_2": spec["hashedRekordV002"]}),
        ((*BODY, "data", "algorithm"), lambda _: "SHA2_384"),
        ((*BODY, "data", "algorithm"), lambda _: "SHA3_256"),
        ((*BODY, "data", "digest"), flip),
        ((*BODY, "data", "digest"), lambda text: base64.b64encode(base64.b64decode(text)[1:]).decode()),
        ((*SIGNATURE, "content"), flip),
        ((*SIGNATURE, "content"), lambda text: base64.b64encode(base64.b64decode(text) + b"\0").decode()),
        ((*SIGNATURE, "verifier", "keyDetails"), lambda _: "PKIX_ECDSA_P384_SHA_384"),
        ((*SIGNATURE, "verifier", "keyDetails"), lambda _: "PKIX_RSA_PKCS1V15_2048_SHA256"),
        ((*SIGNATURE, "verifier", "keyDetails"), lambda _: "PKIX_ED25519_PH"),
        ((*SIGNATURE, "verifier", "keyDetails"), lambda _: "PKIX_ED25519"),
        ((*SIGNATURE, "verifier", "keyDetails"), lambda _: 5),
        (
            (*SIGNATURE, "verifier"),
            lambda verifier: {
                "keyDetails": verifier["keyDetails"],
                "publicKey": verifier["x509Certificate"],
            },
        ),
        (
            (*SIGNATURE, "verifier", "x509Certificate", "rawBytes"),
            lambda text: base64.b64encode(base64.b64decode(text) + b"\0").decode(),
        ),
        ((*SIGNATURE, "verifier", "x509Certificate", "rawBytes"), lambda _: base64.b64encode(der_of(KEYS[P256])).decode()),
    ],
)  # fmt: skip
def test_each_field_of_an_entry_of_rekor_counts(logged, path, change):
    refuse(changed(json.loads(logged), path, change))


def test_the_key_in_a_certificate_counts(logged):
    """Another key in the certificate: its own signature is nobody's business, the entry's must fail."""
    parsed = parse(logged)
    point = der_of_certificate(parsed)[-64:]
    other = der_of(KEYS[P256])[-64:]
    assert parsed.verifier.count(point) == 1
    with pytest.raises(UntrustedError) as caught:
        rekor_signature.verify(replace(parsed, verifier=parsed.verifier.replace(point, other)))
    assert caught.value.code == "signature"


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_a_damaged_certificate_or_key_is_refused_or_another_entry(vectors, bit):
    """Whatever the damage: a refusal of ours, or an entry with its own hash, never another exception."""
    bundle = json.loads((vectors / "rekor" / "happy_path" / "bundle.sigstore.json").read_bytes())
    body = base64.b64decode(bundle["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"])
    refused = 0
    for good in (parse(body), made()):
        for position in range(len(good.verifier)):
            damaged = bytearray(good.verifier)
            damaged[position] ^= bit
            try:
                admitted = admit_hashedrekord(replace(good, verifier=bytes(damaged)))
            except LogError:
                refused += 1
            else:
                assert admitted.identity != merkle.leaf_hash(good.leaf())
    assert refused > 400


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = (
        bytes([size])
        if size < 0x80
        else bytes([0x82]) + size.to_bytes(2, "big")
        if size > 0xFF
        else bytes([0x81, size])
    )
    return bytes([tag]) + length + content


def test_a_certificate_with_an_extension_twice_is_refused():
    good = x509.load_der_x509_certificate(certificate([x509.RFC822Name("a@example.com")]))
    (san,) = good.extensions
    extension = der(0x30, bytes.fromhex("0603551d110101ff") + der(0x04, san.value.public_bytes()))
    tbs = good.tbs_certificate_bytes
    assert tbs.endswith(der(0xA3, der(0x30, extension)))
    head = tbs.removesuffix(der(0xA3, der(0x30, extension)))[3 if tbs[1] == 0x81 else 4 :]
    twice = der(0x30, head + der(0xA3, der(0x30, extension * 2)))
    whole = good.public_bytes(Encoding.DER)
    doubled = der(0x30, twice + whole[whole.index(tbs) + len(tbs) :])
    with pytest.raises(MalformedError) as caught:
        rekor_signature.verify(replace(made(), verifier_kind=VerifierKind.CERTIFICATE, verifier=doubled))
    assert caught.value.code == "unsupported-key"
    assert isinstance(caught.value.__cause__, x509.DuplicateExtension)


def der_of_certificate(parsed: HashedRekord) -> bytes:
    key = x509.load_der_x509_certificate(parsed.verifier).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# Spelling


@pytest.mark.parametrize("details", CURVES)
def test_our_own_entry_is_canonical_json_and_comes_back(details):
    rekord = made(details)
    value = value_of(rekord)
    assert jcs.canonical(value) == rekord.leaf()
    assert parse(rekord.leaf()) == rekord
    assert rekord.leaf().startswith(PREFIX)
    body = value["spec"]["hashedRekordV002"]
    assert body["signature"]["verifier"]["publicKey"] == {
        "rawBytes": base64.b64encode(rekord.verifier).decode()
    }


@pytest.mark.parametrize(
    "respell",
    [
        lambda leaf: leaf + b"\n",
        lambda leaf: b" " + leaf,
        lambda leaf: leaf.replace(b":", b": ", 1),
        lambda leaf: leaf.replace(b'"kind"', b'"\\u006bind"'),
        lambda leaf: leaf.replace(b"=", b"", 1),
        lambda leaf: leaf.replace(b'"digest":"', b'"digest":"\\n'),
        lambda leaf: leaf.replace(b'"kind":"hashedrekord"', b'"kind":"hashedrekord","kind":"hashedrekord"'),
        lambda leaf: leaf.replace(b'"kind":"hashedrekord"', b'"extra":1,"kind":"hashedrekord"'),
        lambda leaf: leaf.replace(b'"data":{', b'"data":{"a":1,'),
        lambda leaf: leaf.replace(b'"signature":{', b'"signature":null,"signature":{'),
        lambda leaf: leaf.replace(b"}}}}}", b'}}}},"x":1}'),
        lambda leaf: leaf.replace(b"}}}}}", b"}}}}"),
        lambda leaf: leaf.replace(b"hashedRekordV002", b"hashedrekordV002"),
        lambda leaf: leaf.replace(b'"publicKey":{', b'"publicKey":{"rawBytes":"AA==","rawBytes":"AA==",'),
        lambda leaf: leaf.replace(b'"keyDetails":"', b'"keyDetails":"\xff'),
        lambda leaf: leaf.replace(b"PKIX", "ΡKIX".encode()),
        lambda leaf: b"",
        lambda leaf: PREFIX,
        lambda leaf: leaf[:-1],
    ],
)  # fmt: skip
def test_another_spelling_is_refused(respell):
    leaf = made().leaf()
    assert respell(leaf) != leaf
    with pytest.raises(MalformedError):
        entry.parse_entry(respell(leaf))
    with pytest.raises(MalformedError):
        parse_leaf(respell(leaf))


def test_stray_bits_of_base64_are_refused():
    leaf = made().leaf()
    digest = value_of(made())["spec"]["hashedRekordV002"]["data"]["digest"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    stray = digest[:-2] + alphabet[alphabet.index(digest[-2]) | 1] + "="
    assert base64.b64decode(stray) == base64.b64decode(digest)
    assert stray != digest
    with pytest.raises(MalformedError):
        entry.parse_entry(leaf.replace(digest.encode(), stray.encode()))


def test_url_safe_base64_is_no_spelling_of_a_leaf():
    rekord = replace(made(), digest=b"\xff" * 32)
    with pytest.raises(MalformedError):
        parse_leaf(rekord.leaf().replace(b"////", b"____"))


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": b""},
        {"digest": bytes(31)},
        {"digest": bytes(48)},
        {"signature": b""},
        {"signature": bytes(1025)},
        {"verifier": b""},
        {"verifier": bytes(16_385)},
        {"key_details": "PKIX_ED25519"},
        {"key_details": "PKIX_ECDSA_P384_SHA_256"},
        {"key_details": "PKIX_RSA_PSS_2048_SHA256"},
        {"key_details": ""},
        {"key_details": 'PKIX","x":"'},
    ],
)
def test_what_the_format_cannot_carry_is_not_made(changes):
    with pytest.raises(MalformedError):
        replace(made(), **changes)


def test_an_entry_beyond_the_limit_of_a_leaf_is_refused():
    with pytest.raises(MalformedError) as caught:
        entry.parse_entry(made().leaf().replace(b'"content":"', b'"content":"' + b"A" * 65_536))
    assert caught.value.code == "too-large"


# Signatures


@pytest.mark.parametrize("details", CURVES)
def test_ecdsa_on_each_curve_verifies(details):
    signer = rekor_signature.verify(made(details))
    assert signer.signer_id == hashlib.sha256(der_of(KEYS[details])).hexdigest()
    assert signer.identities == ()


@pytest.mark.parametrize("details", RSA_BITS)
def test_rsa_of_each_size_verifies(details, rsa_keys):
    rekord = made(details, rsa_keys[details])
    assert rekor_signature.verify(rekord).signer_id == hashlib.sha256(rekord.verifier).hexdigest()
    with pytest.raises(UntrustedError):
        rekor_signature.verify(replace(rekord, digest=bytes(32)))
    with pytest.raises(UntrustedError):
        rekor_signature.verify(replace(rekord, signature=rekord.signature[1:]))
    with pytest.raises(UntrustedError):
        rekor_signature.verify(replace(rekord, signature=b"\0" + rekord.signature))


def test_key_details_must_be_of_the_key(rsa_keys):
    every = {**KEYS, **rsa_keys}
    for name, key in every.items():
        for claimed in every:
            if claimed == name:
                continue
            rekord = made(claimed, every[claimed])
            with pytest.raises(UntrustedError) as caught:
                rekor_signature.verify(replace(rekord, verifier=der_of(key)))
            assert caught.value.code == "key-details"


def test_ed25519ph_is_refused_by_name():
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    rekord = HashedRekord(bytes(64), bytes(64), "PKIX_ED25519_PH", VerifierKind.PUBLIC_KEY, der_of(key))
    with pytest.raises(MalformedError, match="Ed25519ph") as caught:
        rekor_signature.verify(parse(rekord.leaf()))
    assert caught.value.code == "unsupported-key"


def unusable_keys():
    good = der_of(KEYS[P256])
    point = KEYS[P256].public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return {
        "nothing": b"\0",
        "trailing": good + b"\0",
        "truncated": good[:-1],
        "compressed": bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point,
        "off the curve": good[:-1] + bytes([good[-1] ^ 1]),
        "Ed25519": der_of(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))),
        "another curve": der_of(ec.derive_private_key(5, ec.SECP256K1())),
        "RSA of 1024 bits": der_of(rsa.generate_private_key(public_exponent=65537, key_size=1024)),
        "PEM": KEYS[P256].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    }


@pytest.mark.parametrize("name", unusable_keys())
def test_an_unusable_key_is_refused(name):
    for kind in VerifierKind:
        with pytest.raises(LogError) as caught:
            rekor_signature.verify(replace(made(), verifier=unusable_keys()[name], verifier_kind=kind))
        assert caught.value.code in ("unsupported-key", "key-details")


def test_a_huge_rsa_exponent_is_refused(rsa_keys):
    numbers = rsa_keys["PKIX_RSA_PKCS1V15_2048_SHA256"].public_key().public_numbers()
    for exponent in (2**31 + 1, numbers.n - 2):
        key = rsa.RSAPublicNumbers(exponent, numbers.n).public_key()
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(MalformedError) as caught:
            rekor_signature.verify(
                HashedRekord(
                    bytes(32), bytes(256), "PKIX_RSA_PKCS1V15_2048_SHA256", VerifierKind.PUBLIC_KEY, der
                )
            )
        assert caught.value.code == "unsupported-key"


@pytest.mark.parametrize(
    "respell",
    [
        lambda der: der + b"\0",
        lambda der: b"\x30\x81" + der[1:],
        lambda der: der[:2] + b"\x02" + bytes([der[3] + 1]) + b"\0" + der[4:],
        lambda der: der[:-1],
        lambda der: b"\x31" + der[1:],
        lambda der: b"".join(part.to_bytes(32, "big") for part in decode_dss_signature(der)),
        lambda der: encode_dss_signature(0, decode_dss_signature(der)[1]),
        lambda der: encode_dss_signature(decode_dss_signature(der)[0], 0),
        lambda der: encode_dss_signature(decode_dss_signature(der)[0], decode_dss_signature(der)[1] + p256.ORDER),
    ],
)  # fmt: skip
def test_an_ecdsa_signature_in_another_encoding_is_refused(respell):
    rekord = made()
    with pytest.raises(UntrustedError) as caught:
        rekor_signature.verify(replace(rekord, signature=respell(rekord.signature)))
    assert caught.value.code == "signature"


def test_the_twin_of_a_signature_is_another_entry():
    """Rekor's format has it so: documented, and the reason why the identity is the leaf hash."""
    rekord = made()
    r, s = decode_dss_signature(rekord.signature)
    twin = replace(rekord, signature=encode_dss_signature(r, p256.ORDER - s))
    assert admit_hashedrekord(twin).identity != admit_hashedrekord(rekord).identity


# Terms


def test_only_sha256_digests_are_indexed_as_sha256():
    assert ("sha256", made().digest.hex()) in admit_hashedrekord(made()).terms
    other = admit_hashedrekord(made("PKIX_ECDSA_P384_SHA_384"))
    assert [name for name, _ in other.terms] == ["kind", "signer"]


def certificate(names, *, key=KEYS[P256]) -> bytes:
    issuer = ec.derive_private_key(9, ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "anyone")]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2020, 1, 2, tzinfo=UTC))
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(issuer, hashes.SHA256()).public_bytes(Encoding.DER)


def admitted_with(names):
    return admit_hashedrekord(
        replace(made(), verifier_kind=VerifierKind.CERTIFICATE, verifier=certificate(names))
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, []),
        ([x509.RFC822Name("a@example.com")], ["a@example.com"]),
        ([x509.UniformResourceIdentifier("https://example.com/x")], ["https://example.com/x"]),
        ([x509.DNSName("example.com")], []),
        ([x509.RFC822Name("a@example.com")] * 2, ["a@example.com"]),
        ([x509.UniformResourceIdentifier("u:" + "x" * 253)], ["u:" + "x" * 253]),
        ([x509.UniformResourceIdentifier("u:" + "x" * 254)], []),
        ([x509.UniformResourceIdentifier("u:\x00")], []),
        ([x509.UniformResourceIdentifier("u: x")], []),
        ([x509.UniformResourceIdentifier(f"u:{i}") for i in range(17)], [f"u:{i}" for i in range(16)]),
    ],
)
def test_a_certificate_is_found_by_its_names(names, expected):
    terms = admitted_with(names).terms
    assert [value for name, value in terms if name == "identity"] == expected
    signer = hashlib.sha256(der_of(KEYS[P256])).hexdigest()
    assert [value for name, value in terms if name == "signer"] == [signer]


@pytest.mark.parametrize("details", CURVES)
def test_what_is_admitted_is_what_its_leaf_says(details):
    admitted = admit_hashedrekord(made(details))
    indexed = index_leaf(admitted.leaf)
    assert (indexed.kind, indexed.identity, indexed.terms) == (
        "hashedrekord",
        admitted.identity,
        admitted.terms,
    )
