"""The verdict: real and simulated quotes, roots that do not vouch, and what a verdict says."""

import hashlib
import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.attest.measurement import Measurement, Tee
from assay.attest.quote import dcap, sgx, verify
from assay.attest.quote.collateral import Collateral, parse_collateral
from assay.attest.quote.pck import PckCa
from assay.attest.quote.verify import verify_sgx_quote
from assay.attest.roots import Platform, TrustedRoot, intel_sgx_root
from assay.attest.simulated.platform import QE_FLAGS, SimulatedPlatform, Variant
from assay.tlog.errors import LogError, MalformedError, StaleError, UntrustedError

SIM = Path(__file__).parents[1] / "vectors" / "quotes" / "sim"
SIM_ROOT = TrustedRoot("simulated", (SIM / "root.der").read_bytes())
INTEL = intel_sgx_root(resources.files("assay.attest.roots").joinpath("intel_sgx_root_ca.der").read_bytes())

SIM_REFUSALS = {
    "sgx_collateral_expired": (StaleError, "collateral-expired"),
    "sgx_debug": (UntrustedError, "debug"),
    "sgx_pck_revoked": (UntrustedError, "revoked"),
    "sgx_tcb_info_signed_by_pck": (UntrustedError, "wrong-collateral-signer"),
    "sgx_trailing_byte": (MalformedError, "length-mismatch"),
}
SIM_VERDICTS = ("sgx_out_of_date", "sgx_sw_hardening_needed", "sgx_up_to_date")

T = 1_760_000_000
DAY = 86_400
PLATFORM = SimulatedPlatform(b"\x03" * 32, epoch_s=T)
REPORT = PLATFORM.report(
    mr_enclave=b"\x11" * 32, mr_signer=b"\x22" * 32, isv_prod_id=3, isv_svn=4, report_data=b"\x55" * 64
)
QUOTE = PLATFORM.quote(REPORT)
COLLATERAL = PLATFORM.collateral(issued_s=T - DAY)
ROOT = TrustedRoot("ours", PLATFORM.root_der)


def load(folder: Path) -> tuple[bytes, Collateral, dict]:
    collateral = parse_collateral((folder / "collateral.json").read_bytes())
    return (folder / "quote.bin").read_bytes(), collateral, json.loads((folder / "meta.json").read_text())


def refusal(quote: bytes, collateral: Collateral, root: TrustedRoot, now_s: int) -> tuple[type, str]:
    with pytest.raises(LogError) as caught:
        verify_sgx_quote(quote, collateral, root=root, now_s=now_s)
    return type(caught.value), caught.value.code


def check_expected(verified, expected: dict) -> None:
    assert verified.tcb_status == expected["status"]
    assert list(verified.advisories) == expected["advisories"]
    assert verified.evaluation_number == expected["tcb_evaluation_data_number"]
    assert verified.fmspc.hex().upper() == expected["fmspc"]
    assert verified.mr_enclave.hex() == expected["mr_enclave"]
    assert verified.mr_signer.hex() == expected["mr_signer"]
    assert (verified.isv_prod_id, verified.isv_svn) == (expected["isv_prod_id"], expected["isv_svn"])
    assert verified.attributes.hex() == expected["attributes"]
    assert verified.report_data.hex() == expected["report_data"]


def test_every_vector_of_ours_is_judged_here():
    assert {folder.name for folder in SIM.glob("sgx_*")} == {*SIM_REFUSALS, *SIM_VERDICTS}


@pytest.mark.parametrize("name", SIM_VERDICTS)
def test_a_simulated_vector_has_its_expected_verdict(name):
    quote, collateral, meta = load(SIM / name)
    verified = verify_sgx_quote(quote, collateral, root=SIM_ROOT, now_s=meta["verify_at"])
    check_expected(verified, meta["expected"])
    assert (verified.platform, verified.root_name) == (Platform.SIMULATED, "simulated")


@pytest.mark.parametrize("name", SIM_REFUSALS)
def test_a_simulated_vector_has_its_expected_refusal(name):
    quote, collateral, meta = load(SIM / name)
    assert refusal(quote, collateral, SIM_ROOT, meta["verify_at"]) == SIM_REFUSALS[name]


@pytest.mark.parametrize("name", sorted({*SIM_REFUSALS, *SIM_VERDICTS} - {"sgx_trailing_byte"}))
def test_intels_root_vouches_for_no_simulated_quote(name):
    quote, collateral, meta = load(SIM / name)
    assert refusal(quote, collateral, INTEL, meta["verify_at"])[0] in {UntrustedError, StaleError}


def test_intels_root_refuses_a_perfect_simulated_quote_as_of_another_root():
    assert refusal(QUOTE, COLLATERAL, INTEL, T) == (UntrustedError, "wrong-root")


def test_a_real_quote_has_its_expected_verdict(vectors):
    quote, collateral, meta = load(vectors / "quotes" / "sgx" / "phala_v3")
    verified = verify_sgx_quote(quote, collateral, root=INTEL, now_s=meta["verify_at"])
    check_expected(verified, meta["expected"])
    assert (verified.platform, verified.root_name) == (Platform.INTEL, "intel")
    assert verified.valid_from_s <= meta["verify_at"] <= verified.valid_until_s


def test_a_real_debug_quote_is_refused(vectors):
    quote, collateral, meta = load(vectors / "quotes" / "sgx" / "debug_enclave")
    assert refusal(quote, collateral, INTEL, meta["verify_at"]) == (UntrustedError, "debug")


def test_crls_of_after_the_judgement_are_refused(vectors):
    quote, collateral, meta = load(vectors / "quotes" / "sgx" / "oasis_v3")
    assert meta["expected_if_crl_this_update_is_checked"] == "refused"
    assert refusal(quote, collateral, INTEL, meta["verify_at"]) == (StaleError, "collateral-not-yet-valid")


@pytest.mark.parametrize("name", ["debug_enclave", "oasis_v3", "phala_v3"])
def test_a_simulated_root_vouches_for_no_real_quote(vectors, name):
    quote, collateral, meta = load(vectors / "quotes" / "sgx" / name)
    assert refusal(quote, collateral, SIM_ROOT, meta["verify_at"]) == (UntrustedError, "wrong-root")
    assert refusal(quote, COLLATERAL, ROOT, T) == (UntrustedError, "untrusted-chain")


def test_a_verdict_says_what_was_used():
    verified = verify_sgx_quote(QUOTE, COLLATERAL, root=ROOT, now_s=T)
    assert verified.report == REPORT
    assert verified.measurement == Measurement(Tee.SGX, b"\x11" * 32)
    assert (verified.mr_signer, verified.isv_prod_id, verified.isv_svn) == (b"\x22" * 32, 3, 4)
    assert verified.report_data == b"\x55" * 64
    assert verified.report.debug is False
    assert verified.evidence_id == hashlib.sha256(QUOTE[:432]).hexdigest()
    assert verified.collateral_id == COLLATERAL.collateral_id
    assert verified.fmspc == PLATFORM.fmspc
    assert len(verified.ppid_sha256) == 64
    assert (verified.valid_from_s, verified.valid_until_s) == (T - DAY, T + 29 * DAY)


def test_the_verdict_holds_exactly_in_its_window():
    verified = verify_sgx_quote(QUOTE, COLLATERAL, root=ROOT, now_s=T)
    for now_s in (verified.valid_from_s, verified.valid_until_s - 1):
        assert verify_sgx_quote(QUOTE, COLLATERAL, root=ROOT, now_s=now_s) == verified
    assert refusal(QUOTE, COLLATERAL, ROOT, verified.valid_from_s - 1)[0] is StaleError
    assert refusal(QUOTE, COLLATERAL, ROOT, verified.valid_until_s + 1)[0] is StaleError


@pytest.mark.parametrize("ca", list(PckCa))
def test_both_kinds_of_platform_verify(ca):
    platform = SimulatedPlatform(b"\x04" * 32, epoch_s=T, variant=Variant(ca=ca))
    root = TrustedRoot("ours", platform.root_der)
    verified = verify_sgx_quote(platform.quote(REPORT), platform.collateral(issued_s=T), root=root, now_s=T)
    assert verified.tcb_status == "UpToDate"


def test_collateral_issued_again_serves_an_old_quote():
    later_s = T + 3 * 365 * DAY
    verified = verify_sgx_quote(QUOTE, PLATFORM.collateral(issued_s=later_s), root=ROOT, now_s=later_s)
    assert verified.tcb_status == "UpToDate"
    assert refusal(QUOTE, COLLATERAL, ROOT, later_s) == (StaleError, "collateral-expired")


def test_every_flipped_byte_of_the_signed_part_is_refused():
    for position in range(sgx.SIGNED_SIZE):
        data = bytearray(QUOTE)
        data[position] ^= 0x80
        error, code = refusal(bytes(data), COLLATERAL, ROOT, T)
        assert code in {"bad-quote-signature", "not-intel-qe", "unsupported", "debug"}, position
        assert error is not StaleError


def test_every_truncation_is_refused():
    for size in range(len(QUOTE)):
        error, code = refusal(QUOTE[:size], COLLATERAL, ROOT, T)
        assert (error, code) in {(MalformedError, "bad-length"), (MalformedError, "length-mismatch")}, size


@pytest.mark.slow
def test_every_flipped_byte_is_refused_or_proves_the_same():
    expected = verify_sgx_quote(QUOTE, COLLATERAL, root=ROOT, now_s=T)
    refused = 0
    for position in range(len(QUOTE)):
        data = bytearray(QUOTE)
        data[position] ^= 0x01
        try:
            assert verify_sgx_quote(bytes(data), COLLATERAL, root=ROOT, now_s=T) == expected, position
        except LogError:
            refused += 1
    assert refused > 3_000


@pytest.mark.slow
@pytest.mark.parametrize("part", sorted(Collateral.__dataclass_fields__))
def test_every_changed_byte_of_the_collateral_is_refused_or_proves_the_same(part):
    expected = verify_sgx_quote(QUOTE, COLLATERAL, root=ROOT, now_s=T)
    value = getattr(COLLATERAL, part)
    for position in range(len(value)):
        data = bytearray(value.encode() if isinstance(value, str) else value)
        data[position] ^= 0x01
        changed = replace(COLLATERAL, **{part: data.decode() if isinstance(value, str) else bytes(data)})
        try:
            verified = verify_sgx_quote(QUOTE, changed, root=ROOT, now_s=T)
        except LogError:
            continue
        assert replace(verified, collateral_id=expected.collateral_id) == expected, position


@given(st.binary(max_size=3000))
def test_garbage_behind_a_good_header_is_refused(data):
    assert refusal(QUOTE[:432] + data, COLLATERAL, ROOT, T)[0] is not StaleError


@given(st.integers(-(2**70), 2**70))
def test_any_time_gives_a_verdict_or_a_refusal(now_s):
    if not T - DAY <= now_s <= T + 29 * DAY:
        assert refusal(QUOTE, COLLATERAL, ROOT, now_s)[0] is StaleError


def test_two_readings_of_one_certificate_are_refused(monkeypatch):
    genuine = dcap.appraise

    def differing(*args, **kwargs):
        return replace(genuine(*args, **kwargs), ppid=bytes(16))

    monkeypatch.setattr(dcap, "appraise", differing)
    assert refusal(QUOTE, COLLATERAL, ROOT, T) == (MalformedError, "malformed-quote")


@pytest.mark.parametrize("which", ["enclave", "quoting enclave"])
def test_debug_is_refused_even_if_the_library_did_not_mind(monkeypatch, which):
    claims = dcap.appraise(QUOTE, COLLATERAL, root=ROOT, now_s=T)
    monkeypatch.setattr(dcap, "appraise", lambda *args, **kwargs: claims)
    platform, report = PLATFORM, replace(REPORT, flags=REPORT.flags | sgx.FLAG_DEBUG)
    if which == "quoting enclave":
        variant = Variant(qe_flags=QE_FLAGS | sgx.FLAG_DEBUG)
        platform, report = SimulatedPlatform(b"\x03" * 32, epoch_s=T, variant=variant), REPORT
    assert refusal(platform.quote(report), COLLATERAL, ROOT, T) == (UntrustedError, "debug")


def test_a_status_that_the_library_invents_is_refused(monkeypatch):
    claims = replace(dcap.appraise(QUOTE, COLLATERAL, root=ROOT, now_s=T), tcb_status="Fantastic")
    monkeypatch.setattr(dcap, "appraise", lambda *args, **kwargs: claims)
    assert refusal(QUOTE, COLLATERAL, ROOT, T) == (UntrustedError, "invalid")


@pytest.mark.parametrize("part", ["tcb_info_issuer_chain", "qe_identity_issuer_chain"])
def test_the_library_sees_exactly_the_certificates_that_are_checked(monkeypatch, part):
    seen = []
    genuine = dcap.appraise

    def watching(quote, collateral, **arguments):
        seen.append(collateral)
        return genuine(quote, collateral, **arguments)

    monkeypatch.setattr(dcap, "appraise", watching)
    given = replace(COLLATERAL, **{part: "text\n" + getattr(COLLATERAL, part) + "-----BEGIN X-----\n"})
    assert verify_sgx_quote(QUOTE, given, root=ROOT, now_s=T).collateral_id == given.collateral_id
    assert seen == [COLLATERAL]


@pytest.mark.parametrize("message", ["", "anything new", "verification failed"])
def test_a_reason_that_is_not_in_the_table_is_still_a_refusal(monkeypatch, message):
    def failing(*_):
        raise ValueError(message)

    monkeypatch.setattr(dcap.dcap_qvl, "verify_with_root_ca", failing)
    assert refusal(QUOTE, COLLATERAL, ROOT, T) == (UntrustedError, "invalid")


def test_codes_are_kebab_case():
    codes = {known.code for known in dcap._REFUSALS}
    assert all(code == code.lower() and "_" not in code and " " not in code for code in codes)


def test_there_is_no_default_root_and_no_default_time():
    parameters = verify.verify_sgx_quote.__kwdefaults__
    assert not parameters
    with pytest.raises(TypeError):
        verify_sgx_quote(QUOTE, COLLATERAL)
