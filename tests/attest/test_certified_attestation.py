"""Statements signed in the name of an identity: what a log admits, and whose signatures count how often.

The CA and the CT key are the test's own (tests/sigstore_instance.py): they give NO INDEPENDENCE.
"""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from assay.attest import dsse, index, p256, signers, statement
from assay.attest.admission import Publishers, admit_attestation, verify_attestation, verify_publishers
from assay.attest.entry import Attestation, CertificateVerifier, format_entry, parse_entry
from assay.attest.sigstore_certificate import Identity
from assay.attest.sigstore_identity import IdentityJudgement
from assay.attest.sigstore_roots import parse_roots
from assay.tlog import merkle
from assay.tlog.errors import LogError, MalformedError, StaleError, UntrustedError

SOMEONE = Identity("someone@example.com", "https://issuer.example")
OTHER = Identity("other@example.com", "https://issuer.example")


@pytest.fixture(scope="module")
def authority(sigstore_instance):
    return sigstore_instance.Authority()


def judgement(authority, *, later_s: int = 0) -> IdentityJudgement:
    roots = parse_roots(json.dumps(authority.trusted_root()).encode())
    return IdentityJudgement(roots, int(datetime.now(UTC).timestamp()) + later_s)


def certified(authority, make, number: int, **how) -> CertificateVerifier:
    certificate = authority.issue(make.key(number).public_key(), **how)
    return CertificateVerifier(certificate.public_bytes(Encoding.DER))


def attested(make, *verifiers: tuple[int, object], payload: bytes | None = None) -> Attestation:
    """A release signed by numbered keys, each with the verifier given for it."""
    body = make.statement().payload() if payload is None else payload
    envelope = dsse.sign(statement.PAYLOAD_TYPE, body, [make.key(number) for number, _ in verifiers])
    return Attestation(envelope, tuple(verifier for _, verifier in verifiers))


def refused(work, code: str, kind: type[LogError]) -> None:
    with pytest.raises(kind) as caught:
        work()
    assert caught.value.code == code


def by(
    *identities: Identity, keys: frozenset[str] = frozenset(), threshold: int = 1
) -> dict[str, Publishers]:
    return {"agent": Publishers(threshold, keys, frozenset(identities))}


def named(name: str) -> dict:
    return {"identity": x509.RFC822Name(name)}


# What is admitted


def test_a_certified_statement_is_admitted_and_found_by_its_identity(authority, make):
    attestation = attested(make, (5, certified(authority, make, 5)))
    admitted = admit_attestation(attestation, publishers=by(SOMEONE), judgement=judgement(authority))
    assert parse_entry(admitted.leaf) == attestation
    assert ("identity", SOMEONE.identity) in admitted.terms
    assert ("signer", p256.signer_id(make.spki(5))) in admitted.terms
    indexed = index.index_leaf(admitted.leaf)
    assert (indexed.identity, indexed.terms) == (admitted.identity, admitted.terms)


def test_the_entry_names_the_certificate_as_rekor_does(authority, make):
    verifier = certified(authority, make, 5)
    value = json.loads(format_entry(attested(make, (5, verifier), (2, make.spki(2)))))
    assert [set(each) for each in value["spec"]["verifiers"]] == [{"x509Certificate"}, {"publicKey"}]


def test_a_log_without_roots_admits_no_certificate(authority, make):
    attestation = attested(make, (5, certified(authority, make, 5)))
    for publishers in (None, by(SOMEONE)):
        refused(
            lambda p=publishers: admit_attestation(attestation, publishers=p),
            "no-sigstore-roots",
            UntrustedError,
        )


def test_a_log_that_lists_nobody_still_judges_every_certificate(authority, sigstore_instance, make):
    strange = certified(sigstore_instance.Authority(), make, 5)
    attestation = attested(make, (2, make.spki(2)), (5, strange))
    refused(
        lambda: admit_attestation(attestation, publishers=None, judgement=judgement(authority)),
        "certificate-chain",
        UntrustedError,
    )


def test_a_certificate_that_has_run_out_is_not_admitted(authority, make):
    attestation = attested(make, (5, certified(authority, make, 5)))
    refused(
        lambda: admit_attestation(
            attestation, publishers=by(SOMEONE), judgement=judgement(authority, later_s=3600)
        ),
        "certificate-time",
        StaleError,
    )


def test_a_certificate_of_no_ct_log_is_not_admitted(authority, make):
    attestation = attested(make, (5, certified(authority, make, 5, ct_keys=[])))
    refused(
        lambda: admit_attestation(attestation, publishers=by(SOMEONE), judgement=judgement(authority)),
        "certificate-sct",
        UntrustedError,
    )


@pytest.mark.parametrize("der", [b"", b"\0", b"garbage"])
def test_garbage_for_a_certificate_is_not_admitted(authority, make, der):
    attestation = attested(make, (5, CertificateVerifier(der)))
    refused(
        lambda: admit_attestation(attestation, publishers=None, judgement=judgement(authority)),
        "certificate",
        MalformedError,
    )


def test_a_key_is_no_certificate_and_a_certificate_no_key(authority, make):
    swapped = [CertificateVerifier(make.spki(5)), certified(authority, make, 5).der]
    for verifier in swapped:
        with pytest.raises(MalformedError):
            admit_attestation(attested(make, (5, verifier)), publishers=None, judgement=judgement(authority))


def test_a_certificate_of_another_key_is_not_admitted(authority, make):
    attestation = attested(make, (5, certified(authority, make, 6)))
    refused(lambda: verify_attestation(attestation), "signature", UntrustedError)


def test_verifiers_in_another_order_are_not_admitted(authority, make):
    good = attested(make, (5, certified(authority, make, 5)), (6, certified(authority, make, 6)))
    assert verify_attestation(good)
    for bad in (
        replace(good, verifiers=good.verifiers[::-1]),
        replace(good, verifiers=good.verifiers[:1]),
        replace(good, verifiers=(*good.verifiers, make.spki(2))),
        replace(good, envelope=replace(good.envelope, signatures=good.envelope.signatures[::-1])),
    ):
        with pytest.raises(LogError):
            verify_attestation(bad)


def test_one_key_signs_once_whatever_names_it(authority, make):
    certificate = certified(authority, make, 5)
    for pair in (
        [(5, certificate), (5, certified(authority, make, 5))],
        [(5, certificate), (5, make.spki(5))],
        [(5, certificate), (5, certificate)],
    ):
        with pytest.raises(MalformedError, match="twice"):
            verify_attestation(attested(make, *pair))


def test_the_twin_of_the_cas_signature_is_the_same_entry(authority, make):
    """Anybody can make the certificate's other spelling; it must not log the statement a second time."""
    verifier = certified(authority, make, 5)
    certificate = x509.load_der_x509_certificate(verifier.der)
    r, s = decode_dss_signature(certificate.signature)
    twin_signature = encode_dss_signature(r, p256.ORDER - s)
    # The signature ends the certificate: sequence, then BIT STRING; both signatures may differ in length.
    body = (
        certificate.tbs_certificate_bytes
        + verifier.der[
            verifier.der.index(certificate.tbs_certificate_bytes) + len(certificate.tbs_certificate_bytes) :
        ].removesuffix(certificate.signature)[:-3]
    )
    bits = b"\x03" + bytes([len(twin_signature) + 1]) + b"\0" + twin_signature
    twin = b"\x30\x82" + (len(body) + len(bits)).to_bytes(2, "big") + body + bits
    good = attested(make, (5, verifier))
    other = replace(good, verifiers=(CertificateVerifier(twin),))
    first, second = (
        admit_attestation(each, publishers=by(SOMEONE), judgement=judgement(authority))
        for each in (good, other)
    )
    assert first.leaf != second.leaf
    assert first.identity == second.identity


def test_other_certificates_are_other_entries_and_key_entries_keep_their_identity(authority, make):
    first, second = (
        admit_attestation(
            attested(make, (5, certified(authority, make, 5))),
            publishers=None,
            judgement=judgement(authority),
        )
        for _ in range(2)
    )
    assert first.identity != second.identity
    plain = admit_attestation(
        attested(make, (2, make.spki(2))), publishers=None, judgement=judgement(authority)
    )
    assert plain.identity == merkle.leaf_hash(plain.leaf)


# Who may publish


def test_another_identity_or_issuer_may_not_publish(authority, make):
    other = "https://other.example"
    for how in (
        named("other@example.com"),
        named("Someone@example.com"),
        {"issuer": other, "legacy_issuer": other},
    ):
        attestation = attested(make, (5, certified(authority, make, 5, **how)))
        refused(
            lambda a=attestation: admit_attestation(
                a, publishers=by(SOMEONE), judgement=judgement(authority)
            ),
            "publisher",
            UntrustedError,
        )


def test_a_certified_key_does_not_count_as_the_key(authority, make):
    """Else whoever lists a key would believe a CA too."""
    attestation = attested(make, (5, certified(authority, make, 5)))
    listed = by(keys=frozenset([p256.signer_id(make.spki(5))]))
    refused(
        lambda: admit_attestation(attestation, publishers=listed, judgement=judgement(authority)),
        "publisher",
        UntrustedError,
    )
    assert signers.key_ids(attestation) == ()


def test_two_signatures_in_one_name_count_once(authority, make):
    attestation = attested(make, (5, certified(authority, make, 5)), (6, certified(authority, make, 6)))
    rule = by(SOMEONE, OTHER, threshold=2)
    refused(
        lambda: admit_attestation(attestation, publishers=rule, judgement=judgement(authority)),
        "publisher",
        UntrustedError,
    )


@pytest.mark.parametrize(("threshold", "admitted"), [(1, True), (2, True), (3, True), (4, False)], ids=str)
def test_keys_and_identities_count_together(authority, make, threshold, admitted):
    attestation = attested(
        make,
        (2, make.spki(2)),
        (5, certified(authority, make, 5)),
        (6, certified(authority, make, 6, **named(OTHER.identity))),
        (7, certified(authority, make, 7, **named("stranger@example.com"))),
    )
    keys = frozenset(p256.signer_id(make.spki(number)) for number in (2, 3))
    rule = by(SOMEONE, OTHER, keys=keys, threshold=threshold)
    if admitted:
        assert admit_attestation(attestation, publishers=rule, judgement=judgement(authority))
        return
    refused(
        lambda: admit_attestation(attestation, publishers=rule, judgement=judgement(authority)),
        "publisher",
        UntrustedError,
    )


def test_who_signed_is_returned(make):
    key = p256.signer_id(make.spki(2))
    rule = by(SOMEONE, OTHER, keys=frozenset([key]))
    assert verify_publishers("agent", [key], rule, identities=[SOMEONE, SOMEONE]) == {key, SOMEONE}


@pytest.mark.parametrize(("threshold", "identities"), [(0, 1), (2, 1), (1, 0)])
def test_a_threshold_that_cannot_be_met_is_a_mistake(threshold, identities):
    with pytest.raises(ValueError, match="threshold"):
        Publishers(threshold, frozenset(), frozenset([SOMEONE][:identities]))


def test_a_key_signs_beside_an_unlisted_identity(authority, make):
    attestation = attested(
        make, (2, make.spki(2)), (5, certified(authority, make, 5, **named("x@y.example")))
    )
    listed = by(keys=frozenset([p256.signer_id(make.spki(2))]))
    assert admit_attestation(attestation, publishers=listed, judgement=judgement(authority))


def test_keys_of_other_kinds_of_curve_are_no_certificates_key(authority, make):
    certificate = authority.issue(ec.generate_private_key(ec.SECP384R1()).public_key())
    verifier = CertificateVerifier(certificate.public_bytes(Encoding.DER))
    refused(lambda: verify_attestation(attested(make, (5, verifier))), "certificate", MalformedError)
