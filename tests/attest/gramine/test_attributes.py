"""What a manifest says of its SIGSTRUCT, and SIGSTRUCTs that say something else."""

import dataclasses

import pytest

from assay.attest.gramine.attributes import body_from_manifest, verify_signed_for
from assay.attest.gramine.options import parse_manifest
from assay.attest.gramine.sigstruct import sign_sigstruct, verify_sigstruct
from assay.tlog.errors import MalformedError, UntrustedError


def body(sgx):
    return body_from_manifest({"sgx": sgx}, bytes(32), date="0000-00-00")


def test_gramines_sigstructs_are_for_their_manifests(vector):
    sigstruct = verify_sigstruct(vector.sigstruct)
    mr_enclave = bytes.fromhex(vector.values["mrenclave"])
    assert verify_signed_for(sigstruct, parse_manifest(vector.manifest), mr_enclave) is sigstruct


@pytest.mark.parametrize(
    "change",
    [
        {"mr_enclave": bytes(32)},
        {"attribute_flags": 6},
        {"attribute_flags": 4 | 0x20},
        {"attribute_flags_mask": 0xFFFFFFFFFFFFFFFD},
        {"attribute_xfrms": 7},
        {"attribute_xfrm_mask": 0},
        {"misc_select": 1},
        {"misc_mask": 0},
        {"isv_prod_id": 1},
        {"isv_svn": 1},
        {"isv_family_id": bytes(15) + b"\1"},
        {"isv_ext_prod_id": bytes(15) + b"\1"},
        {"cet": b"\1\0"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_sigstruct_for_something_else_is_refused(tiny, signing_key, change):
    table, mr_enclave = parse_manifest(tiny.manifest), bytes.fromhex(tiny.values["mrenclave"])
    good = body_from_manifest(table, mr_enclave, date="2024-01-01")
    other = sign_sigstruct(dataclasses.replace(good, **change), signing_key)
    with pytest.raises(UntrustedError) as refusal:
        verify_signed_for(other, table, mr_enclave)
    assert refusal.value.code == "sigstruct-mismatch"
    assert next(iter(change)) in str(refusal.value)


@pytest.mark.parametrize(
    "change", [{"date": "1999-12-31"}, {"vendor": 0x8086}, {"software_defined": 5}], ids=str
)
def test_what_is_the_signers_to_choose_may_differ(tiny, signing_key, change):
    table, mr_enclave = parse_manifest(tiny.manifest), bytes.fromhex(tiny.values["mrenclave"])
    good = body_from_manifest(table, mr_enclave, date="2024-01-01")
    verify_signed_for(sign_sigstruct(dataclasses.replace(good, **change), signing_key), table, mr_enclave)


@pytest.mark.parametrize(
    ("features", "xfrm", "mask"),
    [
        ({}, 0x3, 0xFFFFFFFFFFF9FF1B),
        ({"avx": "required"}, 0x7, 0xFFFFFFFFFFF9FF1F),
        ({"avx": "disabled"}, 0x3, 0xFFFFFFFFFFF9FF1F),
        ({"avx": "disabled", "avx512": "required"}, 0xE7, 0xFFFFFFFFFFF9FFFF),
        ({"amx": "required", "pkru": "required", "mpx": "required"}, 0x6021B, 0xFFFFFFFFFFFFFF1B),
    ],
    ids=str,
)
def test_cpu_features_are_applied_in_gramines_order(features, xfrm, mask):
    got = body({"cpu_features": features})
    assert (got.attribute_xfrms, got.attribute_xfrm_mask) == (xfrm, mask)


def test_debug_and_exinfo_are_visible():
    got = body({"debug": True, "use_exinfo": True})
    assert (got.attribute_flags, got.misc_select, got.debug_enclave) == (6, 1, True)


@pytest.mark.parametrize(
    "sgx",
    [
        {"cpu_features": {"avx": "maybe"}},
        {"cpu_features": {"mpx": "unspecified"}},
        {"cpu_features": {"pkru": "unspecified"}},
        {"cpu_features": {"sse": "required"}},
        {"cpu_features": {"avx": True}},
        {"cpu_features": []},
        {"debug": 1},
        {"use_exinfo": "true"},
        {"isvsvn": 65536},
        {"isvsvn": -1},
        {"isvprodid": True},
        {"isvprodid": "1"},
        [],
    ],
    ids=str,
)
def test_options_of_another_type_or_range_are_refused(sgx):
    with pytest.raises(MalformedError):
        body(sgx)
