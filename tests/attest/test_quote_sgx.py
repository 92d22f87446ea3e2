"""SGX quote v3: bytes to values and back, one spelling only."""

import dataclasses
import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.attest.quote import sgx
from assay.tlog.errors import MalformedError

SIM = Path(__file__).parents[1] / "vectors" / "quotes" / "sim"
QUOTE = (SIM / "sgx_up_to_date" / "quote.bin").read_bytes()
REAL = ("debug_enclave", "oasis_v3", "phala_v3")

reports = st.builds(
    sgx.ReportBody,
    cpu_svn=st.binary(min_size=16, max_size=16),
    misc_select=st.integers(0, 2**32 - 1),
    reserved1=st.binary(min_size=28, max_size=28),
    flags=st.integers(0, 2**64 - 1),
    xfrm=st.integers(0, 2**64 - 1),
    mr_enclave=st.binary(min_size=32, max_size=32),
    reserved2=st.binary(min_size=32, max_size=32),
    mr_signer=st.binary(min_size=32, max_size=32),
    reserved3=st.binary(min_size=96, max_size=96),
    isv_prod_id=st.integers(0, 2**16 - 1),
    isv_svn=st.integers(0, 2**16 - 1),
    reserved4=st.binary(min_size=60, max_size=60),
    report_data=st.binary(min_size=64, max_size=64),
)
signatures = st.builds(
    sgx.QuoteSignature,
    signature=st.binary(min_size=64, max_size=64),
    attestation_key=st.binary(min_size=64, max_size=64),
    qe_report=reports,
    qe_signature=st.binary(min_size=64, max_size=64),
    qe_auth_data=st.binary(max_size=64),
    certification_type=st.integers(0, 2**16 - 1),
    certification_data=st.binary(max_size=64),
)


def refused(data: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        sgx.parse_quote(data)
    return caught.value.code


def changed(quote: sgx.QuoteV3, **fields) -> bytes:
    return sgx.format_quote(dataclasses.replace(quote, header=dataclasses.replace(quote.header, **fields)))


@pytest.mark.parametrize("folder", sorted(p.name for p in SIM.glob("sgx_*") if p.name != "sgx_trailing_byte"))
def test_simulated_quotes_come_out_byte_for_byte(folder):
    data = (SIM / folder / "quote.bin").read_bytes()
    assert sgx.format_quote(sgx.parse_quote(data)) == data


@pytest.mark.parametrize("name", REAL)
def test_real_quotes_come_out_byte_for_byte_and_read_as_expected(vectors, name):
    folder = vectors / "quotes" / "sgx" / name
    data, meta = (folder / "quote.bin").read_bytes(), json.loads((folder / "meta.json").read_text())
    expected = meta.get("expected") or meta["fields"]
    quote = sgx.parse_quote(data)
    assert sgx.format_quote(quote) == data
    assert quote.body.mr_enclave.hex() == expected["mr_enclave"]
    assert quote.body.mr_signer.hex() == expected["mr_signer"]
    assert (quote.body.isv_prod_id, quote.body.isv_svn) == (expected["isv_prod_id"], expected["isv_svn"])
    assert quote.body.attributes.hex() == expected["attributes"]
    assert quote.body.report_data.hex() == expected["report_data"]
    assert quote.body.cpu_svn.hex() == expected["cpu_svn"]
    assert quote.body.debug is expected["debug"]
    assert quote.header.qe_vendor_id == sgx.INTEL_QE_VENDOR_ID


def test_fields_lie_at_their_documented_offsets():
    quote = sgx.parse_quote(QUOTE)
    assert quote.signed_bytes == QUOTE[:432]
    assert quote.evidence_id == hashlib.sha256(QUOTE[:432]).hexdigest()
    assert quote.body.mr_enclave == QUOTE[112:144]
    assert quote.body.mr_signer == QUOTE[176:208]
    assert (quote.body.isv_prod_id, quote.body.isv_svn) == struct.unpack("<HH", QUOTE[304:308])
    assert quote.body.report_data == QUOTE[368:432]
    assert quote.signature.attestation_key == QUOTE[500:564]
    assert quote.signature.qe_auth_data == QUOTE[1014:1046]
    assert quote.signature.certification_data == QUOTE[1052:]


@given(reports)
def test_every_report_comes_back(report):
    data = sgx.format_report(report)
    assert len(data) == sgx.REPORT_SIZE
    assert sgx.parse_report(data) == report


@given(reports, signatures)
def test_every_quote_comes_back(report, signature):
    quote = sgx.QuoteV3(sgx.parse_quote(QUOTE).header, report, signature)
    assert sgx.parse_quote(sgx.format_quote(quote)) == quote


def test_every_truncation_is_refused():
    codes = {refused(QUOTE[:size]) for size in range(len(QUOTE))}
    assert codes == {"bad-length", "length-mismatch"}


@pytest.mark.parametrize("size", [0, 47, 48, 432, 1019])
def test_what_is_too_short_is_refused_before_it_is_read(size):
    assert refused(QUOTE[:size]) == "bad-length"


@pytest.mark.parametrize(
    ("junk", "code"),
    [(b"\0", "length-mismatch"), (b"\0" * 4000, "length-mismatch"), (bytes(2**20), "bad-length")],
)
def test_bytes_behind_the_quote_are_refused(junk, code):
    assert refused(QUOTE + junk) == code


def test_a_gap_between_nested_lengths_is_refused():
    # The outer length grows with the junk, the certification data's does not.
    size = struct.unpack_from("<I", QUOTE, 432)[0]
    grown = QUOTE[:432] + struct.pack("<I", size + 1) + QUOTE[436:] + b"\0"
    assert refused(grown) == "length-mismatch"


@pytest.mark.parametrize(
    ("offset", "code", "value"),
    [
        pytest.param(432, "<I", 0, id="signature data empty"),
        pytest.param(432, "<I", 2**32 - 1, id="signature data huge"),
        pytest.param(1012, "<H", 31, id="authentication data short"),
        pytest.param(1012, "<H", 33, id="authentication data long"),
        pytest.param(1012, "<H", 2**16 - 1, id="authentication data overruns"),
        pytest.param(1048, "<I", 0, id="certification data empty"),
        pytest.param(1048, "<I", 2**32 - 1, id="certification data huge"),
    ],
)
def test_a_length_that_does_not_fill_its_container_is_refused(offset, code, value):
    data = bytearray(QUOTE)
    struct.pack_into(code, data, offset, value)
    assert refused(bytes(data)) == "length-mismatch"


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 2},
        {"version": 4},
        {"version": 5},
        {"tee_type": 0x81},
        {"tee_type": 1},
        {"attestation_key_type": 3},
        {"attestation_key_type": 0},
    ],
)
def test_other_versions_tees_and_key_types_are_refused(fields):
    assert refused(changed(sgx.parse_quote(QUOTE), **fields)) == "unsupported"


@given(st.binary(max_size=1500))
def test_garbage_is_refused_as_malformed(data):
    refused(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mr_enclave", bytes(31)),
        ("mr_enclave", bytes(33)),
        ("report_data", b""),
        ("cpu_svn", bytes(17)),
        ("isv_svn", 2**16),
        ("isv_prod_id", -1),
        ("flags", 2**64),
        ("misc_select", 2**32),
    ],
)
def test_a_value_that_does_not_fit_is_never_padded_or_cut(field, value):
    report = sgx.parse_quote(QUOTE).body
    with pytest.raises(MalformedError):
        dataclasses.replace(report, **{field: value})


def test_a_report_has_one_length():
    for size in (0, 383, 385):
        with pytest.raises(MalformedError):
            sgx.parse_report(bytes(size))


@pytest.mark.parametrize(("flags", "debug"), [(0x05, False), (0x07, True), (0x02, True), (0xFD, False)])
def test_debug_is_the_second_flag(flags, debug):
    report = dataclasses.replace(sgx.parse_quote(QUOTE).body, flags=flags)
    assert report.debug is debug
    assert report.attributes[0] == flags


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("assay.attest.quote.sgx", {"dcap_qvl", "cryptography", "json"}),
        ("assay.attest.quote.pck", {"dcap_qvl"}),
        ("assay.attest.quote.collateral", {"dcap_qvl"}),
        ("assay.attest.roots", {"dcap_qvl"}),
        ("assay.attest.simulated.platform", {"dcap_qvl"}),
    ],
)
def test_what_the_enclave_imports_stays_small(module, absent):
    code = f"import sys, {module}; print(*sys.modules)"
    source = Path(__file__).parents[2] / "src"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(source)},
    ).stdout.split()
    assert module in loaded
    assert not absent & set(loaded)
