"""Asking again after a pause, within one deadline."""

import pytest

from assay.attest.simulated.pcs_service import Answer
from assay.fetch.patient import BusyError
from assay.tlog.errors import MalformedError


def script(pcs, *answers):
    """The service's answers to /, one after the other; the last for ever."""
    left = list(answers)
    pcs.changes[""] = lambda _: left.pop(0) if len(left) > 1 else left[0]


def get(pcs, fake_time, *, max_bytes=100, **how):
    return fake_time.patience(**how).begin().get(pcs.url + "/", max_bytes=max_bytes)


def test_an_answer_is_returned_as_it_is(pcs, fake_time):
    script(pcs, Answer(418, {"X-A": "b"}, b"tea"))
    response = get(pcs, fake_time)
    assert (response.status, response.headers["x-a"], response.body) == (418, "b", b"tea")
    assert fake_time.pauses == []


def test_pauses_double_up_to_a_bound_and_end_before_the_deadline(pcs, fake_time):
    script(pcs, Answer(503))
    with pytest.raises(BusyError) as caught:
        get(pcs, fake_time, deadline_s=39.0)
    assert fake_time.pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert (caught.value.code, caught.value.retry_after_s) == ("collateral-source", 0)


def test_what_the_service_asks_for_is_heeded(pcs, fake_time):
    script(pcs, Answer(429, {"Retry-After": "7"}), Answer(200, {}, b"x"))
    assert get(pcs, fake_time).body == b"x"
    assert fake_time.pauses == [7]


def test_a_longer_pause_than_there_is_time_is_handed_on_at_once(pcs, fake_time):
    script(pcs, Answer(429, {"Retry-After": "3600"}))
    with pytest.raises(BusyError) as caught:
        get(pcs, fake_time)
    assert caught.value.retry_after_s == 3600
    assert fake_time.pauses == []


@pytest.mark.parametrize(
    "text", ["", "-1", "1.5", "soon", "Fri, 31 Dec 1999 23:59:59 GMT", "9" * 6, "\u00b2"]
)
def test_another_retry_after_counts_for_nothing(pcs, fake_time, text):
    script(pcs, Answer(503, {"Retry-After": text}), Answer(200))
    assert get(pcs, fake_time).status == 200
    assert fake_time.pauses == [0.5]


def test_too_long_an_answer_is_not_asked_for_again(pcs, fake_time):
    script(pcs, Answer(200, {}, b"x" * 101))
    with pytest.raises(MalformedError) as caught:
        get(pcs, fake_time)
    assert caught.value.code == "too-large"
    assert len(pcs.asked) == 1


def test_an_unusable_address_is_malformed(fake_time):
    with pytest.raises(MalformedError):
        fake_time.patience().begin().get("nowhere", max_bytes=1)


def test_with_no_time_left_nobody_is_asked(pcs, fake_time):
    client = fake_time.patience(deadline_s=5.0).begin()
    fake_time.now_s += 5
    with pytest.raises(BusyError):
        client.get(pcs.url + "/", max_bytes=1)
    assert pcs.asked == []
