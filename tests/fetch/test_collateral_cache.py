"""Kept collateral: renewed in time, never expired, never older, never a stranger's; one asks while others go on."""

import threading
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from assay.attest.measurement import Tee
from assay.attest.quote.issuance import verify_collateral_issued
from assay.attest.quote.pck import PckCa
from assay.attest.quote.tcb import TcbStatus
from assay.attest.roots import TrustedRoot
from assay.attest.simulated.pcs import TcbLevel
from assay.attest.simulated.platform import CPU_SVN, PCE_SVN, SimulatedPlatform, Variant
from assay.fetch import collateral_cache
from assay.fetch.collateral import PlatformFamily, ProvidedCollateral
from assay.fetch.collateral_cache import CacheTimes, CachingProvider
from assay.fetch.patient import BusyError
from assay.tlog.errors import MalformedError, UnavailableError

T = 1_760_000_000
DAY_S = 86_400
SEED = bytes(range(32))
PLATFORM = SimulatedPlatform(SEED, epoch_s=T)
STRANGER = SimulatedPlatform(bytes(32), epoch_s=T)
FAMILY = PlatformFamily(Tee.SGX, PLATFORM.fmspc, PckCa.PLATFORM)
OTHER_FAMILY = replace(FAMILY, fmspc=bytes(6))
ROOT = TrustedRoot("ours", PLATFORM.root_der)
TIMES = CacheTimes(max_age_s=DAY_S, warn_before_s=7 * DAY_S, retry_s=60)


class Source:
    """Issues daily, or does what it is told instead."""

    def __init__(self, platform=PLATFORM):
        self.platform = platform
        self.issued_s = None
        self.failure = None
        self.asked = Counter()
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.let_go.set()

    def collateral(self, family, *, now_s):
        self.asked[family] += 1
        self.entered.set()
        assert self.let_go.wait(10)
        if self.failure is not None:
            raise self.failure
        issued_s = now_s if self.issued_s is None else self.issued_s
        return ProvidedCollateral(self.platform.collateral(issued_s=issued_s), None, fetched_at_s=now_s)

    @property
    def count(self):
        return sum(self.asked.values())


@pytest.fixture
def source():
    return Source()


def cached(source, **how):
    verify = partial(verify_collateral_issued, root=ROOT)
    return CachingProvider(source, **{"verify": verify, "times": TIMES, **how})


def codes(provided):
    return [warning.code for warning in provided.warnings]


def test_the_source_is_asked_once_a_day(source):
    cache = cached(source)
    first = cache.collateral(FAMILY, now_s=T)
    assert cache.collateral(FAMILY, now_s=T + DAY_S - 1) == first
    assert source.count == 1
    assert cache.collateral(FAMILY, now_s=T + DAY_S).fetched_at_s == T + DAY_S
    assert source.count == 2
    assert codes(first) == []


@pytest.mark.parametrize(
    "other", [OTHER_FAMILY, replace(FAMILY, tee=Tee.TDX), replace(FAMILY, ca=PckCa.PROCESSOR)]
)
def test_families_are_kept_apart(source, other):
    cache = cached(source)
    for _ in range(2):
        cache.collateral(FAMILY, now_s=T)
        cache.collateral(other, now_s=T)
    assert source.asked == {FAMILY: 1, other: 1}


# Failures


@pytest.mark.parametrize(
    "failure",
    [UnavailableError("down", code="collateral-source"), UnavailableError("none", code="no-collateral")],
)
def test_with_nothing_kept_the_source_s_reason_is_given(source, failure):
    source.failure = failure
    with pytest.raises(UnavailableError) as caught:
        cached(source).collateral(FAMILY, now_s=T)
    assert caught.value.code == failure.code


def test_what_is_malformed_is_the_source_s_fault_and_not_the_caller_s(source):
    source.failure = MalformedError("rubbish")
    with pytest.raises(UnavailableError) as caught:
        cached(source).collateral(FAMILY, now_s=T)
    assert caught.value.code == "bad-collateral"


def test_a_source_that_failed_is_left_alone_for_a_while(source):
    cache = cached(source)
    source.failure = UnavailableError("down", code="collateral-source")
    for now_s in (T, T + 1, T + 59):
        with pytest.raises(UnavailableError):
            cache.collateral(FAMILY, now_s=now_s)
    assert source.count == 1
    source.failure = None
    assert codes(cache.collateral(FAMILY, now_s=T + 60)) == []


@pytest.mark.parametrize(("asked_for_s", "pause_s"), [(0, 60), (59, 60), (600, 600), (99_999, 3600)])
def test_a_busy_source_is_left_alone_as_long_as_it_asks_for_but_no_longer_than_an_hour(
    source, asked_for_s, pause_s
):
    cache = cached(source)
    source.failure = BusyError("busy", code="collateral-source", retry_after_s=asked_for_s)
    for now_s in (T, T + pause_s - 1, T + pause_s):
        with pytest.raises(UnavailableError):
            cache.collateral(FAMILY, now_s=now_s)
    assert source.count == 2


def test_what_is_kept_goes_on_to_count_while_the_source_fails_and_the_operator_is_told(source):
    cache = cached(source)
    first = cache.collateral(FAMILY, now_s=T)
    source.failure = UnavailableError("down", code="collateral-source")
    later = cache.collateral(FAMILY, now_s=T + 2 * DAY_S)
    assert later.collateral == first.collateral
    assert codes(later) == ["collateral-refresh"]
    source.failure = None
    assert codes(cache.collateral(FAMILY, now_s=T + 2 * DAY_S + 60)) == []


def test_expired_collateral_is_never_given_out(source):
    cache = cached(source)
    cache.collateral(FAMILY, now_s=T)
    source.failure = UnavailableError("down", code="collateral-source")
    expires_s = T + 30 * DAY_S
    assert "collateral-expires" in codes(cache.collateral(FAMILY, now_s=expires_s - 1))
    for now_s in (expires_s, expires_s + 1, expires_s + DAY_S):
        with pytest.raises(UnavailableError) as caught:
            cache.collateral(FAMILY, now_s=now_s)
        assert caught.value.code == "collateral-expired"


def test_a_source_with_expired_collateral_has_none(source):
    source.issued_s = T - 30 * DAY_S
    with pytest.raises(UnavailableError) as caught:
        cached(source).collateral(FAMILY, now_s=T)
    assert caught.value.code == "collateral-expired"


# Renewal before expiry


def test_before_a_part_expires_renewal_is_tried_each_hour_and_the_operator_is_warned(source):
    cache = cached(source)
    source.issued_s = T
    cache.collateral(FAMILY, now_s=T)
    near_s = T + 23 * DAY_S
    warned = cache.collateral(FAMILY, now_s=near_s)
    assert {(each.code, each.subject) for each in warned.warnings} == {
        ("collateral-expires", name) for name in ("pck_crl", "qe_identity", "tcb_info")
    }
    assert source.count == 2
    for now_s in (near_s + 3599, near_s + 3600):
        cache.collateral(FAMILY, now_s=now_s)
    assert source.count == 3
    source.issued_s = None
    assert codes(cache.collateral(FAMILY, now_s=near_s + 7200)) == []


def test_no_warning_a_second_before_it_is_due(source):
    cache = cached(source)
    source.issued_s = T
    assert codes(cache.collateral(FAMILY, now_s=T + 23 * DAY_S - 1)) == []


def test_older_collateral_never_replaces_newer(source):
    cache = cached(source)
    first = cache.collateral(FAMILY, now_s=T)
    source.issued_s = T - 1
    again = cache.collateral(FAMILY, now_s=T + DAY_S)
    assert again.collateral == first.collateral
    assert codes(again) == ["collateral-refresh"]


def test_one_older_part_among_newer_ones_is_enough(source):
    cache = cached(source)
    first = cache.collateral(FAMILY, now_s=T)
    older = PLATFORM.collateral(issued_s=T - 1)
    newer = PLATFORM.collateral(issued_s=T + DAY_S)
    mixed = replace(newer, pck_crl=older.pck_crl)
    source.collateral = lambda family, *, now_s: ProvidedCollateral(mixed, None, fetched_at_s=now_s)
    assert cache.collateral(FAMILY, now_s=T + DAY_S).collateral == first.collateral


def test_older_but_valid_collateral_is_better_than_expired(source):
    cache = cached(source)
    cache.collateral(FAMILY, now_s=T)
    newer = PLATFORM.collateral(issued_s=T + 20 * DAY_S)
    mixed = replace(newer, root_ca_crl=PLATFORM.collateral(issued_s=T - 1).root_ca_crl)
    source.collateral = lambda family, *, now_s: ProvidedCollateral(mixed, None, fetched_at_s=now_s)
    assert cache.collateral(FAMILY, now_s=T + 31 * DAY_S).collateral == mixed


# Strangers


def test_a_stranger_s_collateral_is_not_kept():
    source = Source(STRANGER)
    cache = cached(source)
    with pytest.raises(UnavailableError) as caught:
        cache.collateral(FAMILY, now_s=T)
    assert caught.value.code == "bad-collateral"
    source.platform = PLATFORM
    assert cache.collateral(FAMILY, now_s=T + 60).collateral == PLATFORM.collateral(issued_s=T + 60)


def test_a_stranger_s_collateral_does_not_replace_what_is_kept(source):
    cache = cached(source)
    first = cache.collateral(FAMILY, now_s=T)
    source.platform = STRANGER
    later = cache.collateral(FAMILY, now_s=T + DAY_S)
    assert later.collateral == first.collateral
    assert codes(later) == ["collateral-refresh"]


# The clock


def test_a_clock_that_is_set_back_does_not_keep_collateral_for_ever(source):
    cache = cached(source)
    source.issued_s = T
    cache.collateral(FAMILY, now_s=T + 10 * DAY_S)
    assert cache.collateral(FAMILY, now_s=T).fetched_at_s == T
    assert cache.collateral(FAMILY, now_s=T + DAY_S).fetched_at_s == T + DAY_S


def test_callers_whose_clocks_were_read_in_another_order_do_not_ask_twice(source):
    cache = cached(source)
    for now_s in (T, T - 1, T, T - 2):
        cache.collateral(FAMILY, now_s=now_s)
    assert source.count == 1


# Threads


def run_together(count, work):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_many_who_need_it_at_once_ask_once(source):
    cache = cached(source)
    source.let_go.clear()
    given = []
    threads = run_together(8, lambda: given.append(cache.collateral(FAMILY, now_s=T)))
    assert source.entered.wait(10)
    source.let_go.set()
    for thread in threads:
        thread.join(10)
    assert len(given) == 8
    assert source.count == 1
    assert len({each.collateral.collateral_id for each in given}) == 1


def test_a_failure_is_shared_by_those_who_waited(source):
    cache = cached(source)
    source.failure = UnavailableError("down", code="collateral-source")
    source.let_go.clear()
    failed = []

    def work():
        with pytest.raises(UnavailableError) as caught:
            cache.collateral(FAMILY, now_s=T)
        failed.append(caught.value)

    threads = run_together(8, work)
    assert source.entered.wait(10)
    source.let_go.set()
    for thread in threads:
        thread.join(10)
    assert source.count == 1
    assert len({id(error) for error in failed}) == 8


def test_nobody_waits_for_a_renewal_who_has_something_to_go_on_with(source):
    cache = cached(source)
    first = cache.collateral(FAMILY, now_s=T)
    source.entered.clear()
    source.let_go.clear()
    (renewing,) = run_together(1, lambda: cache.collateral(FAMILY, now_s=T + DAY_S))
    assert source.entered.wait(10)
    assert cache.collateral(FAMILY, now_s=T + DAY_S).collateral == first.collateral
    assert renewing.is_alive()
    source.let_go.set()
    renewing.join(10)
    assert cache.collateral(FAMILY, now_s=T + DAY_S).fetched_at_s == T + DAY_S
    assert source.count == 2


def test_nobody_waits_for_another_try_after_a_failure_either(source):
    cache = cached(source)
    first = cache.collateral(FAMILY, now_s=T)
    source.failure = UnavailableError("down", code="collateral-source")
    cache.collateral(FAMILY, now_s=T + DAY_S)
    source.entered.clear()
    source.let_go.clear()
    (renewing,) = run_together(1, lambda: cache.collateral(FAMILY, now_s=T + DAY_S + 60))
    assert source.entered.wait(10)
    assert cache.collateral(FAMILY, now_s=T + DAY_S + 60).collateral == first.collateral
    assert renewing.is_alive()
    source.let_go.set()
    renewing.join(10)


def test_one_family_s_slow_answer_does_not_hold_up_another(source):
    cache = cached(source)
    cache.collateral(OTHER_FAMILY, now_s=T)
    source.entered.clear()
    source.let_go.clear()
    (asking,) = run_together(1, lambda: cache.collateral(FAMILY, now_s=T))
    assert source.entered.wait(10)
    assert cache.collateral(OTHER_FAMILY, now_s=T).fetched_at_s == T
    source.let_go.set()
    asking.join(10)


def test_memory_is_bounded(source, monkeypatch):
    monkeypatch.setattr(collateral_cache, "_MAX_FAMILIES", 3)
    cache = cached(source)
    families = [replace(FAMILY, fmspc=number.to_bytes(6, "big")) for number in range(5)]
    for family in families:
        cache.collateral(family, now_s=T)
    assert len(cache._slots) == 3
    cache.collateral(families[-1], now_s=T)
    assert source.count == 5


# Early TCB data

NEXT = Variant(
    tcb_levels=(
        TcbLevel(bytes([CPU_SVN[0] + 1, *CPU_SVN[1:]]), PCE_SVN, T),
        TcbLevel(bytes(16), 5, T, TcbStatus.OUT_OF_DATE, ("INTEL-SA-09999",)),
    )
)


def test_early_data_that_say_another_status_are_warned_of(source):
    early = Source(SimulatedPlatform(SEED, epoch_s=T, variant=NEXT))
    given = cached(source, early=early).collateral(FAMILY, now_s=T)
    assert given.collateral == PLATFORM.collateral(issued_s=T)
    assert set(codes(given)) == {"tcb-early"}
    assert "OutOfDate (INTEL-SA-09999), and is UpToDate" in given.warnings[0].text
    assert len({warning.subject for warning in given.warnings}) == len(given.warnings) > 1


def test_early_data_that_say_the_same_are_not(source):
    assert codes(cached(source, early=Source()).collateral(FAMILY, now_s=T)) == []


@pytest.mark.parametrize(
    "failure", [UnavailableError("down", code="collateral-source"), MalformedError("rubbish")]
)
def test_without_early_data_the_others_still_count(source, failure):
    early = Source()
    early.failure = failure
    given = cached(source, early=early).collateral(FAMILY, now_s=T)
    assert given.collateral == PLATFORM.collateral(issued_s=T)
    assert [(each.code, each.subject) for each in given.warnings] == [("collateral-refresh", "early")]


def test_a_stranger_s_early_data_frighten_nobody(source):
    early = Source(SimulatedPlatform(bytes(32), epoch_s=T, variant=NEXT))
    assert codes(cached(source, early=early).collateral(FAMILY, now_s=T)) == ["collateral-refresh"]
