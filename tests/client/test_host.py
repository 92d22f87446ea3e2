"""Asking an enclave: a good one answers and is proved, and nothing reaches one that does not verify."""

import base64
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from assay.attest.bundle import parse_bundle
from assay.attest.simulated.platform import OUT_OF_DATE
from assay.attest.statement import Verdict as Outcome
from assay.client import host
from assay.client.connection import Connection
from assay.client.host import Surroundings
from assay.client.log import LogClient
from assay.client.verdict import RefusedError
from assay.client.verify import verify_bundle
from assay.tlog.errors import MalformedError, UnavailableError, UntrustedError

T0 = 1_800_000_000
NOW_MS = (T0 + 130) * 1000
SECRET = "a prompt that must not leave"


@contextmanager
def running(world, story=None, **enclave):
    story = story or world.Story(answered_ms=NOW_MS)
    told = story.tell()
    told.log.leaves.pop()  # its receipt; the enclave makes another
    with world.FakeLog(told) as log, world.FakeEnclave(story, told, log, **enclave) as served:
        yield SimpleNamespace(log=log, enclave=served, told=told, texts=[])


def ask(run, policy, *, now_ms=NOW_MS, timeout_s=5.0, random=None):
    counter = iter(range(1, 100))
    return host.ask(
        host.messages_request(SECRET, model="a-model", max_tokens=9),
        address=run.enclave.address,
        policy=policy,
        log=LogClient(run.log.url, policy=policy.log, timeout_s=5.0),
        surroundings=Surroundings(
            now_ms=lambda: now_ms,
            random_bytes=random or (lambda size: bytes([next(counter)]) * size),
            on_text=run.texts.append,
        ),
        timeout_s=timeout_s,
    )


@pytest.fixture(scope="module")
def policy(world):
    return world.make_policy()


def test_good_enclave_answers_and_the_bundle_is_verified_by_anyone(world, policy):
    with running(world) as run:
        asked = ask(run, policy)
    assert asked.result == world.RESULT == "".join(run.texts)
    assert asked.verdict.verified, asked.verdict.first_problem()
    assert verify_bundle(asked.bundle, policy=policy, now_ms=NOW_MS + 10**9).verified
    held = parse_bundle(asked.bundle).answer
    assert held.openings["prompt"].value["messages"][0]["content"] == SECRET
    assert all(SECRET.encode() not in heard for heard in run.enclave.heard)


def test_nonces_are_new_for_every_ask(world, policy):
    with running(world) as run:
        ask(run, policy)
    assert run.enclave.asks[0].request_id == b"\2" * 16
    assert run.enclave.asks[0].reply_secret == b"\3" * 32
    assert json.loads(run.enclave.heard[0][4:])["nonce"] == "AQEB" * 10 + "AQE="


# --- refused before the prompt leaves -------------------------------------------------------------

REFUSALS = {
    "no nonce": ({"fresh": {"nonce": None}}, {}, "nonce"),
    "another nonce": ({"fresh": {"nonce": bytes(32)}}, {}, "nonce"),
    "another boot": ({"fresh": {"boot_id": bytes(16)}}, {}, "same-enclave"),
    "another configuration": ({"fresh": {"config_sha256": b"\1" * 32}}, {}, "same-enclave"),
    "another log policy": ({"fresh": {"log_policy_sha256": b"\1" * 32}}, {}, "same-enclave"),
    "receipts to another log": ({"fresh": {"log_origin": "evil.example"}}, {}, "log-origin"),
    "debug enclave": ({}, {"report": {"debug": True}}, "debug"),
    "possession by another key": ({}, {"possession_key": "stranger"}, "fresh-possession"),
    "quote binds other claims": ({}, {"quoted_claims": {"config_sha256": b"\1" * 32}}, "fresh-binding"),
    "another measurement": ({}, {"report": {"mr_enclave": bytes(32)}}, "release"),
    "older version": ({}, {"report": {"isv_svn": 1}}, "measurement"),
    "not published by us": ({}, {"publishers": ("stranger",)}, "release"),
    "not rebuilt": ({}, {"rebuilds": ()}, "rebuilders"),
    "rebuilt differently": (
        {},
        {"rebuilds": (("rebuilder", Outcome.REPRODUCED), ("rebuilder-2", Outcome.DIFFERENT))},
        "rebuilders",
    ),
    "release not in force": ({}, {"release": {"effective_after_ms": (T0 + 500) * 1000}}, "release-validity"),
    "registration appraised too late": ({}, {"appraised_s": T0 + 120}, "appraisal-time"),
    "registration from the future": ({}, {"registered_s": T0 + 500}, "time"),
}


def check_refused(world, policy, name, enclave=None, story=None, **more):
    told = world.Story(**({"answered_ms": NOW_MS} | (story or {})))
    with running(world, told, **(enclave or {})) as run:
        with pytest.raises(RefusedError) as caught:
            ask(run, policy, **more)
        verdict = caught.value.verdict
        check = verdict.check(name)
        assert str(check.result) != "pass"
        assert not verdict.verified
        assert len(run.enclave.heard) == 1  # the hello
        assert run.enclave.asks == run.texts == []


@pytest.mark.parametrize(("enclave", "story", "name"), REFUSALS.values(), ids=REFUSALS)
def test_prompt_does_not_leave_for(world, policy, enclave, story, name):
    check_refused(world, policy, name, enclave, story)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"root": '"other-root.der"'}, "fresh-quote"),
        ({"tcb_status": '["OutOfDate"]'}, "fresh-tcb"),
        ({"min_evaluation_number": "99"}, "fresh-tcb"),
        ({"registration_max_age_s": "29"}, "registration-age"),
        ({"collateral_max_age_s": "129"}, "fresh-collateral-age"),
        ({"checkpoint_max_age_s": "4"}, "checkpoint-age"),
        ({"announcement_delay_s": "1000"}, "release-validity"),
    ],
    ids=str,
)
def test_prompt_does_not_leave_under_a_stricter_policy(world, changes, name):
    check_refused(world, world.make_policy(**changes), name)


def test_prompt_does_not_leave_when_the_collateral_has_expired_since(world, policy):
    lasting = world.make_policy(registration_max_age_s="99999999", collateral_max_age_s="99999999")
    check_refused(world, lasting, "fresh-quote", now_ms=(T0 + 40 * 86400) * 1000)


def test_platform_that_became_bad_since_its_registration_is_refused(world, policy):
    # The fresh evidence is of another machine state than the registered one, under the same root.
    good = world.Story(answered_ms=NOW_MS)
    bad = replace(good, machine=world.platform(OUT_OF_DATE))
    told = good.tell()
    with world.FakeLog(told) as log, world.FakeEnclave(bad, told, log) as served:
        run = SimpleNamespace(log=log, enclave=served, texts=[])
        with pytest.raises(RefusedError) as caught:
            ask(run, policy)
    assert str(caught.value.verdict.check("fresh-tcb").result) == "fail"
    assert served.asks == []


def test_registration_of_another_enclave_is_refused(world, policy):
    good = world.Story(answered_ms=NOW_MS)
    told = good.tell()
    with world.FakeLog(told) as log, world.FakeEnclave(replace(good, key="other"), told, log) as served:
        run = SimpleNamespace(log=log, enclave=served, texts=[])
        with pytest.raises(RefusedError) as caught:
            ask(run, policy)
    assert str(caught.value.verdict.check("same-enclave").result) == "fail"
    assert served.asks == []


def test_registration_that_is_not_witnessed_is_refused(world, policy):
    with running(world) as run:
        told = run.told
        lonely = told.log.checkpoint(time_s=T0 + 101, witnesses=world.WITNESSES[:1])
        index = told.log.leaves.index(told.bundle.enclave.logged.leaf)
        run.enclave.show["proof"] = world.format_proof(told.log.prove(index, checkpoint=lonely)).decode()
        with pytest.raises(RefusedError) as caught:
            ask(run, policy)
        assert str(caught.value.verdict.check("registration-checkpoint").result) == "fail"
        assert run.enclave.asks == []


def test_log_without_a_fresh_checkpoint_stops_the_ask(world, policy):
    with running(world) as run:
        run.log.time_s = T0 - 1000
        with pytest.raises(RefusedError) as caught:
            ask(run, policy)
        assert str(caught.value.verdict.check("checkpoint-age").result) == "fail"
        assert run.enclave.asks == []


@pytest.mark.parametrize(
    ("show", "error"),
    [
        ({"type": "error", "code": "busy", "detail": "later"}, MalformedError),
        ({"registration": "e30="}, MalformedError),
        ({"registration": "!"}, MalformedError),
        ({"evidence": {}}, MalformedError),
        ({"proof": "x"}, MalformedError),
        ({"proof": 1}, MalformedError),
        ({"type": "logged"}, MalformedError),
    ],
    ids=str,
)
def test_malformed_attestation_ends_the_conversation(world, policy, show, error):
    with running(world, show=show) as run:
        with pytest.raises(error):
            ask(run, policy)
        assert run.enclave.asks == []


def test_unreachable_parts_are_unavailable(world, policy):
    with running(world) as run:
        run.log.lies["GET /checkpoint"] = (503, b"")
        with pytest.raises(UnavailableError):
            ask(run, policy)
        assert run.enclave.asks == []
    with pytest.raises(UnavailableError):
        ask(run, policy)


def test_nonce_may_be_missing_only_if_the_policy_says_so(world):
    with running(world, fresh={"nonce": None}) as run:
        assert ask(run, world.make_policy(nonce_required="false")).verdict.verified
    check_refused(world, world.make_policy(nonce_required="false"), "nonce", {"fresh": {"nonce": b"\7" * 32}})


def test_no_request_without_messages(world, policy):
    with pytest.raises(MalformedError):
        host.ask({}, address=("127.0.0.1", 1), policy=policy, log=None, surroundings=None)


# --- after the ask --------------------------------------------------------------------------------


def cut_off(enclave, ask, stream):
    yield from enclave.deltas(stream, "1,3")


def other_text(enclave, ask, stream):
    yield from enclave.deltas(stream, "8,848 m")
    yield enclave.last(stream, enclave.answer(enclave.made(ask)))


def other_result(enclave, ask, stream):
    yield enclave.last(stream, enclave.answer(enclave.made(ask), "8,848 m"))


def other_prompt(enclave, ask, stream):
    changed = replace(ask, request={**ask.request, "model": "cheaper"})
    yield enclave.last(stream, enclave.answer(enclave.made(changed)))


def other_request(enclave, ask, stream):
    yield enclave.last(stream, enclave.answer(enclave.made(replace(ask, request_id=bytes(16)))))


def unsigned(enclave, ask, stream):
    made = enclave.made(ask)
    made.signature = bytes(63) + b"\1"
    yield enclave.last(stream, enclave.answer(made))


def not_last(enclave, ask, stream):
    sealed = stream.seal(enclave.answer(enclave.made(ask)).plaintext(), last=False)
    yield {"type": "answer", "sealed": base64.b64encode(sealed).decode()}


def swapped(enclave, ask, stream):
    first, second = enclave.deltas(stream, "a", "b")
    yield second
    yield first


def no_text(enclave, ask, stream):
    sealed = stream.seal(b'{"text":1}', last=False)
    yield {"type": "delta", "sealed": base64.b64encode(sealed).decode()}


def out_of_turn(enclave, ask, stream):
    yield {"type": "state", "load": 0, "region": "x"}


def refused(enclave, ask, stream):
    yield {"type": "error", "code": "model-not-allowed", "detail": "no"}


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        (cut_off, UnavailableError, "unavailable"),
        (other_text, UntrustedError, "other-answer"),
        (other_result, UntrustedError, "commitment"),
        (other_prompt, UntrustedError, "commitment"),
        (other_request, UntrustedError, "commitment"),
        (unsigned, UntrustedError, "output-signature"),
        (not_last, UntrustedError, "unsealable"),
        (swapped, UntrustedError, "unsealable"),
        (no_text, MalformedError, "malformed"),
        (out_of_turn, UntrustedError, "channel"),
        (refused, UntrustedError, "model-not-allowed"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_answer_is_refused_when(world, policy, change, error, code):
    with running(world, replies=change) as run:
        with pytest.raises(error) as caught:
            ask(run, policy)
        assert caught.value.code == code


def test_receipt_of_another_registration_is_not_verified(world, policy):
    def elsewhere(enclave, ask, stream):
        made = enclave.made(ask, registration=bytes(32))
        yield enclave.last(stream, enclave.answer(made))
        yield enclave.logged(made)

    with running(world, replies=elsewhere) as run:
        asked = ask(run, policy)
    assert not asked.verdict.verified
    assert str(asked.verdict.check("receipt-registration").result) == "fail"


def test_receipt_that_the_host_keeps_back_is_submitted_by_the_caller(world, policy):
    def kept_back(enclave, ask, stream):
        yield enclave.last(stream, enclave.answer(enclave.made(ask)))
        yield {"type": "error", "code": "log-unavailable", "detail": ""}

    with running(world, replies=kept_back) as run:
        asked = ask(run, policy)
        assert any(request.startswith("POST /api/v1/entries") for request in run.log.requests)
    assert asked.verdict.verified


def test_answer_that_cannot_be_logged_is_an_error(world, policy):
    def kept_back(enclave, ask, stream):
        yield enclave.last(stream, enclave.answer(enclave.made(ask)))

    with running(world, replies=kept_back) as run:
        run.log.lies["POST /api/v1/entries"] = (503, b'{"code": "quorum-unavailable", "detail": "w2"}')
        with pytest.raises(UnavailableError) as caught:
            ask(run, policy)
    assert caught.value.code == "quorum-unavailable"


def test_silent_host_is_given_up(world, policy):
    over = threading.Event()

    def silent(enclave, ask, stream):
        over.wait(5)
        return ()

    with running(world, replies=silent) as run:
        with pytest.raises(UnavailableError):
            ask(run, policy, timeout_s=0.5)
        over.set()


def test_deadline_is_over_everything_that_is_said():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        late = Connection(ours, deadline=time.monotonic() - 1)
        theirs.sendall(b"\0\0\0\1")
        with pytest.raises(UnavailableError):
            late.receive("state")
        with pytest.raises(UnavailableError):
            late.send({"type": "status"})
