"""Who issued a PCK certificate and collateral: strangers' are told apart before any work is done for them."""

from dataclasses import replace

import pytest

from assay.attest.quote.collateral import parse_collateral
from assay.attest.quote.issuance import verify_collateral_issued, verify_pck_issued
from assay.attest.roots import TrustedRoot
from assay.attest.simulated.platform import SimulatedPlatform
from assay.tlog.errors import MalformedError, UntrustedError

T = 1_760_000_000
OURS = SimulatedPlatform(bytes(range(32)), epoch_s=T)
OTHER = SimulatedPlatform(bytes(32), epoch_s=T)
ROOT = TrustedRoot("ours", OURS.root_der)
COLLATERAL = OURS.collateral(issued_s=T)
STRANGE = OTHER.collateral(issued_s=T)


def chain(*holders):
    return "".join(holder.pem for holder in holders).encode()


def test_a_pck_certificate_under_the_root_is_returned():
    assert verify_pck_issued(OURS.pck_chain_pem.encode() + b"\0", root=ROOT) == OURS.pck.certificate
    assert verify_pck_issued(chain(OURS.pck, OURS.ca), root=ROOT) == OURS.pck.certificate


PCK = {
    "another root's": (OTHER.pck_chain_pem.encode(), UntrustedError, "untrusted-chain"),
    "another's with our root": (chain(OTHER.pck, OTHER.ca, OURS.root), UntrustedError, "untrusted-chain"),
    "another's with our CA": (chain(OTHER.pck, OURS.ca, OURS.root), UntrustedError, "untrusted-chain"),
    "a chain without the CA": (chain(OURS.pck, OURS.root), UntrustedError, "untrusted-chain"),
    "the certificate alone": (chain(OURS.pck), UntrustedError, "untrusted-chain"),
    "a chain in another order": (chain(OURS.ca, OURS.pck, OURS.root), UntrustedError, "untrusted-chain"),
    "nothing": (b"", MalformedError, "malformed-quote"),
    "garbage": (b"-----BEGIN CERTIFICATE-----", MalformedError, "malformed-quote"),
    "too many certificates": (chain(OURS.pck, OURS.ca, *[OURS.root] * 9), MalformedError, "malformed-quote"),
}  # fmt: skip


@pytest.mark.parametrize(("pem", "kind", "code"), PCK.values(), ids=PCK)
def test_a_pck_chain_is_refused_that_is(pem, kind, code):
    with pytest.raises(kind) as caught:
        verify_pck_issued(pem, root=ROOT)
    assert caught.value.code == code


def test_collateral_under_the_root_is_returned_whatever_the_time():
    assert verify_collateral_issued(COLLATERAL, root=ROOT) is COLLATERAL


@pytest.mark.parametrize("name", ["sgx/phala_v3", "sgx/oasis_v3", "tdx/phala_v4", "tdx/gotdx_v5"])
def test_real_collateral_is_intel_s(vectors, name):
    intel = TrustedRoot("intel", (vectors / "quotes/roots/intel_sgx_root_ca.der").read_bytes())
    real = parse_collateral((vectors / "quotes" / name / "collateral.json").read_bytes())
    assert verify_collateral_issued(real, root=intel) is real
    with pytest.raises(UntrustedError):
        verify_collateral_issued(real, root=ROOT)
    with pytest.raises(UntrustedError):
        verify_collateral_issued(COLLATERAL, root=intel)


def swapped(*names):
    return replace(COLLATERAL, **{name: getattr(STRANGE, name) for name in names})


REFUSED = {
    "everything": (STRANGE, "untrusted-chain"),
    "TCB info": (swapped("tcb_info", "tcb_info_signature"), "bad-tcb-info-signature"),
    "TCB info with its signer": (
        swapped("tcb_info", "tcb_info_signature", "tcb_info_issuer_chain"),
        "untrusted-chain",
    ),
    "TCB info's signature": (replace(COLLATERAL, tcb_info_signature=bytes(64)), "bad-tcb-info-signature"),
    "TCB info re-spaced": (
        replace(COLLATERAL, tcb_info=COLLATERAL.tcb_info.replace(":", ": ")),
        "bad-tcb-info-signature",
    ),
    "TCB info for QE identity": (
        replace(COLLATERAL, qe_identity=COLLATERAL.tcb_info),
        "bad-qe-identity-signature",
    ),
    "QE identity": (swapped("qe_identity", "qe_identity_signature"), "bad-qe-identity-signature"),
    "the root's CRL": (swapped("root_ca_crl"), "wrong-root"),
    "the PCK CRL for the root's": (replace(COLLATERAL, root_ca_crl=COLLATERAL.pck_crl), "wrong-root"),
    "the PCK CRL": (swapped("pck_crl"), "untrusted-chain"),
    "the root's CRL for the PCK CRL": (
        replace(COLLATERAL, pck_crl=COLLATERAL.root_ca_crl),
        "untrusted-chain",
    ),
    "the PCK CRL with its CA": (swapped("pck_crl", "pck_crl_issuer_chain"), "untrusted-chain"),
    "the PCK CA's chain": (
        replace(COLLATERAL, pck_crl_issuer_chain=OURS.tcb_signer.pem + OURS.root.pem),
        "untrusted-chain",
    ),
    "a PCK certificate as signer": (
        replace(COLLATERAL, tcb_info_issuer_chain=OURS.pck_chain_pem),
        "untrusted-chain",
    ),
}


@pytest.mark.parametrize(("collateral", "code"), REFUSED.values(), ids=REFUSED)
def test_collateral_is_refused_if_a_stranger_s_is(collateral, code):
    with pytest.raises(UntrustedError) as caught:
        verify_collateral_issued(collateral, root=ROOT)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "name", ["tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain"]
)
@pytest.mark.parametrize("pem", ["", "garbage", "\ud800"])
def test_a_chain_that_is_none_is_malformed(name, pem):
    with pytest.raises(MalformedError) as caught:
        verify_collateral_issued(replace(COLLATERAL, **{name: pem}), root=ROOT)
    assert caught.value.code == "malformed-collateral"


@pytest.mark.parametrize("name", ["root_ca_crl", "pck_crl"])
def test_a_crl_that_is_none_is_malformed(name):
    with pytest.raises(MalformedError):
        verify_collateral_issued(replace(COLLATERAL, **{name: b""}), root=ROOT)
