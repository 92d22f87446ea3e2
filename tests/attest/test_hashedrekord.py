"""Rekor's kind: byte-equal to what Rekor v2 logs, every field checked, every signature verified."""

import base64
import datetime
import hashlib
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from assay.attest import admission, entry, jcs
from assay.attest.hashedrekord import HashedRekord
from assay.attest.index import index_leaf
from assay.attest.prehashed import parse_verifier, verify_signature
from assay.tlog import merkle
from assay.tlog.errors import LogError, MalformedError, UntrustedError

MESSAGE = b"an artifact"
P256 = ec.derive_private_key(1001, ec.SECP256R1())
P384 = ec.derive_private_key(1002, ec.SECP384R1())
P521 = ec.derive_private_key(1003, ec.SECP521R1())


def spki(key):
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def record(key=P256, algorithm=None, details="PKIX_ECDSA_P256_SHA_256", name="SHA2_256"):
    algorithm = algorithm or hashes.SHA256()
    digest = hashlib.new(algorithm.name, MESSAGE).digest()
    signature = key.sign(digest, ec.ECDSA(utils.Prehashed(algorithm)))
    return HashedRekord(name, digest, signature, details, spki(key), certificate=False)


def certificate(key=P256, names=()):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(day)
        .not_valid_after(day + datetime.timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def admit(parsed, *, enclaves=()):
    return admission.admit_hashedrekord(parsed, is_enclave=lambda signer: signer in enclaves)


def with_spec(change):
    value = json.loads(entry.format_entry(record()))
    change(value["spec"]["hashedRekordV002"], value)
    return jcs.canonical(value)


@pytest.mark.parametrize(
    ("key", "algorithm", "details", "name"),
    [
        (P256, hashes.SHA256(), "PKIX_ECDSA_P256_SHA_256", "SHA2_256"),
        (P384, hashes.SHA384(), "PKIX_ECDSA_P384_SHA_384", "SHA2_384"),
        (P521, hashes.SHA512(), "PKIX_ECDSA_P521_SHA_512", "SHA2_512"),
    ],
)
def test_each_curve_signs_its_digest_and_no_other(key, algorithm, details, name):
    good = record(key, algorithm, details, name)
    assert entry.parse_entry(entry.format_entry(good)) == good
    assert verify_signature(good).spki == spki(key)
    for other in (P256, P384, P521):
        if other is not key:
            changed = HashedRekord(name, good.digest, good.signature, details, spki(other), certificate=False)
            with pytest.raises(MalformedError) as refused:
                verify_signature(changed)
            assert refused.value.code == "algorithm"


def test_rsa_signs_with_the_modulus_that_it_states():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    digest = hashlib.sha256(MESSAGE).digest()
    signature = key.sign(digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))
    good = HashedRekord(
        "SHA2_256", digest, signature, "PKIX_RSA_PKCS1V15_2048_SHA256", spki(key), certificate=False
    )
    verify_signature(good)
    for details in ("PKIX_RSA_PKCS1V15_3072_SHA256", "PKIX_RSA_PKCS1V15_4096_SHA256", "PKIX_ECDSA_P256_SHA_256"):
        with pytest.raises(MalformedError):
            verify_signature(
                HashedRekord("SHA2_256", digest, signature, details, spki(key), certificate=False)
            )
    pss = key.sign(
        digest, padding.PSS(padding.MGF1(hashes.SHA256()), 32), utils.Prehashed(hashes.SHA256())
    )
    with pytest.raises(UntrustedError):
        verify_signature(
            HashedRekord(
                "SHA2_256", digest, pss, "PKIX_RSA_PKCS1V15_2048_SHA256", spki(key), certificate=False
            )
        )


def test_what_is_admitted_is_found_by_digest_key_and_identity():
    names = [x509.RFC822Name("a@example.org"), x509.UniformResourceIdentifier("https://example.org/x")]
    good = record()
    der = certificate(names=names)
    with_certificate = HashedRekord(
        good.algorithm, good.digest, good.signature, good.key_details, der, certificate=True
    )
    signer = hashlib.sha256(spki(P256)).hexdigest()
    common = {("kind", "hashedrekord"), ("signer", signer), ("sha256", good.digest.hex())}
    assert set(admit(good).terms) == common
    identities = {("identity", "a@example.org"), ("identity", "https://example.org/x")}
    assert set(admit(with_certificate).terms) == common | identities
    for admitted in (admit(good), admit(with_certificate)):
        assert admitted.identity == merkle.leaf_hash(admitted.leaf)
        indexed = index_leaf(admitted.leaf)
        assert (indexed.kind, indexed.identity, indexed.terms) == (
            admitted.kind,
            admitted.identity,
            admitted.terms,
        )


def test_an_identity_that_is_no_search_term_is_left_out():
    long = x509.RFC822Name("a" * 300 + "@example.org")
    assert parse_verifier(certificate(names=[long]), certificate=True).identities == ()


def test_an_enclaves_key_signs_no_digests():
    with pytest.raises(UntrustedError) as refused:
        admit(record(), enclaves=[hashlib.sha256(spki(P256)).hexdigest()])
    assert refused.value.code == "enclave-key"


def test_every_flipped_bit_of_digest_and_signature_is_refused():
    good = record()
    for field, size in (("digest", len(good.digest)), ("signature", len(good.signature))):
        for bit in range(8 * size):
            value = bytearray(getattr(good, field))
            value[bit // 8] ^= 1 << bit % 8
            changed = {name: getattr(good, name) for name in HashedRekord.__slots__} | {field: bytes(value)}
            with pytest.raises(LogError):
                verify_signature(HashedRekord(**changed))


@pytest.mark.parametrize(
    "change",
    [
        lambda r, v: v.update(apiVersion="0.0.1"),
        lambda r, v: v.update(extra=1),
        lambda r, v: r.update(extra=1),
        lambda r, v: r.pop("data"),
        lambda r, v: r["data"].update(algorithm="SHA2_512"),
        lambda r, v: r["data"].update(algorithm="SHA1"),
        lambda r, v: r["data"].update(digest=""),
        lambda r, v: r["data"].update(digest=base64.b64encode(bytes(31)).decode()),
        lambda r, v: r["data"].update(digest=r["data"]["digest"].rstrip("=")),
        lambda r, v: r["signature"].update(content=""),
        lambda r, v: r["signature"].update(content="!!!!"),
        lambda r, v: r["signature"]["verifier"].update(keyDetails="PKIX_ED25519"),
        lambda r, v: r["signature"]["verifier"].update(keyDetails="PKIX_ED25519_PH"),
        lambda r, v: r["signature"]["verifier"].pop("publicKey"),
        lambda r, v: r["signature"]["verifier"].update(x509Certificate={"rawBytes": "AAAA"}),
        lambda r, v: r["signature"]["verifier"]["publicKey"].update(hint="x"),
        lambda r, v: v["spec"].update(hashedRekordV001={}),
    ],
)
def test_an_entry_of_another_shape_is_refused(change):
    with pytest.raises(MalformedError):
        entry.parse_entry(with_spec(change))


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30\x00",
        spki(P256) + b"\x00",
        spki(P256)[:-1],
        P256.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        Ed25519PrivateKey.from_private_bytes(bytes(32))
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    ],
)
@pytest.mark.parametrize("is_certificate", [False, True])
def test_what_is_no_key_of_ours_is_refused(der, is_certificate):
    with pytest.raises(MalformedError):
        parse_verifier(der, certificate=is_certificate)


def test_a_certificate_is_no_key_and_a_key_is_no_certificate():
    with pytest.raises(MalformedError):
        parse_verifier(certificate(), certificate=False)
    with pytest.raises(MalformedError):
        parse_verifier(spki(P256), certificate=True)


def test_a_signature_has_one_encoding():
    good = record()
    r, s = utils.decode_dss_signature(good.signature)
    longer = bytes([0x30, 0x81, len(good.signature) - 2]) + good.signature[2:]
    for content in (longer, good.signature + b"\x00", b"", r.to_bytes(32, "big") + s.to_bytes(32, "big")):
        with pytest.raises(LogError):
            verify_signature(
                HashedRekord(
                    good.algorithm, good.digest, content, good.key_details, good.verifier, certificate=False
                )
            )


def test_the_bytes_are_those_that_rekor_logs(vectors):
    seen = 0
    for file in sorted((vectors / "rekor").glob("*/bundle.sigstore.json")):
        logged = json.loads(file.read_bytes())["verificationMaterial"]["tlogEntries"]
        leaf = base64.b64decode(logged[0]["canonicalizedBody"])
        parsed = entry.parse_entry(leaf)
        assert isinstance(parsed, HashedRekord)
        assert admit(parsed).leaf == leaf
        assert any(name == "identity" for name, _ in index_leaf(leaf).terms)
        seen += 1
    assert seen >= 10
