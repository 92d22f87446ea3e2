"""TDX quotes v4 and v5: bytes to values and back, one spelling only; real ones are judged as expected."""

import dataclasses
import json
import struct
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.attest.measurement import Measurement, Tee
from assay.attest.quote import tdx
from assay.attest.quote.collateral import parse_collateral
from assay.attest.quote.parse import parse_quote
from assay.attest.quote.verify import verify_quote
from assay.attest.roots import Platform, TrustedRoot, intel_sgx_root
from assay.tlog.errors import LogError, MalformedError, UntrustedError

SIM = Path(__file__).parents[1] / "vectors" / "quotes" / "sim"
SIM_ROOT = TrustedRoot("simulated", (SIM / "root.der").read_bytes())
INTEL = intel_sgx_root(resources.files("assay.attest.roots").joinpath("intel_sgx_root_ca.der").read_bytes())
SIMULATED = ("tdx_v4_up_to_date", "tdx_v5_up_to_date")
REAL = ("gcp_v4", "gotdx_v5", "phala_v4")
REFUSED = {"sept_ve_disable_off": "td-attributes", "service_td": "td-attributes"}
V4 = (SIM / "tdx_v4_up_to_date" / "quote.bin").read_bytes()
V5 = (SIM / "tdx_v5_up_to_date" / "quote.bin").read_bytes()


def field(layout):
    """A value for a field of a layout, as a hypothesis strategy."""
    if layout == "Q":
        return st.integers(0, 2**64 - 1)
    if layout == "B":
        return st.integers(0, 255)
    return st.binary(min_size=int(layout[:-1]), max_size=int(layout[:-1]))


def part(kind, layout):
    return st.builds(kind, **{name: field(code) for name, code in layout})


BODIES = st.one_of(
    st.builds(tdx.TdBody, part(tdx.TdReport, tdx._TD10)),
    st.builds(tdx.TdBody, part(tdx.TdReport, tdx._TD10), part(tdx.Td15, tdx._TD15)),
    st.builds(
        tdx.TdBody,
        part(tdx.TdReport, tdx._TD10),
        part(tdx.Td15, tdx._TD15),
        part(tdx.Td15Ex, tdx._TD15_EX),
    ),
)


def load(folder):
    collateral = parse_collateral((folder / "collateral.json").read_bytes())
    return (folder / "quote.bin").read_bytes(), collateral, json.loads((folder / "meta.json").read_text())


def refused(data):
    with pytest.raises(MalformedError) as caught:
        tdx.parse_quote(data)
    return caught.value.code


def read_as_expected(data, expected):
    quote = parse_quote(data)
    assert tdx.format_quote(quote) == data
    assert quote.header.version == expected["version"]
    report = quote.body.report
    for name in (
        *("tee_tcb_svn", "mr_seam", "mr_signer_seam", "seam_attributes", "xfam", "mr_td", "mr_config_id"),
        *("mr_owner", "mr_owner_config", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "report_data"),
    ):
        assert getattr(report, name).hex() == expected[name], name
    assert report.attributes.to_bytes(8, "little").hex() == expected["td_attributes"]
    assert report.debug is expected["debug"]
    if "mr_service_td" in expected:
        assert quote.body.td15.mr_service_td.hex() == expected["mr_service_td"]
        assert quote.body.td15.tee_tcb_svn2.hex() == expected["tee_tcb_svn2"]
    assert len(quote.signed_bytes) == expected.get("signed_length", len(quote.signed_bytes))
    assert data.startswith(quote.signed_bytes)


def judged_as_expected(folder, root):
    quote, collateral, meta = load(folder)
    expected = meta["expected"]
    verified = verify_quote(quote, collateral, root=root, now_s=meta["verify_at"])
    assert verified.tcb_status == expected["status"]
    assert list(verified.advisories) == expected["advisories"]
    assert verified.evaluation_number == expected["tcb_evaluation_data_number"]
    assert verified.fmspc.hex().upper() == expected["fmspc"]
    assert verified.measurement == Measurement(Tee.TDX, bytes.fromhex(expected["mr_td"]))
    assert verified.report_data.hex() == expected["report_data"]
    return verified


@pytest.mark.parametrize("name", SIMULATED)
def test_a_simulated_quote_reads_and_is_judged_as_expected(name):
    read_as_expected((SIM / name / "quote.bin").read_bytes(), load(SIM / name)[2]["expected"])
    assert judged_as_expected(SIM / name, SIM_ROOT).platform is Platform.SIMULATED


@pytest.mark.parametrize("name", [*REAL, *REFUSED])
def test_a_real_quote_reads_as_expected(vectors, name):
    folder = vectors / "quotes" / "tdx" / name
    meta = load(folder)[2]
    read_as_expected((folder / "quote.bin").read_bytes(), meta.get("expected") or meta["fields"])


@pytest.mark.parametrize("name", REAL)
def test_a_real_quote_is_judged_as_expected(vectors, name):
    assert judged_as_expected(vectors / "quotes" / "tdx" / name, INTEL).platform is Platform.INTEL


@pytest.mark.parametrize("name", REFUSED)
def test_a_real_td_that_is_not_alone_is_refused(vectors, name):
    quote, collateral, meta = load(vectors / "quotes" / "tdx" / name)
    with pytest.raises(UntrustedError) as caught:
        verify_quote(quote, collateral, root=INTEL, now_s=meta["verify_at"])
    assert caught.value.code == REFUSED[name]


@pytest.mark.parametrize("name", SIMULATED)
def test_intels_root_vouches_for_no_simulated_quote(name):
    quote, collateral, meta = load(SIM / name)
    with pytest.raises(UntrustedError) as caught:
        verify_quote(quote, collateral, root=INTEL, now_s=meta["verify_at"])
    assert caught.value.code == "wrong-root"


def test_every_vector_is_judged_here(vectors):
    assert {folder.name for folder in (vectors / "quotes" / "tdx").iterdir()} == {*REAL, *REFUSED}
    assert {folder.name for folder in SIM.glob("tdx_*")} == set(SIMULATED)


STRUCTURAL = {"bad-length", "length-mismatch", "unsupported", "unsupported-cert-data", "malformed-quote"}
SIGNATURE = {"bad-quote-signature", "not-intel-qe"}


def flips_are_refused(quote, collateral, root, now_s, signed):
    for position in range(signed):
        data = bytearray(quote)
        data[position] ^= 1 << position % 8
        with pytest.raises(LogError) as caught:
            verify_quote(bytes(data), collateral, root=root, now_s=now_s)
        assert caught.value.code in STRUCTURAL | SIGNATURE, position


@pytest.mark.parametrize("name", SIMULATED)
def test_every_flipped_byte_of_the_signed_part_is_refused(name):
    quote, collateral, meta = load(SIM / name)
    flips_are_refused(quote, collateral, SIM_ROOT, meta["verify_at"], len(parse_quote(quote).signed_bytes))


@pytest.mark.parametrize("name", ["tdx/gcp_v4", "tdx/gotdx_v5", "tdx/phala_v4", "sgx/phala_v3"])
def test_every_flipped_byte_of_the_signed_part_of_a_real_quote_is_refused(vectors, name):
    quote, collateral, meta = load(vectors / "quotes" / name)
    signed = len(parse_quote(quote).signed_bytes)
    assert signed == meta["expected"]["signed_length"]
    flips_are_refused(quote, collateral, INTEL, meta["verify_at"], signed)


@given(BODIES)
def test_bodies_come_out_as_they_went_in(body):
    data = tdx.format_body(body)
    assert len(data) == tdx.BODY_SIZES[body.body_type]
    assert tdx.parse_body(data) == body
    quote = tdx.parse_quote(V5)
    again = dataclasses.replace(quote, body=body)
    assert tdx.parse_quote(tdx.format_quote(again)) == again


def test_an_extended_part_needs_the_part_before_it():
    quote = tdx.parse_quote(V5)
    extended = tdx.Td15Ex(*(bytes(int(code[:-1])) if code.endswith("s") else 0 for _, code in tdx._TD15_EX))
    with pytest.raises(MalformedError):
        tdx.TdBody(quote.body.report, None, extended)


@pytest.mark.parametrize("name", [name for name, _ in tdx._TD10])
def test_a_report_with_a_field_of_another_size_cannot_be_made(name):
    report = tdx.parse_quote(V4).body.report
    value = getattr(report, name)
    for wrong in (2**64, -1) if isinstance(value, int) else (value + b"\0", value[:-1], b""):
        with pytest.raises(MalformedError):
            dataclasses.replace(report, **{name: wrong})


@pytest.mark.parametrize("data", [V4, V5], ids=["v4", "v5"])
def test_no_other_length_is_read(data):
    for size in range(len(data)):
        assert refused(data[:size]) in {"bad-length", "length-mismatch"}, size
    for more in (1, 100):
        assert refused(data + bytes(more)) == "length-mismatch"
    assert refused(data + bytes(tdx.MAX_QUOTE_SIZE)) == "bad-length"


@pytest.mark.parametrize(
    ("offset", "code", "value", "expected"),
    [
        (0, "<H", 3, "unsupported"),
        (0, "<H", 6, "unsupported"),
        (2, "<H", 3, "unsupported"),
        (4, "<I", 0, "unsupported"),
        (4, "<I", 0x82, "unsupported"),
        (48, "<H", 1, "unsupported"),
        (48, "<H", 5, "unsupported"),
        (48, "<H", 2, "length-mismatch"),
        (48, "<H", 4, "length-mismatch"),
        (50, "<I", 584, "length-mismatch"),
        (50, "<I", 2**32 - 1, "length-mismatch"),
        (702, "<I", 0, "length-mismatch"),
        (702, "<I", 2**32 - 1, "length-mismatch"),
        (834, "<H", 5, "unsupported-cert-data"),
        (836, "<I", 0, "length-mismatch"),
        (836 + 4 + 448, "<H", 0xFFFF, "length-mismatch"),
    ],
)
def test_a_field_that_says_something_else_is_refused(offset, code, value, expected):
    data = bytearray(V5)
    struct.pack_into(code, data, offset, value)
    assert refused(bytes(data)) == expected


@given(st.binary(max_size=3000))
def test_what_parses_is_written_back_byte_for_byte(data):
    for start in (V4[:632], V5[:702]):
        try:
            quote = tdx.parse_quote(start + data)
        except MalformedError:
            continue
        assert tdx.format_quote(quote) == start + data


@given(st.binary(max_size=2000))
def test_garbage_is_refused_with_a_code(data):
    with pytest.raises(MalformedError) as caught:
        parse_quote(data)
    assert caught.value.code in STRUCTURAL
