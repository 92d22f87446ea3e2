"""What newer TCB data say of the levels of older ones."""

from dataclasses import replace

import pytest

from assay.attest.quote.collateral import parse_collateral
from assay.attest.quote.tcb import TcbStatus
from assay.attest.quote.tcb_changes import Judgement, compare_collateral
from assay.attest.simulated.pcs import TcbLevel
from assay.attest.simulated.platform import CPU_SVN, HARDENING_CPU_SVN, PCE_SVN, SimulatedPlatform, Variant
from assay.tlog.errors import MalformedError

T = 1_760_000_000
SEED = bytes(range(32))


def collateral(*levels):
    variant = Variant(tcb_levels=levels) if levels else Variant()
    return SimulatedPlatform(SEED, epoch_s=T, variant=variant).collateral(issued_s=T)


BEFORE = collateral(
    TcbLevel(CPU_SVN, PCE_SVN, T),
    TcbLevel(HARDENING_CPU_SVN, PCE_SVN, T, TcbStatus.SW_HARDENING_NEEDED, ("B", "A")),
)


def test_equal_data_change_nothing():
    compared = compare_collateral(BEFORE, BEFORE)
    assert (compared.number_before, compared.number_after, compared.changes) == (20, 20, ())


def test_other_dates_and_another_order_of_advisories_change_nothing():
    after = collateral(
        TcbLevel(CPU_SVN, PCE_SVN, T + 7),
        TcbLevel(HARDENING_CPU_SVN, PCE_SVN, T + 7, TcbStatus.SW_HARDENING_NEEDED, ("A", "B")),
    )
    assert compare_collateral(BEFORE, after).changes == ()


def test_a_recovery_demotes_the_level_that_was_up_to_date():
    newer = bytes([CPU_SVN[0] + 1, *CPU_SVN[1:]])
    after = collateral(TcbLevel(newer, PCE_SVN, T), TcbLevel(bytes(16), 0, T, TcbStatus.OUT_OF_DATE, ("C",)))
    first, second = compare_collateral(BEFORE, after).changes
    assert first.part == "tcb_info"
    assert first.svns == (*CPU_SVN, PCE_SVN)
    assert first.before == Judgement("UpToDate", ())
    assert first.after == second.after == Judgement("OutOfDate", ("C",))
    assert second.before == Judgement("SWHardeningNeeded", ("A", "B"))


def test_a_level_may_fall_below_all():
    after = collateral(TcbLevel(CPU_SVN, PCE_SVN + 1, T))
    assert [change.after for change in compare_collateral(BEFORE, after).changes] == [None, None]


def test_a_new_advisory_alone_is_a_change():
    after = collateral(TcbLevel(CPU_SVN, PCE_SVN, T, TcbStatus.UP_TO_DATE, ("NEW",)))
    assert compare_collateral(BEFORE, after).changes[0].after == Judgement("UpToDate", ("NEW",))


def test_a_demoted_quoting_enclave_is_a_change():
    text = BEFORE.qe_identity.replace("UpToDate", "OutOfDate")
    (change,) = compare_collateral(BEFORE, replace(BEFORE, qe_identity=text)).changes
    assert (change.part, change.svns, change.after.status) == ("qe_identity", (8,), "OutOfDate")


@pytest.mark.parametrize("name", ["sgx/phala_v3", "tdx/phala_v4", "tdx/gotdx_v5"])
def test_real_data_compare_with_themselves(vectors, name):
    real = parse_collateral((vectors / "quotes" / name / "collateral.json").read_bytes())
    assert compare_collateral(real, real).changes == ()


@pytest.mark.parametrize(
    "text", ["", "[]", "7", "{}", '{"tcbLevels":7}', '{"tcbLevels":[{}]}', '{"tcbLevels":[{"tcb":7}]}']
)
@pytest.mark.parametrize("part", ["tcb_info", "qe_identity"])
def test_data_without_levels_are_refused(part, text):
    for pair in ((replace(BEFORE, **{part: text}), BEFORE), (BEFORE, replace(BEFORE, **{part: text}))):
        with pytest.raises(MalformedError) as caught:
            compare_collateral(*pair)
        assert caught.value.code == "malformed-collateral"
