"""Admission: what may enter a log, each rule with the entries that it keeps out."""

import hashlib
from dataclasses import replace

import pytest

from assay.attest import admission, claims, index, p256
from assay.attest.admission import (
    Admitted,
    Publishers,
    admit_attestation,
    admit_enclave,
    admit_receipt,
    verify_publishers,
)
from assay.attest.entry import (
    EnclaveSubmission,
    ReceiptEntry,
    Registration,
    format_entry,
    leaf_hash_of,
    parse_entry,
)
from assay.attest.quote import sgx
from assay.attest.quote.collateral import format_collateral
from assay.attest.quote.pcs_response import PcsResponse, PcsResponses
from assay.attest.receipt import sign_receipt
from assay.attest.roots import TrustedRoot
from assay.attest.simulated.platform import SimulatedPlatform
from assay.tlog import merkle
from assay.tlog.errors import LogError, MalformedError, StaleError, UntrustedError


def terms_of(admitted: Admitted) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, value in admitted.terms:
        found.setdefault(name, set()).add(value)
    assert len(set(admitted.terms)) == len(admitted.terms)
    return found


def signer(make, number: int) -> str:
    return p256.signer_id(make.spki(number))


# Attestations


@pytest.mark.parametrize("name", ["release", "rebuild", "provenance"])
def test_a_well_signed_statement_is_admitted_and_found(make, name):
    attestation = make.attestation(make.statement(getattr(make, name)()).payload(), keys=(2, 3))
    admitted = admit_attestation(attestation, publishers=None)
    assert parse_entry(admitted.leaf) == attestation
    assert admitted.identity == merkle.leaf_hash(admitted.leaf)
    terms = terms_of(admitted)
    assert terms["kind"] == {"attestation"}
    assert terms["signer"] == {signer(make, 2), signer(make, 3)}
    assert terms["mrenclave"] == {make.MR_ENCLAVE.hex()}
    sigstruct = {"ab" * 32} if name == "release" else set()
    assert terms["sha256"] == {"33" * 32, "44" * 32, "55" * 32} | sigstruct
    if name != "provenance":
        assert terms["product"] == {"agent"}
        assert terms["release"] == {"agent@1.0.0"}
    if name == "release":
        assert terms["mrsigner"] == {make.MR_SIGNER.hex()}
    if name == "rebuild":
        assert terms["verdict"] == {"REPRODUCED"}
        assert terms["subject"] == {"aa" * 32}


def test_a_badly_signed_statement_is_not_admitted(make, high_s):
    good = make.attestation(keys=(2, 3))
    first, second = good.envelope.signatures
    for bad in (
        replace(good, verifiers=(make.spki(2), make.spki(4))),
        replace(good, verifiers=good.verifiers[::-1]),
        replace(good, verifiers=good.verifiers[:1]),
        replace(good, verifiers=(make.spki(2), make.spki(2))),
        replace(good, verifiers=()),
        replace(good, envelope=replace(good.envelope, signatures=(first, bytes(64)))),
        replace(good, envelope=replace(good.envelope, signatures=(first, first))),
        replace(good, envelope=replace(good.envelope, signatures=(first, high_s(second)))),
        replace(good, envelope=replace(good.envelope, signatures=(first,))),
        replace(good, envelope=replace(good.envelope, payload=good.envelope.payload + b" ")),
        replace(good, envelope=replace(good.envelope, payload_type="application/json")),
    ):
        with pytest.raises(LogError):
            admit_attestation(bad, publishers=None)


@pytest.mark.parametrize("payload", [b"", b"{}", b"null", b"not JSON"])
def test_a_well_signed_payload_that_is_no_statement_is_not_admitted(make, payload):
    with pytest.raises(MalformedError):
        admit_attestation(make.attestation(payload), publishers=None)


def rule(make, threshold: int, *numbers: int) -> dict[str, Publishers]:
    return {"agent": Publishers(threshold, frozenset(signer(make, number) for number in numbers))}


@pytest.mark.parametrize(
    ("threshold", "listed", "signed", "admitted"),
    [
        (1, (2,), (2,), True),
        (1, (2, 3), (3,), True),
        (2, (2, 3), (2, 3), True),
        (2, (2, 3, 4), (4, 2), True),
        (2, (2, 3), (2, 3, 9), True),
        (1, (2,), (9, 2), True),
        (1, (2,), (9,), False),
        (2, (2, 3), (2,), False),
        (2, (2, 3), (2, 9), False),
        (3, (2, 3, 4), (2, 3), False),
    ],
)
def test_enough_publishers_of_the_product_sign(make, threshold, listed, signed, admitted):
    attestation = make.attestation(keys=signed)
    if admitted:
        assert admit_attestation(attestation, publishers=rule(make, threshold, *listed))
        return
    with pytest.raises(UntrustedError) as caught:
        admit_attestation(attestation, publishers=rule(make, threshold, *listed))
    assert caught.value.code == "publisher"


def test_one_publisher_does_not_count_twice(make):
    with pytest.raises(UntrustedError):
        verify_publishers("agent", [signer(make, 2)] * 2, rule(make, 2, 2, 3))


@pytest.mark.parametrize("product", ["Agent", "agent ", "other", "agent2"])
def test_a_product_that_is_not_listed_has_no_publishers(make, product):
    attestation = make.attestation(make.statement(make.release(product=product)).payload())
    for publishers in (rule(make, 1, 2), {}):
        with pytest.raises(UntrustedError) as caught:
            admit_attestation(attestation, publishers=publishers)
        assert caught.value.code == "publisher"


def test_the_publisher_of_one_product_does_not_publish_another(make):
    publishers = {**rule(make, 1, 2), "other": Publishers(1, frozenset([signer(make, 3)]))}
    with pytest.raises(UntrustedError):
        admit_attestation(make.attestation(keys=(3,)), publishers=publishers)


def test_anyone_may_publish_a_verdict(make):
    attestation = make.attestation(make.statement(make.rebuild()).payload(), keys=(9,))
    assert admit_attestation(attestation, publishers=rule(make, 1, 2))


@pytest.mark.parametrize(("threshold", "count"), [(0, 1), (-1, 1), (2, 1), (1, 0), (0, 0)])
def test_a_threshold_that_cannot_be_meant_is_refused(threshold, count):
    with pytest.raises(ValueError, match="threshold"):
        Publishers(threshold, frozenset(map(str, range(count))))


# Enclaves


def admit(make, evidence, **changes) -> Admitted:
    arguments = {
        "origin": make.ORIGIN,
        "collateral": make.collateral(),
        "root": make.root(),
        "now_ms": make.T * 1000 + 1500,
        **changes,
    }
    return admit_enclave(EnclaveSubmission(evidence), **arguments)


def test_an_enclave_is_admitted_with_an_appraisal(make):
    evidence = make.quoted_evidence()
    admitted = admit(make, evidence)
    logged = parse_entry(admitted.leaf)
    assert isinstance(logged, Registration)
    assert logged.evidence == evidence
    assert logged.appraisal.platform == "simulated"
    assert logged.appraisal.root == "sim"
    assert logged.appraisal.tcb_status == "UpToDate"
    assert logged.appraisal.appraised_at_ms == make.T * 1000 + 1500
    blob = format_collateral(make.collateral())
    assert admitted.blobs == (blob,)
    assert logged.appraisal.collateral == {"dcap": hashlib.sha256(blob).digest()}
    assert terms_of(admitted) == {
        "kind": {"enclave"},
        "enclave": {make.enclave_id().hex()},
        "boot": {make.BOOT_ID.hex()},
        "mrenclave": {make.MR_ENCLAVE.hex()},
        "mrsigner": {make.MR_SIGNER.hex()},
        "platform": {"simulated"},
    }


def test_the_answers_that_collateral_was_put_together_from_are_named_and_kept(make):
    answer = PcsResponse("https://pcs.example", {}, b"x")
    responses = PcsResponses(*(replace(answer, body=bytes([number])) for number in range(4)))
    admitted = admit(make, make.quoted_evidence(), responses=responses)
    blobs = {"dcap": format_collateral(make.collateral()), **responses.archived()}
    assert sorted(admitted.blobs) == sorted(blobs.values())
    named = parse_entry(admitted.leaf).appraisal.collateral
    assert named == {name: hashlib.sha256(blob).digest() for name, blob in blobs.items()}
    assert admitted.identity == admit(make, make.quoted_evidence()).identity
    assert admitted.terms == admit(make, make.quoted_evidence()).terms


def test_evidence_that_names_another_log_is_refused(make):
    with pytest.raises(UntrustedError) as caught:
        admit(make, make.quoted_evidence(), origin="other.example")
    assert caught.value.code == "other-log"


def test_a_debug_enclave_is_never_admitted(make):
    with pytest.raises(UntrustedError) as caught:
        admit(make, make.quoted_evidence(debug=True))
    assert caught.value.code == "debug"


def test_another_root_does_not_vouch(make):
    foreign = SimulatedPlatform(b"\x01" * 32, epoch_s=make.T)
    for changes in (
        {"root": TrustedRoot("sim", foreign.root_der)},
        {"collateral": foreign.collateral(issued_s=make.T)},
        {"root": TrustedRoot("sim", foreign.root_der), "collateral": foreign.collateral(issued_s=make.T)},
    ):
        with pytest.raises(UntrustedError):
            admit(make, make.quoted_evidence(), **changes)


@pytest.mark.parametrize("days", [-1, 31])
def test_collateral_counts_in_its_time_only(make, days):
    with pytest.raises(StaleError):
        admit(make, make.quoted_evidence(), now_ms=(make.T + days * 86_400) * 1000)


def test_claims_that_the_quote_does_not_bind_are_refused(make):
    quote = make.quoted_evidence().quote
    for changes in ({"nonce": bytes(32)}, {"boot_id": bytes(16)}, {"hpke_public_key": bytes(32)}):
        with pytest.raises(UntrustedError) as caught:
            admit(make, make.evidence(quote, make.claims(**changes)))
        assert caught.value.code == "report-data"


def test_a_stolen_quote_is_refused(make):
    """Someone else's quote with one's own key, or with its own key but no signature by it."""
    victim = make.quoted_evidence()
    mine = make.evidence(victim.quote, victim.claims, key=2)
    for stolen, code in (
        (mine, "report-data"),
        (replace(mine, public_key=victim.public_key), "possession"),
        (replace(victim, possession=bytes(64)), "possession"),
    ):
        with pytest.raises(UntrustedError) as caught:
            admit(make, stolen)
        assert caught.value.code == code


@pytest.mark.parametrize("position", [0, 50, 112, 300, 368, 400, 440, 700, 1100])
def test_a_changed_quote_is_refused_even_if_signed_anew(make, position):
    quote = bytearray(make.quoted_evidence().quote)
    quote[position] ^= 1
    with pytest.raises(LogError):
        admit(make, make.evidence(bytes(quote)))


def respelt(quote: bytes, high_s) -> list[bytes]:
    """Other bytes that say the same: n - s in either signature of the quote, text around the PEM chain."""
    parsed = sgx.parse_quote(quote)
    parts = parsed.signature
    others = [
        replace(parts, signature=high_s(parts.signature)),
        replace(parts, qe_signature=high_s(parts.qe_signature)),
    ]
    with_text = replace(
        parts, certification_data=parts.certification_data.replace(b"-----BEGIN", b"x\n-----BEGIN")
    )
    return [sgx.format_quote(replace(parsed, signature=other)) for other in [*others, with_text]]


def test_a_respelt_quote_needs_a_new_signature_and_is_the_same_registration(make, high_s):
    good = make.quoted_evidence()
    identity = admit(make, good).identity
    for quote in respelt(good.quote, high_s):
        assert quote != good.quote
        with pytest.raises(UntrustedError) as caught:
            admit(make, replace(good, quote=quote))
        assert caught.value.code == "possession"
        assert admit(make, make.evidence(quote)).identity == identity


def test_identity_is_of_quote_body_and_claims(make):
    evidence = make.quoted_evidence()
    quote = sgx.parse_quote(evidence.quote)
    expected = hashlib.sha256(
        hashlib.sha256(evidence.quote[:432]).digest() + evidence.claims.digest()
    ).digest()
    assert index.enclave_identity(evidence, quote) == admit(make, evidence).identity == expected
    again = make.quoted_evidence(make.claims(nonce=bytes(32)))
    assert admit(make, again).identity != expected
    later = admit(make, evidence, now_ms=make.T * 1000 + 60_000)
    assert later.identity == expected
    assert later.leaf != admit(make, evidence).leaf


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb"])
def test_a_root_whose_name_would_not_parse_is_not_logged(make, name):
    with pytest.raises(MalformedError):
        admit(make, make.quoted_evidence(), root=TrustedRoot(name, make.root().der))


# Receipts


@pytest.fixture(scope="module")
def registered(make) -> Registration:
    logged = parse_entry(admit(make, make.quoted_evidence()).leaf)
    assert isinstance(logged, Registration)
    return logged


def receipt_of(make, registered: Registration, *, key: int = 1, **changes) -> ReceiptEntry:
    said = make.receipt(registration=leaf_hash_of(registered), **changes)
    return ReceiptEntry(sign_receipt(make.key(key), said))


def admit_one(entry: ReceiptEntry, registered: Registration) -> Admitted:
    return admit_receipt(entry, registration=registered, registration_leaf=leaf_hash_of(registered))


def test_a_receipt_of_a_registered_boot_is_admitted(make, registered):
    entry = receipt_of(make, registered)
    admitted = admit_one(entry, registered)
    assert parse_entry(admitted.leaf) == entry
    assert admitted.identity == hashlib.sha256(entry.signed.sig_structure).digest()
    boot = f"{make.enclave_id().hex()}/{make.BOOT_ID.hex()}"
    assert terms_of(admitted) == {
        "kind": {"receipt"},
        "enclave": {make.enclave_id().hex()},
        "boot": {make.BOOT_ID.hex()},
        "sequence": {f"{boot}/0"},
        "registration": {leaf_hash_of(registered).hex()},
    }


def test_receipts_come_in_any_order_and_equivocation_is_admitted(make, registered):
    one = receipt_of(make, registered, sequence=5, previous=bytes(32))
    other = receipt_of(make, registered, sequence=5, previous=b"\x01" * 32)
    admitted = [admit_one(entry, registered) for entry in (one, other)]
    assert admitted[0].identity != admitted[1].identity
    assert terms_of(admitted[0])["sequence"] == terms_of(admitted[1])["sequence"]


def test_a_receipt_that_names_another_registration_or_boot_is_refused(make, registered):
    for changes in ({"registration": bytes(32)}, {"boot_id": bytes(16)}):
        said = make.receipt(**{"registration": leaf_hash_of(registered), **changes})
        with pytest.raises(UntrustedError) as caught:
            admit_one(ReceiptEntry(sign_receipt(make.key(), said)), registered)
        assert caught.value.code == "registration"


def test_a_registration_under_another_leaf_is_refused(make, registered):
    entry = receipt_of(make, registered)
    with pytest.raises(UntrustedError) as caught:
        admit_receipt(entry, registration=registered, registration_leaf=merkle.leaf_hash(b"other"))
    assert caught.value.code == "registration"


def test_a_receipt_of_another_key_is_refused(make, registered):
    forged = receipt_of(make, registered, key=2)
    own = receipt_of(make, registered, key=2, enclave_id=bytes.fromhex(signer(make, 2)))
    for entry in (forged, own):
        with pytest.raises(UntrustedError) as caught:
            admit_one(entry, registered)
        assert caught.value.code == "receipt-signature"


def test_the_twin_of_a_receipt_is_refused(make, registered, high_s):
    signed = receipt_of(make, registered).signed
    with pytest.raises(MalformedError) as caught:
        admit_one(ReceiptEntry(replace(signed, signature=high_s(signed.signature))), registered)
    assert caught.value.code == "high-s"


def test_a_registered_key_signs_for_its_own_boot_only(make, registered):
    """Another boot of the same key is another registration."""
    other_claims = make.claims(boot_id=b"\x42" * 16)
    other = parse_entry(admit(make, make.quoted_evidence(other_claims)).leaf)
    entry = receipt_of(make, registered)
    assert admit_one(entry, registered)
    with pytest.raises(UntrustedError) as caught:
        admit_one(entry, other)
    assert caught.value.code == "registration"


def test_what_is_admitted_parses(make, registered):
    for admitted in (
        admit_attestation(make.attestation(), publishers=None),
        admit(make, make.quoted_evidence()),
        admit_one(receipt_of(make, registered), registered),
    ):
        assert format_entry(parse_entry(admitted.leaf)) == admitted.leaf
        assert len(admitted.identity) == 32


def test_every_rule_checks_possession_after_the_quote(make):
    assert claims.verify_possession(make.quoted_evidence())
    with pytest.raises(MalformedError):
        admission.verify_evidence(
            make.evidence(b""), collateral=make.collateral(), root=make.root(), now_s=make.T
        )
