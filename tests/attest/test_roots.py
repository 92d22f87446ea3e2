"""Vendor roots: named by the caller, pinned by hash, labelled by what they are."""

import hashlib
import tomllib
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from assay.attest.roots import INTEL_SGX_ROOT_SHA256, Platform, TrustedRoot, intel_sgx_root
from assay.attest.simulated.platform import SimulatedPlatform
from assay.tlog.errors import MalformedError, UntrustedError

FOLDER = resources.files("assay.attest.roots")
INTEL = FOLDER.joinpath("intel_sgx_root_ca.der").read_bytes()
SIM_ROOT = (Path(__file__).parents[1] / "vectors" / "quotes" / "sim" / "root.der").read_bytes()


def self_signed(organization: str, *, issuer: str | None = None) -> bytes:
    key = ec.derive_private_key(7, ec.SECP256R1())

    def name(text):
        return x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, text)])

    certificate = (
        x509.CertificateBuilder()
        .subject_name(name(organization))
        .issuer_name(name(issuer or organization))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
        .sign(key, SHA256())
    )
    return certificate.public_bytes(Encoding.DER)


def test_the_file_the_constant_and_the_note_beside_it_agree():
    note = tomllib.loads(FOLDER.joinpath("intel_sgx_root_ca.toml").read_text())
    assert hashlib.sha256(INTEL).hexdigest() == note["sha256"] == INTEL_SGX_ROOT_SHA256
    assert note["file"] == "intel_sgx_root_ca.der"
    assert "Intel" in note["source"]


def test_intel_is_intel_by_hash():
    root = intel_sgx_root(INTEL)
    assert (root.name, root.platform, root.sha256) == ("intel", Platform.INTEL, INTEL_SGX_ROOT_SHA256)


@pytest.mark.parametrize(
    "der", [b"", INTEL + b"\0", INTEL[:-1], SIM_ROOT], ids=["empty", "longer", "cut", "sim"]
)
def test_other_bytes_are_not_intels_root(der):
    with pytest.raises(UntrustedError) as caught:
        intel_sgx_root(der)
    assert caught.value.code == "not-intel-root"


def test_the_label_comes_from_the_root_and_not_from_the_callers_name():
    assert TrustedRoot("intel", SIM_ROOT).platform is Platform.SIMULATED
    assert TrustedRoot("simulated", INTEL).platform is Platform.INTEL
    assert (
        TrustedRoot("intel", SimulatedPlatform(bytes(32), epoch_s=0).root_der).platform is Platform.SIMULATED
    )


@pytest.mark.parametrize(
    "organization", ["Intel Corporation", "SIMULATION", "simulation - not intel", "Ours"]
)
def test_any_other_root_is_custom(organization):
    assert TrustedRoot("x", self_signed(organization)).platform is Platform.CUSTOM


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30\x00",
        INTEL[:-1],
        INTEL[:-1] + bytes([INTEL[-1] ^ 1]),
        self_signed("subject", issuer="issuer"),
        SimulatedPlatform(bytes(32), epoch_s=0).pck.der,
    ],
    ids=["empty", "no certificate", "cut", "bad signature", "other issuer", "not a root"],
)
def test_what_is_not_self_signed_is_no_root(der):
    with pytest.raises(MalformedError) as caught:
        TrustedRoot("x", der)
    assert caught.value.code == "malformed-root"
