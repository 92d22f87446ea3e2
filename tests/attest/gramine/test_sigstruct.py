"""SIGSTRUCT: Gramine's bytes, a public log's, and no byte that can be changed."""

import base64
import dataclasses
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.attest.gramine.attributes import body_from_manifest
from assay.attest.gramine.options import parse_manifest
from assay.attest.gramine.sigstruct import (
    SIGSTRUCT_SIZE,
    SignedBody,
    mr_signer,
    parse_sigstruct,
    sign_sigstruct,
    verify_sigstruct,
)
from assay.tlog.errors import LogError, MalformedError, UntrustedError

BODY = SignedBody(
    mr_enclave=bytes(range(32)),
    isv_prod_id=1,
    isv_svn=2,
    attribute_flags=4,
    attribute_xfrms=3,
    attribute_xfrm_mask=0xFFFFFFFFFFF9FF1B,
    misc_select=0,
    date="2024-03-09",
)


def assert_fields(sigstruct, expected):
    body = sigstruct.body
    assert body.mr_enclave.hex() == expected["mr_enclave"]
    assert sigstruct.mr_signer.hex() == expected["mr_signer"]
    assert body.debug_enclave is expected["debug_enclave"]
    assert body.date == expected["date"]
    assert (body.isv_prod_id, body.isv_svn) == (expected["isv_prod_id"], expected["isv_svn"])
    numbers = {
        "attribute_flags": body.attribute_flags,
        "attribute_flags_mask": body.attribute_flags_mask,
        "attribute_xfrms": body.attribute_xfrms,
        "attribute_xfrm_mask": body.attribute_xfrm_mask,
        "misc_select": body.misc_select,
        "misc_mask": body.misc_mask,
    }
    assert {name: hex(value) for name, value in numbers.items()} == {name: expected[name] for name in numbers}


def test_signing_gives_gramines_bytes(vector, signing_key):
    expected = vector.values["sigstruct"]
    mr_enclave = bytes.fromhex(vector.values["mrenclave"])
    body = body_from_manifest(parse_manifest(vector.manifest), mr_enclave, date=expected["date"])
    signed = sign_sigstruct(body, signing_key).to_bytes()
    assert hashlib.sha256(body.to_bytes()).hexdigest() == expected["tbs_sha256"]
    assert hashlib.sha256(signed).hexdigest() == expected["sha256"]
    assert signed == vector.sigstruct


def test_gramines_sigstructs_verify(vector):
    assert_fields(verify_sigstruct(vector.sigstruct), vector.values["sigstruct"])


def test_sigstructs_of_a_public_log_verify(vectors):
    folder = vectors / "sigstruct"
    expected = json.loads((folder / "index.json").read_bytes())["leaves"]
    lines = (folder / "leaves.jsonl").read_bytes().splitlines()
    assert len(expected) == 200
    for leaf in expected:
        data = base64.b64decode(json.loads(lines[leaf["line"]])["sgx_enclave_identity"])
        sigstruct = verify_sigstruct(data)
        assert_fields(sigstruct, leaf)
        assert hex(sigstruct.body.vendor) == leaf["vendor"]
        assert sigstruct.to_bytes() == data


def test_every_flipped_byte_is_refused(tiny):
    data = bytearray(tiny.sigstruct)
    for at in range(SIGSTRUCT_SIZE):
        data[at] ^= 1
        with pytest.raises(LogError):
            verify_sigstruct(bytes(data))
        data[at] ^= 1
    verify_sigstruct(bytes(data))


def test_every_truncation_and_an_extra_byte_are_refused(tiny):
    for size in range(SIGSTRUCT_SIZE):
        with pytest.raises(MalformedError):
            parse_sigstruct(tiny.sigstruct[:size])
    with pytest.raises(MalformedError):
        parse_sigstruct(tiny.sigstruct + b"\0")


@pytest.mark.parametrize(
    "change",
    [
        {"q1": 0},
        {"q2": 0},
        {"signature": 0},
        {"modulus": 0},
        {"modulus": 1},
        {"modulus": 2**3072 - 2},
        {"modulus": 2**3071 - 1},
        {"signature": 2**3072 - 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_degenerate_numbers_are_untrusted(tiny, change):
    forged = dataclasses.replace(parse_sigstruct(tiny.sigstruct), **change)
    with pytest.raises(UntrustedError):
        verify_sigstruct(forged.to_bytes())


def test_the_signature_plus_the_modulus_is_no_second_spelling(tiny):
    sigstruct = parse_sigstruct(tiny.sigstruct)
    other = sigstruct.signature + sigstruct.modulus
    if other < 2**3072:
        with pytest.raises(UntrustedError):
            verify_sigstruct(dataclasses.replace(sigstruct, signature=other).to_bytes())


def test_wrong_quotients_under_a_right_signature_are_untrusted(signing_key):
    signed = sign_sigstruct(BODY, signing_key)
    for change in ({"q1": signed.q1 + 1}, {"q2": signed.q2 - 1}):
        with pytest.raises(UntrustedError, match="Q1"):
            verify_sigstruct(dataclasses.replace(signed, **change).to_bytes())


@pytest.mark.parametrize(("bits", "exponent"), [(2048, 3), (3072, 65537)])
def test_other_keys_cannot_sign(bits, exponent):
    with pytest.raises(MalformedError) as refusal:
        sign_sigstruct(BODY, rsa.generate_private_key(exponent, bits))
    assert refusal.value.code == "wrong-key"


@pytest.mark.parametrize(
    "change",
    [
        {"date": "2024-3-9"},
        {"date": "20240309"},
        {"date": "2024-03-09\n"},
        {"date": "٢٠٢٤-03-09"},
        {"date": ""},
        {"isv_svn": 65536},
        {"isv_prod_id": -1},
        {"misc_select": 2**32},
        {"attribute_flags": 2**64},
        {"mr_enclave": bytes(31)},
        {"isv_family_id": b""},
    ],
    ids=str,
)
def test_bodies_that_do_not_fit_are_refused(change):
    with pytest.raises(MalformedError):
        dataclasses.replace(BODY, **change).to_bytes()


def test_the_date_without_a_day_is_allowed():
    assert dataclasses.replace(BODY, date="0000-00-00").to_bytes()[20:24] == bytes(4)


def test_mr_signer_depends_on_the_modulus_alone(signing_key):
    modulus = signing_key.public_key().public_numbers().n
    other = dataclasses.replace(BODY, isv_svn=9)
    assert sign_sigstruct(BODY, signing_key).mr_signer == sign_sigstruct(other, signing_key).mr_signer
    assert mr_signer(modulus) == hashlib.sha256(modulus.to_bytes(384, "little")).digest()


U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))


@settings(max_examples=40, deadline=None)
@given(
    body=st.builds(
        SignedBody,
        mr_enclave=st.binary(min_size=32, max_size=32),
        isv_prod_id=U16, isv_svn=U16, attribute_flags=U64, attribute_xfrms=U64, attribute_xfrm_mask=U64,
        misc_select=U32, date=st.dates().map(str), attribute_flags_mask=U64, misc_mask=U32, vendor=U32,
        software_defined=U32, cet=st.binary(min_size=2, max_size=2),
        isv_family_id=st.binary(min_size=16, max_size=16), isv_ext_prod_id=st.binary(min_size=16, max_size=16),
    )
)  # fmt: skip
def test_what_is_signed_parses_to_itself(signing_key, body):
    signed = sign_sigstruct(body, signing_key)
    assert verify_sigstruct(signed.to_bytes()) == signed
