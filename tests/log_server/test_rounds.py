"""Rounds: when a checkpoint is published, when the next one is offered, and when a failing witness is asked again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.log_server.config import WitnessSection
from assay.log_server.rounds import Backoff, Round
from assay.log_server.rows import StoredCheckpoint
from assay.log_server.witnessing import Kept
from assay.tlog.checkpoint import Checkpoint
from assay.tlog.cosignature import cosign, verify_cosignature
from assay.tlog.keys import KeyType, SignerKey
from assay.tlog.policy import parse_policy

LIMITS = WitnessSection(grace_s=2.0, round_timeout_s=10.0, recosign_interval_s=60.0, retry_interval_s=1.0)


def test_a_witness_is_left_alone_twice_as_long_each_time_and_never_longer_than_the_limit():
    backoff = Backoff(first_s=1, longest_s=5)
    assert backoff.ready_s(hurried_s=None) == 0
    pauses = []
    for now_s in (100, 200, 300, 400, 500):
        backoff.failed(now_s=now_s)
        pauses.append(backoff.ready_s(hurried_s=None) - now_s)
    assert pauses == [1, 2, 4, 5, 5]
    backoff.succeeded()
    assert backoff.ready_s(hurried_s=None) == 0


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=5000))
def test_however_often_a_witness_fails_its_pause_stays_a_number(times):
    backoff = Backoff(first_s=0.5, longest_s=60)
    for now_s in times:
        backoff.failed(now_s=now_s)
    assert times[-1] < backoff.ready_s(hurried_s=None) <= times[-1] + 60


def test_a_hurry_after_a_failure_makes_a_long_pause_a_second_and_a_hurry_before_it_does_not():
    backoff = Backoff(first_s=60, longest_s=60)
    backoff.failed(now_s=100)
    assert backoff.ready_s(hurried_s=99) == 160
    assert backoff.ready_s(hurried_s=101) == 101
    short = Backoff(first_s=0.1, longest_s=60)
    short.failed(now_s=100)
    assert short.ready_s(hurried_s=101) == 100.1


SIGNERS = {
    name: SignerKey(f"{name}.example", KeyType.COSIGNATURE_ED25519, name.encode() * 16)
    for name in ("w1", "w2", "w3")
}
LOG = SignerKey("log.example", KeyType.ED25519, bytes(32))
POLICY = parse_policy(
    "".join(
        [f"log {LOG.verifier}\n"]
        + [f"witness {name} {signer.verifier} http://{name}\n" for name, signer in SIGNERS.items()]
        + ["group two 2 w1 w2 w3\nquorum two\n"]
    ).encode()
)
CHECKPOINT = Checkpoint("log.example", 5, bytes(32))


def a_round(*, expected=("w1", "w2", "w3")):
    return Round(StoredCheckpoint(5, bytes(32), b"", 0, None), CHECKPOINT, 0.0, set(expected))


def answer(round_, name, *, now_s, kept=None):
    round_.begin_try(name)
    if kept is None:
        line = cosign(CHECKPOINT, SIGNERS[name], time_s=1)
        kept = [Kept(verify_cosignature(CHECKPOINT, line, SIGNERS[name].verifier), line)]
    round_.end_try(name, kept, policy=POLICY, now_s=now_s)


def is_over(round_, *, newest=5, now_s):
    return round_.is_over(newest_size=newest, now_s=now_s, limits=LIMITS)


def test_a_quorum_waits_the_grace_for_who_is_still_expected():
    round_ = a_round()
    answer(round_, "w1", now_s=1)
    assert round_.due_s(grace_s=2) is None
    answer(round_, "w1", now_s=2)  # the same witness twice is one witness
    assert round_.due_s(grace_s=2) is None
    answer(round_, "w2", now_s=3)
    assert round_.due_s(grace_s=2) == 5
    answer(round_, "w3", now_s=4)
    assert round_.due_s(grace_s=2) == 3  # nobody is left to wait for
    round_.published = True
    assert round_.due_s(grace_s=2) is None


def test_nobody_waits_for_a_witness_that_failed_or_was_left_alone():
    round_ = a_round(expected=("w1", "w2"))
    answer(round_, "w1", now_s=1)
    answer(round_, "w2", now_s=2)
    assert round_.due_s(grace_s=2) == 2
    round_ = a_round()
    answer(round_, "w3", now_s=0.5, kept=[])
    answer(round_, "w1", now_s=1)
    answer(round_, "w2", now_s=2)
    assert round_.due_s(grace_s=2) == 2


def test_a_cosignature_by_a_key_that_the_policy_does_not_know_counts_nothing():
    round_ = a_round()
    stranger = SignerKey("w1.example", KeyType.COSIGNATURE_ED25519, b"x" * 32)
    line = cosign(CHECKPOINT, stranger, time_s=1)
    kept = [Kept(verify_cosignature(CHECKPOINT, line, stranger.verifier), line)]
    answer(round_, "w1", now_s=1)
    answer(round_, "w2", now_s=2, kept=kept)
    assert round_.due_s(grace_s=2) is None


def test_a_round_that_is_published_makes_room_for_a_newer_checkpoint_and_for_fresh_cosignatures():
    round_ = a_round()
    round_.published = True
    assert not is_over(round_, now_s=59)
    assert is_over(round_, now_s=60)
    assert is_over(round_, newest=6, now_s=1)


def test_a_round_with_a_quorum_is_never_given_up():
    round_ = a_round()
    answer(round_, "w1", now_s=1)
    answer(round_, "w2", now_s=2)
    assert not is_over(round_, newest=6, now_s=1000)


def test_a_round_without_a_quorum_gives_way_in_its_time_but_not_while_somebody_is_first_asked():
    round_ = a_round()
    answer(round_, "w1", now_s=1)
    assert not is_over(round_, newest=6, now_s=9)
    assert is_over(round_, newest=6, now_s=10)
    assert not is_over(round_, now_s=10)  # nothing newer to offer
    round_.begin_try("w2")
    assert not is_over(round_, newest=6, now_s=50)
    round_.end_try("w2", [], policy=POLICY, now_s=50)
    assert is_over(round_, newest=6, now_s=50)
    round_.begin_try("w2")  # a second try holds nothing up
    assert is_over(round_, newest=6, now_s=50)


def test_when_all_have_failed_a_newer_checkpoint_need_not_wait():
    round_ = a_round()
    for name in SIGNERS:
        answer(round_, name, now_s=1, kept=[])
    assert round_.is_short
    assert is_over(round_, newest=6, now_s=1)


@pytest.mark.parametrize("names", [("w1",), ("w2",), ()])
def test_less_than_a_quorum_is_never_due(names):
    round_ = a_round(expected=names)
    for name in names:
        answer(round_, name, now_s=1)
    assert round_.due_s(grace_s=0) is None
