"""The offline verifier: one good bundle, and every way in which another is not."""

import json
import random
from dataclasses import replace

import pytest

from assay.attest import bundle as bundles
from assay.attest.roots import Platform
from assay.attest.simulated.platform import OUT_OF_DATE, SW_HARDENING_NEEDED
from assay.attest.statement import Verdict as Outcome
from assay.client.verdict import Result
from assay.client.verify import verify_bundle, verify_logged
from assay.tlog import tlog_proof

T0 = 1_800_000_000
NOW_MS = (T0 + 100_000) * 1000


@pytest.fixture(scope="module")
def policy(world):
    return world.make_policy()


def judge(data, policy, **more):
    return verify_bundle(data, policy=policy, now_ms=NOW_MS, **more)


def results(verdict):
    return {check.name: str(check.result) for check in verdict.checks}


def failed(verdict):
    return {check.name for check in verdict.checks if check.result is Result.FAIL}


def test_good_bundle_is_verified_and_says_that_it_is_simulated(story, policy):
    verdict = judge(story.data, policy)
    assert verdict.verified, [check for check in verdict.checks if check.result is not Result.PASS]
    assert verdict.platform is Platform.SIMULATED
    assert {name for name, result in results(verdict).items() if result != "pass"} == {"revocation"}
    value = json.loads(json.dumps(verdict.to_json()))
    assert value["verified"] is True
    assert value["platform"] == "simulated"
    assert set(value["checks"][0]) == {"name", "result", "detail"}
    assert value["time"] == {"not_before_s": T0 + 110, "not_after_s": T0 + 121}
    assert value["subject"]["witnesses"] == ["w1.example", "w2.example"]
    assert value["release"]["product"] == "agent"


def test_documented_steps_are_the_checks_that_are_taken(story, policy):
    from assay.client import verify

    taken = set(results(judge(story.data, policy, artifact=b"x")))
    documented = {word for word in verify.__doc__.split("``") if word.replace("-", "").isalpha()}
    assert taken <= documented


# --- bytes ----------------------------------------------------------------------------------------


def check_flips(data, policy, positions):
    for position in positions:
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        verdict = judge(bytes(changed), policy)
        assert not verdict.verified, position
        assert failed(verdict), position


def test_sampled_byte_flips_are_not_verified(story, policy):
    check_flips(story.data, policy, random.Random(7).sample(range(len(story.data)), 300))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(8))
def test_every_byte_flip_is_not_verified(story, policy, part):
    check_flips(story.data, policy, range(part, len(story.data), 8))


def test_truncations_are_refused_as_malformed(story, policy):
    for length in (*range(0, len(story.data), 997), len(story.data) - 1):
        verdict = judge(story.data[:length], policy)
        assert failed(verdict) == {"bundle"}


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"{}\n", b"null\n", b"[" * 100_000 + b"\n", b"\xff\n", b"{" + b"\0" * 5_000_000]
)
def test_garbage_is_a_verdict_and_no_exception(data, policy):
    assert failed(judge(data, policy)) == {"bundle"}


# --- one thing wrong ------------------------------------------------------------------------------

STORIES = {
    "another publisher": (lambda w: {"publishers": ("stranger",)}, "release-publishers"),
    "release of a product that is not listed": (
        lambda w: {"release": {"product": "x"}},
        "release-publishers",
    ),
    "one witness of two": (lambda w: {"logged": {"witnesses": w.WITNESSES[:1]}}, "receipt-checkpoint"),
    "no witness": (lambda w: {"logged": {"witnesses": ()}}, "receipt-checkpoint"),
    "one log key of two": (lambda w: {"logged": {"log_keys": w.LOG_KEYS[:1]}}, "receipt-checkpoint"),
    "another log's keys": (
        lambda w: {"logged": {"log_keys": [w.note_key(w.ORIGIN, k.type, "x") for k in w.LOG_KEYS]}},
        "receipt-checkpoint",
    ),
    "another log": (
        lambda w: {"logged": {"log_keys": [w.note_key("evil.example", k.type) for k in w.LOG_KEYS]}},
        "receipt-checkpoint",
    ),
    "debug enclave": (lambda w: {"report": {"debug": True}}, "debug"),
    "debug enclave's quote": (lambda w: {"report": {"debug": True}}, "quote"),
    "platform out of date": (lambda w: {"machine": w.platform(OUT_OF_DATE)}, "tcb"),
    "advisory not accepted": (lambda w: {"machine": w.platform(SW_HARDENING_NEEDED)}, "tcb"),
    "state embellished by the log": (lambda w: {"machine": w.platform(OUT_OF_DATE)}, "appraisal"),
    "platform label embellished": (lambda w: {"appraisal": {"platform": "intel"}}, "appraisal"),
    "root not in the policy": (lambda w: {"machine": w.platform(seed="other")}, "quote"),
    "other collateral": (lambda w: {"appraisal": {"collateral": {"dcap": bytes(32)}}}, "collateral"),
    "collateral from the future": (lambda w: {"collateral_s": T0 + 5000}, "quote"),
    "collateral expired at the appraisal": (lambda w: {"collateral_s": T0 - 40 * 86400}, "quote"),
    "collateral older than allowed": (lambda w: {"collateral_s": T0 - 20 * 86400}, "collateral-age"),
    "appraised after it was logged": (lambda w: {"appraised_s": T0 + 200}, "appraisal-time"),
    "registration too old": (
        lambda w: {"answered_ms": (T0 + 90_000) * 1000, "head_s": T0 + 90_000, "logged_s": T0 + 90_001},
        "registration-age",
    ),
    "possession by another key": (lambda w: {"possession_key": "stranger"}, "possession"),
    "quote binds other claims": (lambda w: {"quoted_claims": {"nonce": bytes(32)}}, "claims-binding"),
    "quote binds nothing": (lambda w: {"report": {"report_data": bytes(64)}}, "claims-binding"),
    "another measurement": (lambda w: {"report": {"mr_enclave": bytes(32)}}, "measurement"),
    "another signer": (lambda w: {"report": {"mr_signer": bytes(32)}}, "measurement"),
    "another product id": (lambda w: {"report": {"isv_prod_id": 9}}, "measurement"),
    "another security version": (lambda w: {"report": {"isv_svn": 1}}, "measurement"),
    "receipt by another key": (lambda w: {"receipt_key": "stranger"}, "receipt-signature"),
    "registered key did not sign": (lambda w: {"receipt_key": "stranger"}, "receipt-registration"),
    "witnesses that state no time": (lambda w: {"logged_s": 0}, "receipt-checkpoint"),
    "log head with another root than the witnesses'": (
        lambda w: {"receipt": {"log_head": w.LogHead(4, bytes(32), T0 + 110)}},
        "log-head",
    ),
    "result that is no text": (lambda w: {"committed": {"result": 1345}}, "output-signature"),
    "result that was not signed": (lambda w: {"committed": {"result": "no"}}, "output-signature"),
    "receipt of another boot": (lambda w: {"receipt": {"boot_id": bytes(16)}}, "receipt-registration"),
    "receipt names another registration": (
        lambda w: {"receipt": {"registration": bytes(32)}},
        "receipt-registration",
    ),
    "claims name another log": (
        lambda w: {"claims": {"log_origin": "other.example"}},
        "receipt-registration",
    ),
    "log head after the receipt": (
        lambda w: {"receipt": {"log_head": w.LogHead(99, bytes(32), T0 + 110)}},
        "log-head",
    ),
    "claimed time after the witnesses'": (
        lambda w: {"answered_ms": (T0 + 300) * 1000},
        "time",
    ),
    "log head after the witnesses": (
        lambda w: {"head_s": T0 + 300, "answered_ms": (T0 + 300) * 1000},
        "time",
    ),
    "proof from the future": (lambda w: {"logged_s": T0 + 200_000}, "time"),
    "output over another prompt": (lambda w: {"output": {"prompt": b"{}"}}, "output-signature"),
    "output over another result": (lambda w: {"output": {"result": "no"}}, "output-signature"),
    "output over another time": (lambda w: {"output": {"timestamp_ms": 1}}, "output-signature"),
    "output over another measurement": (lambda w: {"output": {"mr_enclave": bytes(32)}}, "output-signature"),
    "receipt of another second": (lambda w: {"receipt": {"time_claimed_s": T0 + 119}}, "output-signature"),
    "release not yet in force": (
        lambda w: {"release": {"valid_from_ms": (T0 + 115) * 1000}},
        "release-validity",
    ),
    "release not yet effective": (
        lambda w: {"release": {"effective_after_ms": (T0 + 115) * 1000}},
        "release-validity",
    ),
    "release ended while it was answered": (
        lambda w: {"release": {"valid_until_ms": (T0 + 121) * 1000}},
        "release-validity",
    ),
    "rebuild by a stranger": (lambda w: {"rebuilds": (("stranger", Outcome.REPRODUCED),)}, "rebuilders"),
    "rebuild by the publisher": (lambda w: {"rebuilds": (("publisher", Outcome.REPRODUCED),)}, "rebuilders"),
    "rebuild failed": (lambda w: {"rebuilds": (("rebuilder", Outcome.FAILED),)}, "rebuilders"),
    "rebuild different": (lambda w: {"rebuilds": (("rebuilder", Outcome.DIFFERENT),)}, "rebuilders"),
    "one rebuilder got something different": (
        lambda w: {"rebuilds": (("rebuilder", Outcome.REPRODUCED), ("rebuilder-2", Outcome.DIFFERENT))},
        "rebuilders",
    ),
    "a rebuilder who changed its mind": (
        lambda w: {"rebuilds": (("rebuilder", Outcome.DIFFERENT), ("rebuilder", Outcome.REPRODUCED))},
        "rebuilders",
    ),
    "rebuild of another release": (lambda w: {"rebuild": {"release": "2.0"}}, "rebuilders"),
    "rebuild of another leaf": (lambda w: {"rebuild": {"release_leaf": bytes(32)}}, "rebuilders"),
    "rebuild of other digests": (
        lambda w: {"rebuild": {"expected": w.OTHER_DIGESTS, "observed": w.OTHER_DIGESTS}},
        "rebuilders",
    ),
}


@pytest.mark.parametrize(("changes", "name"), STORIES.values(), ids=STORIES)
def test_wrong_story_fails_the_check_it_is_about(world, policy, changes, name):
    verdict = judge(world.Story(**changes(world)).tell().data, policy)
    assert not verdict.verified
    assert name in failed(verdict), results(verdict)


def test_what_rests_on_a_failed_check_is_not_checked_and_the_rest_still_runs(world, policy):
    verdict = judge(world.Story(machine=world.platform(seed="other")).tell().data, policy)
    found = results(verdict)
    assert found["quote"] == "fail"
    assert {name for name, result in found.items() if result == "not-checked"} == {
        "appraisal",
        "claims-binding",
        "collateral-age",
        "identity",
        "measurement",
        "output-signature",
        "revocation",
        "tcb",
    }
    assert found["receipt-signature"] == found["rebuilders"] == found["commitments"] == "pass"
    assert verdict.check("tcb").detail == "rests on quote, which did not pass"
    assert verdict.platform is None
    assert verdict.to_json()["platform"] == "none"


# --- another policy -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"root": '"other-root.der"'}, "quote"),
        ({"tcb_status": '["SWHardeningNeeded"]'}, "tcb"),
        ({"min_evaluation_number": "1000"}, "tcb"),
        ({"registration_max_age_s": "20"}, "registration-age"),
        ({"collateral_max_age_s": "99"}, "collateral-age"),
        ({"announcement_delay_s": "110"}, "release-validity"),
    ],
    ids=str,
)
def test_stricter_policy_fails_the_same_bundle(story, world, changes, name):
    verdict = judge(story.data, world.make_policy(**changes))
    assert name in failed(verdict)
    assert not verdict.verified


def test_two_rebuilders_may_be_required(world, story):
    policy = world.make_policy(
        world.policy_text().replace(
            'threshold = 1\nkeys = ["rebuilder.', 'threshold = 2\nkeys = ["rebuilder.'
        )
    )
    assert failed(judge(story.data, policy)) == {"rebuilders"}
    both = (("rebuilder", Outcome.REPRODUCED), ("rebuilder-2", Outcome.REPRODUCED))
    assert judge(world.Story(rebuilds=both).tell().data, policy).verified
    twice = world.Story(rebuilds=(both[0], ("rebuilder", Outcome.REPRODUCED)), rebuild={}).tell()
    assert failed(judge(twice.data, policy)) == {"rebuilders"}


def test_one_witness_is_enough_for_a_policy_that_says_so(world):
    told = world.Story(logged={"witnesses": world.WITNESSES[1:]}).tell()
    assert judge(
        told.data, world.make_policy(world.policy_text(world.log_policy_text(quorum="any")))
    ).verified


def test_announcement_counts_from_the_earliest_checkpoint_that_covers_the_release(world, story):
    # The release's own proof is of 109 s before the log head that the enclave saw.
    assert judge(story.data, world.make_policy(announcement_delay_s="109")).verified
    # Proved again later, the registration's checkpoint still shows that it was there 9 s before.
    late = story.log.prove(1, checkpoint=story.bundle.subject.proof.checkpoint)
    bundle = replace(story.bundle, release=replace(story.bundle.release, proof=late))
    data = bundles.format_bundle(bundle)
    assert judge(data, world.make_policy(announcement_delay_s="9")).verified
    assert failed(judge(data, world.make_policy(announcement_delay_s="10"))) == {"release-validity"}


def test_accepted_state_with_accepted_advisories_is_verified(world):
    told = world.Story(
        machine=world.platform(SW_HARDENING_NEEDED),
        appraisal={"tcb_status": "SWHardeningNeeded", "advisories": ("INTEL-SA-00615",)},
    ).tell()
    text = world.policy_text(tcb_status='["UpToDate", "SWHardeningNeeded"]')
    line = f'"{world.DIGESTS.mr_enclave.hex()}" = ["INTEL-SA-00615"]'
    accepting = text.replace("[quotes.advisories]", f"[quotes.advisories]\n{line}")
    assert judge(told.data, world.make_policy(accepting)).verified
    other_measurement = accepting.replace(world.DIGESTS.mr_enclave.hex(), "00" * 32)
    assert failed(judge(told.data, world.make_policy(other_measurement))) == {"tcb"}
    assert failed(judge(told.data, world.make_policy(text))) == {"tcb"}


def test_simulated_evidence_is_never_verified_under_intels_root(story, world):
    from importlib import resources

    der = resources.files("assay.attest.roots").joinpath("intel_sgx_root_ca.der").read_bytes()
    policy = world.parse_policy(
        world.policy_text(root='"intel"').encode(), resolve=world.resolve, intel_root=der
    )
    verdict = judge(story.data, policy)
    assert "quote" in failed(verdict)
    assert verdict.platform is None


# --- a changed bundle -----------------------------------------------------------------------------


def change(story, **parts):
    return bundles.format_bundle(replace(story.bundle, **parts))


def openings(story, **changes):
    held = story.bundle.answer
    kept = {k: v for k, v in held.openings.items() if changes.get(k, v) is not None}
    return replace(held, openings=kept | {k: v for k, v in changes.items() if v is not None})


def test_erased_openings_leave_a_verified_receipt(story, policy):
    for erased in ({"prompt": None}, {"result": None}, dict.fromkeys(story.bundle.answer.openings)):
        verdict = judge(change(story, answer=openings(story, **erased)), policy)
        assert verdict.verified
        assert results(verdict)["output-signature"] == "not-checked"
    assert judge(change(story, answer=None), policy).verified


def test_changed_opening_fails_the_commitments(story, policy):
    lied = replace(story.bundle.answer.openings["result"], value="1,346 m")
    verdict = judge(change(story, answer=openings(story, result=lied)), policy)
    assert failed(verdict) == {"commitments"}
    assert not verdict.verified


def test_swapped_proofs_fail_the_inclusion(story, policy):
    bundle = story.bundle
    subject = replace(bundle.subject, proof=bundle.release.proof)
    verdict = judge(change(story, subject=subject), policy)
    assert "receipt-inclusion" in failed(verdict)
    enclave = replace(bundle.enclave, logged=replace(bundle.enclave.logged, proof=bundle.subject.proof))
    assert "registration-inclusion" in failed(judge(change(story, enclave=enclave), policy))


def test_parts_that_are_missing_are_not_checked_and_not_verified(story, policy):
    for part, name in (("enclave", "registration"), ("release", "release")):
        verdict = judge(change(story, **{part: None}), policy)
        assert results(verdict)[name] == "not-checked"
        assert not verdict.verified
    verdict = judge(change(story, rebuilds=()), policy)
    assert results(verdict)["rebuilders"] == "not-checked"
    assert not verdict.verified


def test_other_kinds_in_the_place_of_a_part_fail(story, policy):
    bundle = story.bundle
    assert "release" in failed(judge(change(story, release=bundle.enclave.logged), policy))
    wrong = replace(bundle.enclave, logged=bundle.release)
    assert "registration" in failed(judge(change(story, enclave=wrong), policy))
    assert "rebuilders" in failed(judge(change(story, rebuilds=(bundle.release,)), policy))
    assert "release-signature" in failed(judge(change(story, release=bundle.rebuilds[0]), policy))
    assert "bundle" in failed(judge(change(story, subject=bundle.enclave.logged), policy))


def test_two_histories_of_one_size_fail(world, policy):
    told, forked = world.Story().tell(), world.Story(publishers=("publisher", "stranger")).tell()
    mixed = replace(told.bundle, release=forked.bundle.release, rebuilds=forked.bundle.rebuilds)
    late = forked.log.prove(1, checkpoint=forked.log.checkpoint(time_s=T0 + 121))
    mixed = replace(mixed, release=replace(mixed.release, proof=late))
    verdict = judge(bundles.format_bundle(mixed), policy)
    assert "checkpoints-agree" in failed(verdict)


# --- releases, artifacts, proofs ------------------------------------------------------------------


def release_bundle(story, **changes):
    made = bundles.Bundle(story.bundle.release, None, None, None, story.bundle.rebuilds)
    return bundles.format_bundle(replace(made, **changes))


def test_release_bundle_is_verified_without_a_platform(story, policy):
    verdict = judge(release_bundle(story), policy)
    assert verdict.verified, failed(verdict)
    assert verdict.to_json()["platform"] == "none"
    assert "quote" not in results(verdict)


def test_release_bundle_without_rebuilds_is_not_verified(story, policy):
    verdict = judge(release_bundle(story, rebuilds=()), policy)
    assert not verdict.verified
    assert failed(verdict) == set()


def test_release_bundle_holds_nothing_else(story, policy):
    for part in ("answer", "enclave", "release"):
        data = release_bundle(story, **{part: getattr(story.bundle, part)})
        assert failed(judge(data, policy)) == {"bundle"}


def test_release_is_judged_at_the_given_time(world, policy):
    told = world.Story(release={"valid_until_ms": (T0 + 500) * 1000}).tell()
    assert verify_bundle(release_bundle(told), policy=policy, now_ms=(T0 + 499) * 1000).verified
    assert failed(judge(release_bundle(told), policy)) == {"release-validity"}
    early = verify_bundle(release_bundle(told), policy=policy, now_ms=(T0 - 60) * 1000)
    assert "time" in failed(early)


def test_artifact_must_be_the_answer_or_of_the_release(story, world, policy):
    for artifact in (world.RESULT.encode(), b"manifest", b"libpal"):
        assert judge(story.data, policy, artifact=artifact).verified
    for artifact in (b"", world.RESULT.encode() + b"\n", b"another manifest"):
        assert failed(judge(story.data, policy, artifact=artifact)) == {"artifact"}
    assert judge(release_bundle(story), policy, artifact=b"manifest").verified
    assert failed(judge(release_bundle(story), policy, artifact=b"x")) == {"artifact"}


def test_tlog_proof_is_of_exactly_one_leaf(story, policy):
    logged = story.bundle.release
    data = tlog_proof.format_proof(logged.proof)
    assert verify_logged(data, leaf=logged.leaf, policy=policy, now_ms=NOW_MS).verified
    assert not verify_logged(data, leaf=logged.leaf + b" ", policy=policy, now_ms=NOW_MS).verified
    for position in range(0, len(data), 7):
        changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        assert not verify_logged(changed, leaf=logged.leaf, policy=policy, now_ms=NOW_MS).verified
    assert failed(verify_logged(b"", leaf=b"", policy=policy, now_ms=NOW_MS)) == {"proof"}
