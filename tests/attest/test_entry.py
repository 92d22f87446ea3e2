"""Entries: parse inverts format for every kind, and a leaf has one spelling."""

import json
from dataclasses import replace

import pytest

from assay.attest import entry, jcs
from assay.attest.entry import format_entry, kind_of, leaf_hash_of, parse_entry
from assay.tlog import merkle, strict
from assay.tlog.errors import MalformedError

FORMS = ("attestation", "submission", "registration", "receipt")
KIND = {"submission": "enclave", "registration": "enclave"}


def refuse(value) -> MalformedError:
    with pytest.raises(MalformedError) as caught:
        parse_entry(jcs.canonical(value))
    return caught.value


def as_json(make, form: str):
    return json.loads(format_entry(make.entries()[form]))


@pytest.mark.parametrize("form", FORMS)
def test_parse_inverts_format(make, form):
    good = make.entries()[form]
    data = format_entry(good)
    assert parse_entry(data) == good
    assert type(parse_entry(data)) is type(good)
    assert format_entry(parse_entry(data)) == data
    assert leaf_hash_of(good) == merkle.leaf_hash(data)
    assert json.loads(data)["kind"] == kind_of(good) == KIND.get(form, form)


@pytest.mark.parametrize("form", FORMS)
def test_every_truncation_is_refused(make, form):
    data = format_entry(make.entries()[form])
    for end in range(0, len(data), 7):
        with pytest.raises(MalformedError):
            parse_entry(data[:end])
    for more in (b" ", b"\n", b"\x00", b"{}"):
        for spelling in (data + more, more + data):
            with pytest.raises(MalformedError):
                parse_entry(spelling)


@pytest.mark.parametrize("form", FORMS)
def test_every_changed_byte_is_refused_or_another_entry(make, form):
    good = make.entries()[form]
    data = format_entry(good)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        try:
            other = parse_entry(bytes(changed))
        except MalformedError:
            continue
        assert other != good
        assert format_entry(other) == changed


@pytest.mark.parametrize("form", FORMS)
def test_another_spelling_is_refused(make, form):
    value = as_json(make, form)
    spellings = [
        json.dumps(value).encode(),
        json.dumps(value, separators=(",", ":"), sort_keys=True, indent=0).encode(),
        json.dumps(dict(reversed(value.items())), separators=(",", ":")).encode(),
    ]
    for data in spellings:
        with pytest.raises(MalformedError) as caught:
            parse_entry(data)
        assert caught.value.code == "not-canonical"


@pytest.mark.parametrize("form", FORMS)
def test_members_of_an_entry_are_exactly_three(make, form):
    value = as_json(make, form)
    for member in value:
        refuse({key: item for key, item in value.items() if key != member})
        for wrong in (None, 1, [], "", {}):
            refuse({**value, member: wrong})
    refuse({**value, "metadata": {}})
    refuse({**value, "spec": {**value["spec"], "unknown": 1}})
    for member in value["spec"]:
        if (form, member) != ("registration", "appraisal"):  # without it, it is a submission
            refuse({**value, "spec": {key: item for key, item in value["spec"].items() if key != member}})


@pytest.mark.parametrize("kind", ["hashedRekord", "Attestation", "attestation ", "checkpoint", "release"])
def test_unknown_kinds_are_refused_by_name(make, kind):
    assert refuse({**as_json(make, "attestation"), "kind": kind}).code == "unknown-kind"


@pytest.mark.parametrize("version", ["0.0.2", "0.1", "0.1.1", "v0.1.0"])
def test_unknown_versions_are_refused_by_name(make, version):
    assert refuse({**as_json(make, "receipt"), "apiVersion": version}).code == "unknown-version"


def test_a_kind_is_not_read_as_another(make):
    for form in FORMS:
        for kind in entry.KINDS:
            value = as_json(make, form)
            if value["kind"] != kind:
                refuse({**value, "kind": kind})


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"1", b'"x"', b"{}", b"\xff"])
def test_other_documents_are_refused(data):
    with pytest.raises(MalformedError):
        parse_entry(data)


def test_a_leaf_is_bounded(make):
    for size, fits in ((entry.MAX_LEAF_SIZE, True), (entry.MAX_LEAF_SIZE + 1, False)):
        data = b"x" * size
        with pytest.raises(MalformedError) as caught:
            parse_entry(data)
        assert (caught.value.code == "too-large") is not fits
    attestation = make.attestation()
    envelope = replace(attestation.envelope, payload=bytes(50_000))
    with pytest.raises(MalformedError) as caught:
        format_entry(replace(attestation, envelope=envelope))
    assert caught.value.code == "too-large"


@pytest.mark.parametrize(
    "verifiers",
    [
        None,
        {},
        [None],
        [{}],
        [{"publicKey": None}],
        [{"publicKey": {}}],
        [{"publicKey": {"rawBytes": None}}],
        [{"publicKey": {"rawBytes": "!"}}],
        [{"publicKey": {"rawBytes": "AA==", "hint": "x"}}],
        [{"publicKey": {"rawBytes": "AA=="}, "keyDetails": "x"}],
        [{"x509Certificate": None}],
        [{"x509Certificate": {}}],
        [{"x509Certificate": {"rawBytes": "!"}}],
        [{"x509Certificate": {"rawBytes": "A" * 5464}}],
        [{"x509Certificate": {"rawBytes": "AA=="}, "keyDetails": "x"}],
        [{"x509Certificate": {"rawBytes": "AA=="}, "publicKey": {"rawBytes": "AA=="}}],
        [{"x509CertificateChain": {"certificates": []}}],
        [{"publicKey": {"rawBytes": "A" * 5464}}],
        [{"publicKey": {"rawBytes": "AA=="}}] * 17,
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_other_verifiers_do_not_parse(make, verifiers):
    value = as_json(make, "attestation")
    refuse({**value, "spec": {**value["spec"], "verifiers": verifiers}})


ALL_COLLATERAL = dict.fromkeys(("dcap", *entry.COLLATERAL_RESPONSES), "00" * 32)


def test_an_appraisal_names_the_collateral_alone_or_with_every_answer(make):
    value = as_json(make, "registration")
    appraisal = value["spec"]["appraisal"]
    for collateral in ({"dcap": "00" * 32}, ALL_COLLATERAL):
        spec = {**value["spec"], "appraisal": {**appraisal, "collateral": collateral}}
        data = jcs.canonical({**value, "spec": spec})
        parsed = parse_entry(data)
        assert parsed.appraisal.collateral == dict.fromkeys(collateral, bytes(32))
        assert format_entry(parsed) == data


WRONG_APPRAISAL = {
    "advisories": [None, {}, "x", [1], [None], ["b", "a"], ["a", "a"], [""], ["a\n"], ["a"] * 65],
    "appraised_at": [None, -1, "1", True, 2**53],
    "collateral": [
        None,
        {},
        [],
        {"dcap": "00"},
        {"dcap": None},
        {"tdx": "00" * 32},
        {**ALL_COLLATERAL, "tdx": "00" * 32},
        *({key: item for key, item in ALL_COLLATERAL.items() if key != name} for name in ALL_COLLATERAL),
        *(
            {**ALL_COLLATERAL, name: wrong}
            for name in ALL_COLLATERAL
            for wrong in (None, "", "AA" * 32, "00" * 31)
        ),
        {"dcap": "00" * 32, "tcb_info": "00" * 32},
    ],
    "platform": [None, "", 1, "a" * 17, "a\n"],
    "root": [None, "", 1, "a" * 65, "a\n"],
    "tcb_status": [None, "", 1, "a" * 65, "a\n"],
}


@pytest.mark.parametrize("member", WRONG_APPRAISAL)
def test_other_appraisals_do_not_parse(make, member):
    value = as_json(make, "registration")
    appraisal = value["spec"]["appraisal"]
    assert set(WRONG_APPRAISAL) == set(appraisal)
    for wrong in WRONG_APPRAISAL[member]:
        refuse({**value, "spec": {**value["spec"], "appraisal": {**appraisal, member: wrong}}})
    without = {key: item for key, item in appraisal.items() if key != member}
    for wrong in (without, {**appraisal, "unknown": 1}, None, []):
        refuse({**value, "spec": {**value["spec"], "appraisal": wrong}})


@pytest.mark.parametrize("cose", [None, "", "AA==", "!", [], 1, "A" * 5464])
def test_other_receipts_do_not_parse(make, cose):
    refuse({**as_json(make, "receipt"), "spec": {"cose": cose}})


def test_a_receipt_in_a_leaf_is_the_exact_cose(make):
    value = as_json(make, "receipt")
    assert value["spec"] == {"cose": strict.base64_text(make.signed_receipt().cose)}
