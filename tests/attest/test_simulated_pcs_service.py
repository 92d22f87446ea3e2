"""The simulated provisioning service answers as PCS v4 and a PCCS do, without a socket or a clock."""

import json
from urllib.parse import unquote

import pytest

from assay.attest.measurement import Tee
from assay.attest.quote.pck import PckCa
from assay.attest.simulated.pcs import FMSPC, TcbLevel
from assay.attest.simulated.pcs_service import ROOT_CRL_PATH, SimulatedPcs, percent_encoded
from assay.attest.simulated.platform import CPU_SVN, HEALTHY, SimulatedPlatform, Variant
from assay.tlog.errors import MalformedError

T = 1_760_000_000
SEED = bytes(range(32))
BASE = "/sgx/certification/v4"
SERVICE = SimulatedPcs(SEED, epoch_s=T)
COLLATERAL = SimulatedPlatform(SEED, epoch_s=T).collateral(issued_s=T)


def ask(target, *, service=SERVICE, issued_s=T):
    return service.answer(target, issued_s=issued_s)


@pytest.mark.parametrize("fmspc", [FMSPC.hex(), FMSPC.hex().upper()])
def test_tcb_info_is_the_signed_text_with_its_chain_in_the_header(fmspc):
    answer = ask(f"{BASE}/tcb?fmspc={fmspc}")
    assert answer.status == 200
    assert unquote(answer.headers["TCB-Info-Issuer-Chain"]) == COLLATERAL.tcb_info_issuer_chain
    signature = COLLATERAL.tcb_info_signature.hex()
    assert answer.body.decode() == f'{{"tcbInfo":{COLLATERAL.tcb_info},"signature":"{signature}"}}'


def test_qe_identity_is_the_signed_text_with_its_chain_in_the_header():
    answer = ask(f"{BASE}/qe/identity")
    assert unquote(answer.headers["SGX-Enclave-Identity-Issuer-Chain"]) == COLLATERAL.qe_identity_issuer_chain
    assert json.loads(answer.body)["enclaveIdentity"] == json.loads(COLLATERAL.qe_identity)


def test_tdx_has_tcb_info_and_identity_of_its_own():
    of_tdx = SimulatedPlatform(SEED, epoch_s=T).collateral(issued_s=T, tee=Tee.TDX)
    info = ask(f"/tdx/certification/v4/tcb?fmspc={FMSPC.hex()}")
    identity = ask("/tdx/certification/v4/qe/identity")
    assert json.loads(info.body)["tcbInfo"] == json.loads(of_tdx.tcb_info)
    assert json.loads(identity.body)["enclaveIdentity"] == json.loads(of_tdx.qe_identity)


@pytest.mark.parametrize("ca", PckCa)
def test_each_ca_has_its_crl_and_chain(ca):
    machine = SimulatedPlatform(SEED, epoch_s=T, variant=Variant(ca=ca)).collateral(issued_s=T)
    answer = ask(f"{BASE}/pckcrl?ca={ca}&encoding=der")
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (
        200,
        "application/pkix-crl",
        machine.pck_crl,
    )
    assert unquote(answer.headers["SGX-PCK-CRL-Issuer-Chain"]) == machine.pck_crl_issuer_chain


def test_the_root_s_crl_is_hex_text_of_a_cache_and_der_at_the_other_host():
    assert ask(f"{BASE}/rootcacrl").body.decode() == COLLATERAL.root_ca_crl.hex()
    assert ask(ROOT_CRL_PATH).body == COLLATERAL.root_ca_crl


def test_the_same_request_gives_the_same_bytes_and_another_time_others():
    target = f"{BASE}/qe/identity?update=standard"
    assert ask(target) == ask(target)
    assert ask(target).body != ask(target, issued_s=T + 1).body


def test_early_and_standard_may_differ_and_numbers_are_told_apart():
    early = Variant(tcb_levels=(TcbLevel(CPU_SVN, 14, T),))
    service = SimulatedPcs(SEED, epoch_s=T, variant=HEALTHY, early=early)
    target = f"{BASE}/tcb?fmspc={FMSPC.hex()}"
    plain, standard, newest = (
        ask(target + end, service=service).body for end in ("", "&update=standard", "&update=early")
    )
    assert plain == standard != newest
    assert ask(f"{target}&tcbEvaluationDataNumber=20").body == plain


REFUSED = {
    "an unknown FMSPC": (f"{BASE}/tcb?fmspc=00906EA10000", 404),
    "no FMSPC": (f"{BASE}/tcb", 400),
    "a short FMSPC": (f"{BASE}/tcb?fmspc=00", 400),
    "a withdrawn number": (f"{BASE}/tcb?fmspc={FMSPC.hex()}&tcbEvaluationDataNumber=19", 410),
    "a number to come": (f"{BASE}/qe/identity?tcbEvaluationDataNumber=21", 404),
    "a number that is none": (f"{BASE}/qe/identity?tcbEvaluationDataNumber=x", 404),
    "update and number": (f"{BASE}/qe/identity?update=early&tcbEvaluationDataNumber=20", 400),
    "another update": (f"{BASE}/qe/identity?update=late", 400),
    "something else in the query": (f"{BASE}/qe/identity?more=1", 400),
    "a name twice": (f"{BASE}/qe/identity?update=early&update=early", 400),
    "a strange query": (f"{BASE}/qe/identity?%20", 400),
    "an empty member": (f"{BASE}/qe/identity?update=", 400),
    "another CA": (f"{BASE}/pckcrl?ca=root", 400),
    "no CA": (f"{BASE}/pckcrl", 400),
    "another encoding": (f"{BASE}/pckcrl?ca=platform&encoding=pem", 400),
    "a PCK CRL of TDX": ("/tdx/certification/v4/pckcrl?ca=platform", 400),
    "a root CRL with a query": (f"{BASE}/rootcacrl?x=1", 400),
    "an older version": ("/sgx/certification/v3/qe/identity", 404),
    "a longer path": (f"{BASE}/qe/identity/", 404),
    "another path": ("/", 404),
    "nothing": ("", 404),
}


@pytest.mark.parametrize(("target", "status"), REFUSED.values(), ids=REFUSED)
def test_a_request_is_refused_for(target, status):
    answer = ask(target)
    assert (answer.status, answer.body) == (status, b"")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_has_32_bytes(size):
    with pytest.raises(MalformedError):
        SimulatedPcs(bytes(size), epoch_s=T)


@pytest.mark.parametrize("text", ["", "a b\n+/=%~.-_", "ä☃"])
def test_percent_encoding_is_undone_by_others(text):
    encoded = percent_encoded(text)
    assert encoded.isascii()
    assert unquote(encoded) == text
