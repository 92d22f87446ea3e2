"""Policy on verified quotes: what is not accepted is refused, each rule by its code."""

from functools import cache

import pytest

from assay.attest.measurement import Measurement, Tee
from assay.attest.quote.policy import (
    IdentityPolicy,
    TcbPolicy,
    require_identity,
    require_report_data,
    require_tcb,
)
from assay.attest.quote.tcb import TcbStatus
from assay.attest.quote.tdx import Td15, TdBody
from assay.attest.quote.verify import verify_quote
from assay.attest.roots import TrustedRoot
from assay.attest.simulated.pcs import TcbLevel
from assay.attest.simulated.platform import (
    CPU_SVN,
    HEALTHY,
    OUT_OF_DATE,
    PCE_SVN,
    SW_HARDENING_NEEDED,
    TEE_TCB_SVN,
    SimulatedPlatform,
    Variant,
)
from assay.tlog.errors import LogError, UntrustedError

T = 1_760_000_000
DAY = 86_400
MR_ENCLAVE, MR_SIGNER, MR_TD = b"\x11" * 32, b"\x22" * 32, b"\x33" * 48
ENCLAVE, TD = Measurement(Tee.SGX, MR_ENCLAVE), Measurement(Tee.TDX, MR_TD)
REPORT_DATA = bytes(range(64))


@cache
def verified(variant=HEALTHY, tee=Tee.SGX):
    platform = SimulatedPlatform(b"\x05" * 32, epoch_s=T, variant=variant)
    if tee is Tee.SGX:
        quote = platform.quote(
            platform.report(
                mr_enclave=MR_ENCLAVE, mr_signer=MR_SIGNER, isv_prod_id=7, isv_svn=3, report_data=REPORT_DATA
            )
        )
    else:
        quote = platform.td_quote(TdBody(platform.td_report(mr_td=MR_TD, report_data=REPORT_DATA)))
    collateral = platform.collateral(issued_s=T - DAY, tee=tee)
    return verify_quote(quote, collateral, root=TrustedRoot("sim", platform.root_der), now_s=T)


def tcb(*statuses, minimum=0, advisories=None):
    return TcbPolicy(frozenset(statuses), minimum, advisories or {})


def code_of(check, *arguments):
    with pytest.raises(UntrustedError) as caught:
        check(*arguments)
    return caught.value.code


RELAUNCH = (TcbStatus.TD_RELAUNCH_ADVISED, TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED)
"""Computed from the module that a TD was launched with and the one that runs now; TCB info never says so."""


@cache
def relaunch_advised(status):
    """A TD that was launched under an old TDX module, on a platform that has a newer one now."""
    best = {RELAUNCH[0]: TcbStatus.UP_TO_DATE, RELAUNCH[1]: TcbStatus.CONFIGURATION_NEEDED}[status]
    level = TcbLevel(CPU_SVN, PCE_SVN, T - DAY, best, tdx_svn=TEE_TCB_SVN)
    old = bytes.fromhex("0101020000000000") + bytes(8)
    platform = SimulatedPlatform(
        b"\x05" * 32, epoch_s=T, variant=Variant(tcb_levels=(level,), tee_tcb_svn=old)
    )
    report = platform.td_report(mr_td=MR_TD, report_data=REPORT_DATA)
    quote = platform.td_quote(TdBody(report, Td15(TEE_TCB_SVN, bytes(48))))
    collateral = platform.collateral(issued_s=T - DAY, tee=Tee.TDX)
    return verify_quote(quote, collateral, root=TrustedRoot("sim", platform.root_der), now_s=T)


def of_status(status):
    if status in RELAUNCH:
        return relaunch_advised(status)
    return verified(Variant(tcb_levels=(TcbLevel(CPU_SVN, PCE_SVN, T - DAY, status),)))


@pytest.mark.parametrize("status", list(TcbStatus))
def test_each_state_is_accepted_only_if_the_policy_names_it(status):
    quote = of_status(status)
    assert quote.tcb_status is status
    require_tcb(quote, tcb(status))
    others = [other for other in TcbStatus if other is not status]
    assert code_of(require_tcb, quote, tcb(*others)) == "tcb-status"
    assert code_of(require_tcb, quote, tcb()) == "tcb-status"


@pytest.mark.parametrize("status", [*RELAUNCH, "Revoked", "uptodate", ""])
def test_tcb_info_with_a_state_of_nobody_is_refused(status):
    with pytest.raises(LogError) as caught:
        verified(Variant(tcb_levels=(TcbLevel(CPU_SVN, PCE_SVN, T - DAY, status),)))
    assert caught.value.code == ("revoked" if status == "Revoked" else "malformed-collateral")


def test_an_advisory_is_accepted_for_the_measurement_that_it_is_listed_for_and_no_other():
    quote = verified(SW_HARDENING_NEEDED)
    needed = frozenset({"INTEL-SA-00615"})
    state = TcbStatus.SW_HARDENING_NEEDED
    require_tcb(quote, tcb(state, advisories={ENCLAVE: needed}))
    require_tcb(quote, tcb(state, advisories={ENCLAVE: needed | {"INTEL-SA-00001"}}))
    for listed in (
        {},
        {ENCLAVE: frozenset()},
        {ENCLAVE: frozenset({"INTEL-SA-00614"})},
        {Measurement(Tee.SGX, b"\x12" * 32): needed},
        {TD: needed},
    ):
        assert code_of(require_tcb, quote, tcb(state, advisories=listed)) == "tcb-advisories"


def test_every_open_advisory_counts():
    quote = verified(OUT_OF_DATE)
    one = {ENCLAVE: frozenset({"INTEL-SA-00615"})}
    both = {ENCLAVE: frozenset({"INTEL-SA-00615", "INTEL-SA-00334"})}
    assert code_of(require_tcb, quote, tcb(TcbStatus.OUT_OF_DATE, advisories=one)) == "tcb-advisories"
    require_tcb(quote, tcb(TcbStatus.OUT_OF_DATE, advisories=both))


# Row 63 of the tamper matrix: TCB data that are too old. (Row 62 is a flag of the library's own policy, which
# is not used: dynamic platforms, cached keys and SMT are how real servers are.)
@pytest.mark.parametrize("tee", [Tee.SGX, Tee.TDX])
def test_the_evaluation_number_has_a_floor(tee):
    quote = verified(tee=tee)
    assert quote.evaluation_number == 20
    require_tcb(quote, tcb(TcbStatus.UP_TO_DATE, minimum=20))
    assert code_of(require_tcb, quote, tcb(TcbStatus.UP_TO_DATE, minimum=21)) == "tcb-evaluation"


ACCEPTED = [
    IdentityPolicy(),
    IdentityPolicy(measurements=frozenset({ENCLAVE})),
    IdentityPolicy(measurements=frozenset({ENCLAVE, TD})),
    IdentityPolicy(mr_signers=frozenset({MR_SIGNER, bytes(32)})),
    IdentityPolicy(isv_prod_id=7),
    IdentityPolicy(min_isv_svn=3),
    IdentityPolicy(min_isv_svn=0),
    IdentityPolicy(frozenset({ENCLAVE}), frozenset({MR_SIGNER}), 7, 3),
]
REFUSED = [
    (IdentityPolicy(measurements=frozenset()), "measurement"),
    (IdentityPolicy(measurements=frozenset({TD})), "measurement"),
    (IdentityPolicy(measurements=frozenset({Measurement(Tee.SGX, MR_SIGNER)})), "measurement"),
    (IdentityPolicy(mr_signers=frozenset()), "mr-signer"),
    (IdentityPolicy(mr_signers=frozenset({MR_ENCLAVE})), "mr-signer"),
    (IdentityPolicy(isv_prod_id=0), "isv-prod-id"),
    (IdentityPolicy(isv_prod_id=8), "isv-prod-id"),
    (IdentityPolicy(min_isv_svn=4), "isv-svn"),
    (IdentityPolicy(frozenset({ENCLAVE}), frozenset({MR_SIGNER}), 7, 4), "isv-svn"),
]


@pytest.mark.parametrize("policy", ACCEPTED)
def test_an_enclave_that_is_meant_is_accepted(policy):
    require_identity(verified(), policy)


@pytest.mark.parametrize(("policy", "code"), REFUSED)
def test_another_enclave_is_refused(policy, code):
    assert code_of(require_identity, verified(), policy) == code


def test_a_td_is_meant_by_its_mrtd_and_never_by_rules_of_sgx():
    quote = verified(tee=Tee.TDX)
    require_identity(quote, IdentityPolicy())
    require_identity(quote, IdentityPolicy(measurements=frozenset({TD})))
    for policy, code in (
        (IdentityPolicy(measurements=frozenset({ENCLAVE})), "measurement"),
        (IdentityPolicy(mr_signers=frozenset({MR_SIGNER})), "mr-signer"),
        (IdentityPolicy(isv_prod_id=0), "isv-prod-id"),
        (IdentityPolicy(min_isv_svn=0), "isv-svn"),
    ):
        assert code_of(require_identity, quote, policy) == code


@pytest.mark.parametrize("tee", [Tee.SGX, Tee.TDX])
def test_all_of_report_data_counts(tee):
    quote = verified(tee=tee)
    require_report_data(quote, REPORT_DATA)
    for position in range(64):
        other = bytearray(REPORT_DATA)
        other[position] ^= 1
        assert code_of(require_report_data, quote, bytes(other)) == "report-data"
    for other in (b"", REPORT_DATA[:32], REPORT_DATA + b"\0"):
        assert code_of(require_report_data, quote, other) == "report-data"
