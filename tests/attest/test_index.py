"""The index of a leaf: from its bytes alone, and the same that admission wrote beside it."""

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from assay.attest import entry
from assay.attest.admission import (
    Admitted,
    admit_attestation,
    admit_enclave,
    admit_hashedrekord,
    admit_receipt,
)
from assay.attest.entry import Appraisal, EnclaveSubmission, ReceiptEntry, Registration
from assay.attest.hashedrekord import HashedRekord, VerifierKind
from assay.attest.index import index_leaf
from assay.attest.receipt import sign_receipt
from assay.tlog.errors import MalformedError
from assay.tlog.merkle import Hash

NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=40)
DIGESTS = st.binary(min_size=32, max_size=32)


def is_of_its_leaf(admitted: Admitted) -> None:
    indexed = index_leaf(admitted.leaf)
    assert indexed.kind == admitted.kind
    assert indexed.identity == admitted.identity
    assert indexed.terms == admitted.terms
    assert ("kind", indexed.kind) == indexed.terms[0]
    assert len(set(indexed.terms)) == len(indexed.terms)
    assert len(indexed.identity) == 32


@given(
    product=NAMES,
    release=NAMES.filter(lambda name: "@" not in name),
    measurement=DIGESTS,
    keys=st.sets(st.integers(1, 9), min_size=1, max_size=4),
)
def test_a_release(make, product, release, measurement, keys):
    said = make.release(product=product, release=release, digests=make.digests(mr_enclave=measurement))
    attestation = make.attestation(make.statement(said).payload(), keys=tuple(keys))
    admitted = admit_attestation(attestation, publishers=None)
    is_of_its_leaf(admitted)
    assert ("mrenclave", measurement.hex()) in admitted.terms


@pytest.mark.parametrize("name", ["rebuild", "provenance"])
def test_another_statement(make, name):
    attestation = make.attestation(make.statement(getattr(make, name)()).payload(), keys=(3, 2))
    is_of_its_leaf(admit_attestation(attestation, publishers=None))


@given(nonce=st.none() | DIGESTS, boot=st.binary(min_size=16, max_size=16), later_ms=st.integers(0, 10**7))
def test_a_registration(make, nonce, boot, later_ms):
    evidence = make.quoted_evidence(make.claims(nonce=nonce, boot_id=boot))
    admitted = admit_enclave(
        EnclaveSubmission(evidence),
        origin=make.ORIGIN,
        collateral=make.collateral(),
        root=make.root(),
        now_ms=make.T * 1000 + later_ms,
    )
    is_of_its_leaf(admitted)
    assert ("boot", boot.hex()) in admitted.terms


@given(sequence=st.integers(0, 2**40), time_s=st.integers(0, 10**6))
def test_a_receipt(make, sequence, time_s):
    evidence = make.quoted_evidence()
    appraisal = Appraisal({"dcap": bytes(32)}, "sim", "simulated", "UpToDate", (), make.T * 1000)
    registration = Registration(evidence, appraisal)
    leaf = entry.leaf_hash_of(registration)
    said = make.receipt(
        registration=leaf,
        sequence=sequence,
        previous=Hash(bytes(32)) if sequence else None,
        time_claimed_s=make.T + 10**7 + time_s,
    )
    admitted = admit_receipt(
        ReceiptEntry(sign_receipt(make.key(), said)), registration=registration, registration_leaf=leaf
    )
    is_of_its_leaf(admitted)


@given(message=st.binary(max_size=100), key=st.integers(1, 99))
def test_a_signature_over_a_digest(make, message, key):
    rekord = HashedRekord(
        hashlib.sha256(message).digest(),
        make.key(key).sign(message, ec.ECDSA(hashes.SHA256())),
        "PKIX_ECDSA_P256_SHA_256",
        VerifierKind.PUBLIC_KEY,
        make.spki(key),
    )
    admitted = admit_hashedrekord(rekord)
    is_of_its_leaf(admitted)
    assert ("sha256", hashlib.sha256(message).hexdigest()) in admitted.terms


def test_the_terms_of_each_kind_are_those_of_the_documentation(make):
    evidence = make.quoted_evidence()
    admitted = admit_enclave(
        EnclaveSubmission(evidence),
        origin=make.ORIGIN,
        collateral=make.collateral(),
        root=make.root(),
        now_ms=make.T * 1000,
    )
    names = [name for name, _ in index_leaf(admitted.leaf).terms]
    assert names == ["kind", "enclave", "boot", "mrenclave", "mrsigner", "platform"]


def test_what_no_log_holds_has_no_index(make):
    submission = entry.format_entry(EnclaveSubmission(make.quoted_evidence()))
    for data in (submission, b"", b"{}", b'{"apiVersion":"0.1.0","kind":"other","spec":{}}'):
        with pytest.raises(MalformedError):
            index_leaf(data)


def test_a_registration_whose_quote_cannot_be_read_has_no_index(make):
    """Admission reads the quote first, so no log holds one; a rebuilt log must not guess."""
    evidence = make.evidence(b"a quote", make.claims())
    appraisal = Appraisal({"dcap": bytes(32)}, "sim", "simulated", "UpToDate", (), 1)
    with pytest.raises(MalformedError):
        index_leaf(entry.format_entry(Registration(evidence, appraisal)))
