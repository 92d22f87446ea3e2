"""The simulated platform: deterministic, unmistakable, and one identity over many issues of collateral."""

import hashlib
import json
from dataclasses import replace

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from assay.attest import p256
from assay.attest.quote import pck, sgx
from assay.attest.quote.collateral import format_collateral
from assay.attest.simulated import pcs
from assay.attest.simulated.keys import private_key, public_point
from assay.attest.simulated.platform import HEALTHY, SimulatedPlatform, Variant
from assay.tlog.errors import MalformedError

T = 1_760_000_000
SEED = bytes(range(32))
FIELDS = {
    "mr_enclave": b"\x11" * 32,
    "mr_signer": b"\x22" * 32,
    "isv_prod_id": 1,
    "isv_svn": 2,
    "report_data": hashlib.sha256(b"pk").digest() + bytes(32),
}
REAL_FMSPCS = {"00906ea10000", "00606a000000", "00a067110000", "50806f000000", "b0c06f000000", "90c06f000000"}


@pytest.fixture(scope="module")
def platform():
    return SimulatedPlatform(SEED, epoch_s=T)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_fixed_arguments_give_golden_bytes(platform):
    assert sha256(platform.root_der) == "64f5f1667189e449252452d7d5cbaaf8b0837dc3af3dfdec91129ed80434ceb6"
    assert (
        sha256(platform.quote(platform.report(**FIELDS)))
        == "d3d5988e4ae2529f42b0c805c16604786000642058e03c65c0778f537c2cc631"
    )
    assert (
        platform.collateral(issued_s=T).collateral_id
        == "a1bdde86c70c17b3fc45d0b0a850dddec01de454cb8ff73887028461ea6bc8c0"
    )
    assert platform.seal_key(b"\x11" * 32).hex() == "289c3008346cfcf13c037181effcac09"


def test_two_machines_of_one_seed_are_one(platform):
    twin = SimulatedPlatform(SEED, epoch_s=T)
    assert twin.quote(twin.report(**FIELDS)) == platform.quote(platform.report(**FIELDS))
    assert twin.collateral(issued_s=T) == platform.collateral(issued_s=T)


@given(st.binary(min_size=32, max_size=32).filter(lambda seed: seed != SEED))
def test_another_seed_and_another_label_share_nothing(seed):
    points = {public_point(private_key(s, label)) for s in (SEED, seed) for label in ("root", "pck")}
    assert len(points) == 4


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_seed_has_32_bytes(size):
    with pytest.raises(MalformedError):
        SimulatedPlatform(bytes(size), epoch_s=T)


def test_collateral_is_issued_again_under_the_same_root(platform):
    first, later = platform.collateral(issued_s=T), platform.collateral(issued_s=T + 40 * 86_400)
    assert first.tcb_info_issuer_chain == later.tcb_info_issuer_chain
    assert first.pck_crl_issuer_chain == later.pck_crl_issuer_chain
    assert first.collateral_id != later.collateral_id


@pytest.mark.parametrize("epoch_s", [0, T, 4_000_000_000])
def test_another_epoch_is_another_root_of_the_same_key(platform, epoch_s):
    other = SimulatedPlatform(SEED, epoch_s=epoch_s)
    assert (other.root_der == platform.root_der) is (epoch_s == T)
    assert other.root.certificate.public_key() == platform.root.certificate.public_key()


def test_every_name_says_that_it_is_a_simulation(platform):
    for holder in (platform.root, platform.ca, platform.pck, platform.tcb_signer):
        for name in (holder.certificate.subject, holder.certificate.issuer):
            (organization,) = name.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
            (common_name,) = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
            assert organization.value == "SIMULATION - NOT INTEL"
            assert common_name.value.startswith("SIMULATED ")


def test_its_fmspc_is_none_of_intels(platform):
    assert platform.fmspc.hex().startswith("51d0")
    assert platform.fmspc.hex() not in REAL_FMSPCS


@pytest.mark.parametrize("ca", list(pck.PckCa))
def test_the_quote_carries_the_platforms_certificate(ca):
    platform = SimulatedPlatform(SEED, epoch_s=T, variant=Variant(ca=ca))
    found = pck.unverified_pck(sgx.parse_quote(platform.quote(platform.report(**FIELDS))))
    assert found.ca is ca
    assert found.extension.fmspc == platform.fmspc
    assert (found.extension.configuration is None) is (ca is pck.PckCa.PROCESSOR)


def test_certificates_have_the_shape_that_verifiers_ask_for(platform):
    for holder in (platform.root, platform.ca, platform.pck, platform.tcb_signer):
        certificate = holder.certificate
        assert 0 < certificate.serial_number < 2**159
        assert certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        assert certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert constraints.value.ca is (holder in (platform.root, platform.ca))
    serials = {
        h.certificate.serial_number for h in (platform.root, platform.ca, platform.pck, platform.tcb_signer)
    }
    assert len(serials) == 4
    assert not platform.pck.certificate.extensions.get_extension_for_oid(pck.SGX_EXTENSION).critical


def test_keys_are_not_in_reprs(platform):
    assert "key" not in repr(platform.root)
    assert SEED.hex() not in repr(platform)


def test_the_report_is_what_the_quote_signs(platform):
    report = platform.report(**FIELDS, debug=True)
    assert report.debug
    assert not platform.report(**FIELDS).debug
    assert sgx.parse_quote(platform.quote(report)).body == report


def test_texts_are_signed_byte_for_byte(platform):
    collateral = platform.collateral(issued_s=T)
    key = platform.tcb_signer.certificate.public_key()
    p256.verify(key, collateral.tcb_info_signature, collateral.tcb_info.encode())
    p256.verify(key, collateral.qe_identity_signature, collateral.qe_identity.encode())
    assert " " not in collateral.tcb_info
    assert json.loads(collateral.tcb_info)["issueDate"] == "2025-10-09T08:53:20Z"


def test_seal_keys_differ_by_enclave_and_by_machine(platform):
    other = SimulatedPlatform(bytes(32), epoch_s=T)
    keys = {m.seal_key(e) for m in (platform, other) for e in (b"\x11" * 32, b"\x12" * 32)}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {16}


def test_seal_keys_survive_a_microcode_update(platform):
    updated = SimulatedPlatform(SEED, epoch_s=T, variant=replace(HEALTHY, cpu_svn=b"\xff" * 16))
    assert updated.seal_key(b"\x11" * 32) == platform.seal_key(b"\x11" * 32)


def test_the_simulators_texts_are_those_of_the_golden_vectors():
    # The vectors were made by another simulator: same levels, other epoch.
    platform = SimulatedPlatform(SEED, epoch_s=1_762_000_000)
    info = json.loads(platform.collateral(issued_s=1_761_913_600).tcb_info)
    assert list(info) == [
        "id",
        "version",
        "issueDate",
        "nextUpdate",
        "fmspc",
        "pceId",
        "tcbType",
        "tcbEvaluationDataNumber",
        "tcbLevels",
    ]
    assert info["fmspc"] == pcs.FMSPC.hex().upper()
    assert [level["tcbStatus"] for level in info["tcbLevels"]] == [
        "UpToDate",
        "SWHardeningNeeded",
        "OutOfDate",
    ]


def test_collateral_stays_far_below_the_bound(platform):
    assert len(format_collateral(platform.collateral(issued_s=T))) < 16_384
