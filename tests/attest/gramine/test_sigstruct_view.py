"""The text of ``gramine-sgx-sigstruct-view``: read strictly, compared field by field."""

import dataclasses
import json

import pytest

from assay.attest.gramine.sigstruct import parse_sigstruct
from assay.attest.gramine.sigstruct_view import MAX_VIEW_SIZE, parse_view, verify_view
from assay.tlog.errors import MalformedError, UntrustedError

SHORT = ("mr_signer", "mr_enclave", "isv_prod_id", "isv_svn", "debug_enclave")
LONG = (
    *("attribute_flags", "attribute_flags_mask", "attribute_xfrms", "attribute_xfrm_mask"),
    *("misc_select", "misc_mask", "date"),
)


def view_of(vector, names=(*SHORT, *LONG)):
    return {name: vector.values["sigstruct"][name] for name in names}


def check(value, body, mr_signer=None):
    return verify_view(parse_view(json.dumps(value).encode()), body, mr_signer=mr_signer)


@pytest.mark.parametrize("names", [SHORT, (*SHORT, *LONG)], ids=["short", "with -v"])
def test_a_view_of_each_of_gramines_sigstructs_is_accepted(vector, names):
    sigstruct = parse_sigstruct(vector.sigstruct)
    view = check(view_of(vector, names), sigstruct.body, sigstruct.mr_signer)
    assert view.mr_signer == sigstruct.mr_signer
    assert view.fields.keys() == set(names) - {"mr_signer"}


def test_numbers_are_read_with_and_without_0x(tiny):
    plain = {
        name: value.removeprefix("0x") if isinstance(value, str) else value
        for name, value in view_of(tiny).items()
    }
    check(plain, parse_sigstruct(tiny.sigstruct).body)


@pytest.mark.parametrize(
    "change",
    [
        {"mr_enclave": "00" * 32},
        {"mr_signer": "00" * 32},
        {"isv_prod_id": 9},
        {"isv_svn": 9},
        {"debug_enclave": True},
        {"attribute_flags": "0x6"},
        {"attribute_flags_mask": "0x0"},
        {"attribute_xfrms": "0x7"},
        {"attribute_xfrm_mask": "0x3"},
        {"misc_select": "0x1"},
        {"misc_mask": "0x0"},
        {"date": "1999-01-01"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_view_of_something_else_is_untrusted(tiny, change):
    sigstruct = parse_sigstruct(tiny.sigstruct)
    with pytest.raises(UntrustedError) as refusal:
        check(view_of(tiny) | change, sigstruct.body, sigstruct.mr_signer)
    assert refusal.value.code == "sigstruct-mismatch"
    assert next(iter(change)) in str(refusal.value)


def test_without_an_expected_signer_any_is_accepted(tiny):
    body = parse_sigstruct(tiny.sigstruct).body
    check(view_of(tiny) | {"mr_signer": "00" * 32}, body)
    with pytest.raises(UntrustedError):
        check(view_of(tiny), dataclasses.replace(body, attribute_flags=6))


@pytest.mark.parametrize("name", SHORT)
def test_a_missing_member_is_refused(tiny, name):
    with pytest.raises(MalformedError):
        parse_view(json.dumps(view_of(tiny, set(SHORT) - {name})).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"mr_enclave": "00" * 31},
        {"mr_enclave": "AA" * 32},
        {"mr_signer": None},
        {"isv_svn": "1"},
        {"isv_svn": 65536},
        {"isv_prod_id": -1},
        {"isv_prod_id": True},
        {"debug_enclave": 0},
        {"debug_enclave": "false"},
        {"attribute_flags": 4},
        {"attribute_flags": "0xG"},
        {"attribute_flags": "0X4"},
        {"attribute_flags": ""},
        {"attribute_flags": "0x" + "1" * 17},
        {"misc_select": "0x100000000"},
        {"date": 20240309},
    ],
    ids=str,
)
def test_another_form_is_refused(tiny, change):
    with pytest.raises(MalformedError):
        parse_view(json.dumps(view_of(tiny) | change).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"mr_signer: 00",
        b'{"isv_svn": 1, "isv_svn": 1}',
        b" " * (MAX_VIEW_SIZE + 1),
    ],
    ids=range(7),
)
def test_what_is_no_view_is_refused(data):
    with pytest.raises(MalformedError):
        parse_view(data)
