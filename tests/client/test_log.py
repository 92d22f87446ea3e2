"""The log's client: what a log may answer, and what is believed of it."""

import base64
import json
from types import SimpleNamespace

import pytest

from assay.attest import bundle as bundles
from assay.attest import entry
from assay.attest.entry import EnclaveSubmission
from assay.attest.statement import Verdict as Outcome
from assay.client import collect
from assay.client.log import LogClient
from assay.client.verify import verify_bundle
from assay.tlog import merkle
from assay.tlog.errors import LogError, MalformedError, UnavailableError, UntrustedError

T0 = 1_800_000_000
NOW_MS = (T0 + 100_000) * 1000


@pytest.fixture
def run(world):
    told = world.Story().tell()
    policy = world.make_policy()
    with world.FakeLog(told, time_s=T0 + 200) as log:
        yield SimpleNamespace(log=log, told=told, policy=policy, client=LogClient(log.url, policy=policy.log))


def release_leaf(world):
    said = world.release(release="2.0")
    return world.signed_statement(said, said.digests, ["publisher"])


def test_submission_is_done_when_leaf_and_proof_verify(run, world):
    leaf = release_leaf(world)
    submitted = run.client.submit(leaf)
    assert submitted.logged.leaf == leaf
    assert submitted.index == 6
    assert submitted.included.cosigned.quorum_time_s == T0 + 200
    assert run.log.requests == ["POST /api/v1/entries?wait=witnessed"]
    assert run.client.submit(leaf).index == 6


def test_log_that_logs_something_else_is_not_believed(run, world):
    good = json.loads(run.log.answer("POST", "/api/v1/entries", release_leaf(world))[1])
    for change in (
        {"leaf": base64.b64encode(run.told.release_leaf).decode()},
        {"leaf": "e30="},
        {"proof": run.log.proof(1).decode()},
    ):
        run.log.lies["POST /api/v1/entries"] = (201, json.dumps(good | change).encode())
        with pytest.raises(LogError):
            run.client.submit(release_leaf(world))


def test_unwitnessed_submission_is_not_believed(run, world):
    run.log.how["witnesses"] = world.WITNESSES[:1]
    with pytest.raises(UntrustedError) as caught:
        run.client.submit(release_leaf(world))
    assert caught.value.code == "quorum"


def test_appraisal_may_be_added_to_evidence_and_to_nothing_else(run, world):
    registered = entry.parse_entry(run.told.bundle.enclave.logged.leaf)
    sent = entry.format_entry(EnclaveSubmission(registered.evidence))
    index = run.told.log.leaves.index(run.told.bundle.enclave.logged.leaf)
    answer = run.log.row(index) | {"proof": run.log.proof(index).decode()}
    run.log.lies["POST /api/v1/entries"] = (200, json.dumps(answer).encode())
    assert run.client.submit(sent).index == index
    other = entry.format_entry(EnclaveSubmission(world.Story(key="other").evidence()))
    with pytest.raises(UntrustedError) as caught:
        run.client.submit(other)
    assert caught.value.code == "other-leaf"


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, b'{"code": "not-canonical", "detail": "x"}', MalformedError, "not-canonical"),
        (403, b'{"code": "publisher", "detail": "x"}', UntrustedError, "publisher"),
        (413, b'{"code": "too-large"}', MalformedError, "too-large"),
        (429, b"", UnavailableError, "log-answer"),
        (503, b'{"code": "quorum-unavailable", "index": 7}', UnavailableError, "quorum-unavailable"),
        (500, b"<html>", UnavailableError, "log-answer"),
        (302, b"", UnavailableError, "log-answer"),
        (403, b'{"code": "A\\u001b[2J", "detail": 1}', UntrustedError, "log-answer"),
        (403, b"[" * 100_000, UntrustedError, "log-answer"),
        (200, b"", MalformedError, "log-answer"),
        (200, b"[]", MalformedError, "log-answer"),
        (200, b"{}", MalformedError, "log-answer"),
        (200, b'{"leaf": "\\ud800"}', MalformedError, "log-answer"),
    ],
)
def test_answers_become_errors_by_what_the_caller_should_do(run, status, body, kind, code):
    run.log.lies["POST /api/v1/entries"] = (status, body)
    with pytest.raises(kind) as caught:
        run.client.submit(b"{}")
    assert caught.value.code == code
    assert "\x1b" not in str(caught.value)


def test_looked_up_leaf_and_blob_are_the_ones_asked_for(run):
    leaf = run.told.release_leaf
    assert run.client.leaf(merkle.leaf_hash(leaf)).leaf == leaf
    collateral = run.told.bundle.enclave.collateral
    (wanted,) = run.log.blobs
    assert run.client.blob(bytes.fromhex(wanted)) == collateral
    run.log.blobs[wanted] = collateral + b" "
    with pytest.raises(UntrustedError):
        run.client.blob(bytes.fromhex(wanted))
    run.log.lies[f"GET /api/v1/leaves/{'00' * 32}"] = (200, json.dumps(run.log.row(0)).encode())
    with pytest.raises(UntrustedError):
        run.client.leaf(bytes(32))


def test_search_reads_page_after_page_and_ends(run, world):
    terms = {"kind": "attestation", "product": "agent"}
    for number in range(45):
        said = world.release(release=str(number))
        run.told.log.append(world.signed_statement(said, said.digests, ["publisher"]))
    found = list(run.client.search(terms))
    assert len(found) == 47
    assert [each.index for each in found] == sorted((each.index for each in found), reverse=True)


def test_log_whose_pages_do_not_end_is_refused(run):
    endless = json.dumps({"entries": [run.log.row(0)], "before": 5}).encode()
    run.log.lies["GET /api/v1/entries"] = (200, endless)
    with pytest.raises(MalformedError):
        list(run.client.search({"kind": "receipt"}))


@pytest.mark.parametrize(
    "answer", [{}, {"entries": 1}, {"entries": [1]}, {"entries": [{}]}, {"entries": [], "before": "x"}]
)
def test_search_answers_of_another_shape_are_refused(run, answer):
    run.log.lies["GET /api/v1/entries"] = (200, json.dumps(answer).encode())
    with pytest.raises(MalformedError):
        list(run.client.search({"kind": "receipt"}))


# --- collecting -----------------------------------------------------------------------------------


def test_collected_bundle_is_verified(run):
    bundle = collect.collect_bundle(
        run.client, run.told.bundle.subject, answer=run.told.bundle.answer, policy=run.policy
    )
    data = bundles.format_bundle(bundle)
    verdict = verify_bundle(data, policy=run.policy, now_ms=NOW_MS)
    assert verdict.verified, verdict.first_problem()


def test_only_receipts_are_collected_for(run):
    with pytest.raises(MalformedError):
        collect.collect_bundle(run.client, run.told.bundle.release, answer=None, policy=run.policy)
    with pytest.raises(MalformedError):
        collect.collect_enclave(run.client, run.told.bundle.release)


def test_newest_release_by_listed_publishers_is_chosen(run, world):
    newer = world.release(release="1.1")
    leaf = world.signed_statement(newer, newer.digests, ["publisher"])
    run.told.log.append(leaf)
    strangers = world.release(release="9.9")
    run.told.log.append(world.signed_statement(strangers, strangers.digests, ["stranger"]))
    material = collect.collect_release(run.client, mr_enclave=world.DIGESTS.mr_enclave, policy=run.policy)
    assert material.release.leaf == leaf
    assert material.rebuilds == ()


def test_no_release_is_none(run):
    material = collect.collect_release(run.client, mr_enclave=bytes(32), policy=run.policy)
    assert material == collect.ReleaseMaterial(None, ())


def test_contrary_verdicts_are_collected_and_strangers_are_not(run, world):
    said, leaf = run.told.release, run.told.release_leaf
    for key, outcome in (("stranger", Outcome.DIFFERENT), ("rebuilder-2", Outcome.DIFFERENT)):
        made = world.rebuild(leaf, said, outcome)
        run.told.log.append(world.signed_statement(made, made.expected, [key]))
    found = collect.collect_rebuilds(run.client, merkle.leaf_hash(leaf), policy=run.policy)
    assert [logged.leaf for logged in found] == [run.told.log.leaves[-1], run.told.log.leaves[2]]


def test_refreshed_release_has_the_verdicts_published_since(run, world):
    fresh = bundles.Bundle(run.told.bundle.release, None, None, None, ())
    refreshed = collect.refresh_release(run.client, fresh, policy=run.policy)
    assert [logged.leaf for logged in refreshed.rebuilds] == [run.told.log.leaves[2]]
    assert verify_bundle(bundles.format_bundle(refreshed), policy=run.policy, now_ms=NOW_MS).verified


def test_first_checkpoint_is_used_when_the_policy_asks_for_an_announcement(run, world):
    policy = world.make_policy(announcement_delay_s="5")
    material = collect.collect_release(run.client, mr_enclave=world.DIGESTS.mr_enclave, policy=policy)
    assert material.release.proof.checkpoint.split(b"\n")[1] == b"2"
    usual = collect.collect_release(run.client, mr_enclave=world.DIGESTS.mr_enclave, policy=run.policy)
    assert usual.release.proof.checkpoint.split(b"\n")[1] == b"6"
