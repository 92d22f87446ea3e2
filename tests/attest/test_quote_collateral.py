"""Collateral JSON: exactly the nine parts, bounded, and one canonical form."""

import hashlib
import json
from pathlib import Path

import dcap_qvl
import pytest

from assay.attest.quote.collateral import MAX_COLLATERAL_SIZE, format_collateral, parse_collateral
from assay.tlog.errors import MalformedError

SIM = Path(__file__).parents[1] / "vectors" / "quotes" / "sim"
DATA = (SIM / "sgx_up_to_date" / "collateral.json").read_bytes()
PARTS = json.loads(DATA)


def encoded(**changes) -> bytes:
    return json.dumps(PARTS | changes).encode()


def refused(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_collateral(data)
    assert caught.value.code == "malformed-collateral"


def test_the_canonical_form_sorts_keys_and_parses_to_the_same():
    collateral = parse_collateral(DATA)
    canonical = format_collateral(collateral)
    assert canonical == json.dumps(PARTS, sort_keys=True, separators=(",", ":")).encode()
    assert parse_collateral(canonical) == collateral
    assert collateral.collateral_id == hashlib.sha256(canonical).hexdigest()


def test_spacing_key_order_and_a_pck_chain_do_not_change_the_id():
    reordered = json.dumps(dict(reversed(PARTS.items())), indent=7).encode()
    chained = encoded(pck_certificate_chain="of another machine")
    ids = {parse_collateral(data).collateral_id for data in (DATA, reordered, chained)}
    assert len(ids) == 1
    assert b"pck_certificate_chain" not in format_collateral(parse_collateral(chained))


def test_the_canonical_form_is_what_dcap_tools_read():
    text = format_collateral(parse_collateral(DATA)).decode()
    assert dcap_qvl.QuoteCollateralV3.from_json(text).tcb_info == PARTS["tcb_info"]


@pytest.mark.parametrize("name", ["debug_enclave", "oasis_v3", "phala_v3"])
def test_real_collateral_keeps_every_part(vectors, name):
    data = (vectors / "quotes" / "sgx" / name / "collateral.json").read_bytes()
    assert json.loads(format_collateral(parse_collateral(data))) == json.loads(data)


@pytest.mark.parametrize("key", sorted(PARTS))
def test_a_missing_part_is_refused(key):
    refused(json.dumps({name: part for name, part in PARTS.items() if name != key}).encode())


@pytest.mark.parametrize("key", sorted(PARTS))
@pytest.mark.parametrize("value", [None, 1, True, [], {}])
def test_a_part_of_another_type_is_refused(key, value):
    refused(encoded(**{key: value}))


@pytest.mark.parametrize("key", ["root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"])
@pytest.mark.parametrize("value", ["0", "zz", "AB", "ab cd", "ab\n"])
def test_hex_in_another_spelling_is_refused(key, value):
    refused(encoded(**{key: value}))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"null", id="null"),
        pytest.param(DATA + b"{}", id="two documents"),
        pytest.param(DATA[:-3], id="cut"),
        pytest.param(b"\xff" + DATA, id="not UTF-8"),
        pytest.param(b"[" * 200_000, id="deep"),
        pytest.param(DATA.rstrip()[:-1] + b',"tcb_info":"{}"}', id="a key twice"),
        pytest.param(encoded(extra="x"), id="unknown key"),
        pytest.param(encoded(tcb_info="\ud800"), id="lone surrogate"),
    ],
)
def test_other_documents_are_refused(data):
    refused(data)


def test_the_bound_comes_before_the_parser():
    refused(encoded(tcb_info="x" * MAX_COLLATERAL_SIZE))
    largest = DATA + b" " * (MAX_COLLATERAL_SIZE - len(DATA))
    assert parse_collateral(largest) == parse_collateral(DATA)
    refused(largest + b" ")
